"""A run while it is carried out: its record, its observers, and its end: finished, failed or stopped by a signal."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from driftspec import spec
from driftspec.components.observer import Observer, RunInfo
from driftspec.components.verdict import Judged, Verdict, of_severity, with_verdict
from driftspec.errors import DriftspecError, Interrupted, RunFailed, cause
from driftspec.registry import Registry
from driftspec.runs import provenance
from driftspec.runs.dispatch import Audience, members
from driftspec.runs.records import RunRecord
from driftspec.runs.run_dir import RUN, RunDir

if TYPE_CHECKING:
    from driftspec.components import Measured


@dataclass
class RunUnderWay:
    """A run: its spec, its directory, the record in run.json, its observer and its metrics."""

    loaded: spec.Loaded
    registry: Registry
    directory: RunDir
    record: RunRecord
    observer: Observer = field(default_factory=Observer)
    measured: dict[str, Measured] = field(default_factory=dict)

    @property
    def spec(self) -> spec.Spec:
        return self.loaded.spec

    @property
    def path(self) -> Path:
        return self.directory.path

    def note(self, **changes: Any) -> None:
        """Change fields of the record. The next `save` writes them."""
        self.record = self.record.changed(**changes)

    def save(self, **changes: Any) -> None:
        """Change fields of the record and write run.json."""
        self.note(**changes)
        self.directory.write_json(RUN, self.record.entries())

    @property
    def verdicts(self) -> list[Judged]:
        """The verdicts on the run so far, from its record."""
        return self.record.judged()

    def judge(self, source: str, verdict: Verdict) -> None:
        """Write a verdict to run.json and report it, unless its source and subject have one that is at least as bad."""
        before = self.verdicts
        after = with_verdict(before, Judged(source, verdict))
        if after != before:
            self.save(verdicts=[one.entry() for one in after])
            self.observer.verdict(source, verdict)

    def forget_verdicts(self) -> None:
        """Remove all verdicts except those on training: data, draws and metrics are judged again."""
        self.note(verdicts=[one.entry() for one in self.verdicts if one.source == "train"])

    def lines(self) -> list[str]:
        """Return the lines about the metrics that end a run's output.

        The last line begins with the bad verdicts and the verdicts on the draws; it ends with the warnings.
        """
        lines = [measured.line for measured in self.measured.values() if measured.line]
        judged = self.verdicts
        bad, warnings = (of_severity(judged, how) for how in ("bad", "warning"))
        draws = [one for one in judged if one.source == "sample" and one not in bad and one not in warnings]
        before, after = ([str(one.verdict) for one in some] for some in ([*bad, *draws], warnings))
        last = "; ".join(dict.fromkeys([*before, *lines[-1:], *after]))
        return [*lines[:-1], last] if last else []

    def note_failure(self, failure: dict[str, str]) -> None:
        """Write to run.json at once that an observer failed: the run may be killed later."""
        self.save(failed_observers=[*self.record.failed_observers, failure])

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds that the block takes to those of the stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.record.seconds
            total = round(seconds.get(stage, 0.0) + time.perf_counter() - started, 3)
            self.note(seconds={**seconds, stage: total})


def resume_command(run: RunUnderWay) -> str:
    """Return the shell command that resumes a run."""
    return how_to_resume(run.path, run.registry.files)


def how_to_resume(path: Path, plugins: Iterable[str]) -> str:
    """Return the shell command that resumes the run in a directory, with these one-file plugins."""
    return shlex.join(["run-spec", "resume", str(path), *(word for file in plugins for word in ("--plugin", file))])


class Stop:
    """Handles SIGINT and SIGTERM: they end the run at once, or inside `deferred` after the block or at a second one."""

    def __init__(self, run: RunUnderWay):
        self.run, self.waits = run, False
        self.signal: int | None = None

    def __call__(self, number: int, frame: object) -> None:
        second = self.signal is not None
        self.signal = number
        if second or not self.waits:
            self.now("interrupted")

    def now(self, message: str) -> None:
        """Raise Interrupted with the message and the command that resumes the run."""
        raise Interrupted(f"{message}; go on with: {resume_command(self.run)}", self.signal or int(signal.SIGINT))

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Let a first signal wait for the end of the block."""
        before, self.waits = self.waits, True
        try:
            yield
        finally:
            self.waits = before
        if self.signal is not None and not before:
            self.now("interrupted")

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals inside the block; restore the former handlers after it."""
        old: dict[int, Any] = {}
        try:
            for number in (int(signal.SIGINT), int(signal.SIGTERM)):
                with contextlib.suppress(ValueError):  # only the main thread can handle signals
                    old[number] = signal.signal(number, self)
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def recorded(run: RunUnderWay, step: int = 0, resumed: bool = False) -> Iterator[Stop]:
    """Lock the run, handle signals, report its start and end to the observers, and write its outcome to run.json.

    `step` is the number of steps trained before. A resumed run is already locked.
    """
    stop, used, before = Stop(run), time.process_time(), run.record.cpu_seconds or 0.0
    audience = Audience(run.observer, members(run.spec, run.registry, run.path), run.note_failure)
    audience.hold = stop.deferred
    run.observer = audience
    with contextlib.nullcontext() if resumed else run.directory.lock():
        run.save(status="running", pid=os.getpid(), finished=None)
        try:
            with stop.listening():
                audience.started(_info(run, step, resumed))
                yield stop
                run.note(cpu_seconds=round(before + time.process_time() - used, 3))
                run.save(status="finished", finished=provenance.now(), digests=_digests(run))
        except BaseException as error:
            status = "interrupted" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed"
            detail: dict[str, Any] = {"message": str(error) or type(error).__name__}
            if isinstance(error, RunFailed):
                detail |= {"status": error.status, "step": error.step}
            run.note(cpu_seconds=round(before + time.process_time() - used, 3))
            run.save(status=status, error=detail, finished=provenance.now())
            with contextlib.suppress(KeyboardInterrupt):  # the run has already ended
                audience.finished(status, detail["message"])
            if isinstance(error, DriftspecError | Interrupted | KeyboardInterrupt):
                raise
            raise RunFailed(cause(error)) from error
        audience.finished("finished", None)


def _info(run: RunUnderWay, step: int, resumed: bool) -> RunInfo:
    """Return the description of the run that observers get."""
    train = run.spec.train if "train" in run.record.stages else None
    return RunInfo(
        run.record.id, run.spec.name, run.path, MappingProxyType(run.spec.resolved()), tuple(run.record.stages),
        train.steps if train else 0, step, resumed, run.record.parent, run.directory.records,
    )  # fmt: skip


def _digests(run: RunUnderWay) -> dict[str, str]:
    """Return the sha256 of each output of the run."""
    weights = f"checkpoints/step-{run.record.evaluated['step']:08d}.safetensors"
    names = ["resolved.yaml", weights, "samples.npy", "metrics.json"]
    return {name: run.directory.digest(name) for name in names if (run.path / name).exists()}
