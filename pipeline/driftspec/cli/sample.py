"""`run-spec sample RUN -n N`: draw from a finished run in another way, without training again."""

from __future__ import annotations

from pathlib import Path

from driftspec.cli import options
from driftspec.errors import UsageError


def main(words: list[str]) -> int:
    parser = options.parser("sample", "Draw from a finished run; the answer goes to a new run directory.")
    parser.add_argument("run", metavar="RUN", help="a run directory, or runs/NAME for the newest run of a spec")
    parser.add_argument("-n", type=int, dest="count", metavar="N", help="samples in all; by default the spec's count")
    parser.add_argument("-o", dest="file", metavar="FILE", help="write the samples here too (.npy or .csv)")
    options.changing(parser)
    options.running(parser)
    args = parser.parse_args(words)
    file = Path(args.file) if args.file else None
    if file is not None and (file.suffix not in (".npy", ".csv") or not file.parent.is_dir()):
        raise UsageError(f"-o {file}: a .npy or .csv file in an existing folder")

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
