"""The runs of a sweep, in real processes: the bytes of runs alone, failures, a stop, and how it goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny

from driftspec.cli import main
from driftspec.errors import RunFailed
from driftspec.registry import discover
from driftspec.runs.lifecycle import start
from driftspec.runs.run_dir import RunDir
from driftspec.runs.session import RunUnderWay

PLUGIN = '''
"""A metric that talks, and that can end its process."""
import os
import signal

from driftspec.components import Measured, Metric
from driftspec.registry import hookimpl


class Noisy(Metric):
    "A metric."
    type = "noisy"
    deadly: bool = False

    def measure(self, evaluation):
        print("noise on stdout")
        if self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return Measured(float(evaluation.model.dim), 0.5, "nats", 1)


@hookimpl
def driftspec_components():
    return {"metric": {"noisy": Noisy}}
'''
TEXT = tiny.TEXT.replace("[{type: nll, points: 100}]", "[noisy]").replace("sample: {count: 100}\n", "")
TEXT = TEXT.replace("type: moons, samples: 2000, noise: 0.1", "type: gaussian, mean: [1, 2, 3], samples: 500")
"""Rows in 3-D: there are no maps of them, which would take most of a process's time."""
POINTS = """\
sweep:
  list:
    - {train.optimizer.lr: 1e30}
    - {evaluate: [{type: noisy, deadly: true}], train.steps: 5}
    - {train.steps: 10, seed: 4}
"""
PROCESS = "import sys; from driftspec.cli import main; sys.exit(main())"


@dataclass
class Done:
    """What a command in a process of its own has left."""

    code: int
    out: str
    err: str


def command(folder: Path, *words: str) -> Done:
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


def made(folder: Path, sweep: str, text: str = TEXT) -> Path:
    (folder / "talk.py").write_text(PLUGIN)
    (folder / "tiny.yaml").write_text(text + sweep)
    return folder


def state(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "sweep.json").read_bytes())
    return found


def statuses(path: Path) -> list[str]:
    return [point["status"] for point in state(path)["points"]]


def outcome(path: Path) -> dict[str, bytes]:
    """Every byte that is a result."""
    files = [*(path / "checkpoints").glob("*"), *(path / name for name in ("metrics.json", "resolved.yaml"))]
    return {file.name: file.read_bytes() for file in files}


def alone(folder: Path, *sets: str) -> RunUnderWay:
    """The same spec run in this process with --set."""
    registry = discover([folder.parent / "talk.py"])
    return start(tiny.loaded(*sets, text=TEXT, registry=registry), registry, out=folder)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """Three points, two at a time: one that fails, one whose process is killed, one that finishes."""
    folder = made(tmp_path_factory.mktemp("mixed"), POINTS)
    words = ["sweep", "tiny.yaml", "--plugin", "talk.py", "--jobs", "2", "--format", "json", "--set", "name=mine"]
    return folder, command(folder, *words)


def test_the_directory_says_how_each_point_stands(mixed: tuple[Path, Done]) -> None:
    folder, _ = mixed
    (path,) = (folder / "runs" / "mine").iterdir()
    assert re.fullmatch(r"sweep-\d{8}T\d{6}Z-[0-9a-f]{8}", path.name)
    assert {one.name for one in path.iterdir()} == {
        ".lock", "spec.yaml", "sweep.yaml", "sweep.json", "001", "002", "003",
    }  # fmt: skip
    assert (path / "spec.yaml").read_text() == TEXT + POINTS
    told = state(path)
    assert (told["name"], told["status"], told["jobs"]) == ("mine", "failed", 2)
    assert told["argv"][:3] == ["run-spec", "sweep", "tiny.yaml"] and told["finished"] >= told["started"]
    assert statuses(path) == ["failed", "failed", "finished"]
    assert [point["run"] for point in told["points"]] == ["001", "002", "003"]
    assert told["points"][2]["values"] == {"train.steps": 10, "seed": 4} and "error" not in told["points"][2]
    assert re.match("step [0-9]+: .*non_finite", told["points"][0]["error"])
    assert told["points"][1]["error"] == "its process was killed by SIGKILL"


def test_what_fails_is_told_at_once_and_the_others_go_on(mixed: tuple[Path, Done]) -> None:
    folder, done = mixed
    assert done.code == 1 and "Traceback" not in done.err
    lines = done.err.splitlines()
    failed = [index for index, line in enumerate(lines) if re.match("point 00[12] failed: ", line)]
    assert len(failed) == 2 and failed[0] < lines.index("point 003 finished")
    assert sum(line.startswith("point 001 failed: step ") for line in lines) == 1
    assert "point 002 failed: its process was killed by SIGKILL" in lines
    (path,) = (folder / "runs" / "mine").iterdir()
    relative = path.relative_to(folder)
    assert lines[-1] == (
        f"error: 2 of 3 points failed; try them again with: run-spec resume {relative} --plugin talk.py"
    )


def test_the_result_is_one_object_with_every_metric(mixed: tuple[Path, Done]) -> None:
    result = json.loads(mixed[1].out)  # though the plugin prints
    assert result["status"] == "failed" and [len(point["metrics"]) for point in result["points"]] == [0, 0, 1]
    assert result["points"][2]["metrics"]["noisy"]["value"] == 3.0
    assert result["points"][2]["run"] == f"{result['sweep']}/003"


