"""`run-spec evaluate RUN`: measure a finished run with other metrics or data, without training again."""

from __future__ import annotations

from pathlib import Path

from driftspec.cli import options


def main(words: list[str]) -> int:
    parser = options.parser(
        "evaluate", "Measure a finished run without training again; the result is in a new run directory."
    )
    parser.add_argument("run", metavar="RUN", help=options.A_RUN)
    parser.add_argument("--data", metavar="FILE", help="measure all rows of this file instead of the test rows")
    options.changing(parser, "sampler.solver=rk4")
    options.running(parser)
    args = parser.parse_args(words)
    registry = options.registry(args)

    from driftspec.cli.progress import Progress, result
    from driftspec.runs.lifecycle import again

    done = again(
        options.run(args.run), registry, options.changes(args), ["evaluate"],
        out=Path(args.out) if args.out else None,
        observer=Progress(args.quiet, args.verbose), argv=["run-spec", "evaluate", *words],
        rows=Path(args.data) if args.data is not None else None,
    )  # fmt: skip
    print(result(done, args.format))
    return options.exit_code(args, done.verdicts)
