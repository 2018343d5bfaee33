"""A sweep under way: each point a run of its own, in a process of its own, some of them side by side.

    runs/NAME/sweep-20261122T095200Z-1f3c9a02/
        sweep.json       the points with their values and how each stands; written at every change
        sweep.yaml       the spec with its base merged in and the command line's changes made: what `resume` reads
        spec.yaml        the bytes as given
        001/ 002/ ...    the runs

The parent computes nothing: it hands each process a Job and reads an Outcome. A process ends with the parent, however
that ends, and leaves a checkpoint as any run does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import connection
from pathlib import Path
from typing import Any

from driftspec import source, spec
from driftspec.components.observer import STAGES, Observer
from driftspec.components.verdict import Judged
from driftspec.errors import Interrupted, SpecError, UsageError
from driftspec.registry import Registry
from driftspec.runs import lifecycle as runs
from driftspec.runs import provenance
from driftspec.runs.history import look
from driftspec.runs.records import SweepRecord
from driftspec.runs.run_dir import RUN, SWEEP, RunDir
from driftspec.runs.session import RunUnderWay, how_to_resume
from driftspec.spec.fits import check, errors

WHOLE = "sweep.yaml"


@dataclass(frozen=True)
class Job:
    """What one process is to do: run a point's document, or go on with its run."""

    document: source.Document
    text: bytes
    root: Path
    out: Path
    argv: Sequence[str]
    stages: Sequence[str]
    allow_outside: bool
    alone: bool  # or one of several at a time, whose progress could not be told apart
    settings: Settings


@dataclass(frozen=True)
class Settings:
    """What the command line says of every process alike."""

    jobs: int | None = None  # by default what the sweep was begun with, one by one
    plugins: Sequence[str] = ()
    only_builtin: bool = False
    quiet: bool = False
    verbose: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a process ended, and why where it failed."""

    status: str
    error: str | None = None


@dataclass(eq=False)
class SweepRun:
    """One run of a sweep: waiting, running, finished, failed or interrupted."""

    number: str
    loaded: spec.Loaded
    status: str = "waiting"
    error: str | None = None

    def entry(self) -> dict[str, Any]:
        """As sweep.json has it."""
        entry = {"run": self.number, "values": dict(self.loaded.values), "status": self.status}
        return entry if self.error is None else {**entry, "error": self.error}


class Watcher:
    """Is told how a sweep goes. Each method does nothing until overridden."""

    def started(self, sweep: SweepUnderWay) -> None: ...

    def began(self, point: SweepRun) -> None: ...

    def ended(self, point: SweepRun) -> None: ...


@dataclass
class SweepUnderWay:
    """The points, where they are kept, and the record that sweep.json holds."""

    directory: RunDir
    points: Sequence[SweepRun]
    record: SweepRecord
    settings: Settings
    watcher: Watcher
    jobs: int = 1
    running: dict[SweepRun, subprocess.Popen[bytes]] = field(default_factory=dict)
    signal: int | None = None

    @property
    def failed(self) -> int:
        return sum(point.status == "failed" for point in self.points)

    def resume_command(self) -> str:
        return how_to_resume(self.directory.path, self.settings.plugins)

    def at(self, point: SweepRun) -> RunDir:
        return RunDir(self.directory.path / point.number)

    def verdicts(self, point: SweepRun) -> list[Judged]:
        """The verdicts on a finished point."""
        return look(self.at(point).path).record.judged()

    def save(self, **changes: Any) -> None:
        self.record = self.record.changed(**changes)
        written = self.record.changed(points=[point.entry() for point in self.points])
        self.directory.write_json(SWEEP, written.entries())


def start(
    loaded: spec.Loaded,
    settings: Settings,
    *,
    out: Path | None = None,
    stages: Sequence[str] = STAGES,
    watcher: Watcher | None = None,
    argv: Sequence[str] = (),
    allow_outside: bool = False,
) -> SweepUnderWay:
    """Run every point. Nothing is written before each of them is checked."""
    file = loaded.document.place(()).file
    if not loaded.points:
        raise UsageError(f"'{file}' has no section 'sweep': run it with run-spec {file}")
    for point in loaded.points:
        runs.carried_out(point.spec, stages)
    if found := errors(check(loaded, stages)):
        raise SpecError(found)
    digest = digest_of(loaded)
    directory = RunDir.create(out, loaded.spec.name, digest, datetime.now(UTC), prefix="sweep-")
    record = SweepRecord.new(
        status="running", name=loaded.spec.name, spec=file, root=str(loaded.root.resolve()), argv=list(argv),
        started=provenance.now(), finished=None, spec_digest=digest, stages=list(stages), allow_outside=allow_outside,
        jobs=settings.jobs or 1,
    )  # fmt: skip
    directory.write_bytes("spec.yaml", loaded.text)
    directory.write_text(WHOLE, source.dump(loaded.document.data))
    sweep = SweepUnderWay(directory, _points(loaded), record, settings, watcher or Watcher(), record.jobs)
    with directory.lock():
        _carry_out(sweep)
    return sweep


def digest_of(loaded: spec.Loaded) -> str:
    """sha256 of the resolved spec of every point."""
    resolved = [point.spec.resolved() for point in loaded.points]
    return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()


def is_sweep(path: str | Path) -> bool:
    return (Path(path) / SWEEP).is_file()


def resume(path: str | Path, registry: Registry, settings: Settings, watcher: Watcher | None = None) -> SweepUnderWay:
    """Go on with a sweep: finished points are kept, begun ones resumed, the others run."""
    directory = RunDir(Path(path))
    with directory.lock():
        record = SweepRecord.opened(directory.read_json(SWEEP), directory.path / SWEEP)
        document = source.parse(directory.read_bytes(WHOLE), str(directory.path / WHOLE))
        loaded = spec.loaded(document, registry, directory.read_bytes("spec.yaml"), Path(record.root))
        sweep = SweepUnderWay(directory, _points(loaded), record, settings, watcher or Watcher())
        sweep.jobs = settings.jobs or record.jobs
        for point in sweep.points:
            if (sweep.at(point).path / RUN).is_file() and look(sweep.at(point).path).status == "finished":
                point.status = "finished"
        if all(point.status == "finished" for point in sweep.points) and record.status == "finished":
            raise UsageError(f"'{path}' is finished: nothing to resume")
        _carry_out(sweep)
    return sweep


def _points(loaded: spec.Loaded) -> list[SweepRun]:
    width = max(3, len(str(len(loaded.points))))
    return [SweepRun(f"{number:0{width}}", point) for number, point in enumerate(loaded.points, 1)]


def _carry_out(sweep: SweepUnderWay) -> None:
    """As many processes as asked for, until every point has had its turn or a signal arrives."""
    sweep.save(status="running", pid=os.getpid(), finished=None)
    sweep.watcher.started(sweep)
    waiting = deque(point for point in sweep.points if point.status != "finished")
    try:
        with _listening(sweep):
            while sweep.running or (waiting and sweep.signal is None):
                while waiting and len(sweep.running) < sweep.jobs and sweep.signal is None:
                    _begin(sweep, waiting.popleft())
                if sweep.running:
                    _end_some(sweep)
    finally:
        for process in sweep.running.values():  # something went wrong here: none is left without its parent
            process.terminate()
        ended = "failed" if sweep.failed or sweep.running else "finished"
        sweep.save(status="interrupted" if sweep.signal is not None else ended, finished=provenance.now())
    if sweep.signal is not None:
        raise Interrupted(f"interrupted; go on with: {sweep.resume_command()}", sweep.signal)


@contextlib.contextmanager
def _listening(sweep: SweepUnderWay) -> Iterator[None]:
    """SIGINT and SIGTERM are passed on to every process, as SIGTERM, which each takes from its first moment on."""

    def stop(number: int, frame: object) -> None:
        sweep.signal = number
        for process in sweep.running.values():
            process.terminate()

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _begin(sweep: SweepUnderWay, point: SweepRun) -> None:
    """A process for a point. It is its own session's: Ctrl-C reaches it through the parent alone, and once."""
    record, loaded = sweep.record, point.loaded
    job = Job(
        loaded.document, loaded.text, loaded.root, sweep.at(point).path, record.argv, record.stages,
        record.allow_outside, sweep.jobs == 1, sweep.settings,
    )  # fmt: skip
    point.status, point.error = "running", None
    sweep.save()
    sweep.watcher.began(point)
    command = [sys.executable, "-P", "-m", "driftspec.cli.point"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    sweep.running[point] = process
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):  # it died at once: its end says so
            process.stdin.write(pickle.dumps(job))
            process.stdin.flush()  # and stays open: that it closes is how a process learns that its parent is gone
    if sweep.signal is not None:  # it arrived between the start and the note of it
        process.terminate()


