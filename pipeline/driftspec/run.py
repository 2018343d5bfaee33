"""One run: train, evaluate, sample, strung together, with everything it leaves in its directory.

A run directory is enough to go on from: `resume` takes the newest checkpoint, `again` measures or samples a finished
run in another way and leaves the answer in a directory of its own, with `parent`.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftspec import provenance, source, spec
from driftspec.build import Experiment, build, check, errors
from driftspec.components import Distribution, Metric
from driftspec.errors import DriftspecError, Interrupted, Problem, RunFailed, SpecError, UsageError
from driftspec.files import Files
from driftspec.registry import Registry
from driftspec.run_dir import RunDir

if TYPE_CHECKING:
    from driftspec.components import Draws, Measured
    from driftspec.model import Model
    from driftspec.train import Record, Training

STAGES = ("train", "evaluate", "sample")
KEEP = 2
"""Checkpoints kept beside the best one."""
MAY_CHANGE = ("sampler", "evaluate", "sample", "runtime", "seed", "data.path")
"""What a finished run can be given anew: none of it was trained."""


class Observer:
    """Is told how a run goes. Each method does nothing until overridden."""

    def started(self, run: RunDir, spec: spec.Spec) -> None: ...

    def step(self, record: Record, steps: int) -> None: ...

    def stage(self, name: str) -> None: ...

    def metric(self, name: str, measured: Measured) -> None: ...

    def finished(self, run: RunDir) -> None: ...


@dataclass
class Run:
    """A run under way: its spec, its directory, what run.json says of it."""

    loaded: spec.Loaded
    registry: Registry
    directory: RunDir
    info: dict[str, Any]
    observer: Observer = field(default_factory=Observer)
    measured: dict[str, Measured] = field(default_factory=dict)

    @property
    def spec(self) -> spec.Spec:
        return self.loaded.spec

    @property
    def path(self) -> Path:
        return self.directory.path

    def save_info(self, **changes: Any) -> None:
        self.info |= changes
        self.directory.write_json("run.json", self.info)


def start(
    loaded: spec.Loaded,
    registry: Registry,
    *,
    out: Path | None = None,
    stages: Sequence[str] = STAGES,
    observer: Observer | None = None,
    argv: Sequence[str] = (),
    allow_outside: bool = False,
) -> Run:
    """A new run of a spec, from its first stage to the end. Nothing is written before everything is checked."""
    if found := errors(check(loaded)):
        raise SpecError(found)
    experiment = build(loaded.spec, Files(loaded.root, allow_outside), document=loaded.document)
    if loaded.spec.train is None:
        stages = [stage for stage in stages if stage != "train"]
    _check_rows(loaded, experiment, stages)
    training = _training(experiment, stages)
    known = {"parent": None, "allow_outside": allow_outside, "data_seed": loaded.spec.seed, "every_row": False}
    run = _new(loaded, registry, experiment, out, observer, argv, stages, known)
    with _recorded(run) as stop:
        _stages(run, experiment, training, None, stop)
    return run


def resume(path: str | Path, registry: Registry, observer: Observer | None = None, argv: Sequence[str] = ()) -> Run:
    """Go on with an interrupted, failed or killed run from its newest checkpoint, to the same bytes."""
    with RunDir.open(path).lock():
        run = opened(path, registry, observer)
        if run.info["status"] == "finished":
            raise UsageError(f"'{path}' is finished: nothing to resume")
        tree = run.directory.load_checkpoint()[1] if run.directory.checkpoints() else None
        if run.info["parent"] is not None:
            tree = evaluated_tree(run if tree else opened(run.info["parent"], registry))
            experiment, training = _refitted(run.loaded, run.info, tree), None
        else:
            files = Files(run.loaded.root, run.info["allow_outside"])
            experiment = build(run.spec, files, document=run.loaded.document)
            _same_data(experiment, run.info, str(path))
            training = _training(experiment, run.info["stages"])
            if training is not None and tree is not None:
                training.restore(tree)
        step = tree["step"] if tree else 0
        run.directory.cut_records(step)
        once_more = {"argv": list(argv), "at": provenance.now(), "from": step, "skipped": list(run.directory.skipped)}
        run.info["resumed"] = [*run.info.get("resumed", []), once_more]
        run.info.pop("error", None)
        with _recorded(run, locked=True) as stop:
            _stages(run, experiment, training, tree, stop)
    return run


def again(
    path: str | Path,
    registry: Registry,
    changes: spec.Changes,
    stages: Sequence[str],
    *,
    out: Path | None = None,
    observer: Observer | None = None,
    argv: Sequence[str] = (),
) -> Run:
    """Measure or sample a run's trained model in another way; the answer has a directory of its own."""
    parent = opened(path, registry)
    tree = evaluated_tree(parent) if parent.directory.checkpoints() else None
    if tree is None or not _is_trained(parent):
        raise UsageError(f"'{path}' is not trained to its end yet: go on with: {_resume_command(parent)}")
    _check_changes(changes)
    document = changes.apply(parent.loaded.document)
    text = source.dump(document.data).encode()
    loaded = spec.Loaded(spec.validate(document, registry), document, text, parent.loaded.root)
    if found := errors(check(loaded)):
        raise SpecError(found)
    if "sample" in stages and loaded.spec.sample is None:
        raise UsageError(f"the spec of '{path}' draws no samples: say how many with -n")
    known = {key: parent.info[key] for key in ("allow_outside", "data_seed", "columns", "every_row")}
    if loaded.spec.data == parent.spec.data:
        known["data_digest"] = parent.info["data_digest"]
    else:  # rows of another file were not trained on: all of them are measured
        known["every_row"] = True
    experiment = _refitted(loaded, {**known, "stages": stages}, tree)
    _check_rows(loaded, experiment, stages)
    known["parent"] = str(parent.path.resolve())
    run = _new(loaded, registry, experiment, out, observer, argv, stages, known)
    with _recorded(run) as stop:
        _stages(run, experiment, None, tree, stop)
    return run


