"""`run-spec init [NAME] [--like SPEC-NAME]`: a commented spec to start from."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from driftspec.cli import options
from driftspec.errors import UsageError, nearest, shown

STARTER = "starter"
"""The shipped spec that a new one is like where --like says nothing."""
EDITORS = (
    "to complete and check its keys in an editor with a YAML language server: run-spec schema -o driftspec.schema.json"
)


def main(words: list[str]) -> int:
    parser = options.parser("init", "Write a commented spec into the current directory; nothing there is replaced.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="its name, and that of its file; by default --like's")
    parser.add_argument("--like", default=STARTER, metavar="SPEC-NAME", help="a shipped spec to start from: cnf_moons")
    options.shaping(parser)
    args = parser.parse_args(words)
    options.no_registry(args)

    from driftspec.spec.shipped import begin, shipped

    specs = shipped(args.no_plugins)
    if args.like not in specs:
        near = nearest(args.like, specs)
        raise UsageError(f"--like {args.like}: no spec of that name is shipped{near}; there are: {', '.join(specs)}")
    name = args.like.rpartition("/")[2] if args.name is None else args.name.removesuffix(".yaml")
    if Path(name).name != name:
        raise UsageError(f"{shown(name)} is a path: name the spec alone; it is written into the current directory")
    written, *beside = map(str, begin(specs[args.like], name, Path()))
    following = shlex.join(["run-spec", written])
    if args.format == "json":
        print(json.dumps({"spec": written, "like": args.like, "files": [written, *beside], "next": following}))
    else:
        print(f"{written}{''.join(f', {other}' for other in beside)}: written\nnext: {following}\n{EDITORS}")
    return 0
