"""The exceptions of this package with their exit codes, and the codes of problems.

DriftspecError
├── UsageError        2   a command, or a call from Python, is wrong
├── SpecError         3   a spec (or a data file it names) is wrong: it carries every Problem found
├── PluginError       4   a plugin is missing, broken, in conflict or for another API: it carries Problems too
└── RunFailed         1   training, evaluation or sampling failed
    └── SolveFailed   1   an ODE solve ended with a status other than "ok"

Interrupted      130/143  a signal arrived and a checkpoint was written. Like KeyboardInterrupt it is not an Exception
"""

from __future__ import annotations

import contextlib
import difflib
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

CODES = {
    "Y001": "the file cannot be read or is outside the allowed folders",
    "Y002": "the file is not UTF-8 text",
    "Y003": "the file is empty",
    "Y004": "the text is not YAML",
    "Y005": "a key is repeated",
    "Y006": "tags are refused: a spec is plain data",
    "Y007": "too large: too many levels, values (with aliases expanded) or bytes",
    "Y008": "an alias has no anchor, or refers to itself",
    "Y009": "a value that YAML 1.1 and 1.2 read differently: write it in another form",
    "Y010": "a key must be text",
    "Y011": "a spec is one mapping in one document",
    "Y012": "a character that is not allowed in a spec",
    "Y013": "the base that 'extends' names cannot be used",
    "Y014": "a path that --set or --unset names does not exist",
    "S110": "a key or section is missing",
    "S111": "an unknown key",
    "S112": "a value of the wrong type",
    "S113": "a value out of range",
    "S114": "a value that is not one of those allowed",
    "S115": "a value that its component does not accept",
    "S120": "no component has this name, or it is not allowed here",
    "S121": "a component without a type",
    "S130": "a sweep has too many points, two equal points, or keys in conflict",
    "P201": "a plugin failed to import",
    "P202": "two plugins provide the same name",
    "P203": "a plugin for another API version",
    "P204": "a plugin breaks the rules of its kind",
    "P205": "DRIFTSPEC_BLOCK_PLUGINS blocks a plugin, or names one that is not installed",
    "P206": "a library that a component needs is not installed",
    "P207": "an observer of a run raised an error",
    "X301": "two components do not fit together",
    "X302": "sections do not go together, or a section is missing",
    "X303": "a value that conflicts with the rest of the spec",
    "X304": "a data file cannot be used or looks wrong",
    "X305": "the run would fail at its first step (found by validate --deep)",
}
"""Stable codes of problems: Y0xx file and YAML, S1xx keys and values, P2xx plugins, X3xx parts that do not fit."""


@dataclass(frozen=True, order=True)
class Place:
    """A place in a file: line and column, counted from 1. Values of `--set` and default values have line 0."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        file = printable(self.file)
        return f"{file}:{self.line}:{self.column}" if self.line else file


@dataclass(frozen=True)
class Problem:
    """One mistake in a spec or a plugin: its code, its place, and a message of one line.

    The message states what was given, what is allowed and the nearest valid name.
    """

    code: str
    message: str
    place: Place | None = None
    severity: str = "error"
    source: str = field(default="", compare=False)  # the line of text at the place, to print with a caret

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", printable(self.message))

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        return f"{where}{self.severity}[{self.code}] {self.message}"


class DriftspecError(Exception):
    """The base class of every exception that this package raises on purpose."""

    exit_code = 1


class UsageError(DriftspecError):
    """A command, or an argument of a call from Python, is wrong."""

    exit_code = 2


class _Found(DriftspecError):
    """An exception with `problems`: every mistake found, in order of place."""

    def __init__(self, problems: Problem | Sequence[Problem]):
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(map(str, self.problems)))


class SpecError(_Found):
    """A spec is wrong."""

    exit_code = 3


class PluginError(_Found):
    """A plugin is missing, broken, in conflict, or made for another API version."""

    exit_code = 4


class RunFailed(DriftspecError):
    """A run failed: `status` names the reason, `step` the step of training, `cure` what to change."""

    def __init__(self, message: str, status: str = "failed", step: int | None = None, cure: str = ""):
        self.message, self.status, self.step, self.cure = message, status, step, cure
        super().__init__(f"{message}; {cure}" if cure else message)


class SolveFailed(RunFailed):
    """An ODE solve ended with `status`: non_finite, budget, step_underflow, not_converged or adjoint_unreliable.

    `rows` are the indices, counted from 0, of the points that failed, if they are known.
    """

    def __init__(
        self, message: str, status: str = "failed", step: int | None = None, cure: str = "", rows: Sequence[int] = ()
    ):
        self.rows = tuple(rows)
        super().__init__(message, status, step, cure)


class Interrupted(BaseException):
    """A signal arrived; the run wrote a checkpoint and can be resumed.

    Like KeyboardInterrupt it is not an Exception, so that `except Exception` in a loop over runs does not catch it.
    """

    def __init__(self, message: str, signal: int):
        self.exit_code = 128 + signal
        super().__init__(message)


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems sorted by place; those without a place come first."""
    return sorted(problems, key=lambda problem: problem.place or Place(""))