def opened(path: str | Path, registry: Registry, observer: Observer | None = None) -> Run:
    """An existing run, its resolved spec read and checked again."""
    directory = RunDir.open(path)
    info = directory.read_json("run.json")
    document = source.parse(directory.read_bytes("resolved.yaml"), str(directory.path / "resolved.yaml"))
    text = directory.read_bytes("spec.yaml")
    loaded = spec.Loaded(spec.validate(document, registry), document, text, Path(info["root"]))
    return Run(loaded, registry, directory, info, observer or Observer())


def fitted(experiment: Experiment, tree: Mapping[str, Any]) -> Model:
    """The model a checkpoint holds: its averaged weights if there are any."""
    module = copy.deepcopy(experiment.model.module)
    module.load_state_dict(tree["ema"] or tree["module"])
    return replace(experiment.model, module=module.eval())


def evaluated_tree(run: Run) -> dict[str, Any]:
    """The checkpoint that evaluation reads: the best one where early stopping says which, else the newest."""
    tree: dict[str, Any] = run.directory.load_checkpoint()[1]
    best = _best_step(run.spec, tree)
    if best in (None, tree["step"]):
        return tree
    chosen: dict[str, Any] = run.directory.load_checkpoint(best)[1]
    return chosen


def _is_trained(run: Run) -> bool:
    from driftspec.train import is_over

    train = run.spec.train if "train" in run.info["stages"] else None
    return train is None or is_over(train, run.directory.load_checkpoint()[1])


def _best_step(given: spec.Spec, tree: Mapping[str, Any]) -> int | None:
    stopping = given.train is not None and given.train.early_stopping is not None
    step: int | None = tree["best"]["step"] if stopping and "best" in tree else None
    return step


# ---------------------------------------------------------------------------------------------------- before it starts


