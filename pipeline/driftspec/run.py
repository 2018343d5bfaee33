"""One run: train, evaluate, sample, strung together, with everything it leaves in its directory.

A run directory is enough to go on from: `resume` takes the newest checkpoint, `again` measures or samples a finished
run in another way and leaves the answer in a directory of its own, with `parent`.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import platform
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftspec import __version__, source, spec
from driftspec.build import Experiment, build, check
from driftspec.errors import DriftspecError, Interrupted, RunFailed, SpecError, UsageError
from driftspec.files import Files
from driftspec.registry import Registry
from driftspec.run_dir import RunDir

if TYPE_CHECKING:
    from driftspec.components import Draws, Measured
    from driftspec.model import Model
    from driftspec.train import Record

STAGES = ("train", "evaluate", "sample")
KEEP = 2
"""Checkpoints kept beside the best one."""


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
    if problems := check(loaded):
        raise SpecError(problems)
    experiment = build(loaded.spec, Files(loaded.root, allow_outside))
    if "train" in stages and loaded.spec.train is None:
        stages = [stage for stage in stages if stage != "train"]
    run = _new(loaded, registry, experiment, out, observer, argv, stages)
    run.info["allow_outside"] = allow_outside
    with _recorded(run) as stop:
        _stages(run, experiment, None, stop)
    return run


def resume(path: str | Path, registry: Registry, observer: Observer | None = None, argv: Sequence[str] = ()) -> Run:
    """Go on with an interrupted, failed or killed run from its newest checkpoint, to the same bytes."""
    run = opened(path, registry, observer)
    if run.info["status"] == "finished":
        raise UsageError(f"'{path}' is finished: nothing to resume")
    with run.directory.lock():
        experiment = build(run.spec, Files(run.loaded.root, run.info["allow_outside"]))
        known, now = run.info.get("data_digest"), experiment.dataset.digest if run.spec.data is not None else None
        if known != now:
            raise RunFailed(f"the data file is not the one '{path}' was trained on (sha256 {now}, was {known})")
        tree = run.directory.load_checkpoint()[1] if run.directory.checkpoints() else None
        run.directory.cut_records(tree["step"] if tree else 0)
        run.info.pop("error", None)
        run.info.setdefault("resumed", []).append({"argv": list(argv), "at": _now(), "from": tree["step"] if tree else 0})
        with _recorded(run, locked=True) as stop:
            _stages(run, experiment, tree, stop)
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
    """Measure or sample a run's trained model in another way: what was trained stays, the answer has its own directory."""
    parent = opened(path, registry)
    allowed = ("sampler", "evaluate", "sample", "solver", "runtime", "seed", "data.path", "data.split")
    for name in [*(text.partition("=")[0] for text in changes.sets), *changes.unsets]:
        if not name.rstrip("+").startswith(allowed):
            raise UsageError(f"'{name}' was trained and cannot be set; a finished run takes {', '.join(allowed)}")
    document = changes.apply(parent.loaded.document)
    text = source.dump(document.data).encode()
    loaded = spec.Loaded(spec.validate(document, registry), document, text, parent.loaded.root)
    if problems := check(loaded):
        raise SpecError(problems)
    tree = _evaluated_tree(parent)
    experiment = build(loaded.spec, Files(loaded.root, parent.info["allow_outside"]), fitted=tree)
    run = _new(loaded, registry, experiment, out, observer, argv, stages)
    run.info |= {"parent": str(parent.path.resolve()), "allow_outside": parent.info["allow_outside"]}
    with _recorded(run) as stop:
        run.directory.save_checkpoint(tree["step"], tree)
        _stages(run, experiment, tree, stop)
    return run


def opened(path: str | Path, registry: Registry, observer: Observer | None = None) -> Run:
    """An existing run, its resolved spec read and checked again."""
    directory = RunDir.open(path)
    info = directory.read_json("run.json")
    document = source.parse(directory.read_bytes("resolved.yaml"), str(directory.path / "resolved.yaml"))
    loaded = spec.Loaded(spec.validate(document, registry), document, directory.read_bytes("spec.yaml"), Path(info["root"]))
    return Run(loaded, registry, directory, info, observer or Observer())


def fitted(experiment: Experiment, tree: Mapping[str, Any]) -> Model:
    """The model a checkpoint holds: its averaged weights if there are any."""
    module = copy.deepcopy(experiment.model.module)
    module.load_state_dict(tree["ema"] or tree["module"])
    return replace(experiment.model, module=module)


