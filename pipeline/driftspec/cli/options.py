"""Options that several verbs share, and functions that read them."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from driftspec._version import __version__
from driftspec.components.observer import STAGES
from driftspec.errors import PluginError, UsageError, nearest, printable, refusal, shown
from driftspec.registry.elsewhere import WORDS, Words

if TYPE_CHECKING:
    from driftspec.components.verdict import Judged
    from driftspec.registry import Registry
    from driftspec.spec import Changes, Loaded


A_RUN = "a run directory, or runs/NAME for the newest run of a spec"
RUN_PLACE = "the run directory; by default runs/NAME/TIME-DIGEST"
SWEEP_PLACE = "the sweep's directory; by default runs/NAME/sweep-TIME-DIGEST"


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises UsageError for a mistake and does not print the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with the message and the nearest valid name."""
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        if unknown:
            message += nearest(unknown[1], self._option_string_actions)
        elif choice:
            message += nearest(choice[1], re.findall(r"[\w-]+", choice[2]))
        raise UsageError(f"{message}; see: {self.prog} --help")


def parser(verb: str, description: str, epilog: str | None = None) -> Parser:
    """Return a verb's parser with the options that every verb has."""
    made = Parser(
        prog=f"run-spec {verb}".strip(), description=description, epilog=epilog, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument("--plugin", action="append", default=[], metavar="FILE.py", help="load a one-file plugin")
    made.add_argument("--no-plugins", action="store_true", help="load no installed plugins except the built-in ones")
    made.add_argument("-v", "--verbose", action="store_true", help="more detail, and tracebacks")
    made.add_argument("--version", action="version", version=f"driftspec {__version__}")
    made.set_defaults(strict_plugins=False)  # for verbs without the option
    return made


def changing(made: Parser, example: str = "train.batch_size=128") -> None:
    """Add --set and --unset, with an example of a value to set."""
    made.add_argument(
        "--set", action="append", default=[], dest="sets", metavar="KEY=VALUE", type=_setting,
        help=f"change a value of the spec: {example}, evaluate.0.points=100; evaluate+=nll appends to a list",
    )  # fmt: skip
    made.add_argument("--unset", action="append", default=[], dest="unsets", metavar="KEY", help="remove a key")


def choosing(made: Parser, directory: str = RUN_PLACE) -> None:
    """Add the arguments of a run and of its plan: the spec, its changes, and the stages."""
    made.add_argument("spec", metavar="SPEC", help="a YAML file")
    changing(made)
    seeding(made, directory)
    made.add_argument("--name", help="the run's name; by default the spec's")
    made.add_argument("--device", help="cpu, cuda, cuda:1, ...; by default the spec's runtime.device")
    made.add_argument(
        "--stage",
        type=_stages,
        default=list(STAGES),
        dest="stages",
        metavar="LIST",
        help=f"the stages to run, by default {','.join(STAGES)}",
    )
    allowing(made)
    strict(made)


def allowing(made: Parser) -> None:
    """Add --allow-outside."""
    made.add_argument(
        "--allow-outside", action="store_true",
        help="allow data files outside the current directory, and a base that is also outside the spec's folder",
    )  # fmt: skip


def strict(made: Parser) -> None:
    """Add --strict-plugins."""
    made.add_argument("--strict-plugins", action="store_true", help="a plugin that cannot be loaded is an error")


def judging(made: Parser) -> None:
    """Add --strict."""
    made.add_argument("--strict", action="store_true", help="exit with 1 if a verdict on the run is bad")


def exit_code(args: argparse.Namespace, verdicts: Iterable[Judged]) -> int:
    """Return 1 with --strict if a verdict is bad, otherwise 0."""
    return 1 if args.strict and any(one.verdict.severity == "bad" for one in verdicts) else 0


def seeding(made: Parser, directory: str = RUN_PLACE) -> None:
    """Add --seed and --out."""
    made.add_argument("--seed", type=_seed, help="the seed; by default the spec's")
    made.add_argument("--out", metavar="DIR", help=directory)


def running(made: Parser) -> None:
    """Add the options of the verbs that measure or sample a run."""
    seeding(made)
    strict(made)
    judging(made)
    showing(made)


def showing(made: Parser) -> None:
    """Add --quiet and --format."""
    made.add_argument("--quiet", action="store_true", help="print no progress")
    shaping(made)


def shaping(made: Parser, *more: str) -> None:
    """Add --format."""
    forms = ["text", "json", *more]
    made.add_argument("--format", choices=forms, default="text", help="format of the result on stdout")


def _setting(text: str) -> str:
    """Return the text of --set if it has the form KEY=VALUE."""
    if not text.partition("=")[0].rstrip("+") or "=" not in text:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not KEY=VALUE")
    return text


def _seed(text: str) -> int:
    """Return the number of --seed."""
    if not (text.isdecimal() and len(text) < 20 and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def _stages(text: str) -> list[str]:
    """Return the stages of --stage."""
    stages = text.split(",")
    if unknown := next((stage for stage in stages if stage not in STAGES), None):
        near = Words(WORDS).hint(unknown, STAGES) or nearest(unknown, STAGES)
        allowed = f"allowed: {', '.join(STAGES)}"
        raise argparse.ArgumentTypeError(f"unknown stage {shown(unknown)}{near}; {allowed}")
    return stages


def no_registry(args: argparse.Namespace) -> None:
    """Check the files of --plugin for a verb that loads no plugins: a missing file is an error there too."""
    from driftspec.registry.entry_points import code_of

    for file in args.plugin:
        code_of(Path(file))


def registry(args: argparse.Namespace) -> Registry:
    """Return the registry of plugins for this command. A plugin that cannot be loaded gives a warning, or an error
    with --strict-plugins."""
    from driftspec.registry import discover

    found = discover(args.plugin, only_builtin=args.no_plugins)
    if found.broken and args.strict_plugins:
        raise PluginError([replace(problem, severity="error") for problem in found.broken])
    for problem in [*found.broken, *found.held_back]:
        print(problem, file=sys.stderr)
    return found


def checked(path: str, known: Registry, args: argparse.Namespace) -> Loaded:
    """Return the spec of a file with this command's changes. SpecError or PluginError with all its mistakes."""
    from driftspec import spec
    from driftspec.spec import fits

    loaded = spec.read(path, known, changes(args), args.allow_outside)
    problems = fits.check(loaded, args.stages)
    if fits.errors(problems):
        raise refusal(problems)
    for problem in problems:
        print(problem, file=sys.stderr)
    return loaded


def run(path: str) -> Path:
    """Return the run that a path means; print which one if it is not the path itself."""
    from driftspec.runs.run_dir import meant

    chosen = meant(path)
    if chosen != Path(path):
        print(f"{printable(path)}: its newest run is {printable(str(chosen))}", file=sys.stderr)
    return chosen


def changes(args: argparse.Namespace) -> Changes:
    """Return the changes of the spec by --set, --unset and the options for single keys, such as --seed."""
    from driftspec.spec import Changes

    keys = {"seed": ("--seed", "seed"), "name": ("--name", "name"), "device": ("--device", "runtime.device"),
            "count": ("-n", "sample.count")}  # fmt: skip
    given = {name: value for name in keys if (value := getattr(args, name, None)) is not None}
    return Changes(tuple(args.sets), tuple(args.unsets), tuple((*keys[name], value) for name, value in given.items()))
