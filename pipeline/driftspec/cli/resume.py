"""`run-spec resume RUN`: continue a run from its newest checkpoint, or every unfinished point of a sweep."""

from __future__ import annotations

import argparse

from driftspec.cli import options
from driftspec.cli.sweep import finished, parallel, settings, watcher
from driftspec.errors import UsageError


def main(words: list[str]) -> int:
    parser = options.parser("resume", "Continue an interrupted, failed or killed run from its newest checkpoint.")
    parser.add_argument("run", metavar="RUN", help=f"{options.A_RUN}; or the directory of a sweep")
    parallel(parser)
    options.showing(parser)
    options.strict(parser)
    options.judging(parser)
    args = parser.parse_args(words)

    from driftspec.cli.progress import Progress, result
    from driftspec.runs.lifecycle import resume
    from driftspec.runs.sweeps import is_sweep

    if is_sweep(args.run):
        return _sweep(args)
    if args.jobs is not None:
        raise UsageError(f"'{args.run}' is not a sweep: --jobs is only for sweeps")
    done = resume(
        options.run(args.run), options.registry(args), Progress(args.quiet, args.verbose),
        argv=["run-spec", "resume", *words],
    )  # fmt: skip
    print(result(done, args.format))
    return options.exit_code(args, done.verdicts)


def _sweep(args: argparse.Namespace) -> int:
    """Resume a sweep; return the exit code."""
    from driftspec.runs import sweeps

    registry = options.registry(args)
    done = sweeps.resume(args.run, registry, settings(args, registry), watcher(args.quiet))
    return finished(done, args)
