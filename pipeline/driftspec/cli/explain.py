"""`run-spec explain [CODE]`: what a code means, by an example that is wrong and the right one; without CODE, all."""

from __future__ import annotations

import json

from driftspec.cli import options
from driftspec.errors import CODES, UsageError, nearest, shown


def main(words: list[str]) -> int:
    parser = options.parser(
        "explain", "What a code of an error means, and how to mend it. Without a code: all of them."
    )
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
    told = {"code": code, "title": CODES[code], "why": found.why, "wrong": found.wrong, "mended": found.mended}
    print(json.dumps(told) if args.format == "json" else found.text(code))
    return 0
