"""`run-spec explain [CODE]`: explain an error code by a wrong and a right example; without CODE, list all codes."""

from __future__ import annotations

import json

from driftspec.cli import options
from driftspec.errors import CODES, UsageError, nearest, shown


def main(words: list[str]) -> int:
    parser = options.parser("explain", "Explain an error code and how to fix the error; without CODE, list all codes.")
    parser.add_argument("code", nargs="?", metavar="CODE", help="e.g. S111")
    options.shaping(parser)
    args = parser.parse_args(words)
    options.no_registry(args)
    if args.code is None:
        print(json.dumps(CODES) if args.format == "json" else "\n".join(f"{code}  {CODES[code]}" for code in CODES))
        return 0
    code = args.code.strip("[]").upper()
    if code not in CODES:
        near = nearest(code, CODES)
        raise UsageError(f"unknown code {shown(args.code)}{near}; run-spec explain lists all of them")

    from driftspec.spec.explanations import EXPLANATIONS

    found = EXPLANATIONS[code]
    data = {"code": code, "title": CODES[code], "why": found.why, "wrong": found.wrong, "mended": found.mended}
    print(json.dumps(data) if args.format == "json" else found.text(code))
    return 0
