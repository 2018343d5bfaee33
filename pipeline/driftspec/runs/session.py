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
    """A run under way: its spec, its directory, the record that run.json holds."""

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
        """What run.json says of how far the run can be trusted."""
        return self.record.judged()

    def judge(self, source: str, verdict: Verdict) -> None:
        """Record a verdict in run.json at once, and report it, unless one as bad is known of its source and subject."""
        before = self.verdicts
        after = with_verdict(before, Judged(source, verdict))
        if after != before:
            self.save(verdicts=[one.entry() for one in after])
            self.observer.verdict(source, verdict)

    def forget_verdicts(self) -> None:
        """Keep the verdicts on training alone: data, draws and metrics are judged again."""
        self.note(verdicts=[one.entry() for one in self.verdicts if one.source == "train"])

    def lines(self) -> list[str]:
        """The metrics' lines a run ends with.

        The last one begins with the bad verdicts and with what is known of the run's draws, and ends with the warnings.
        """
        lines = [measured.line for measured in self.measured.values() if measured.line]
        judged = self.verdicts
        bad, warnings = (of_severity(judged, how) for how in ("bad", "warning"))
        draws = [one for one in judged if one.source == "sample" and one not in bad and one not in warnings]
        before, after = ([str(one.verdict) for one in some] for some in ([*bad, *draws], warnings))
        last = "; ".join(dict.fromkeys([*before, *lines[-1:], *after]))
        return [*lines[:-1], last] if last else []

    def note_failure(self, failure: dict[str, str]) -> None:
        """Leave in run.json that an observer failed, at once: the run may yet be killed."""
        self.save(failed_observers=[*self.record.failed_observers, failure])

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add to the stage's seconds those that the block takes."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.record.seconds
            total = round(seconds.get(stage, 0.0) + time.perf_counter() - started, 3)
            self.note(seconds={**seconds, stage: total})


def resume_command(run: RunUnderWay) -> str:
    """What goes on with a run when pasted into a shell."""
    return how_to_resume(run.path, run.registry.files)


def how_to_resume(path: Path, plugins: Iterable[str]) -> str:
    return shlex.join(["run-spec", "resume", str(path), *(word for file in plugins for word in ("--plugin", file))])


class Stop:
    """SIGINT and SIGTERM. While deferred the first waits for the step's end; else they end the run at once."""

    def __init__(self, run: RunUnderWay):
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
        before, self.waits = self.waits, True
        try:
            yield
        finally:
            self.waits = before
        if self.signal is not None and not before:
            self.now("interrupted")

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """In place of the signals' own handlers."""
        old: dict[int, Any] = {}
        try:
            for number in (int(signal.SIGINT), int(signal.SIGTERM)):
                with contextlib.suppress(ValueError):  # signals reach the main thread alone
                    old[number] = signal.signal(number, self)
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def recorded(run: RunUnderWay, step: int = 0, resumed: bool = False) -> Iterator[Stop]:
    """Holds the run's lock (a resumed one has it already), listens to signals, tells observers how the run goes, and
    leaves the outcome in run.json whatever it is. `step` is how many were trained before.
    """
    stop = Stop(run)
    audience = Audience(run.observer, members(run.spec, run.registry, run.path), run.note_failure)
    audience.hold = stop.deferred
    run.observer = audience
    with contextlib.nullcontext() if resumed else run.directory.lock():
        run.save(status="running", pid=os.getpid(), finished=None)
        try:
            with stop.listening():
                audience.started(_told(run, step, resumed))
                yield stop
                run.save(status="finished", finished=provenance.now(), digests=_digests(run))
        except BaseException as error:
            status = "interrupted" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed"
            detail: dict[str, Any] = {"message": str(error) or type(error).__name__}
            if isinstance(error, RunFailed):
                detail |= {"status": error.status, "step": error.step}
            run.save(status=status, error=detail, finished=provenance.now())
            with contextlib.suppress(KeyboardInterrupt):  # it has ended already
                audience.finished(status, detail["message"])
            if isinstance(error, DriftspecError | Interrupted | KeyboardInterrupt):
                raise
            raise RunFailed(cause(error)) from error
        audience.finished("finished", None)


def _told(run: RunUnderWay, step: int, resumed: bool) -> RunInfo:
    """What observers know of a run."""
    train = run.spec.train if "train" in run.record.stages else None
    return RunInfo(
        run.record.id, run.spec.name, run.path, MappingProxyType(run.spec.resolved()), tuple(run.record.stages),
        train.steps if train else 0, step, resumed, run.record.parent, run.directory.records,
    )  # fmt: skip


def _digests(run: RunUnderWay) -> dict[str, str]:
    """sha256 of what the run put out."""
    weights = f"checkpoints/step-{run.record.evaluated['step']:08d}.safetensors"
    names = ["resolved.yaml", weights, "samples.npy", "metrics.json"]
    return {name: run.directory.digest(name) for name in names if (run.path / name).exists()}
