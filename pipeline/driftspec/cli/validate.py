"""`run-spec validate SPEC...`: report every mistake in every file, without torch; --deep also tries the first step."""

from __future__ import annotations

import argparse
import contextlib
import gc
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from driftspec.cli import options, print_problems
from driftspec.errors import PluginError, Problem, RunFailed, SpecError, in_order, refusal

if TYPE_CHECKING:
    from driftspec.cli.formats import Verdict
    from driftspec.registry import Registry


def main(words: list[str]) -> int:
    parser = options.parser(
        "validate", "Check specs without running them; the exit code is 0 if all are valid, 3 if one is not."
    )
    parser.add_argument("specs", nargs="+", metavar="SPEC", help="YAML files")
    options.changing(parser)
    options.strict(parser)
    parser.add_argument(
        "--deep", action="store_true",
        help="also build everything, take one training step and draw a few samples; nothing is written",
    )  # fmt: skip
    options.allowing(parser)
    options.shaping(parser, "sarif", "github")
    args = parser.parse_intermixed_args(words)  # specs may be between options

    with contextlib.nullcontext() if args.deep else _uncollected():
        return _validate(args)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Turn off garbage collection, which costs 5 % of the time of this short process."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _validate(args: argparse.Namespace) -> int:
    """Check every spec and print the findings; return the exit code."""
    from driftspec.cli.formats import Findings, show

    try:
        registry = options.registry(args)
    except PluginError as error:
        if args.format == "text":
            raise
        show(Findings(error.problems, general_code=error.exit_code), args.format)
        return error.exit_code
    findings = Findings([*registry.broken, *registry.held_back])
    for path in args.specs:
        verdict = _verdict(path, registry, args)
        findings.verdicts.append(verdict)
        if args.format == "text":
            print_problems(verdict.problems)
            show(Findings(verdicts=[verdict]), "text")
    if args.format != "text":
        show(findings, args.format)
    return findings.exit_code


def _verdict(path: str, registry: Registry, args: argparse.Namespace) -> Verdict:
    """Return the problems of one spec, with the exit code."""
    from driftspec import spec
    from driftspec.cli.formats import Verdict
    from driftspec.source.files import Files
    from driftspec.spec import fits

    found: list[Problem] = []
    code = 0
    try:
        loaded = spec.read(path, registry, options.changes(args), args.allow_outside)
        found = fits.check(loaded)
        if not fits.errors(found) and loaded.spec.quick is not None:
            found = list(dict.fromkeys([*found, *fits.check(spec.hastened(loaded, registry))]))
        if not args.deep:  # libraries and data that only a run needs may be missing
            found = [replace(one, severity="warning") if one.code == "P206" else one for one in found]
        if fits.errors(found):
            code = refusal(found).exit_code
        elif args.deep:
            from driftspec.runs.rehearsal import rehearse

            failed = [one for point in loaded.points or [loaded] for one in rehearse(point, args.allow_outside)]
            found, code = [*found, *failed], RunFailed.exit_code if fits.errors(failed) else 0
        else:
            found = in_order([*found, *fits.unread(loaded, Files(loaded.root, args.allow_outside))])
    except (SpecError, PluginError) as error:
        found, code = [*found, *error.problems], error.exit_code
    return Verdict(path, found, code)
