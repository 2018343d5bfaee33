"""`run-spec`: one file per verb. Only this package prints: results to stdout, everything else to stderr."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from driftspec.cli import foreign, options
from driftspec.errors import DriftspecError, Interrupted, PluginError, Problem, SpecError, UsageError, cause, printable
from driftspec.registry.elsewhere import WORDS, Words

VERBS = {
    "validate": "check specs without running them",
    "explain": "explain an error code such as S111, with an example",
    "schema": "write the JSON Schema of specs, for editors and other checkers",
    "plan": "show what would run, and where each value comes from",
    "init": "write a commented spec to start from",
    "sweep": "run every point of a spec's sweep",
    "runs": "list runs, show one, or compare two",
    "report": "write one page of several runs, or of a folder of specs",
    "plugins": "list what is installed, show or check components, start a package",
    "resume": "continue an interrupted run",
    "sample": "draw samples from a finished run, without training again",
    "evaluate": "measure a finished run, without training again",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    verbose = any(word in ("-v", "--verbose") for word in words)
    try:
        with foreign.reported(verbose):
            code = _dispatch(words)
        sys.stdout.flush()
    except (DriftspecError, Interrupted) as error:
        if verbose:
            traceback.print_exc()
        print_error(error)
        code = error.exit_code
    except BrokenPipeError:  # stdout was closed, as by `run-spec ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except Exception as error:
        if verbose:
            traceback.print_exc()
        print(f"internal error: {printable(cause(error))} (-v shows where)", file=sys.stderr)
        code = 1
    return code


def _dispatch(words: list[str]) -> int:
    """Run the verb, or a spec if the first word is no verb; return the exit code."""
    if words and words[0] in VERBS:
        verb: int = importlib.import_module(f"driftspec.cli.{words[0]}").main(words[1:])
        return verb
    if words and not words[0].startswith("-") and not _is_path(words[0]):
        raise UsageError(_neither(words[0]))
    from driftspec.cli import run

    return run.main(words)


def _is_path(word: str) -> bool:
    """Whether the word is a file, or looks like one: if it is missing, the message is about a file, not a verb."""
    return Path(word).exists() or word.endswith((".yaml", ".yml")) or os.sep in word


def _neither(word: str) -> str:
    """Return the message for a word that is neither a spec nor a verb, with the nearest of both."""
    specs = {path.stem: str(path) for folder in ("specs", ".") for path in sorted(Path(folder).glob("*.y*ml"))}
    entry = Words(WORDS).meant(word, (*VERBS, "train"))
    verbs = [entry] if entry in VERBS else difflib.get_close_matches(word.lower(), VERBS, n=1)
    files = [specs[name] for name in difflib.get_close_matches(word, specs, n=1)]
    near = " or ".join(f"'{name}'" for name in [*verbs, *files])
    hint = f" (did you mean {near}?)" if near else ""
    if word.lower() in ("train", "run") or entry == "train":
        hint = ": run-spec SPEC trains, measures and samples a spec"
    return f"'{word}' is neither a spec's file nor a verb{hint}; verbs: {', '.join(VERBS)}"


def print_error(error: DriftspecError | Interrupted) -> None:
    """Print an error to stderr: one line per problem."""
    if isinstance(error, (SpecError, PluginError)):
        print_problems(error.problems)
    else:
        kind = "" if isinstance(error, Interrupted) else "error: "
        print(f"{kind}{printable(str(error))}", file=sys.stderr)


def print_problems(problems: Iterable[Problem]) -> None:
    """Print problems to stderr, one per line; on a terminal also the line of the spec, with a caret."""
    for problem in problems:
        print(problem, file=sys.stderr)
        if sys.stderr.isatty():
            print(caret(problem), end="", file=sys.stderr)


def caret(problem: Problem) -> str:
    """Return the line of the spec with the problem (a part of a long line), and a caret below the column."""
    if not problem.source or problem.place is None or not problem.place.line:
        return ""
    column = problem.place.column - 1
    start = max(0, column - 60)
    line = "".join(c if c.isprintable() else " " for c in problem.source[start : start + 120].rstrip())
    return f"    {line}\n    {' ' * (column - start)}^\n"


__all__ = ["VERBS", "caret", "main", "options", "print_error", "print_problems"]
