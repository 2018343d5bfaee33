"""`run-spec sample RUN -n N`: draw samples from a finished run, without training again."""

from __future__ import annotations

from pathlib import Path

from driftspec.cli import options
from driftspec.errors import UsageError


def main(words: list[str]) -> int:
    parser = options.parser(
        "sample", "Draw samples from a finished run without training again; they are in a new run directory."
    )
    parser.add_argument("run", metavar="RUN", help=options.A_RUN)
    parser.add_argument("-n", type=int, dest="count", metavar="N", help="the number of samples; by default the spec's")
    parser.add_argument("-o", dest="file", metavar="FILE", help="also write the samples to this .npy or .csv file")
    options.changing(parser, "sampler.solver=rk4")
    options.running(parser)
    args = parser.parse_args(words)
    file = Path(args.file) if args.file else None
    if file is not None and (file.suffix not in (".npy", ".csv") or not file.parent.is_dir()):
        raise UsageError(f"-o {file}: give a .npy or .csv file in an existing folder")

    from driftspec.cli.progress import Progress, result
    from driftspec.runs.lifecycle import again

    done = again(
        options.run(args.run), options.registry(args), options.changes(args), ["sample"],
        out=Path(args.out) if args.out else None,
        observer=Progress(args.quiet, args.verbose), argv=["run-spec", "sample", *words],
    )  # fmt: skip
    if file is not None:
        done.directory.export_samples(file, done.record.columns)
    print(result(done, args.format))
    return options.exit_code(args, done.verdicts)
