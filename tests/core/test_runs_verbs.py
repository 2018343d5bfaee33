"""`runs list`, `show` and `diff`: what runs there are, whole, damaged, dead or alive, and what differs between two."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

import driftspec
from driftspec.cli import main
from driftspec.registry import Registry
from driftspec.runs.lifecycle import start
from driftspec.runs.run_dir import RunDir

Told = Callable[..., Any]


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Path:
    """A folder with runs/tiny/a and b, which differ in a rate, and runs/other/c, of another name."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("driftspec.report.plots.draw", lambda *_: iter(()))
        moments = iter(f"2026-01-0{day}T00:00:00+00:00" for day in range(1, 10))
        patch.setattr("driftspec.runs.provenance.now", lambda: next(moments))
        for place, sets in {
            "tiny/a": ["train.steps=4"],
            "tiny/b": ["train.steps=6", "train.optimizer.lr=0.1"],
            "other/c": ["train.steps=2", "evaluate=[]", "name=other"],
        }.items():
            path = folder / "runs" / place
            start(tiny.loaded(*sets), registry, out=path, argv=["run-spec", "tiny.yaml", "--plugin", "x y.py"])
    return folder


@pytest.fixture
def here(two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil, as the working directory."""
    shutil.copytree(two / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """The JSON a verb answers with."""

    def ask(*words: str) -> Any:
        capsys.readouterr()
        assert main(["runs", *words, "--format", "json"]) == 0
        return json.loads(capsys.readouterr().out)

    return ask


def change(path: Path, **values: Any) -> None:
    info = json.loads((path / "run.json").read_bytes())
    (path / "run.json").write_text(json.dumps(info | values))


# list ---------------------------------------------------------------------------------------------------------------


def test_every_run_is_listed_oldest_first(here: Path, told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    rows = told("list")["runs"]
    assert [(row["name"], row["run"], row["status"], row["seed"]) for row in rows] == [
        ("tiny", "runs/tiny/a", "finished", 3),
        ("tiny", "runs/tiny/b", "finished", 3),
        ("other", "runs/other/c", "finished", 3),
    ]
    nll = json.loads((here / "tiny/a/metrics.json").read_bytes())["nll"]
    assert (rows[0]["metric"], rows[0]["measured"]) == ("nll", nll) and rows[2]["metric"] is None
    assert main(["runs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "started", "status", "seed", "metric", "run"]
    assert lines[1].split() == [
        "tiny", "2026-01-01", "00:00:00", "finished", "3", "nll", f"{nll['value']:.4g}", "±", f"{nll['stderr']:.2g}",
        "runs/tiny/a",
    ]  # fmt: skip
    assert lines[3].split()[-2:] == ["-", "runs/other/c"]


def test_the_runs_of_one_spec_and_of_another_root(here: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [row["run"] for row in told("list", "other")["runs"]] == ["runs/other/c"]
    (here / "deep").mkdir()
    (here / "tiny").rename(here / "deep" / "sweep-1")
    assert [row["name"] for row in told("list", "--root", str(here / "deep"))["runs"]] == ["tiny", "tiny"]
    monkeypatch.chdir("/")
    assert told("list", "tiny", "--root", str(here))["runs"][1]["run"] == str(here / "deep/sweep-1/b")


def test_no_runs_at_all(tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert told("list") == {"runs": []}
    assert main(["runs", "list", "anything"]) == 0
    assert capsys.readouterr() == ("", "no runs below 'runs'\n")
    (tmp_path / "runs").write_text("a file")
    assert told("list") == {"runs": []}


def test_a_run_that_goes_on_is_told_from_one_that_was_killed(here: Path, told: Told) -> None:
    for name in ("a", "b"):
        change(here / "tiny" / name, status="running", pid=os.getpid(), finished=None)
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    holds = (
        "import sys; from driftspec.runs.run_dir import RunDir\n"
        "with RunDir.open(sys.argv[1]).lock(): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", holds, str(here / "tiny/b")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    before[here / "tiny/b/.lock"] = f"{holder.pid}\n".encode()
    rows = told("list")["runs"]
    assert [row["status"] for row in rows] == ["killed", "running", "finished"]
    assert told("show", "runs/tiny/b")["resume"] is None  # nothing to go on with yet
    assert told("show", "runs/tiny/a")["resume"] == "run-spec resume runs/tiny/a --plugin 'x y.py'"
    holder.communicate()
    assert [row["status"] for row in told("list")["runs"]] == ["killed", "killed", "finished"]
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before
    with RunDir.open(here / "tiny/a").lock():  # looking has left no lock behind
        pass


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", b"{", "run.json is damaged"),
        ("run.json", b"", "run.json is damaged"),
        ("run.json", b"[]", "run.json is damaged (it is no mapping); restore it from a copy"),
        ("run.json", b"{}", "run.json is damaged (it has no 'status'); restore it from a copy"),
        ("run.json", b'{"status": "finished", "digests": 3}', "(the value of 'digests' has the wrong type)"),
        ("run.json", b'{"status": "finished", "argv": "x"}', "(the value of 'argv' has the wrong type)"),
        ("run.json", None, "run.json cannot be read: No such file or directory"),
        ("metrics.json", b'{"nll": ', "metrics.json is damaged"),
        ("metrics.json", b'{"nll": 3}', "metrics.json is damaged (the value of 'nll' has the wrong type); restore"),
        ("metrics.json", b'{"nll": {"value": "3"}}', "(the value of 'nll' has the wrong type); restore it"),
    ],
)
def test_a_damaged_run_is_told_beside_the_others(
    name: str, content: bytes | None, said: str, here: Path, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    file = here / "tiny/b" / name
    file.unlink() if content is None else file.write_bytes(content)
    rows = {row["run"]: row["status"] for row in told("list")["runs"]}
    assert rows == {"runs/tiny/a": "finished", "runs/tiny/b": "damaged", "runs/other/c": "finished"}
    assert main(["runs", "list"]) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: runs/tiny/b") and said in warning
    if content is not None:
        assert said in told("show", "runs/tiny/b")["problem"]


def test_a_folder_that_cannot_be_read(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    scan = os.scandir

    def closed(path: Any) -> Any:
        if str(path).endswith("other"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert main(["runs", "list"]) == 1
    assert capsys.readouterr() == ("", "error: runs/other cannot be read: Permission denied\n")


# show ---------------------------------------------------------------------------------------------------------------


def test_a_run_is_shown_with_all_it_says(here: Path, told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    path = here / "tiny/b"
    shown = told("show", "runs/tiny/b")
    info = json.loads((path / "run.json").read_bytes())
    assert (shown["run"], shown["status"], shown["problem"], shown["resume"]) == ("runs/tiny/b", "finished", None, None)
    assert shown["info"] == info and shown["metrics"] == json.loads((path / "metrics.json").read_bytes())
    assert shown["spec"] == (path / "resolved.yaml").read_text()
    assert {name: one["now"] for name, one in shown["digests"].items()} == dict.fromkeys(info["digests"], "same")
    assert shown["files"]["samples.npy"] == (path / "samples.npy").stat().st_size and ".lock" not in shown["files"]
    assert main(["runs", "show", "runs/tiny/b"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("runs/tiny/b: finished\n  made by: run-spec tiny.yaml --plugin 'x y.py'\n")
    assert f"  torch       {info['torch']}\n" in text and f"sha256 {info['digests']['samples.npy']}" in text
    assert "\nspec\n  version: 1\n  name: tiny\n" in text and "go on with" not in text


def test_an_output_that_was_changed_or_removed_is_said(here: Path, told: Told) -> None:
    (here / "tiny/a/metrics.json").write_text("{}")
    (here / "tiny/a/samples.npy").unlink()
    now = {name: one["now"] for name, one in told("show", "runs/tiny/a")["digests"].items()}
    assert now == {
        "resolved.yaml": "same", "checkpoints/step-00000004.safetensors": "same", "metrics.json": "changed",
        "samples.npy": "missing",
    }  # fmt: skip
    assert main(["runs", "show", "runs/tiny/a"]) == 0


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_how_to_go_on_with_it(status: str, here: Path, told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    change(here / "tiny/a", status=status, error={"message": "a reason"}, argv=["run-spec", "t.yaml", "--plugin=p.py"])
    assert told("show", "runs/tiny/a")["resume"] == "run-spec resume runs/tiny/a --plugin p.py"
    assert main(["runs", "show", "runs/tiny/a"]) == 0
    text = capsys.readouterr().out
    assert "  go on with: run-spec resume runs/tiny/a --plugin p.py\n" in text and "a reason" in text
    (here / "tiny/a/resolved.yaml").unlink()
    assert told("show", "runs/tiny/a")["resume"] is None


# diff ---------------------------------------------------------------------------------------------------------------


def test_two_runs_and_what_differs_between_them(here: Path, told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    change(here / "tiny/b", torch="1.0", plugins={"driftspec": "0.1.0", "mine": "2"})
    found = told("diff", "runs/tiny/a", "runs/tiny/b")
    assert found["runs"] == ["runs/tiny/a", "runs/tiny/b"]
    assert found["spec"] == {"train.steps": [4, 6], "train.optimizer.lr": [0.01, 0.1]}
    assert found["versions"].keys() == {"torch", "plugins.mine"} and found["versions"]["plugins.mine"] == [None, "2"]
    a, b = (json.loads((here / "tiny" / one / "metrics.json").read_bytes())["nll"] for one in "ab")
    nll = found["metrics"]["nll"]
    assert nll["values"] == [a["value"], b["value"]] and nll["stderrs"] == [a["stderr"], b["stderr"]]
    assert nll["difference"] == pytest.approx(b["value"] - a["value"], rel=1e-12)
    assert nll["stderr"] == pytest.approx(math.sqrt(a["stderr"] ** 2 + b["stderr"] ** 2), rel=1e-12)
    assert nll["z"] == pytest.approx((b["value"] - a["value"]) / nll["stderr"], rel=1e-12)
    assert found["digests"] == {
        "resolved.yaml": "different", "samples.npy": "different", "metrics.json": "different",
        "checkpoints/step-00000004.safetensors": "only the first has it",
        "checkpoints/step-00000006.safetensors": "only the second has it",
    }  # fmt: skip
    assert main(["runs", "diff", "runs/tiny/a", "runs/tiny/b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["A  runs/tiny/a: finished", "B  runs/tiny/b: finished"]
    assert ["train.optimizer.lr", "0.01", "0.1"] in [line.split() for line in lines]
    (row,) = (line.split() for line in lines if line.startswith("  nll"))
    assert row[-1] == f"{nll['z']:+.2f}"


def test_a_run_does_not_differ_from_itself(here: Path, told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    found = told("diff", "runs/tiny/a", "runs/tiny/a")
    assert found["spec"] == found["versions"] == {}
    assert found["metrics"]["nll"]["difference"] == found["metrics"]["nll"]["z"] == 0.0
    assert set(found["digests"].values()) == {"equal"}
    assert main(["runs", "diff", "runs/tiny/a", "runs/tiny/a"]) == 0
    assert "spec: the same\nversions: the same\n" in capsys.readouterr().out


def test_a_truncated_file_differs_from_its_whole_copy(
    here: Path, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    """The digests in run.json are those of the whole file."""
    shutil.copytree(here / "tiny/a", here / "tiny/copy")
    (here / "tiny/copy/metrics.json").write_bytes((here / "tiny/a/metrics.json").read_bytes()[:20])
    (here / "tiny/copy/samples.npy").unlink()
    for one in ("a", "copy"):
        shutil.rmtree(here / "tiny" / one / "checkpoints")
    found = told("diff", "runs/tiny/a", "runs/tiny/copy")
    assert found["digests"]["metrics.json"] == "different"
    assert found["digests"]["samples.npy"] == "only the first has it"
    assert found["digests"]["resolved.yaml"] == "equal"
    assert found["digests"]["checkpoints/step-00000004.safetensors"] == "neither has it"
    assert found["problem"][0] is None
    assert main(["runs", "diff", "runs/tiny/a", "runs/tiny/copy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["A  runs/tiny/a: finished", "B  runs/tiny/copy: damaged", f"   {found['problem'][1]}"]
    assert "metrics.json is damaged" in lines[2]


def test_a_metric_without_an_error_bar_a_unit_or_a_partner(here: Path, told: Told) -> None:
    entry = {"value": 1.5, "stderr": 0.3, "unit": "nats", "n": 5}
    pairs: list[tuple[Any, Any]] = [
        (entry, {**entry, "value": 2.0, "stderr": None}),
        (entry, {**entry, "unit": "bits"}),
        ({**entry, "value": None}, entry),
        (entry, {**entry, "value": 2.0, "stderr": 0.4}),
        ({**entry, "stderr": 0.0}, {**entry, "stderr": 0.0, "value": 2.0}),
    ]
    for place, side in (("tiny/a", 0), ("tiny/b", 1)):
        metrics = {f"m{index}": pair[side] for index, pair in enumerate(pairs)} | ({} if side else {"only": entry})
        (here / place / "metrics.json").write_text(json.dumps(metrics))
    found = told("diff", "runs/tiny/a", "runs/tiny/b")["metrics"]
    gaps = {name: (one["difference"], one["stderr"], one["z"]) for name, one in found.items()}
    assert gaps == {
        "m0": (0.5, None, None), "m1": (None, None, None), "m2": (None, None, None), "m3": (0.5, 0.5, 1.0),
        "m4": (0.5, 0.0, None), "only": (None, None, None),
    }  # fmt: skip
    assert main(["runs", "diff", "runs/tiny/a", "runs/tiny/b"]) == 0


# What it refuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: list | show | diff"),
        (["lst"], "unknown action 'lst' (did you mean 'list'?); allowed: list, show, diff"),
        (["show"], "runs show takes one RUN, not 0"),
        (["diff", "a"], "runs diff takes two runs, A and B, not 1"),
        (["diff", "a", "b", "c"], "runs diff takes two runs, A and B, not 3"),
        (["list", "a", "b"], "runs list takes at most one NAME, not 2"),
        (["show", "runs/tiny/a", "--root", "x"], "--root is only for runs list"),
        (["list", "--root", "rns"], "--root rns: no such folder"),
        (["list", "tiyn"], "no run of 'tiyn' below 'runs' (did you mean 'tiny'?); there are: tiny, other"),
        (["show", "runs"], "'runs' is not a run: it has no run.json"),
        (["show", "runs/tiny/x"], "'runs/tiny/x' is not a run: there is no such directory"),
        (["diff", "runs/tiny/a", "runs/tniy"], "'runs/tniy' is not a run: there is no such directory (did you mean "),
    ],
)  # fmt: skip
def test_a_wrong_command(words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {message}") and err.count("\n") == 1


def test_the_folder_of_a_specs_runs_means_the_newest_that_is_no_child(
    here: Path, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(folder: str = "runs/tiny") -> tuple[str, str]:
        assert main(["runs", "show", folder, "--format", "json"]) == 0
        out, err = capsys.readouterr()
        return json.loads(out)["run"], err

    assert shown() == ("runs/tiny/b", "runs/tiny: its newest run is runs/tiny/b\n")
    change(here / "tiny/b", parent=str(here / "tiny/a"))
    assert shown() == ("runs/tiny/a", "runs/tiny: its newest run is runs/tiny/a\n")
    shutil.copytree(here / "tiny/a", here / "tiny/0")
    change(here / "tiny/0", started="2027-01-01T00:00:00+00:00")
    assert shown()[0] == "runs/tiny/0", "by when it began, not by its name"
    (here / "tiny/0/run.json").write_text("{")
    assert shown() == ("runs/tiny/a", "runs/tiny: its newest run is runs/tiny/a\n")
    assert driftspec.load("runs/tiny").path == Path("runs/tiny/a")
    assert main(["runs", "diff", "runs/tiny", "runs/tiny/a"]) == 0
    assert capsys.readouterr().err == "runs/tiny: its newest run is runs/tiny/a\n"
    assert main(["resume", "runs/tiny"]) == 2
    said = capsys.readouterr().err
    assert said.endswith("error: 'runs/tiny/a' is finished: nothing to resume\n")
    (here / "tiny/sweep.json").write_text("{}")
    assert main(["runs", "show", "runs/tiny"]) == 2, "the points of a sweep are not runs of one spec"


def test_a_diff_with_a_run_that_has_no_spec(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "tiny/b/resolved.yaml").unlink()
    assert main(["runs", "diff", "runs/tiny/a", "runs/tiny/b"]) == 1
    assert capsys.readouterr() == ("", "error: runs/tiny/b/resolved.yaml cannot be read: No such file or directory\n")


def test_no_torch_is_imported(here: Path) -> None:
    code = (
        "import sys; from driftspec.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print([m for m in ('torch', 'numpy', 'matplotlib', 'driftspec_plugins') if m in sys.modules])"
    )
    for words in (["list"], ["show", "runs/tiny/a"], ["diff", "runs/tiny/a", "runs/tiny/b"]):
        done = subprocess.run([sys.executable, "-c", code, "runs", *words], capture_output=True, text=True, check=False)
        assert done.stdout.endswith("\n[]\n"), done.stderr
