"""Run a sweep: each point is a run of its own in a process of its own; several may run at once.

    runs/NAME/sweep-20261122T095200Z-1f3c9a02/
        sweep.json       the points with their values and their status; written at every change
        sweep.yaml       the spec with its base and the changes of the command line applied; `resume` reads it
        spec.yaml        the bytes of the given spec
        001/ 002/ ...    the runs

The parent process computes nothing: it sends each process a Job and reads an Outcome. If the parent ends for any
reason, its processes end too, and each leaves a checkpoint as any run does.
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
    """The task of one process: run a point's document, or continue its run."""

    document: source.Document
    text: bytes
    root: Path
    out: Path
    argv: Sequence[str]
    stages: Sequence[str]
    allow_outside: bool
    alone: bool  # whether it is the only process; if not, it shows no progress
    settings: Settings


@dataclass(frozen=True)
class Settings:
    """The options of the command line that hold for every process."""

    jobs: int | None = None  # by default the number with which the sweep was started, or 1
    plugins: Sequence[str] = ()
    only_builtin: bool = False
    quiet: bool = False
    verbose: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a process ended, with the error if it failed."""

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
        """Return the entry in sweep.json."""
        entry = {"run": self.number, "values": dict(self.loaded.values), "status": self.status}
        return entry if self.error is None else {**entry, "error": self.error}


class Watcher:
    """Receives the events of a sweep. Each method does nothing unless it is overridden."""

    def started(self, sweep: SweepUnderWay) -> None:
        """The sweep starts."""

    def began(self, point: SweepRun) -> None:
        """The process of a point starts."""

    def ended(self, point: SweepRun) -> None:
        """The process of a point has ended."""


@dataclass
class SweepUnderWay:
    """A sweep: its points, its directory, and the record in sweep.json."""

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
        """The number of points that failed."""
        return sum(point.status == "failed" for point in self.points)

    def resume_command(self) -> str:
        """Return the shell command that resumes the sweep."""
        return how_to_resume(self.directory.path, self.settings.plugins)

    def at(self, point: SweepRun) -> RunDir:
        """Return the run directory of a point."""
        return RunDir(self.directory.path / point.number)

    def verdicts(self, point: SweepRun) -> list[Judged]:
        """Return the verdicts on a finished point."""
        return look(self.at(point).path).record.judged()

    def save(self, **changes: Any) -> None:
        """Change fields of the record and write sweep.json."""
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
    """Run every point; return the sweep. Nothing is written before all points are checked."""
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
    """Return the sha256 of the resolved specs of all points."""
    resolved = [point.spec.resolved() for point in loaded.points]
    return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()


def is_sweep(path: str | Path) -> bool:
    """Whether the directory is that of a sweep."""
    return (Path(path) / SWEEP).is_file()


def resume(path: str | Path, registry: Registry, settings: Settings, watcher: Watcher | None = None) -> SweepUnderWay:
    """Continue a sweep; return it. Finished points are kept, those that were started are resumed, the others run."""
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
    """Return the points, numbered 001, 002, ..."""
    width = max(3, len(str(len(loaded.points))))
    return [SweepRun(f"{number:0{width}}", point) for number, point in enumerate(loaded.points, 1)]


def _carry_out(sweep: SweepUnderWay) -> None:
    """Run at most `jobs` processes at once until every point has run or a signal arrives."""
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
        for process in sweep.running.values():  # an error in this process: no child may outlive it
            process.terminate()
        ended = "failed" if sweep.failed or sweep.running else "finished"
        sweep.save(status="interrupted" if sweep.signal is not None else ended, finished=provenance.now())
    if sweep.signal is not None:
        raise Interrupted(f"interrupted; go on with: {sweep.resume_command()}", sweep.signal)


@contextlib.contextmanager
def _listening(sweep: SweepUnderWay) -> Iterator[None]:
    """Send SIGTERM to every process when SIGINT or SIGTERM arrives; a process can handle it from its start on."""

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
    """Start the process of a point, in a session of its own: Ctrl-C reaches it only through the parent, once."""
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
        with contextlib.suppress(BrokenPipeError):  # the process died at once; its exit code is reported
            process.stdin.write(pickle.dumps(job))
            process.stdin.flush()  # stdin stays open: when it closes, the process knows that its parent has ended
    if sweep.signal is not None:  # the signal arrived before the process was in `running`
        process.terminate()


def _end_some(sweep: SweepUnderWay) -> None:
    """Wait until some process ends, and record how it ended."""
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
    """Return the outcome that a process wrote; if it wrote none, the outcome that its exit code shows."""
    if answer:
        outcome: Outcome = pickle.loads(answer)
        return outcome
    if stopped:
        return Outcome("interrupted")
    why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return Outcome("failed", f"its process was {why}" if code < 0 else f"its process {why} and no message")


def work(job: Job, registry: Registry, observer: Observer) -> RunUnderWay:
    """Run or resume a point, in its process; return the run."""
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
