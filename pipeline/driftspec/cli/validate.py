"""`run-spec validate SPEC...`: every mistake of every file, without torch."""

from __future__ import annotations

from driftspec.cli import options, report
from driftspec.errors import DriftspecError


def main(words: list[str]) -> int:
    parser = options.parser("validate", "Check specs without running them: 0 when all are valid, 3 when one is not.")
    parser.add_argument("specs", nargs="+", metavar="SPEC", help="YAML files")
    options.changing(parser)
    options.strict(parser)
    args = parser.parse_args(words)
    registry = options.registry(args)
    worst = 0
    for path in args.specs:
        try:
            options.checked(path, registry, args)
            print(f"{path}: valid")
        except DriftspecError as error:
            report(error)
            worst = max(worst, error.exit_code)
    return worst