def _training(experiment: Experiment, stages: Sequence[str]) -> Training | None:
    from driftspec.train import Training

    return Training(experiment) if "train" in stages else None


def _check_rows(loaded: spec.Loaded, experiment: Experiment, stages: Sequence[str]) -> None:
    """Rows for the metrics to read: said before training, not after it."""
    data, train = loaded.spec.data, loaded.spec.train
    if data is None:
        return

    def need(rows: str, metrics: Sequence[Metric]) -> Iterator[Problem]:
        reading = [m.label for m in metrics if getattr(m, "reads_test_rows", not isinstance(data, Distribution))]
        if reading and (left := len(getattr(experiment.dataset, rows))) < 2:
            place = loaded.document.place(("data",), key=True)
            text = f"{', '.join(reading)} reads {rows} rows, at least 2: 'split' in data leaves {left}"
            yield Problem("X303", text, place, source=loaded.document.source_line(place))

    measuring = loaded.spec.evaluate or () if "evaluate" in stages else ()
    watching = (train.monitor,) if train is not None and train.monitor is not None and "train" in stages else ()
    if found := [*need("test", measuring), *need("validation", watching)]:
        raise SpecError(found)


def _check_changes(changes: spec.Changes) -> None:
    """UsageError for a key that was trained."""
    names = [*(text.partition("=")[0].removesuffix("+") for text in changes.sets), *changes.unsets]
    for name in [*names, *(path for _, path, _ in changes.options)]:
        if not any(name == section or name.startswith(f"{section}.") for section in MAY_CHANGE):
            raise UsageError(f"'{name}' was trained and cannot be set; a finished run takes {', '.join(MAY_CHANGE)}")


def _refitted(loaded: spec.Loaded, info: Mapping[str, Any], tree: Mapping[str, Any]) -> Experiment:
    """The experiment of a checkpoint. Data are read to be measured, split as they were for training; or just drawn."""
    from driftspec.dataset import prepare
    from driftspec.streams import Streams

    files, data = Files(loaded.root, info["allow_outside"]), loaded.spec.data
    experiment = build(loaded.spec, files, fitted=tree, document=loaded.document)
    if data is not None and info["every_row"]:
        data = data.model_copy(update={"split": (0.0, 0.0, 1.0)})
    if data is not None and ("evaluate" in info["stages"] or isinstance(data, Distribution)):
        dataset = prepare(data, files, Streams(info["data_seed"]).under("data"), experiment.transform)
        if dataset.dim != experiment.model.dim:
            text = f"{data.label} has {dataset.dim} columns, the model was trained on {experiment.model.dim}"
            raise SpecError(Problem("X304", text))
        vars(experiment)["dataset"] = dataset
        if "data_digest" in info:
            _same_data(experiment, info, "the run")
    return experiment


def _same_data(experiment: Experiment, info: Mapping[str, Any], who: str) -> None:
    now = experiment.dataset.digest if experiment.spec.data is not None else None
    if info["data_digest"] != now:
        was = info["data_digest"]
        raise RunFailed(f"the data file is not the one '{who}' was trained on (sha256 {now}, was {was})")


def _new(
    loaded: spec.Loaded, registry: Registry, experiment: Experiment, out: Path | None, observer: Observer | None,
    argv: Sequence[str], stages: Sequence[str], known: Mapping[str, Any],
) -> Run:  # fmt: skip
    """A directory of its own with the spec as given, the spec resolved and run.json."""
    dataset = vars(experiment).get("dataset")  # none where a run is sampled from without its data
    digest = provenance.identity(loaded.spec, dataset.digest if dataset else None)
    directory = RunDir.create(out, loaded.spec.name, digest, datetime.now(UTC))
    info = {
        "status": "running", **provenance.origin(loaded.spec, registry, argv), "stages": list(stages),
        "spec_digest": digest, "data_digest": dataset.digest if dataset else None, "root": str(loaded.root.resolve()),
        "dim": experiment.model.dim,
        "columns": list(dataset.columns) if dataset else _columns(loaded.spec, experiment.model.dim),
        "parameters": sum(p.numel() for p in experiment.model.parameters()), **known,
    }  # fmt: skip
    run = Run(loaded, registry, directory, info, observer or Observer())
    run.save_info()
    directory.write_bytes("spec.yaml", loaded.text)
    directory.write_text("resolved.yaml", source.dump(loaded.spec.resolved()))
    run.observer.started(directory, loaded.spec)
    return run