def _end_some(sweep: SweepUnderWay) -> None:
    """Wait for any process, and note how it ended."""
    pipes = {point: process.stdout.fileno() for point, process in sweep.running.items() if process.stdout is not None}
    ready = connection.wait(list(pipes.values()))
    for point in [point for point, number in pipes.items() if number in ready]:
        process = sweep.running[point]
        answer, _ = process.communicate()
        outcome = _outcome(answer, process.returncode, sweep.signal is not None)
        point.status, point.error = outcome.status, outcome.error
        del sweep.running[point]
        sweep.save()
        sweep.watcher.ended(point)


def _outcome(answer: bytes, code: int, stopped: bool) -> Outcome:
    if answer:
        outcome: Outcome = pickle.loads(answer)
        return outcome
    if stopped:
        return Outcome("interrupted")
    why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return Outcome("failed", f"its process was {why}" if code < 0 else f"its process {why} and no word")


def work(job: Job, registry: Registry, observer: Observer) -> RunUnderWay:
    """In the process of a point: its run, or the rest of it."""
    if RunDir(job.out).begun():
        return runs.resume(job.out, registry, observer, job.argv)
    made = spec.loaded(job.document, registry, job.text, job.root)
    return runs.start(
        made, registry, out=job.out, stages=job.stages, observer=observer, argv=job.argv,
        allow_outside=job.allow_outside,
    )  # fmt: skip


__all__ = [
    "Job", "Outcome", "Settings", "SweepRun", "SweepUnderWay", "Watcher", "digest_of", "is_sweep", "resume", "start",
    "work",
]  # fmt: skip
