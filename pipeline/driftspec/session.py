"""A run under way: what is known of it, who is told, and how it ends, by itself, by a failure or by a signal."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftspec import provenance, spec
from driftspec.errors import DriftspecError, Interrupted, RunFailed
from driftspec.registry import Registry
from driftspec.run_dir import RunDir

if TYPE_CHECKING:
    from driftspec.components import Measured
    from driftspec.train import Record


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


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - started, 3)


def resume_command(run: Run) -> str:
    """What goes on with a run when pasted into a shell."""
    return how_to_resume(run.path, run.registry.files)


def how_to_resume(path: Path, plugins: Iterable[str]) -> str:
    return shlex.join(["run-spec", "resume", str(path), *(word for file in plugins for word in ("--plugin", file))])


class Stop:
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
        raise Interrupted(f"{message}; go on with: {resume_command(self.run)}", self.signal or int(signal.SIGINT))

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
def recorded(run: Run, locked: bool = False) -> Iterator[Stop]:
    """Holds the run's lock, listens to signals, and leaves the outcome in run.json whatever it is."""
    stop = Stop(run)
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