def _columns(given: spec.Spec, dim: int) -> list[str]:
    """Names of the coordinates where no data have been read: a target's own."""
    target = given.dynamics.nested().get("target")
    named = target.columns() if isinstance(target, Distribution) else ()
    return list(named) or [f"x{i + 1}" for i in range(dim)]


# -------------------------------------------------------------------------------------------------------- the stages


def _stages(
    run: Run, experiment: Experiment, training: Training | None, tree: Mapping[str, Any] | None, stop: _Stop
) -> None:
    from driftspec.evaluate import as_json, evaluate, once, sample

    stages, seconds = run.info["stages"], run.info.setdefault("seconds", {})
    if training is not None:
        with _timed(seconds, "train"), stop.deferred():
            run.observer.stage("train")
            _train(run, training, stop)
    elif not run.directory.checkpoints():
        run.directory.save_checkpoint(tree["step"] if tree else 0, tree or _untrained(experiment))
    chosen = evaluated_tree(run)
    model = fitted(experiment, chosen)
    best = _best_step(run.spec, chosen) == chosen["step"]
    run.info["evaluated"] = {"weights": "ema" if chosen["ema"] else "last", "step": chosen["step"], "best": best}
    drawn = once(lambda: sample(experiment, model))
    if "evaluate" in stages:
        with _timed(seconds, "evaluate"):
            run.observer.stage("evaluate")
            for name, measured in evaluate(experiment, model, drawn):
                run.measured[name] = measured
                run.observer.metric(name, measured)
    sampled = "sample" in stages and run.spec.sample is not None
    if sampled:
        with _timed(seconds, "sample"):
            run.observer.stage("sample")
            _save_samples(run, experiment, drawn())
    with _timed(seconds, "plots"):
        run.observer.stage("plots")
        _draw(run, experiment, model, drawn if sampled else None)
    if "evaluate" in stages:
        run.directory.write_json("metrics.json", {name: as_json(measured) for name, measured in run.measured.items()})


def _train(run: Run, training: Training, stop: _Stop) -> None:
    from driftspec.train import train

    settings = training.settings

    def save() -> None:
        run.directory.save_checkpoint(training.step, training.tree())
        best = training.best["step"]
        run.directory.prune({*run.directory.checkpoints()[-KEEP:], *([best] if best else [])})

    for record in train(training, _monitor(training)):
        if record.step % settings.log_every == 0 or record.last or record.validation is not None:
            run.directory.append_record(record.line())
        run.observer.step(record, settings.steps)
        asked = stop.signal is not None
        if asked or record.last or record.best or record.step % settings.checkpoint_every == 0:
            save()
        if asked:
            stop.now(f"interrupted after step {record.step}, its checkpoint is written")


def _monitor(training: Training) -> Callable[[Model], float] | None:
    """The metric that watches training, on the validation rows in the place of the test rows."""
    from driftspec.evaluate import Evaluation

    metric, experiment = training.settings.monitor, training.experiment
    if metric is None:
        return None
    watched, streams = replace(experiment), experiment.streams.under("monitor")
    vars(watched)["dataset"] = replace(experiment.dataset, test=experiment.dataset.validation)

    def watch(model: Model) -> float:
        measured = metric.measure(Evaluation(watched, model, streams, _no_draws))
        if measured.value is None:
            raise RunFailed(f"{metric.label} cannot monitor training: {measured.stderr_reason}")
        return measured.value

    return watch


