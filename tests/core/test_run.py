"""A run leaves what it says, twice the same bytes, and goes on after whatever ended it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from driftspec import __version__
from driftspec.components.observer import Observer
from driftspec.errors import Interrupted, RunFailed, SpecError, UsageError
from driftspec.experiment.build import build
from driftspec.registry import Registry, discover
from driftspec.runs.lifecycle import again, opened, resume, start
from driftspec.runs.run_dir import RunDir
from driftspec.runs.session import RunUnderWay
from driftspec.runs.stages import evaluated_checkpoint, fitted, load_checkpoint
from driftspec.source.files import Files
from driftspec.spec import Changes

PLUGIN = '''
"""Rows saved as .npy, and a velocity that leaves every bound."""
from collections.abc import Mapping

from driftspec.components import Data, Network, Table
from driftspec.registry import hookimpl


class Saved(Data):
    type = "saved"
    file_key = "path"
    path: str

    def read(self, files, generator):
        import numpy as np
        import torch

        path = files.find(self.path)
        values = torch.from_numpy(np.load(path)).double()
        names = tuple(f"column {i}" for i in range(values.shape[1]))
        return Table(values, names, digest=files.digest(path), named=False)


class Square(Network):
    type = "square"
    gain: float = 1.0

    def parameters(self, d_in, d_out, generator):
        import torch

        return {"a": torch.full((d_out,), self.gain)}

    def apply(self, p, t, x, context=None):
        return p["a"] * x * x


@hookimpl
def driftspec_components():
    return {"data": {"saved": Saved}, "network": {"square": Square}}
'''
BARE = ("evaluate=[]", "sample=null")


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures have their own tests, and take longer than these runs."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("driftspec.report.plots.draw", lambda *_: iter(()))


@pytest.fixture
def pictures() -> None:
    """For a test that wants them all the same."""


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "saved.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture(scope="session")
def with_plugin(plugin: Path) -> Registry:
    return discover([plugin])


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> RunUnderWay:
    """The tiny spec run from end to end, undisturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("driftspec.report.plots.draw", lambda *_: iter(()))
        return start(tiny.loaded(), registry, out=tmp_path_factory.mktemp("whole") / "run")


def made(folder: Path, registry: Registry, *sets: str, observer: Observer | None = None, **keys: Any) -> RunUnderWay:
    loaded = tiny.loaded(*sets, registry=registry, root=folder)
    return start(loaded, registry, out=folder / "run", observer=observer, **keys)


def info(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "run.json").read_bytes())
    return found


