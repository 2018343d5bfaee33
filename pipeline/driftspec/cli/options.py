"""Options that several verbs share, and what they turn into."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from driftspec import __version__
from driftspec.errors import UsageError


class Parser(argparse.ArgumentParser):
    """argparse, with mistakes raised as UsageError in place of a usage dump."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see: {self.prog} --help")


def parser(verb: str, description: str, epilog: str | None = None) -> Parser:
    """A verb's parser with the options that work everywhere."""
    made = Parser(
        prog=f"run-spec {verb}".strip(), description=description, epilog=epilog, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument("--plugin", action="append", default=[], metavar="FILE.py", help="load a one-file plugin")
    made.add_argument("--no-plugins", action="store_true", help="load no installed plugin but the built-in ones")
    made.add_argument("-v", "--verbose", action="store_true", help="more detail, and tracebacks")
    made.add_argument("--version", action="version", version=f"driftspec {__version__}")
    return made


def changing(made: Parser) -> None:
    """--set and --unset."""
    made.add_argument(
        "--set",
        action="append",
        default=[],
        dest="sets",
        metavar="KEY=VALUE",
        help="e.g. train.steps=10, evaluate+=nll",
    )
    made.add_argument("--unset", action="append", default=[], dest="unsets", metavar="KEY", help="remove a key")


def running(made: Parser) -> None:
    """What every verb takes that computes something."""
    made.add_argument("--seed", type=_seed, help="in place of the spec's seed")
    made.add_argument("--out", metavar="DIR", help="the run directory; by default runs/NAME/TIME-DIGEST")
    showing(made)


def showing(made: Parser) -> None:
    """How much is said, and in which form."""
    made.add_argument("--quiet", action="store_true", help="no progress")
    made.add_argument("--format", choices=["text", "json"], default="text", help="form of the result on stdout")


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 below 2^63")
    return int(text)


def registry(args: argparse.Namespace) -> Any:
    """The plugins of this command; what could not be loaded is one warning each."""
    from driftspec.registry import discover

    found = discover(args.plugin, only_builtin=args.no_plugins)
    for warning in found.broken:
        print(f"warning[P201] {warning}", file=sys.stderr)
    return found


def changes(args: argparse.Namespace) -> Any:
    """--set, --unset and the options that stand for a key."""
    from driftspec.spec import Changes

    keys = {"seed": "seed", "name": "name", "device": "runtime.device", "count": "sample.count"}
    options = tuple(
        (f"--{flag}", path, value) for flag, path in keys.items() if (value := getattr(args, flag, None)) is not None
    )
    return Changes(tuple(args.sets), tuple(args.unsets), options)