def _evaluated_tree(run: Run) -> dict[str, Any]:
    """The checkpoint that evaluation reads: the best one where early stopping says which, else the newest."""
    _, tree = run.directory.load_checkpoint()
    best = tree.get("best", {}).get("step") if run.spec.train and run.spec.train.early_stopping else None
    return run.directory.load_checkpoint(best)[1] if best and best != tree["step"] else tree


# -------------------------------------------------------------------------------------------------------- the stages


def _stages(run: Run, experiment: Experiment, tree: Mapping[str, Any] | None, stop: _Stop) -> None:
    stages, seconds = run.info["stages"], run.info.setdefault("seconds", {})
    if "train" in stages:
        with _timed(seconds, "train"):
            run.observer.stage("train")
            _train(run, experiment, tree, stop)
    elif tree is None:
        run.directory.save_checkpoint(0, _untrained(experiment))
    from driftspec.evaluate import as_json, evaluate, once, sample

    chosen = _evaluated_tree(run)
    model = fitted(experiment, chosen)
    run.info["evaluated"] = {"weights": "ema" if chosen["ema"] else "last", "step": chosen["step"]}
    drawn = once(lambda: sample(experiment, model))
    if "evaluate" in stages:
        with _timed(seconds, "evaluate"):
            run.observer.stage("evaluate")
            for name, measured in evaluate(experiment, model, drawn):
                run.measured[name] = measured
                run.observer.metric(name, measured)
    if "sample" in stages and run.spec.sample is not None:
        with _timed(seconds, "sample"):
            run.observer.stage("sample")
            _save_samples(run, experiment, drawn())
    with _timed(seconds, "plots"):
        _draw(run, experiment, model, drawn if "sample" in stages and run.spec.sample is not None else None)
    if "evaluate" in stages:
        run.directory.write_json("metrics.json", {name: as_json(measured) for name, measured in run.measured.items()})


def _train(run: Run, experiment: Experiment, tree: Mapping[str, Any] | None, stop: _Stop) -> None:
    from driftspec.evaluate import Evaluation
    from driftspec.train import Training, train

    training, settings = Training(experiment), run.spec.train
    assert settings is not None
    if tree is not None:
        training.restore(tree)
    metric, monitor = settings.monitor, None
    if metric is not None:
        streams = experiment.streams.under("monitor")
        monitor = lambda model: metric.measure(Evaluation(experiment, model, streams, _no_draws)).value  # noqa: E731

    def save() -> None:
        run.directory.save_checkpoint(training.step, training.tree())
        best = training.best["step"]
        run.directory.prune({*run.directory.checkpoints()[-KEEP:], *([best] if best else [])})

    with stop.deferred():
        for record in train(training, monitor):
            if record.step % settings.log_every == 0 or record.last or record.validation is not None:
                run.directory.append_record(record.line())
            run.observer.step(record, settings.steps)
            if record.last or record.best or record.step % settings.checkpoint_every == 0:
                save()
            if stop.signal is not None and not record.last:
                save()
                stop.now(f"interrupted after step {record.step}, its checkpoint is written")


def _no_draws() -> Draws:
    raise RunFailed("a metric that reads the run's draws cannot monitor training")


def _untrained(experiment: Experiment) -> dict[str, Any]:
    return {
        "step": 0, "module": experiment.model.module.state_dict(), "ema": None,
        "transform": experiment.transform.tree(), "dim": experiment.model.dim,
        "times": experiment.model.times,
    }  # fmt: skip


def _save_samples(run: Run, experiment: Experiment, draws: Draws) -> None:
    import numpy as np

    values = experiment.transform.to_data(draws.flat().cpu()).numpy().astype(np.float32)
    run.directory.write_array("samples.npy", values)
    chains, each = draws.values.shape[:2]
    run.info["samples"] = {"count": len(values), "chains": chains, "draws": each, "stats": dict(draws.stats)}


def _draw(run: Run, experiment: Experiment, model: Model, drawn: Callable[[], Draws] | None) -> None:
    from driftspec import plots, report

    run.observer.stage("plots")
    samples = experiment.transform.to_data(drawn().flat().cpu()).numpy() if drawn else None
    for name, png in plots.draw(experiment, model, run.directory.records(), samples):
        run.directory.write_bytes(f"plots/{name}.png", png)
    run.directory.write_text("report.html", report.page(run))


# ------------------------------------------------------------------------------------------- run.json, locks, signals


