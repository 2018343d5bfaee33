"""`run-spec schema`: write the JSON Schema of specs, with the installed plugins, for editors and other checkers."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from driftspec.cli import options, print_problems
from driftspec.errors import RunFailed, UsageError, printable, shown
from driftspec.source import regular

SHOWN = 5
"""The number of differences that --check names."""


def main(words: list[str]) -> int:
    parser = options.parser("schema", "Write the JSON Schema (draft-07) of specs, with the installed plugins.")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("-o", dest="file", metavar="FILE", help="write it to FILE, not to stdout")
    target.add_argument("--check", metavar="FILE", help="compare FILE with the schema; exit with 1 if they differ")
    args = parser.parse_args(words)
    file = Path(args.file) if args.file is not None else None
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        raise UsageError(f"-o {shown(args.file)}: give a file in an existing folder")
    registry = options.registry(args)

    from driftspec.spec.schema import schema, text

    made, left_out = schema(registry)
    for problem in left_out:
        print_problems([replace(problem, severity="warning", message=f"left out of the schema: {problem.message}")])
    if args.check is not None:
        _check(args.check, made)
        print(f"{printable(args.check)}: up to date")
    elif file is not None:
        from driftspec.runs.run_dir import RunDir

        RunDir(file.parent).write_text(file.name, text(made))
    else:
        print(text(made), end="")
    return 0


def _check(name: str, made: dict[str, Any]) -> None:
    """Raise RunFailed unless the file holds this schema; white space and the order of keys do not matter."""
    from driftspec.spec.schema import differences

    remedy = f"write it again: run-spec schema -o {name}"
    try:
        there = json.loads(regular.read(Path(name)))
    except OSError as error:
        raise RunFailed(f"{shown(name)} cannot be read: {str(error.strerror).lower()}; {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise RunFailed(f"{shown(name)} is not JSON; {remedy}") from error
    found = differences(there, made)
    if first := list(islice(found, SHOWN)):
        more = sum(1 for _ in found)
        places = ", ".join(first) + (f" and {more} more" if more else "")
        raise RunFailed(f"{shown(name)} is not the schema of the installed plugins: it differs at {places}; {remedy}")
