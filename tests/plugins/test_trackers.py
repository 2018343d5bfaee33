"""Trackers write what a run did with the real libraries, and it is read back with each library's own reader."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny

from driftspec import load
from driftspec.cli import main
from driftspec.components import Measured, Tracker
from driftspec.components.observer import Observer, Record, RunInfo
from driftspec.errors import Interrupted
from driftspec.registry import Registry, discover, installed
from driftspec.runs.lifecycle import again, resume, start
from driftspec.runs.session import RunUnderWay
from driftspec.spec import Changes, fits
from driftspec_plugins.trackers._store import Scalars
from driftspec_plugins.trackers.mlflow import allowed

FEW = ("train.steps=6", "train.checkpoint_every=3", "train.log_every=2", "evaluate=[{type: nll, points: 20}]")
BOTH = "trackers=[tensorboard, mlflow]"


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("driftspec.report.plots.draw", lambda *_: iter(()))
    monkeypatch.chdir(tmp_path)


class Note(Observer):
    """Keeps the trouble that others have."""

    def __init__(self) -> None:
        self.troubles: list[str] = []

    def trouble(self, problem: Any, error: BaseException) -> None:
        self.troubles.append(str(problem))


class At(Note):
    """Does something at a step, or in the pictures' stage, after every metric."""

    def __init__(self, when: int | str, action: Callable[[], object]):
        super().__init__()
        self.when, self.action = when, action

    def step(self, record: Record, steps: int) -> None:
        if record.step == self.when:
            self.action()

    def stage(self, name: str) -> None:
        if name == self.when:
            self.action()


def made(name: str, *sets: str, observer: Observer | None = None, registry: Registry | None = None) -> RunUnderWay:
    registry = registry or installed()
    loaded = tiny.loaded(*FEW, *sets, registry=registry)
    return start(loaded, registry, out=Path(name), observer=observer or Note())


def info(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "run.json").read_bytes())
    return found


def logged(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "train.jsonl").read_text().splitlines()]


def outcome(path: Path) -> dict[str, bytes]:
    files = [*(path / "checkpoints").glob("*6.*"), path / "metrics.json", path / "samples.npy"]
    return {file.name: file.read_bytes() for file in files}


def events(folder: Path) -> Any:
    """TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(folder).Scalars(name)]


def texts(folder: Path, name: str) -> list[str]:
    return [event.tensor_proto.string_val[0].decode() for event in events(folder).Tensors(f"{name}/text_summary")]


def client(file: Path) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(f"sqlite:///{file.resolve()}")


def only_run(file: Path, experiment: str = "tiny") -> tuple[Any, Any]:
    """MLflow's client, and the one run there."""
    reader = client(file)
    (run,) = reader.search_runs([reader.get_experiment_by_name(experiment).experiment_id])
    return reader, run


def history(file: Path, name: str) -> list[tuple[int, float]]:
    reader, run = only_run(file)
    return sorted((one.step, one.value) for one in reader.get_metric_history(run.info.run_id, name))


def check_both(path: Path) -> None:
    """Both stores hold every logged step and each metric, once."""
    steps = logged(path)
    written = json.loads((path / "metrics.json").read_bytes())["nll"]
    store, database = path / "trackers" / "tensorboard", path / "trackers" / "mlflow" / "mlflow.db"
    names = {key for key in steps[-1] if key != "step"}
    for name in names:
        expected = [(line["step"], line[name]) for line in steps if name in line]
        for found in (history(database, f"train/{name}"), scalars(store, f"train/{name}")):
            assert [step for step, _ in found] == [step for step, _ in expected]
            if name != "seconds":  # a step that was repeated took its own
                assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)
    for key, value in (("nll", written["value"]), ("nll_stderr", written["stderr"])):
        assert history(database, f"metric/{key}") == [(6, value)]
        ((step, shown),) = scalars(store, f"metric/{key}")
        assert step == 6 and shown == pytest.approx(value, rel=1e-6)
    assert events(store).Tags()["scalars"].count("train/loss") == 1
    assert only_run(database)[1].info.status == "FINISHED" and texts(store, "status")[-1] == "finished"


