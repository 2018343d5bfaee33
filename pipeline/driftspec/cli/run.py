"""`run-spec SPEC`: train, evaluate and sample."""

from __future__ import annotations

from pathlib import Path

from driftspec.cli import VERBS, options


def main(words: list[str]) -> int:
    verbs = "\n".join(f"  {name:<10} {what}" for name, what in VERBS.items())
    parser = options.parser(
        "", "Train, measure and sample a continuous-time generative model from one YAML file.",
        f"instead of SPEC, a verb (see run-spec VERB --help):\n{verbs}",
    )  # fmt: skip
    options.choosing(parser)
    options.judging(parser)
    options.showing(parser)
    args = parser.parse_args(words)
    registry = options.registry(args)
    loaded = options.checked(args.spec, registry, args)

    from driftspec.cli.progress import Progress, result
    from driftspec.runs.lifecycle import start

    done = start(
        loaded, registry, out=Path(args.out) if args.out else None, stages=args.stages,
        observer=Progress(args.quiet, args.verbose), argv=["run-spec", *words], allow_outside=args.allow_outside,
    )  # fmt: skip
    print(result(done, args.format))
    return options.exit_code(args, done.verdicts)