def records(path: Path) -> list[dict[str, Any]]:
    lines = (path / "train.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def outcome(path: Path) -> dict[str, bytes]:
    """Every byte that is a result: weights, metrics, samples."""
    names = [*sorted(p.name for p in (path / "checkpoints").glob("*"))]
    files = [*(path / "checkpoints" / name for name in names), path / "metrics.json", path / "samples.npy"]
    return {file.name: file.read_bytes() for file in files if file.exists()}


class At(Observer):
    """Does something at a step or after a metric."""

    def __init__(self, action: Callable[[], object], step: int | None = None, metric: str | None = None):
        self.action, self.when, self.named = action, step, metric

    def step(self, record: Any, steps: int) -> None:
        if record.step == self.when:
            self.action()

    def metric(self, name: str, measured: Any) -> None:
        if name == self.named:
            self.action()


def interrupt(number: signal.Signals = signal.SIGINT) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


# The directory -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pictures")
def test_a_run_leaves_exactly_what_the_contract_lists(tmp_path: Path, registry: Registry) -> None:
    run = made(tmp_path, registry, argv=["run-spec", "tiny.yaml"])
    files = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    checkpoints = {f"checkpoints/step-000000{step}.{end}" for step in (20, 40) for end in ("safetensors", "json")}
    pictures = {f"plots/{name}.png" for name in ("loss", "samples", "log_density", "trajectories", "grid")}
    assert files == checkpoints | pictures | {
        ".lock", "spec.yaml", "resolved.yaml", "run.json", "train.jsonl", "metrics.json", "samples.npy", "report.html",
    }  # fmt: skip
    assert (run.path / "spec.yaml").read_text() == tiny.TEXT
    samples = np.load(run.path / "samples.npy")
    assert samples.shape == (100, 2) and samples.dtype == np.float32 and np.isfinite(samples).all()

    told = info(run.path)
    assert told["status"] == "finished" and told["parent"] is None and told["argv"] == ["run-spec", "tiny.yaml"]
    assert told["seed"] == 3 and told["device"] == "cpu" and told["threads"] == 1 and told["pid"] == os.getpid()
    assert told["plugins"] == {"driftspec": __version__} and told["driftspec"] == __version__
    assert {"python", "torch", "host", "git"} <= set(told) and told["started"] <= told["finished"]
    assert set(told["seconds"]) == {"train", "evaluate", "sample", "plots"}
    assert told["columns"] == ["x1", "x2"] and told["evaluated"] == {"weights": "last", "step": 40, "best": False}
    assert told["samples"]["count"] == told["samples"]["chains"] == 100 and told["samples"]["draws"] == 1
    assert set(told["digests"]) == {
        "resolved.yaml", "checkpoints/step-00000040.safetensors", "samples.npy", "metrics.json",
    }  # fmt: skip
    assert all(digest == run.directory.digest(name) for name, digest in told["digests"].items())


def test_git_and_other_peoples_plugins_are_recorded(
    tmp_path: Path, with_plugin: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note").write_text("a")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "note"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], check=True, cwd=tmp_path)
    sets = ("dynamics.network={type: square, gain: 0.0}", "train.steps=1", *BARE)
    clean = made(tmp_path / "a", with_plugin, *sets).record
    (tmp_path / "note").write_text("b")
    dirty = made(tmp_path / "b", with_plugin, *sets).record
    assert re.fullmatch("[0-9a-f]{40}", clean.git["commit"]) and not clean.git["dirty"] and dirty.git["dirty"]
    assert clean.plugins == {"driftspec": __version__, "saved.py": with_plugin.files[next(iter(with_plugin.files))]}


def test_run_json_says_running_while_it_does(tmp_path: Path, registry: Registry) -> None:
    seen = []
    made(tmp_path, registry, *BARE, observer=At(lambda: seen.append(info(tmp_path / "run")), step=1))
    assert seen[0]["status"] == "running" and seen[0]["finished"] is None and seen[0]["pid"] == os.getpid()
    assert "digests" not in seen[0] and info(tmp_path / "run")["status"] == "finished"


def test_a_record_for_each_logged_step(whole: RunUnderWay) -> None:
    lines = records(whole.path)
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert all({"loss", "steps", "grad_norm", "lr", "evaluations"} <= set(line) for line in lines)
    assert [line["step"] for line in lines if "solver_error" in line] == [20, 40]


def test_the_resolved_spec_is_the_same_run(whole: RunUnderWay, tmp_path: Path, registry: Registry) -> None:
    text = (whole.path / "resolved.yaml").read_text()
    repeated = start(tiny.loaded(text=text), registry, out=tmp_path / "run")
    assert repeated.record.spec_digest == whole.record.spec_digest
    assert outcome(repeated.path) == outcome(whole.path)


def test_the_same_seed_is_the_same_bytes_and_another_is_not(
    whole: RunUnderWay, tmp_path: Path, registry: Registry
) -> None:
    same, other = (made(tmp_path / str(seed), registry, f"seed={seed}") for seed in (3, 4))
    assert len(outcome(whole.path)) == 6
    assert outcome(same.path) == outcome(whole.path) and records(same.path) == records(whole.path)
    assert all(other_bytes != outcome(whole.path)[name] for name, other_bytes in outcome(other.path).items())


def test_the_digest_of_a_run_knows_a_files_content_not_its_path(tmp_path: Path, with_plugin: Registry) -> None:
    rng, digests = np.random.default_rng(0), []
    first, second = rng.normal(size=(2, 100, 2))
    for name, rows in (("a", first), ("b", first), ("c", second)):
        np.save(tmp_path / f"{name}.npy", rows)
        sets = (f"data={{type: saved, path: {tmp_path / name}.npy}}", "train.steps=1", *BARE)
        run = made(tmp_path / name, with_plugin, *sets, allow_outside=True)
        digests.append((run.record.spec_digest, run.record.data_digest))
        assert run.record.columns == ["column 0", "column 1"]
    assert digests[0] == digests[1] != digests[2]


BAD: dict[str, tuple[Sequence[str], str]] = {
    "components": (["estimator.probes=3"], "probes"),
    "batch": (["train.batch_size=1601"], "batch_size"),
    "file": (["data={type: saved, path: absent.npy}"], "absent.npy"),
    "optimizer": (["train.optimizer=muon"], "muon"),
    "test rows": (["data.split=[0.9, 0.1, 0.0]"], "metric 'nll' reads test rows, at least 2.*leaves 0"),
    "one test row": (["data.samples=100", "data.split=[0.9, 0.09, 0.01]"], "leaves 1"),
    "watched rows": (["train.monitor=nll", "data.split=[0.9, 0.0, 0.1]"], "validation rows.*leaves 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_nothing_is_written_when_building_fails(name: str, tmp_path: Path, with_plugin: Registry) -> None:
    sets, message = BAD[name]
    with pytest.raises(SpecError, match=message):
        made(tmp_path, with_plugin, *sets)
    assert not list(tmp_path.iterdir())


def test_rows_that_no_metric_reads_may_be_missing(tmp_path: Path, registry: Registry) -> None:
    made(
        tmp_path,
        registry,
        "data.split=[1.0, 0.0, 0.0]",
        "evaluate=[{type: energy_distance, samples: 50}]",
        "train.steps=1",
    )
    assert json.loads((tmp_path / "run" / "metrics.json").read_bytes())["energy_distance"]["n"] == 50


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(
    "sets, drawn",
    [
        (["data={type: gaussian, mean: [1.0], std: 0.5, samples: 500}"], {"loss", "density", "paths"}),
        (["data={type: gaussian, mean: [1, 2, 3, 4, 5], samples: 500}"], {"loss"}),
        (["runtime.dtype=float64"], {"loss", "samples", "log_density", "trajectories", "grid"}),
    ],
    ids=["1-D", "5-D", "float64"],
)
def test_any_dimension_and_precision(sets: list[str], drawn: set[str], tmp_path: Path, registry: Registry) -> None:
    run = made(tmp_path, registry, *sets, "train.steps=5", "train.batch_size=16", "evaluate=[nll, round_trip]")
    assert {path.stem for path in (run.path / "plots").glob("*")} == drawn
    metrics = json.loads((run.path / "metrics.json").read_bytes())
    assert metrics["nll"]["details"]["confirmed"]["difference"] < (1e-6 if "float64" in sets[0] else 1e-3)
    assert np.load(run.path / "samples.npy").shape == (100, run.record.dim)


# Interrupted and resumed -------------------------------------------------------------------------------------------


def finish(path: Path, registry: Registry) -> RunUnderWay:
    run = resume(path, registry, argv=["run-spec", "resume", str(path)])
    assert run.record.status == info(path)["status"] == "finished" and "error" not in info(path)
    return run


@pytest.mark.parametrize(
    "at, again_from, number",
    [(27, 27, signal.SIGINT), (27, 27, signal.SIGTERM), (40, 40, signal.SIGINT), (1, 1, signal.SIGTERM)],
)
def test_a_signal_in_training_waits_for_the_step_and_costs_nothing(
    at: int, again_from: int, number: signal.Signals, whole: RunUnderWay, tmp_path: Path, registry: Registry
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"after step {at}, its checkpoint is written") as raised:
        made(tmp_path, registry, observer=At(interrupt(number), step=at))
    assert raised.value.exit_code == 128 + number and signal.getsignal(number) is before
    told = info(tmp_path / "run")
    assert told["status"] == "interrupted" and f"run-spec resume {tmp_path}/run" in told["error"]["message"]
    run = finish(tmp_path / "run", registry)
    assert [entry["from"] for entry in run.record.resumed] == [again_from]
    expected = outcome(whole.path)
    assert {name: run_bytes for name, run_bytes in outcome(run.path).items() if name in expected} | {
        name: expected[name] for name in expected if "00000020" in name
    } == expected
    assert records(run.path) == records(whole.path)


def test_an_interrupted_run_ends_a_loop_that_catches_every_exception(tmp_path: Path, registry: Registry) -> None:
    """`except Exception` around one run of many lets the next one start only where the run failed."""
    begun = []
    with pytest.raises(Interrupted):
        for seed in range(3):
            begun.append(seed)
            try:
                made(tmp_path / str(seed), registry, *BARE, observer=At(interrupt(), step=2))
            except Exception:
                continue
    assert begun == [0] and not issubclass(Interrupted, Exception)


def test_the_second_signal_does_not_wait(whole: RunUnderWay, tmp_path: Path, registry: Registry) -> None:
    def twice() -> None:
        interrupt()()
        interrupt()()
        raise AssertionError("the second signal waited")

    with pytest.raises(Interrupted):
        made(tmp_path, registry, observer=At(twice, step=33))
    run = finish(tmp_path / "run", registry)
    assert run.record.resumed[0]["from"] == 20
    assert outcome(run.path) == outcome(whole.path) and records(run.path) == records(whole.path)


def test_a_signal_in_evaluation_ends_it_at_once(whole: RunUnderWay, tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(Interrupted) as raised:
        made(tmp_path, registry, observer=At(interrupt(signal.SIGTERM), metric="nll"))
    assert raised.value.exit_code == 143 and info(tmp_path / "run")["status"] == "interrupted"
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert outcome(finish(tmp_path / "run", registry).path) == outcome(whole.path)


def test_several_interruptions_and_early_stopping(tmp_path: Path, registry: Registry) -> None:
    sets = (
        "train.early_stopping={every: 4, patience: 3}",
        "train.ema=0.5",
        "train.optimizer.lr=0.3",
        "train.steps=400",
    )
    plain = made(tmp_path / "plain", registry, *sets)
    best = plain.record.evaluated["step"]
    with pytest.raises(Interrupted):
        made(tmp_path, registry, *sets, observer=At(interrupt(), step=best + 1))
    with pytest.raises(Interrupted):
        resume(tmp_path / "run", registry, At(interrupt(), step=best + 2))
    run = finish(tmp_path / "run", registry)
    assert records(run.path) == records(plain.path)
    assert run.record.evaluated == plain.record.evaluated == {"weights": "ema", "step": best, "best": True}
    assert (run.path / "metrics.json").read_bytes() == (plain.path / "metrics.json").read_bytes()
    newest = plain.directory.checkpoints()[-1]
    assert newest == best + 12 and f"checkpoints/step-{best:08d}.safetensors" in plain.record.digests


FORKS = """
import json, os, sys
import torch, torch._dynamo, matplotlib.figure
import driftspec.report.plots
from driftspec.cli import main

for line in sys.stdin:
    folder, *words = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(folder)
        os.dup2(os.open("stderr", os.O_CREAT | os.O_WRONLY), 2)
        sys.exit(main(words))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""A process that has imported what a run does, and runs each line of stdin in a child."""
IN_3D = "data={type: gaussian, mean: [1, 2, 3], samples: 500}"  # which has no maps
LONG = (IN_3D, "train.steps=120", "train.checkpoint_every=20", "train.ema=0.9", "evaluate=[{type: nll, points: 20}]")


@pytest.fixture(scope="module")
def forks() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", FORKS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> RunUnderWay:
    return made(tmp_path_factory.mktemp("long"), registry, *LONG)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_process_ended_by_a_signal(
    number: signal.Signals, long_run: RunUnderWay, forks: subprocess.Popen[str], tmp_path: Path, registry: Registry
) -> None:
    """Once in a real process: exit code, the line to paste, and the same bytes after it was pasted."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    tiny.write(folder)
    sets = [word for one in LONG for word in ("--set", one)]
    assert forks.stdin is not None and forks.stdout is not None
    print(json.dumps([str(folder), "tiny.yaml", "--out", "the run", *sets]), file=forks.stdin, flush=True)
    child, log = int(forks.stdout.readline()), folder / "stderr"
    deadline = time.monotonic() + 120
    while not (log.exists() and "step 36/120" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(child, number)
    code, said = int(forks.stdout.readline()), log.read_text()
    told, path = info(folder / "the run"), folder / "the run"
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL and told["status"] == "running"
        run = finish(path, registry)
        assert run.record.resumed[0]["from"] in (20, 40, 60, 80, 100)
    else:
        assert code == 128 + number and told["status"] == "interrupted"
        assert "Traceback" not in said
        (pasted,) = re.findall(r"go on with: (.*)", said)
        if number == signal.SIGINT:
            scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            done = subprocess.run(
                pasted, shell=True, cwd=folder, env={**os.environ, "PATH": scripts}, capture_output=True
            )
            assert done.returncode == 0, done.stderr.decode()
        else:
            finish(path, registry)
    assert info(path)["status"] == "finished" and len(info(path)["resumed"]) == 1
    assert outcome(path) == outcome(long_run.path) and records(path) == records(long_run.path)


def test_the_line_to_paste_names_the_plugin_files(tmp_path: Path, with_plugin: Registry, plugin: Path) -> None:
    with pytest.raises(Interrupted, match=re.escape(f"{tmp_path}/run --plugin {plugin}")):
        made(tmp_path, with_plugin, observer=At(interrupt(), step=1))


# Failed ------------------------------------------------------------------------------------------------------------

FAILURES: dict[str, tuple[Sequence[str], str, str, int]] = {
    "NaN": (["train.optimizer={type: sgd, lr: 1e30}", "estimator=hutchinson"], "non_finite", "step 2: ", 2),
    "budget": (["estimator.solver={type: dopri5, max_evaluations: 8}"], "budget", "step 1: .*after 8 evaluations", 1),
    "blow-up": (
        ["dynamics.network={type: square, gain: -0.02}", "train.optimizer={type: sgd, lr: 1.0}", "train.steps=400"],
        "non_finite", "step [0-9]+: ", 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_named_and_leaves_the_last_checkpoint(name: str, tmp_path: Path, with_plugin: Registry) -> None:
    sets, status, message, step = FAILURES[name]
    for attempt in (1, 2):
        with pytest.raises(RunFailed, match=message) as raised:
            if attempt == 1:
                made(tmp_path, with_plugin, "train.checkpoint_every=1", *sets)
            else:
                resume(tmp_path / "run", with_plugin)
        assert raised.value.status == status and raised.value.exit_code == 1
        told, directory = info(tmp_path / "run"), RunDir.open(tmp_path / "run")
        assert told["status"] == "failed" and told["error"]["status"] == status
        last = told["error"]["step"]
        assert last == step or (step == 0 and last > 2)
        assert directory.checkpoints() == list(range(max(1, last - 2), last))  # whole ones, up to the step before
        if last > 1:
            assert directory.load_checkpoint()[0] == last - 1
    with pytest.raises(UsageError, match="has not finished training"):
        again(tmp_path / "run", with_plugin, Changes(), ["evaluate"])


def test_a_failed_evaluation_leaves_a_trained_model(whole: RunUnderWay, tmp_path: Path, registry: Registry) -> None:
    sets = ("evaluate=[{type: nll, points: 100, solver: {type: dopri5, max_evaluations: 8}}]",)
    with pytest.raises(RunFailed, match="status budget"):
        made(tmp_path, registry, *sets)
    told = info(tmp_path / "run")
    assert told["status"] == "failed" and told["error"]["status"] == "budget" and told["error"]["step"] is None
    cured = again(
        tmp_path / "run", registry, Changes(["evaluate=[{type: nll, points: 100}]"]), ["evaluate"], out=tmp_path / "c"
    )
    assert (cured.path / "metrics.json").read_bytes() == (whole.path / "metrics.json").read_bytes()


def test_an_error_in_a_plugin_is_a_failed_run(tmp_path: Path, registry: Registry) -> None:
    def fail() -> None:
        raise ValueError("no such thing")

    with pytest.raises(RunFailed, match="ValueError: no such thing"):
        made(tmp_path, registry, observer=At(fail, step=3))
    assert info(tmp_path / "run")["error"]["message"] == "no such thing"


# Resume ------------------------------------------------------------------------------------------------------------


def stopped(folder: Path, registry: Registry, *sets: str, step: int = 30, **keys: Any) -> Path:
    with pytest.raises(Interrupted):
        made(folder, registry, *sets, observer=At(interrupt(), step=step), **keys)
    return folder / "run"


def test_what_cannot_be_resumed_says_so(whole: RunUnderWay, tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(UsageError, match="finished: nothing to resume"):
        resume(whole.path, registry)
    with pytest.raises(UsageError, match="not a run"):
        resume(tmp_path, registry)


def test_without_a_checkpoint_it_starts_over(whole: RunUnderWay, tmp_path: Path, registry: Registry) -> None:
    path = stopped(tmp_path, registry)
    shutil.rmtree(path / "checkpoints")
    run = finish(path, registry)
    assert run.record.resumed[0]["from"] == 0
    assert outcome(path) == outcome(whole.path) and records(path) == records(whole.path)


def test_a_damaged_checkpoint_is_passed_over_and_said(whole: RunUnderWay, tmp_path: Path, registry: Registry) -> None:
    path = stopped(tmp_path, registry)
    (path / "checkpoints" / "step-00000030.safetensors").write_bytes(b"torn")
    run = finish(path, registry)
    assert run.record.resumed[0]["from"] == 20 and "step 30" in run.record.resumed[0]["skipped"][0]
    assert records(path) == records(whole.path)
    assert (path / "metrics.json").read_bytes() == (whole.path / "metrics.json").read_bytes()


def test_two_resumes_at_once_refuse_each_other(tmp_path: Path, registry: Registry) -> None:
    path = stopped(tmp_path, registry)
    refused = []

    def second() -> None:
        with pytest.raises(UsageError, match=f"process {os.getpid()} is working on this run") as raised:
            resume(path, registry)
        refused.append(raised.value)

    assert resume(path, registry, At(second, step=31)).record.status == "finished"
    assert len(refused) == 1


def saved(folder: Path, seed: int = 0, n: int = 300) -> str:
    np.save(folder / "rows.npy", np.random.default_rng(seed).normal(size=(n, 2)))
    return "data={type: saved, path: rows.npy, standardize: scale}"


def test_a_changed_data_file_is_refused(tmp_path: Path, with_plugin: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = stopped(tmp_path, with_plugin, saved(tmp_path))
    saved(tmp_path, seed=1)
    with pytest.raises(RunFailed, match="data file is not the one"):
        resume(path, with_plugin)
    assert info(path)["status"] == "interrupted"
    saved(tmp_path, seed=0)
    finish(path, with_plugin)
    saved(tmp_path, seed=1)
    with pytest.raises(RunFailed, match="data file is not the one"):
        again(path, with_plugin, Changes(), ["evaluate"], out=tmp_path / "child")
    assert not (tmp_path / "child").exists()


# Again -------------------------------------------------------------------------------------------------------------


def test_measured_again_it_has_the_same_bytes_and_a_parent(
    whole: RunUnderWay, tmp_path: Path, registry: Registry
) -> None:
    child = again(whole.path, registry, Changes(), ["evaluate"], out=tmp_path / "child")
    assert (child.path / "metrics.json").read_bytes() == (whole.path / "metrics.json").read_bytes()
    assert info(child.path)["parent"] == str(whole.path) and info(child.path)["status"] == "finished"
    assert not (child.path / "samples.npy").exists() and not (child.path / "train.jsonl").exists()
    grandchild = again(child.path, registry, Changes(), ["evaluate", "sample"], out=tmp_path / "grandchild")
    assert (grandchild.path / "metrics.json").read_bytes() == (whole.path / "metrics.json").read_bytes()
    assert (grandchild.path / "samples.npy").read_bytes() == (whole.path / "samples.npy").read_bytes()


def test_stages_apart_are_the_whole(whole: RunUnderWay, tmp_path: Path, registry: Registry) -> None:
    run = made(tmp_path, registry, stages=["train"])
    assert not (run.path / "metrics.json").exists() and not (run.path / "samples.npy").exists()
    child = again(run.path, registry, Changes(), ["evaluate", "sample"], out=tmp_path / "child")
    for name in ("metrics.json", "samples.npy"):
        assert (child.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_more_samples_begin_with_the_ones_there_were(whole: RunUnderWay, tmp_path: Path, registry: Registry) -> None:
    few = np.load(whole.path / "samples.npy")
    count = Changes(options=(("-n", "sample.count", 700),))
    more = np.load(again(whole.path, registry, count, ["sample"], out=tmp_path / "a").path / "samples.npy")
    assert more.shape == (700, 2) and np.array_equal(more[:100], few)
    seed = Changes(options=(("--seed", "seed", 9),))
    other = np.load(again(whole.path, registry, seed, ["sample"], out=tmp_path / "b").path / "samples.npy")
    assert not (other == few).any()
    solver = Changes(["sampler.solver={type: dopri5, rtol: 1e-6, atol: 1e-6}"])
    again_few = np.load(again(whole.path, registry, solver, ["sample"], out=tmp_path / "c").path / "samples.npy")
    assert np.abs(again_few - few).max() < 1e-4 and not np.array_equal(again_few, few)


@pytest.mark.parametrize(
    "key",
    ["samplerx.type=ode", "seedling=3", "sampleX", "dynamics.network.hidden=[3]", "train.steps=3", "data.noise=0.2",
     "estimator=hutchinson", "solver=rk4", "name=b", "data={type: moons}", "data.paths=x", "data.split=[0, 0, 1]"],
)  # fmt: skip
def test_what_was_trained_cannot_be_set(key: str, whole: RunUnderWay, tmp_path: Path, registry: Registry) -> None:
    sets, unsets = ([key], []) if "=" in key else ([], [key])
    with pytest.raises(UsageError, match="belongs to training"):
        again(whole.path, registry, Changes(sets, unsets), ["sample"], out=tmp_path / "child")
    assert not (tmp_path / "child").exists()


def test_another_seed_measures_the_same_test_rows(tmp_path: Path, with_plugin: Registry) -> None:
    """Split anew, rows that were trained on would be measured."""
    run = made(tmp_path, with_plugin, saved(tmp_path), "evaluate=[{type: nll, baselines: []}]", allow_outside=True)
    seed = Changes(options=(("--seed", "seed", 9),))
    child = again(run.path, with_plugin, seed, ["evaluate"], out=tmp_path / "child")
    assert (child.path / "metrics.json").read_bytes() == (run.path / "metrics.json").read_bytes()


def test_a_moved_run_is_sampled_without_its_data(
    tmp_path: Path, with_plugin: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = made(tmp_path, with_plugin, saved(tmp_path), "evaluate=[]")
    before = np.load(run.path / "samples.npy")
    moved = shutil.move(run.path, tmp_path / "elsewhere")
    (tmp_path / "rows.npy").unlink()
    child = again(moved, with_plugin, Changes(), ["sample"], out=tmp_path / "child")
    assert np.array_equal(np.load(child.path / "samples.npy"), before)
    assert child.record.columns == ["column 0", "column 1"] and child.record.parent == str(moved)
    with pytest.raises(SpecError, match=r"rows\.npy"):
        again(moved, with_plugin, Changes(["evaluate=[{type: nll, baselines: []}]"]), ["evaluate"])


def test_other_rows_are_measured_all_of_them(
    tmp_path: Path, with_plugin: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = made(tmp_path, with_plugin, saved(tmp_path), "evaluate=[nll]", "train.steps=2")
    np.save("other.npy", np.random.default_rng(5).normal(size=(57, 2)))
    changes = Changes(["data.path=other.npy"])
    child = again(run.path, with_plugin, changes, ["evaluate"], out=tmp_path / "child")
    entry = json.loads((child.path / "metrics.json").read_bytes())["nll"]
    assert entry["n"] == 57 and entry["details"]["baselines"]["kde"]["fitted_on"] == 240  # the run's training rows
    assert child.record.data_digest not in (None, run.record.data_digest)
    assert child.record.every_row and not run.record.every_row
    grandchild = again(child.path, with_plugin, Changes(), ["evaluate"], out=tmp_path / "grandchild")
    assert (grandchild.path / "metrics.json").read_bytes() == (child.path / "metrics.json").read_bytes()
    np.save("wide.npy", np.zeros((57, 3)))
    with pytest.raises(SpecError, match="3 columns, the model was trained on 2"):
        again(run.path, with_plugin, Changes(["data.path=wide.npy"]), ["evaluate"])


def test_an_interrupted_measurement_goes_on(whole: RunUnderWay, tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(Interrupted):
        again(
            whole.path, registry, Changes(), ["evaluate"], out=tmp_path / "run", observer=At(interrupt(), metric="nll")
        )
    for attempt in ("with", "without"):
        if attempt == "without":  # killed before the weights were copied
            shutil.rmtree(tmp_path / "run" / "checkpoints")
            RunDir.open(tmp_path / "run").write_json("run.json", {**info(tmp_path / "run"), "status": "running"})
        run = finish(tmp_path / "run", registry)
        assert (run.path / "metrics.json").read_bytes() == (whole.path / "metrics.json").read_bytes()


def test_another_solver_on_a_finished_run_has_its_own_defaults(
    whole: RunUnderWay, tmp_path: Path, registry: Registry
) -> None:
    typed, named = Changes(["sampler.solver.type=dopri5"]), Changes(["sampler.solver=dopri5"])
    runs = [again(whole.path, registry, one, ["sample"], out=tmp_path / str(i)) for i, one in enumerate((typed, named))]
    first, second = (run.path / "samples.npy" for run in runs)
    assert first.read_bytes() == second.read_bytes() != (whole.path / "samples.npy").read_bytes()
    assert runs[0].spec == runs[1].spec
    back = again(first.parent, registry, Changes(["sampler.solver.type=rk4"]), ["sample"], out=tmp_path / "back")
    assert (back.path / "samples.npy").read_bytes() == (whole.path / "samples.npy").read_bytes()
    assert back.spec == whole.spec
    assert {*info(back.path)["written"]} - {*info(whole.path)["written"]} == {"sampler.type", "sampler.solver.type"}


def test_a_stage_on_a_finished_run_is_asked_for_no_more_than_it_does(
    whole: RunUnderWay, tmp_path: Path, registry: Registry
) -> None:
    hungry = "evaluate=[{type: energy_distance, samples: 2000}]"
    child = again(whole.path, registry, Changes([hungry, "sample.count=5"]), ["sample"], out=tmp_path / "sampled")
    assert np.load(child.path / "samples.npy").shape == (5, 2)
    with pytest.raises(SpecError, match=r"reads 2000 samples and sample\.count is 5"):
        again(child.path, registry, Changes(), ["evaluate"])
    quick = "evaluate=[{type: round_trip, points: 8}]"
    broken = Changes([quick, "sampler={type: ode, solver: {type: rk4, steps: 50, max_steps: 40}}"])
    child = again(child.path, registry, broken, ["evaluate"], out=tmp_path / "measured")
    assert child.record.status == "finished"
    with pytest.raises(SpecError, match="more than 'max_steps'"):
        again(child.path, registry, Changes(), ["sample"])


def test_samples_of_a_spec_that_draws_none_want_a_number(tmp_path: Path, registry: Registry) -> None:
    run = made(tmp_path, registry, *BARE, "train.steps=1")
    with pytest.raises(UsageError, match="-n"):
        again(run.path, registry, Changes(), ["sample"])
    child = again(run.path, registry, Changes(options=(("-n", "sample.count", 5),)), ["sample"], out=tmp_path / "child")
    assert np.load(child.path / "samples.npy").shape == (5, 2)


def test_the_averaged_weights_are_what_is_evaluated(tmp_path: Path, registry: Registry) -> None:
    run = made(tmp_path, registry, "train.ema=0.9")
    saved = load_checkpoint(run.directory)
    experiment = build(run.spec, Files(Path()))
    averaged = fitted(experiment, saved)
    assert run.record.evaluated["weights"] == "ema"
    assert all(torch.equal(p, saved.ema[name]) for name, p in averaged.module.named_parameters())
    assert not any(torch.equal(p, saved.module[name]) for name, p in averaged.module.named_parameters())
    assert run.spec.evaluate is not None and not averaged.module.training
    streams = experiment.streams.under("evaluate").under("nll")
    seen = replace(tiny.evaluation(experiment, averaged), streams=streams)
    value = json.loads((run.path / "metrics.json").read_bytes())["nll"]["value"]
    assert run.spec.evaluate[0].measure(seen).value == value


def test_a_monitor_watches_validation_rows(tmp_path: Path, registry: Registry) -> None:
    sets = (
        "train.monitor={type: nll}",
        "train.early_stopping={every: 20, patience: 9}",
        "data.split=[0.8, 0.15, 0.05]",
    )
    run = made(tmp_path, registry, *sets, "evaluate=[nll]")
    (best,) = [r["validation"] for r in records(run.path) if r["step"] == run.record.evaluated["step"]]
    experiment = build(run.spec, Files(Path()))
    dataset = experiment.dataset
    assert len(dataset.validation) == 300
    model = fitted(experiment, evaluated_checkpoint(opened(run.path, registry)))
    experiment = experiment.with_dataset(replace(dataset, test=dataset.validation))
    assert run.spec.train is not None and run.spec.train.monitor is not None
    assert run.spec.train.monitor.measure(tiny.evaluation(experiment, model)).value == pytest.approx(best, abs=1e-9)