# What is written ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> RunUnderWay:
    """A run without trackers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("driftspec.report.plots.draw", lambda *_: iter(()))
        return made(str(tmp_path_factory.mktemp("alone") / "run"))


def test_both_stores_hold_the_run_and_the_run_does_not_know_them(alone: RunUnderWay, tmp_path: Path) -> None:
    note = Note()
    run = made("run", BOTH, observer=note)
    assert note.troubles == [] and outcome(run.path) == outcome(alone.path)
    assert run.record.spec_digest == alone.record.spec_digest
    resolved = (run.path / "resolved.yaml").read_text()
    assert "trackers:\n  - type: tensorboard\n    path: null\n  - type: mlflow\n" in resolved
    assert [line["step"] for line in logged(run.path)] == [2, 4, 6]
    check_both(run.path)

    store = run.path / "trackers" / "tensorboard"
    (spec,) = texts(store, "spec")
    assert "    train.optimizer.type: adam\n" in spec and "    dynamics.network.hidden: [16]\n" in spec
    assert {"_hparams_/session_start_info", "_hparams_/session_end_info"} <= set(events(store).summary_metadata)
    _, told = only_run(run.path / "trackers" / "mlflow" / "mlflow.db")
    assert told.data.params["train.steps"] == "6" and told.data.params["evaluate.0.type"] == "nll"
    assert told.data.params["dynamics.network.hidden"] == "[16]" and told.data.params["sample.count"] == "100"
    assert told.data.tags["driftspec.run"] == run.record.id and told.data.tags["driftspec.status"] == "finished"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # and no ./mlruns


def test_the_terms_of_a_monitor_are_scalars_too() -> None:
    written: dict[str, float] = {}

    class Held(Scalars):
        def open(self, run: RunInfo) -> None:
            pass

        def write(self, step: int, values: Mapping[str, float]) -> None:
            written.update(values)

    held, terms = Held(), {"left": 0.5, "right": 0.25}
    held.started(RunInfo("a", "a", Path("a"), {}, ("train",), 4, 0, False, None, list))
    held.step(Record(4, 1.0, {}, 1.0, 0.1, 1, 0.1, validation=0.5, validation_terms=terms, logged=True), 4)
    assert written["train/validation"] == written["train/validation_left"] == 0.5
    assert written["train/validation_right"] == 0.25 and list(written)[-1] == "train/loss"


def test_a_run_measured_again_has_stores_of_its_own(tmp_path: Path) -> None:
    run = made("run", BOTH)
    child = again(run.path, installed(), Changes(["evaluate=[{type: nll, points: 30}]"]), ["evaluate"], out=Path("b"))
    database = child.path / "trackers" / "mlflow" / "mlflow.db"
    value = json.loads((child.path / "metrics.json").read_bytes())["nll"]["value"]
    assert history(database, "metric/nll") == [(6, value)] and history(database, "train/loss") == []
    assert only_run(database)[1].data.tags["driftspec.parent"] == str(tmp_path / "run")
    without = again(run.path, installed(), Changes(["trackers=[]"]), ["sample"], out=Path("c"))
    assert not (without.path / "trackers").exists()


def test_runs_share_a_store_that_a_path_names(tmp_path: Path) -> None:
    shared = "trackers=[{type: tensorboard, path: boards}, {type: mlflow, path: all/runs.db, experiment: both}]"
    first, second = made("a", shared), made("b", shared, "seed=4")
    reader = client(tmp_path / "all" / "runs.db")
    found = reader.search_runs([reader.get_experiment_by_name("both").experiment_id])
    assert {one.data.tags["driftspec.run"] for one in found} == {first.record.id, second.record.id}
    assert {one.data.params["seed"] for one in found} == {"3", "4"}
    for run in (first, second):
        assert [step for step, _ in scalars(Path("boards") / "tiny" / run.record.id, "train/loss")] == [2, 4, 6]
        assert not (run.path / "trackers").exists()


def test_two_trackers_of_one_type() -> None:
    run = made("run", "trackers=[tensorboard, tensorboard]")
    for name in ("tensorboard", "tensorboard-2"):
        assert len(scalars(run.path / "trackers" / name, "train/loss")) == 3


# Resumed --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [4, "plots"])
def test_a_resumed_run_goes_on_and_tells_nothing_twice(at: int | str, alone: RunUnderWay) -> None:
    with pytest.raises(Interrupted):
        made("run", BOTH, observer=At(at, lambda: os.kill(os.getpid(), signal.SIGINT)))
    database = Path("run/trackers/mlflow/mlflow.db")
    assert only_run(database)[1].info.status == "KILLED"
    assert texts(Path("run/trackers/tensorboard"), "status")[0].startswith(("interrupted after", "interrupted; go on"))
    note = Note()
    resume("run", installed(), note)
    assert note.troubles == [] and outcome(Path("run")) == outcome(alone.path)
    check_both(Path("run"))


def test_steps_repeated_after_a_failure_are_told_once(alone: RunUnderWay) -> None:
    """Steps 4 and 5 come after the checkpoint: they are in the stores already, and are made again."""

    def fail() -> None:
        raise ValueError("no more")

    with pytest.raises(Exception, match="no more"):
        made("run", BOTH, "train.log_every=1", observer=At(5, fail))
    database = Path("run/trackers/mlflow/mlflow.db")
    assert [step for step, _ in history(database, "train/loss")] == [1, 2, 3, 4]
    assert only_run(database)[1].info.status == "FAILED"
    assert only_run(database)[1].data.tags["driftspec.status"] == "failed: no more"
    resume("run", installed(), Note())
    check_both(Path("run"))
    assert [line["step"] for line in logged(Path("run"))] == [1, 2, 3, 4, 5, 6]


KILL = """
import os
from driftspec.registry import hookimpl

