"""`run-spec init [NAME] [--like SPEC-NAME]`: write a commented spec to start from."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from driftspec.cli import options
from driftspec.errors import UsageError, nearest, shown

STARTER = "starter"
"""The shipped spec that is copied without --like."""
EDITORS = "for completion and checks in an editor with a YAML language server: run-spec schema -o driftspec.schema.json"


def main(words: list[str]) -> int:
    parser = options.parser("init", "Write a commented spec into the current directory; no file is overwritten.")
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="the name of the spec and of its file; by default that of --like"
    )
    parser.add_argument("--like", default=STARTER, metavar="SPEC-NAME", help="a shipped spec to copy, e.g. cnf_moons")
    options.shaping(parser)
    args = parser.parse_args(words)
    options.no_registry(args)

    from driftspec.spec.shipped import begin, shipped

    specs = shipped(args.no_plugins)
    if args.like not in specs:
        near = nearest(args.like, specs)
        raise UsageError(f"--like {args.like}: no shipped spec has that name{near}; there are: {', '.join(specs)}")
    name = args.like.rpartition("/")[2] if args.name is None else args.name.removesuffix(".yaml")
    if Path(name).name != name:
        raise UsageError(f"{shown(name)} is a path: give only a name; the spec is written into the current directory")
    written, *beside = map(str, begin(specs[args.like], name, Path()))
    following = shlex.join(["run-spec", written])
    if args.format == "json":
        print(json.dumps({"spec": written, "like": args.like, "files": [written, *beside], "next": following}))
    else:
        print(f"{written}{''.join(f', {other}' for other in beside)}: written\nnext: {following}\n{EDITORS}")
    return 0