def _no_draws() -> Draws:
    raise RunFailed("a metric that reads the run's draws cannot monitor training")


def _untrained(experiment: Experiment) -> dict[str, Any]:
    return {
        "step": 0, "module": experiment.model.module.state_dict(), "ema": None,
        "transform": experiment.transform.tree(), "dim": experiment.model.dim, "times": experiment.model.times,
    }  # fmt: skip


def _save_samples(run: Run, experiment: Experiment, draws: Draws) -> None:
    import numpy as np

    values = experiment.transform.to_data(draws.flat().cpu()).numpy().astype(np.float32)
    run.directory.write_array("samples.npy", values)
    chains, each = draws.values.shape[:2]
    run.info["samples"] = {"count": len(values), "chains": chains, "draws": each, "stats": dict(draws.stats)}


def _draw(run: Run, experiment: Experiment, model: Model, drawn: Callable[[], Draws] | None) -> None:
    from driftspec import plots, report

    samples = experiment.transform.to_data(drawn().flat().cpu()).numpy() if drawn else None
    for name, png in plots.draw(experiment, model, run.info["stages"], run.directory.records(), samples):
        run.directory.write_bytes(f"plots/{name}.png", png)
    run.directory.write_text("report.html", report.page(run))


# ------------------------------------------------------------------------------------------------- outcome and signals


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - started, 3)


def _resume_command(run: Run) -> str:
    """What goes on with a run when pasted into a shell."""
    plugins = [word for file in run.registry.files for word in ("--plugin", file)]
    return shlex.join(["run-spec", "resume", str(run.path), *plugins])


class _Stop:
    """SIGINT and SIGTERM. While deferred the first waits for the step's end; else they end the run at once."""

    def __init__(self, run: Run):
        self.run, self.waits = run, False
        self.signal: int | None = None

    def __call__(self, number: int, frame: object) -> None:
        impatient = self.signal is not None
        self.signal = number
        if impatient or not self.waits:
            self.now("interrupted")

    def now(self, message: str) -> None:
        raise Interrupted(f"{message}; go on with: {_resume_command(self.run)}", self.signal or int(signal.SIGINT))

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        self.waits = True
        try:
            yield
        finally:
            self.waits = False
        if self.signal is not None:
            self.now("interrupted")


@contextlib.contextmanager
def _recorded(run: Run, locked: bool = False) -> Iterator[_Stop]:
    """Holds the run's lock, listens to signals, and leaves the outcome in run.json whatever it is."""
    stop = _Stop(run)
    old: dict[int, Any] = {}
    with contextlib.nullcontext() if locked else run.directory.lock():
        run.save_info(status="running", pid=os.getpid(), finished=None)
        try:
            for number in (int(signal.SIGINT), int(signal.SIGTERM)):
                with contextlib.suppress(ValueError):  # signals reach the main thread alone
                    old[number] = signal.signal(number, stop)
            yield stop
            run.save_info(status="finished", finished=provenance.now(), digests=_digests(run))
        except BaseException as error:
            status = "interrupted" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed"
            detail: dict[str, Any] = {"message": str(error) or type(error).__name__}
            if isinstance(error, RunFailed):
                detail |= {"status": error.status, "step": error.step}
            run.save_info(status=status, error=detail, finished=provenance.now())
            if isinstance(error, DriftspecError | KeyboardInterrupt):
                raise
            raise RunFailed(f"{type(error).__name__}: {error}") from error
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
        run.observer.finished(run.directory)


def _digests(run: Run) -> dict[str, str]:
    """sha256 of what the run put out."""
    weights = f"checkpoints/step-{run.info['evaluated']['step']:08d}.safetensors"
    names = ["resolved.yaml", weights, "samples.npy", "metrics.json"]
    return {name: run.directory.digest(name) for name in names if (run.path / name).exists()}


__all__ = ["STAGES", "Observer", "Run", "again", "evaluated_tree", "fitted", "opened", "resume", "start"]