@hookimpl
def driftspec_step(record):
    if record.step == 5:
        os._exit(9)
"""


def test_a_killed_run_loses_no_step_of_its_trackers(tmp_path: Path) -> None:
    """What was in memory when it died is told from train.jsonl."""
    (tmp_path / "kill.py").write_text(KILL)
    tiny.write(tmp_path)
    sets = [word for one in (*FEW, BOTH, "train.log_every=1") for word in ("--set", one)]
    code = "import sys; from driftspec.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["tiny.yaml", "--out", "run", "--plugin", "kill.py", "--quiet", *sets]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    assert len(logged(Path("run"))) == 5
    assert len(history(Path("run/trackers/mlflow/mlflow.db"), "train/loss")) == 3  # up to the checkpoint
    resume("run", installed(), Note())
    check_both(Path("run"))


# What is refused, and what fails --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/tmp/elsewhere", "../elsewhere", "a/../../b", "''"])
@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_a_spec_writes_nowhere_else(kind: str, path: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tiny.write(tmp_path)
    assert main(["tiny.yaml", "--set", f"trackers=[{{type: {kind}, path: {path}}}]"]) == 3
    assert capsys.readouterr().err.startswith("--set[1]: error[S11")
    assert [one.name for one in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(("kind", "module"), [("tensorboard", "tensorboard"), ("mlflow", "alembic")])
def test_a_missing_library_is_said_before_anything_is_written(
    kind: str, module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made("run", f"trackers=[{kind}]", "evaluate=[]", "train.steps=2")
    tiny.write(tmp_path)
    find = fits.find_spec
    monkeypatch.setattr(fits, "find_spec", lambda name: None if name == module else find(name))
    expected = (
        f"--set[1]: error[P206] tracker '{kind}' needs {module}, which is not installed: "
        f"pip install 'driftspec[{kind}]'\n"
    )
    for words in (["validate", "tiny.yaml", "--deep"], ["plan", "tiny.yaml"], ["tiny.yaml", "--out", "other"]):
        assert main([*words, "--set", f"trackers=[{kind}]"]) == 4
        assert capsys.readouterr().err == expected
    assert main(["validate", "tiny.yaml", "--set", f"trackers=[{kind}]"]) == 0
    assert capsys.readouterr().err == expected.replace("error", "warning")
    assert not (tmp_path / "other").exists()
    assert main(["sample", "run", "-n", "5", "--out", "other"]) == 4
    assert not (tmp_path / "other").exists()
    assert main(["sample", "run", "-n", "5", "--out", "other", "--set", "trackers=[]", "--quiet"]) == 0
    assert load(run.path).sample(3).shape == (3, 2)


def test_checking_a_spec_imports_no_library(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    code = (
        "import sys; from driftspec.cli import main; main(sys.argv[1:]); "
        "print([m for m in ('torch', 'mlflow', 'tensorboard', 'sqlalchemy') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, "validate", "tiny.yaml", "--set", BOTH]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "tiny.yaml: valid\n[]\n"


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_a_store_that_cannot_be_opened_costs_the_run_nothing(kind: str, alone: RunUnderWay, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    note = Note()
    run = made("run", f"trackers=[{{type: {kind}, path: taken/store}}]", observer=note)
    (trouble,) = note.troubles
    assert trouble.startswith(f"warning[P207] tracker '{kind}' of plugin 'builtin' (driftspec ")
    assert "started failed: " in trouble and outcome(run.path) == outcome(alone.path)
    (failure,) = info(run.path)["failed_observers"]
    assert (failure["tracker"], failure["plugin"], failure["distribution"]) == (kind, "builtin", "driftspec")


OWN = '''
from pathlib import Path

from driftspec.components import Tracker
from driftspec.components.observer import Observer
from driftspec.registry import hookimpl


class Lines(Observer):
    def __init__(self, folder, fails):
        self.folder, self.fails = folder, fails

    def started(self, run):
        self.folder.mkdir(parents=True)

    def step(self, record, steps):
        if record.step == self.fails:
            raise RuntimeError("disk full")
        with (self.folder / "lines").open("a") as file:
            file.write(f"{record.step} of {steps}\\n")


class LineTracker(Tracker):
    """Lines of text."""

    type = "lines"
    fails: int | None = None

    def observer(self, folder):
        return Lines(folder, self.fails)


@hookimpl
def driftspec_components():
    return {"tracker": {"lines": LineTracker}}
'''


def test_a_strangers_tracker_comes_through_the_same_door(tmp_path: Path, alone: RunUnderWay) -> None:
    (tmp_path / "own.py").write_text(OWN)
    registry, note = discover([tmp_path / "own.py"]), Note()
    run = made("run", "trackers=[lines, {type: lines, fails: 4}, tensorboard]", registry=registry, observer=note)
    assert note.troubles == [
        "warning[P207] tracker 'lines' of plugin '" + str(tmp_path / "own.py") + "': step at step 4 failed: "
        "RuntimeError: disk full; the run continues without it"
    ]
    folder = run.path / "trackers"
    assert (folder / "lines" / "lines").read_text().splitlines() == [f"{n} of 6" for n in range(1, 7)]
    assert (folder / "lines-2" / "lines").read_text().count("\n") == 3
    assert len(scalars(folder / "tensorboard", "train/loss")) == 3 and outcome(run.path) == outcome(alone.path)


# Names ----------------------------------------------------------------------------------------------------------------

NAMES = ["∂f/∂x", "a(b", "a)b", "a=b", "../up", "/root", "a//b", "a/./b", "x" * 300, "x" * 299 + "y", "tab\there"]


def test_names_that_a_library_refuses_are_respelt_and_none_becomes_another(tmp_path: Path) -> None:
    """A stranger's estimator may call its terms anything."""
    loaded = tiny.loaded(*FEW)
    told = RunInfo("1a", "tiny", tmp_path, loaded.spec.resolved(), ("train",), 6, 0, False, None, list)
    terms = {name: float(number) for number, name in enumerate(NAMES)}
    for body in ("tensorboard", "mlflow"):
        observer = Tracker.make(body).observer(tmp_path / body)
        observer.started(told)
        observer.step(Record(1, 0.5, terms, 1.0, 0.1, 3, 0.2, logged=True), 6)
        observer.metric("none", Measured(None, None, "nats", 0, stderr_reason="no chains"))
        observer.metric("bare", Measured(2.0, None, "nats", 5, stderr_reason="one number"))
        observer.finished("finished", None)
    for name, value in terms.items():
        assert history(tmp_path / "mlflow" / "mlflow.db", allowed(f"train/{name}")) == [(1, value)]
        assert scalars(tmp_path / "tensorboard", f"train/{name}") == [(1, value)]
    assert len({allowed(name) for name in NAMES}) == len(NAMES)
    assert allowed("train/grad_norm") == "train/grad_norm" and allowed("a(b").startswith("a_b-")
    metrics = only_run(tmp_path / "mlflow" / "mlflow.db")[1].data.metrics
    assert metrics["metric/bare"] == 2.0 and not {"metric/none", "metric/bare_stderr"} & set(metrics)
