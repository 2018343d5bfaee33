"""What can go wrong, and the exit code each kind of failure ends with.

DriftspecError
├── UsageError        2   a command or a call itself
├── SpecError         3   a spec (or a data file it names) is wrong: carries every Problem found
├── PluginError       4   a plugin is missing, broken, in conflict or for another API: carries Problems likewise
└── RunFailed         1   training, evaluation or sampling could not go on
    └── SolveFailed   1   an ODE solve ended with a status other than "ok"

Interrupted      130/143  a signal arrived; a checkpoint was written. As KeyboardInterrupt it is no Exception
"""

from __future__ import annotations

import contextlib
import difflib
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

CODES = {
    "Y001": "the file cannot be read, or may not be",
    "Y002": "the file is not UTF-8 text",
    "Y003": "the file is empty",
    "Y004": "the text is not YAML",
    "Y005": "a key is repeated",
    "Y006": "tags are refused: a spec is plain data",
    "Y007": "too large: nesting, values after aliases, or bytes",
    "Y008": "an alias has no anchor, or refers to itself",
    "Y009": "a value that YAML 1.1 and 1.2 read differently: write it plainly",
    "Y010": "a key must be text",
    "Y011": "a spec is one mapping in one document",
    "Y012": "a character that cannot stand in a spec",
    "Y013": "the base that 'extends' names",
    "Y014": "a path that --set or --unset names does not exist",
    "S110": "a key or section is missing",
    "S111": "an unknown key",
    "S112": "a value of the wrong type",
    "S113": "a value out of range",
    "S114": "a value that is none of those allowed",
    "S115": "a value its component refuses",
    "S120": "no component of that name",
    "S121": "a component without a type",
    "S130": "the points of a sweep: too many, two alike, or keys in conflict",
    "P201": "a plugin failed to import",
    "P202": "two plugins provide the same name",
    "P203": "a plugin for another API version",
    "P204": "a plugin breaks the rules of its kind",
    "P205": "a plugin is blocked by DRIFTSPEC_BLOCK_PLUGINS, or that names none",
    "P206": "a library that a component needs is not installed",
    "P207": "an observer of a run failed",
    "X301": "two components do not fit together",
    "X302": "sections that go together, or one that is missing for what is asked",
    "X303": "a number that cannot work with the rest of the spec",
    "X304": "a data file",
    "X305": "a run that fails at its first step, as validate --deep tries it",
}
"""Stable codes: Y0xx file and YAML, S1xx schema, P2xx plugins, X3xx meaning."""


@dataclass(frozen=True, order=True)
class Place:
    """Where something stands: 1-based line and column. `--set` and defaults have line 0."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        file = printable(self.file)
        return f"{file}:{self.line}:{self.column}" if self.line else file


@dataclass(frozen=True)
class Problem:
    """One mistake: code, place, message (what was given, what is allowed, the nearest valid name), on one line."""

    code: str
    message: str
    place: Place | None = None
    severity: str = "error"
    source: str = field(default="", compare=False)  # the line of text it stands on, for a caret

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", printable(self.message))

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        return f"{where}{self.severity}[{self.code}] {self.message}"


class DriftspecError(Exception):
    """Everything this package raises on purpose."""

    exit_code = 1


class UsageError(DriftspecError):
    """A command, or an argument of a call from Python, is wrong."""

    exit_code = 2


class _Found(DriftspecError):
    """What carries Problems: `problems` holds every mistake found, in order of place."""

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
    """A run could not go on; `status` names why, `step` where, `cure` what to change."""

    def __init__(self, message: str, status: str = "failed", step: int | None = None, cure: str = ""):
        self.message, self.status, self.step, self.cure = message, status, step, cure
        super().__init__(f"{message}; {cure}" if cure else message)


class SolveFailed(RunFailed):
    """An ODE solve ended with `status`: non_finite, budget, step_underflow, not_converged or adjoint_unreliable.

    `rows` are the numbers of the points at fault, from 0 on, where they are known.
    """

    def __init__(
        self, message: str, status: str = "failed", step: int | None = None, cure: str = "", rows: Sequence[int] = ()
    ):
        self.rows = tuple(rows)
        super().__init__(message, status, step, cure)


class Interrupted(BaseException):
    """A signal arrived; the run wrote a checkpoint and can be resumed.

    No Exception, as KeyboardInterrupt is none: `except Exception` around a run does not go on with the next one.
    """

    def __init__(self, message: str, signal: int):
        self.exit_code = 128 + signal
        super().__init__(message)


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """By place; what has none first."""
    return sorted(problems, key=lambda problem: problem.place or Place(""))


def refusal(problems: Sequence[Problem]) -> SpecError | PluginError:
    """What to raise for these: a PluginError if each error among them is a plugin's."""
    errors = [one for one in problems if one.severity == "error"]
    return (PluginError if all(one.code.startswith("P") for one in errors) else SpecError)(problems)


def cause(error: BaseException) -> str:
    """A foreign error in one line; for a mistake in the text of a file, with its place."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} (line {error.lineno})"
    try:
        text = str(error).strip()
    except Exception:  # its own words fail too
        text = ""
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


@contextlib.contextmanager
def blamed(label: str) -> Iterator[None]:
    """Turn whatever a component raises, in another library's words, into a RunFailed that begins with its label."""
    try:
        yield
    except DriftspecError:
        raise
    except Exception as error:
        raise RunFailed(f"{label} failed: {cause(error)} (-v shows where)") from error


def printable(text: str) -> str:
    """One line of text with control characters, among them those that colour or reorder it, escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def nearest(given: str, allowed: Iterable[str], alike: float = 0.6) -> str:
    """ " (did you mean 'noise'?)", or an empty string when nothing is near: alike, or alone in having it as a part."""
    found = spelt_like(given, allowed, alike)
    return f" (did you mean '{found}'?)" if found else ""


def spelt_like(given: str, allowed: Iterable[str], alike: float = 0.6) -> str:
    """The nearest of what is allowed, or an empty string; the dashes of an option are no letters."""
    return _nearest(given.lower().lstrip("-"), tuple(allowed), alike)


@functools.lru_cache(maxsize=256)  # one mistake is often made many times
def _nearest(given: str, allowed: tuple[str, ...], cutoff: float) -> str:
    spelt = {name.lower().lstrip("-"): name for name in allowed}
    if len(given) < 3:  # of two letters one may be right, in a name as short
        alike = difflib.get_close_matches(given, [name for name in spelt if len(name) < 4], n=1, cutoff=0.5)
    else:
        alike = difflib.get_close_matches(given, spelt, n=1, cutoff=cutoff)
    holding = [name for name in spelt if len(given) > 2 and given in name.split("_")]
    found = alike or (holding if len(holding) == 1 else [])
    return spelt[found[0]] if found else ""


def shown(value: object, limit: int = 60) -> str:
    """A value for a message: text in quotes, control characters escaped, long ones cut."""
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
