"""`run-spec resume RUN`: go on from the newest checkpoint, to the same bytes."""

from __future__ import annotations

from driftspec.cli import options


def main(words: list[str]) -> int:
    parser = options.parser("resume", "Go on with an interrupted, failed or killed run from its newest checkpoint.")
    parser.add_argument("run", metavar="RUN", help="a run directory")
    options.showing(parser)
    options.strict(parser)
    args = parser.parse_args(words)

    from driftspec.cli.progress import Progress, result
    from driftspec.runs import resume

    done = resume(args.run, options.registry(args), Progress(args.quiet, args.verbose), ["run-spec", "resume", *words])
    print(result(done, args.format))
    return 0