def refusal(problems: Sequence[Problem]) -> SpecError | PluginError:
    """Return the exception to raise: PluginError if every error has a plugin code (P2xx), else SpecError."""
    errors = [one for one in problems if one.severity == "error"]
    return (PluginError if all(one.code.startswith("P") for one in errors) else SpecError)(problems)


def cause(error: BaseException) -> str:
    """Return the type and message of another library's error on one line; for a SyntaxError, with its line number."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} (line {error.lineno})"
    try:
        text = str(error).strip()
    except Exception:  # str() of the error may raise too
        text = ""
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


Kind = TypeVar("Kind")


@contextlib.contextmanager
def blamed(label: str) -> Iterator[None]:
    """In this context, turn an exception of other code into a RunFailed whose message begins with `label`."""
    try:
        yield
    except DriftspecError:
        raise
    except Exception as error:
        raise RunFailed(f"{label} failed: {cause(error)} (-v shows where)") from error


def returned(value: object, kind: type[Kind], method: str) -> Kind:
    """Return the value if it has this type. TypeError names the method that returned another one."""
    if not isinstance(value, kind):
        raise TypeError(f"{method} returned {type(value).__name__}, not {kind.__name__}")
    return value


def printable(text: str) -> str:
    """Return the text with every unprintable character escaped: line breaks, control codes, text direction."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def nearest(given: str, allowed: Iterable[str], alike: float = 0.6) -> str:
    """Return " (did you mean 'noise'?)" for the nearest allowed name, or "" if none is near.

    A name is near if its spelling is similar (ratio at least `alike`). If there is none, a name that has `given` as one
    of its words, such as 'max_steps' for 'steps', is near if it is the only one.
    """
    found = spelt_like(given, allowed, alike)
    return f" (did you mean '{found}'?)" if found else ""


def spelt_like(given: str, allowed: Iterable[str], alike: float = 0.6) -> str:
    """Return the nearest allowed name, or "" if none is near. The leading dashes of an option do not count."""
    return _nearest(given.lower().lstrip("-"), tuple(allowed), alike)


@functools.lru_cache(maxsize=256)  # the same mistake often occurs many times
def _nearest(given: str, allowed: tuple[str, ...], cutoff: float) -> str:
    spelt = {name.lower().lstrip("-"): name for name in allowed}
    if len(given) < 3:  # one of the two letters is enough, for names of up to three
        alike = difflib.get_close_matches(given, [name for name in spelt if len(name) < 4], n=1, cutoff=0.5)
    else:
        alike = difflib.get_close_matches(given, spelt, n=1, cutoff=cutoff)
    holding = [name for name in spelt if len(given) > 2 and given in name.split("_")]
    found = alike or (holding if len(holding) == 1 else [])
    return spelt[found[0]] if found else ""


def shown(value: object, limit: int = 60) -> str:
    """Return a value as messages show it: text in quotes, control characters escaped, at most `limit` characters."""
    if isinstance(value, bool) or value is None:
        text = {True: "true", False: "false", None: "null"}[value]
    elif isinstance(value, str):
        text = ascii(value) if not value.isprintable() else f"'{value}'"
    elif isinstance(value, dict):
        text = "a mapping"
    elif isinstance(value, (list, tuple)):
        text = "a list"
    else:
        text = str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