def _new(
    loaded: spec.Loaded, registry: Registry, experiment: Experiment, out: Path | None,
    observer: Observer | None, argv: Sequence[str], stages: Sequence[str],
) -> Run:  # fmt: skip
    """A directory of its own with the spec as given, the spec resolved and run.json."""
    resolved = loaded.spec.resolved()
    # A run that only measures another one reads no data file to be made, so its data have no digest.
    data_digest = experiment.dataset.digest if "dataset" in vars(experiment) else None
    identity = json.dumps([resolved, data_digest], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()
    directory = RunDir.create(out, loaded.spec.name, digest, datetime.now(UTC))
    directory.write_bytes("spec.yaml", loaded.text)
    directory.write_text("resolved.yaml", source.dump(resolved))
    info = {
        "status": "running", "name": loaded.spec.name, "argv": list(argv), "seed": loaded.spec.seed, "started": _now(),
        "stages": list(stages), "spec_digest": digest, "data_digest": data_digest, "root": str(loaded.root.resolve()),
        "dim": experiment.model.dim, "columns": _columns(experiment),
        "parameters": sum(p.numel() for p in experiment.model.parameters()),
        "device": str(experiment.device), "threads": loaded.spec.runtime.threads,
        "pid": os.getpid(), "host": socket.gethostname(), **_versions(loaded.spec, registry), "git": _git(),
    }  # fmt: skip
    run = Run(loaded, registry, directory, info, observer or Observer())
    run.save_info()
    run.observer.started(directory, loaded.spec)
    return run


def _columns(experiment: Experiment) -> list[str]:
    if "dataset" in vars(experiment):
        return list(experiment.dataset.columns)
    return [f"x{i + 1}" for i in range(experiment.model.dim)]


def _versions(given: spec.Spec, registry: Registry) -> dict[str, Any]:
    """Python, torch and whoever provides the components of this spec."""
    providers = {registry.provider(c.kind, c.spelling) for c in given.components().values()}
    plugins = {p.distribution: p.digest or p.version for p in sorted((p for p in providers if p), key=str)}
    return {
        "python": platform.python_version(), "torch": metadata.version("torch"), "driftspec": __version__,
        "plugins": plugins,
    }  # fmt: skip


def _git() -> dict[str, Any] | None:
    """Commit and dirty flag of the current directory, if it is a checkout."""
    try:
        commit, status = (
            subprocess.run(["git", *words], capture_output=True, text=True, timeout=5, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(status)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - started, 3)


class _Stop:
    """SIGINT and SIGTERM: while deferred they wait for the step's end, else they end the stage at once."""

    def __init__(self, run: Run):
        self.run, self.signal, self.waits = run, None, False

    signal: int | None

    def __call__(self, number: int, frame: object) -> None:
        impatient = self.signal is not None
        self.signal = number
        if impatient or not self.waits:
            self.now("interrupted")

    def now(self, message: str) -> None:
        number = self.signal or signal.SIGINT
        raise Interrupted(f"{message}; go on with: run-spec resume {self.run.path}", number)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        self.waits = True
        try:
            yield
        finally:
            self.waits = False


@contextlib.contextmanager
def _recorded(run: Run, locked: bool = False) -> Iterator[_Stop]:
    """Holds the run's lock, listens to signals, and leaves the outcome in run.json whatever it is."""
    stop = _Stop(run)
    old: dict[int, Any] = {}
    run.save_info(status="running", pid=os.getpid())
    with contextlib.nullcontext() if locked else run.directory.lock():
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(ValueError):  # signals reach the main thread alone
                    old[number] = signal.signal(number, stop)
            yield stop
        except BaseException as error:
            status = "interrupted" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed"
            detail = {"message": str(error) or type(error).__name__}
            if isinstance(error, RunFailed):
                detail |= {"status": error.status, "step": error.step}
            run.save_info(status=status, error=detail, finished=_now())
            if isinstance(error, DriftspecError | KeyboardInterrupt):
                raise
            raise RunFailed(f"{type(error).__name__}: {error}") from error
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
        outputs = ["metrics.json", "samples.npy", "resolved.yaml"]
        digests = {name: run.directory.digest(name) for name in outputs if (run.path / name).exists()}
        newest = run.directory.checkpoints()[-1]
        weights = f"checkpoints/step-{newest:08d}.safetensors"
        run.save_info(status="finished", finished=_now(), digests={**digests, weights: run.directory.digest(weights)})
        run.observer.finished(run.directory)


__all__ = ["STAGES", "Observer", "Run", "again", "fitted", "opened", "resume", "start"]
