"""`run-spec SPEC`: train, evaluate, sample."""

from __future__ import annotations

import sys
from pathlib import Path

from driftspec.cli import VERBS, options
from driftspec.errors import UsageError

STAGES = ("train", "evaluate", "sample")


def main(words: list[str]) -> int:
    verbs = "\n".join(f"  {name:<10} {what}" for name, what in VERBS.items())
    parser = options.parser(
        "", "Train, measure and sample a continuous-time generative model from one YAML file.", f"verbs:\n{verbs}"
    )
    parser.add_argument("spec", metavar="SPEC", help="a YAML file, or a verb")
    options.changing(parser)
    options.running(parser)
    parser.add_argument("--name", help="in place of the spec's name")
    parser.add_argument("--stage", default=",".join(STAGES), metavar="LIST", help=f"which of {','.join(STAGES)}")
    parser.add_argument("--device", help="in place of runtime.device: cpu, cuda, cuda:1")
    parser.add_argument("--allow-outside", action="store_true", help="read data files outside the current directory")
    args = parser.parse_args(words)
    stages = args.stage.split(",")
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise UsageError(f"--stage {unknown[0]!r}: stages are {', '.join(STAGES)}")

    from driftspec import build, spec
    from driftspec.errors import SpecError

    registry = options.registry(args)
    loaded = spec.read(args.spec, registry, options.changes(args))
    if problems := build.check(loaded):
        raise SpecError(problems)

    from driftspec.cli.progress import Progress, result
    from driftspec.run import start

    done = start(
        loaded, registry, out=Path(args.out) if args.out else None, stages=stages, observer=Progress(args.quiet),
        argv=["run-spec", *words], allow_outside=args.allow_outside,
    )  # fmt: skip
    print(result(done, args.format))
    sys.stdout.flush()
    return 0
