"""`run-spec schema`: the JSON Schema of specs with the plugins installed here, for editors and for other checkers."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from driftspec.cli import options, tell
from driftspec.errors import RunFailed, UsageError, printable, shown
from driftspec.source import regular

SHOWN = 5
"""Differences that --check tells one by one."""


def main(words: list[str]) -> int:
    parser = options.parser("schema", "The JSON Schema (draft-07) of a spec, with the plugins installed here.")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("-o", dest="file", metavar="FILE", help="write it there and not to stdout")
    target.add_argument("--check", metavar="FILE", help="is FILE what would be written? 1 if it is not")
    args = parser.parse_args(words)
    file = Path(args.file) if args.file is not None else None
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        raise UsageError(f"-o {shown(args.file)}: a file in an existing folder")
    registry = options.registry(args)

    from driftspec.spec.schema import schema, text

    made, left_out = schema(registry)
    tell(replace(one, severity="warning", message=f"left out of the schema: {one.message}") for one in left_out)
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
    """RunFailed unless the file holds this schema, however it is laid out."""
    from driftspec.spec.schema import differences

    mend = f"write it anew: run-spec schema -o {name}"
    try:
        there = json.loads(regular.read(Path(name)))
    except OSError as error:
        raise RunFailed(f"{shown(name)} cannot be read: {str(error.strerror).lower()}; {mend}") from error
    except (ValueError, RecursionError) as error:
        raise RunFailed(f"{shown(name)} is no JSON; {mend}") from error
    found = differences(there, made)
    if first := list(islice(found, SHOWN)):
        more = sum(1 for _ in found)
        told = ", ".join(first) + (f" and {more} more" if more else "")
        raise RunFailed(f"{shown(name)} is not the schema of what is installed here, it differs at {told}; {mend}")
