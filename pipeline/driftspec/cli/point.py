"""The process of one point of a sweep: it reads a Job from stdin and writes an Outcome to stdout.

Only `sweep` and `resume` start it. When stdin closes, the parent has ended, and the run is stopped as by SIGTERM.
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
    """Run the job on stdin and write its outcome to stdout."""
    answer = os.dup(1)
    os.dup2(2, 1)  # what a plugin prints goes to stderr
    job: Job = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    with foreign.reported(job.settings.verbose):
        outcome = _done(job)
    with contextlib.suppress(BrokenPipeError), os.fdopen(answer, "wb") as file:  # the parent may have ended
        pickle.dump(outcome, file)


def _end_with_the_parent() -> None:
    """Wait until stdin closes, then send SIGTERM to this process."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _done(job: Job) -> Outcome:
    """Run the job; return its outcome."""
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