def test_a_point_is_to_the_byte_the_spec_run_alone_with_set(mixed: tuple[Path, Done], tmp_path: Path) -> None:
    folder, _ = mixed
    (path,) = (folder / "runs" / "mine").iterdir()
    (tmp_path / "talk.py").write_text(PLUGIN)
    one = alone(tmp_path / "003", "train.steps=10", "seed=4", "name=mine")
    assert outcome(path / "003") == outcome(one.path) and len(outcome(one.path)) == 4
    assert "sweep" not in (path / "003" / "resolved.yaml").read_text()
    info = json.loads((path / "003" / "run.json").read_bytes())
    assert info["spec_digest"] == one.record.spec_digest and info["digests"] == one.record.digests


def test_resume_keeps_what_is_finished_and_tries_the_rest_again(mixed: tuple[Path, Done]) -> None:
    folder, _ = mixed
    (path,) = (folder / "runs" / "mine").iterdir()
    before = {number: (path / number / "run.json").stat().st_mtime_ns for number in ("001", "002", "003")}
    (folder / "tiny.yaml").write_text("the spec may be gone\n")
    done = command(folder, "resume", str(path.relative_to(folder)), "--plugin", "talk.py")
    assert done.code == 1 and "Traceback" not in done.err
    assert statuses(path) == ["failed", "failed", "finished"]
    after = {number: (path / number / "run.json").stat().st_mtime_ns for number in before}
    assert [after[number] > before[number] for number in before] == [True, True, False]
    resumed = json.loads((path / "002" / "run.json").read_bytes())["resumed"]
    assert resumed[0]["from"] == 5
    head, _, _, third, *_, last = done.out.splitlines()
    assert head.split() == ["point", "train.optimizer.lr", "evaluate", "train.steps", "seed", "status", "noisy"]
    assert third.split() == ["003", "10", "4", "finished", "3", "±", "0.5"]
    assert last == str(path.relative_to(folder))


# Stopped ------------------------------------------------------------------------------------------------------------

LONG = """\
sweep: {list: [{train.steps: 150, seed: 0}, {train.steps: 150, seed: 1}, {train.steps: 3}]}
"""


def until(condition: Any, process: subprocess.Popen[str]) -> None:
    """Wait for a state of the files; a process that ended before is a failure."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def gone(path: Path) -> bool:
    """Whether no process works on a run any more."""
    return not RunDir(path).is_locked()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)], ids=["SIGINT", "SIGKILL"]
)
def test_a_sweep_that_is_stopped_leaves_checkpoints_and_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    text = TEXT.replace("every: 20", "every: 1000").replace("log_every: 5", "log_every: 1")
    folder, path = made(tmp_path, LONG, text), tmp_path / "out"
    words = ["sweep", "tiny.yaml", "--plugin", "talk.py", "--jobs", "2", "--out", "out", "--quiet"]
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS, *words],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        trained = [path / one / "train.jsonl" for one in ("001", "002")]
        until(lambda: all(file.exists() and file.read_bytes().count(b"\n") > 5 for file in trained), process)
        if number == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, number)  # as a terminal's Ctrl-C does
        out, err = process.communicate()
    while not all(gone(path / one) for one in ("001", "002")):
        time.sleep(0.02)
    assert out == "" and "Traceback" not in err
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert err == "interrupted; go on with: run-spec resume out --plugin talk.py\n"
        assert state(path)["status"] == "interrupted" and statuses(path) == ["interrupted", "interrupted", "waiting"]
    else:
        assert process.returncode == -signal.SIGKILL and err == ""
    for one in ("001", "002"):  # stopped after a step, not before it had ended
        info = json.loads((path / one / "run.json").read_bytes())
        assert info["status"] == "interrupted" and "its checkpoint is written" in info["error"]["message"]
        assert 5 < RunDir(path / one).checkpoints()[-1] < 150
    if number == signal.SIGINT:
        done = command(folder, "resume", "out", "--plugin", "talk.py")
        assert (done.code, statuses(path)) == (0, ["finished"] * 3), done.err
        assert "resumed" in json.loads((path / "002" / "run.json").read_bytes())
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "talk.py").write_text(PLUGIN)
        sets = ["train.steps=150", "seed=1", "train.checkpoint_every=1000", "train.log_every=1"]
        once = alone(tmp_path / "b" / "run", *sets)
        name = "step-00000150.safetensors"
        assert outcome(path / "002")[name] == outcome(once.path)[name]
        assert outcome(path / "002")["metrics.json"] == outcome(once.path)["metrics.json"]
        assert main(["resume", str(path), "--plugin", str(folder / "talk.py")]) == 2


# What a process that was killed early has left ------------------------------------------------------------------------


@pytest.mark.parametrize("left", [(), (".lock",), (".lock", "run.json"), (".lock", "run.json", "spec.yaml", ".a.tmp")])
def test_a_run_that_had_not_begun_begins_anew(left: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "001"
    assert not RunDir(path).begun()
    path.mkdir()
    for name in left:
        (path / name).write_text("{}")
    assert not RunDir(path).begun() and not path.exists()


def test_a_run_that_had_begun_is_left_alone_and_so_is_what_is_no_runs(tmp_path: Path) -> None:
    (tmp_path / "resolved.yaml").write_text("")
    (tmp_path / "run.json").write_text("")
    assert RunDir(tmp_path).begun()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resolved.yaml", "run.json"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("")
    with pytest.raises(RunFailed, match="other cannot be removed: Directory not empty"):
        RunDir(other).begun()
    assert (other / "mine.txt").exists()
