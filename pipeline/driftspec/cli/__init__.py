"""`run-spec`: one file a verb, and the only code that prints. stdout carries the result, stderr all else."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from driftspec.cli import options
from driftspec.errors import DriftspecError, Interrupted, PluginError, Problem, SpecError, UsageError, nearest

VERBS = {
    "validate": "check specs without running them",
    "plan": "what would run, and where each value comes from",
    "resume": "go on with an interrupted run",
    "sample": "draw from a finished run in another way",
    "evaluate": "measure a finished run in another way",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    verbose = any(word in ("-v", "--verbose") for word in words)
    try:
        return _dispatch(words)
    except DriftspecError as error:
        if verbose:
            traceback.print_exc()
        report(error)
        return error.exit_code
    except BrokenPipeError:  # `run-spec ... | head` closed our stdout: nothing left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if verbose:
            traceback.print_exc()
        print(f"internal error: {type(error).__name__}: {error} (-v shows where)", file=sys.stderr)
        return 1


def _dispatch(words: list[str]) -> int:
    if words and words[0] in VERBS:
        verb: int = importlib.import_module(f"driftspec.cli.{words[0]}").main(words[1:])
        return verb
    if words and not words[0].startswith("-") and not _is_path(words[0]):
        files = [path.name for path in Path().glob("*.y*ml")] + [str(path) for path in Path("specs").glob("*.y*ml")]
        near = nearest(words[0], [*VERBS, *files])
        raise UsageError(f"'{words[0]}' is neither a spec file nor a verb ({', '.join(VERBS)}){near}")
    from driftspec.cli import run

    return run.main(words)


def _is_path(word: str) -> bool:
    """What is there, or is spelt like a file: then its absence is the file's problem, not the verb's."""
    return Path(word).exists() or word.endswith((".yaml", ".yml")) or os.sep in word


def report(error: DriftspecError) -> None:
    """An error on stderr: each problem a line; on a terminal the source line and a caret follow."""
    if isinstance(error, (SpecError, PluginError)):
        for problem in error.problems:
            print(problem, file=sys.stderr)
            if sys.stderr.isatty():
                print(caret(problem), end="", file=sys.stderr)
    else:
        kind = (
            "interrupted" if isinstance(error, Interrupted) else "usage" if isinstance(error, UsageError) else "error"
        )
        print(f"{kind}: {error}", file=sys.stderr)


def caret(problem: Problem) -> str:
    """The line a problem stands on, and a caret below its column."""
    if not problem.source or problem.place is None or not problem.place.line:
        return ""
    line = "".join(c if c.isprintable() else " " for c in problem.source.rstrip())
    return f"    {line}\n    {' ' * (problem.place.column - 1)}^\n"


__all__ = ["VERBS", "caret", "main", "options", "report"]
