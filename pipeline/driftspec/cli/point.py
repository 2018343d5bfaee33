"""One point of a sweep in a process of its own: a Job on stdin, an Outcome on stdout. Only `sweep` starts it.

stdin stays open as long as the parent lives; when it closes, the run is stopped as by SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import traceback

from driftspec.cli import foreign
from driftspec.cli.progress import Progress
from driftspec.errors import DriftspecError, Interrupted, cause
from driftspec.registry import discover
from driftspec.runs.sweeps import Job, Outcome, work


def main() -> None:
    answer = os.dup(1)
    os.dup2(2, 1)  # what a plugin prints is no answer
    job: Job = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_with_the_parent, daemon=True).start()
    with foreign.reported(job.settings.verbose):
        outcome = _done(job)
    with contextlib.suppress(BrokenPipeError), os.fdopen(answer, "wb") as file:  # nobody is left to read it
        pickle.dump(outcome, file)


def _with_the_parent() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _done(job: Job) -> Outcome:
    settings = job.settings
    quiet = settings.quiet or not job.alone
    try:
        work(job, discover(settings.plugins, only_builtin=settings.only_builtin), Progress(quiet, settings.verbose))
    except Interrupted:
        return Outcome("interrupted")
    except Exception as error:
        if settings.verbose:
            traceback.print_exc()
        known = isinstance(error, DriftspecError)
        return Outcome("failed", str(error) if known else f"internal error: {cause(error)}")
    return Outcome("finished")


if __name__ == "__main__":
    main()
