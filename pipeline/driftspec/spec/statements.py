"""What a spec shows: statements, each with its equation, a number of the run, and the value that theory expects.

A number agrees with its expected value v if |number - v| <= within + 3 stderr, where stderr is its standard error. With
`above` or `below` in the place of v, it agrees if it is beyond that bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import Field, model_validator

from driftspec.components.verdict import Verdict
from driftspec.errors import nearest
from driftspec.source.scalars import with_error
from driftspec.spec.section import Section

ERRORS = 3.0
"""The number of standard errors within which a number agrees with its expected value."""


class Statement(Section):
    """A statement that the run shows: its equation, and the number that agrees with it."""

    statement: str = Field(min_length=1, max_length=200, description="the statement, as a heading")
    equation: str | None = Field(None, min_length=1, description="its equation; null: none")
    text: str | None = Field(None, min_length=1, description="what the run shows of it, in a few sentences; null: none")
    metric: str | None = Field(None, description="the key of a metric in metrics.json; null: no number of this run")
    detail: tuple[str, ...] | None = Field(
        None, min_length=1, description="the path of a number in the metric's details; null: the metric's value"
    )
    unit: str | None = Field(None, description="the number's unit; null: the metric's own, and none for a detail")
    expect: float | None = Field(None, description="the expected value; null: none")
    within: float | None = Field(
        None, ge=0, description="the difference allowed beside 3 standard errors, such as a solver's tolerance; null: 0"
    )
    above: float | None = Field(None, description="a bound that the number exceeds; null: none")
    below: float | None = Field(None, description="a bound that the number stays under; null: none")
    picture: str | None = Field(None, description="the name of a picture of the run; null: none")

    @model_validator(mode="after")
    def _keys_have_a_use(self) -> Self:
        for key in ("detail", "expect", "above", "below"):
            if getattr(self, key) is not None and self.metric is None:
                raise ValueError(f"'{key}' needs a 'metric': the number that it is about")
        if self.within is not None and self.expect is None:
            raise ValueError("'within' needs 'expect': the value that it is the distance from")
        if self.expect is not None and (self.above is not None or self.below is not None):
            raise ValueError("it takes 'expect', or 'above' and 'below', not both")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError(f"no number is above {self.above:g} and below {self.below:g}")
        return self

    @property
    def expectation(self) -> str | None:
        """The expected value in words: "2 ± 0.1", "above 0.1"; None if nothing is expected."""
        if self.expect is not None:
            return f"{self.expect:g}" + (f" ± {self.within:g}" if self.within else "")
        bounds = (("above", self.above), ("below", self.below))
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None) or None

    def number(self, metrics: Mapping[str, Any]) -> Number | str:
        """Return the number of this statement from the entries of metrics.json, or the reason why there is none.

        Its standard error is the `stderr` beside a `value`, or beside a plain number NAME the number NAME_stderr.
        """
        entry: Any = metrics.get(self.metric or "")
        if not isinstance(entry, Mapping):
            return f"'{self.metric}' was not measured"
        found, around, way = entry, {}, str(self.metric)
        for key in ("details", *self.detail) if self.detail else ():
            inner = _by_name(found)
            if key not in inner:
                return f"'{way}' has no '{key}'{nearest(key, inner)}"
            found, around, way = inner[key], inner, f"{way}.{key}"
        beside = around.get(f"{self.detail[-1]}_stderr") if self.detail else None
        one = found if isinstance(found, Mapping) else {"value": found, "stderr": beside}
        value: Any = one.get("value")
        stderr: Any = one.get("stderr")
        if not _is_number(value):
            return f"'{way}' is no number"
        unit = self.unit or one.get("unit", "" if self.detail else entry.get("unit"))
        return Number(float(value), float(stderr) if _is_number(stderr) else None, str(unit or ""))

    def agrees(self, number: Number) -> bool | None:
        """Whether the number is as expected; None if nothing is expected."""
        if self.expectation is None:
            return None
        if self.expect is not None:
            return abs(number.value - self.expect) <= (self.within or 0.0) + ERRORS * (number.stderr or 0.0)
        return (self.above is None or number.value > self.above) and (self.below is None or number.value < self.below)

    def verdict(self, metrics: Mapping[str, Any]) -> Verdict | None:
        """Return the verdict on the number; None if nothing is expected."""
        if self.expectation is None:
            return None
        number = self.number(metrics)
        if isinstance(number, str):
            text = f"{number}, where {self.expectation} is expected ({self.statement})"
            return Verdict("expected", "no_number", text, "bad")
        good = self.agrees(number)
        text = f"{number}, expected {self.expectation} ({self.statement})"
        outcome = "as_expected" if good else "not_as_expected"
        return Verdict("expected", outcome, text, "good" if good else "bad")


@dataclass(frozen=True)
class Number:
    """A number with its standard error, if it has one, and its unit."""

    value: float
    stderr: float | None
    unit: str

    def __str__(self) -> str:
        return f"{with_error(self.value, self.stderr)} {self.unit}".strip()


def _by_name(found: Any) -> dict[str, Any]:
    """Return the entries of a mapping, or of a list by their index; none of another value."""
    entries = enumerate(found) if isinstance(found, list) else found.items() if isinstance(found, Mapping) else ()
    return {str(name): one for name, one in entries}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


__all__ = ["Number", "Statement"]
