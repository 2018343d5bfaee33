"""The format of numbers and columns in the output of the verbs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from driftspec.errors import RunFailed
from driftspec.source.scalars import on_one_line, with_error

if TYPE_CHECKING:
    from driftspec.components.verdict import Judged
    from driftspec.runs.records import RunRecord


def aligned(rows: Sequence[Sequence[str]], indent: str = "") -> Iterator[str]:
    """Yield rows of equal length as lines; each column is as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield (indent + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))).rstrip()


def measured(entry: Mapping[str, Any] | None) -> str:
    """Return a metric's value and its standard error: "0.332 ± 0.011", or "-" if there is no value."""
    if entry is None or entry.get("value") is None:
        return "-"
    return with_error(entry["value"], entry.get("stderr"))


def verdicts_of(record: RunRecord) -> list[Judged]:
    """Return the verdicts of run.json, the worst first, without damaged ones."""
    from driftspec.components.verdict import SEVERITIES, Judged

    found = []
    for entry in record.verdicts or ():
        with contextlib.suppress(RunFailed):
            found.append(Judged.read(entry))
    return sorted(found, key=lambda one: -SEVERITIES.index(one.verdict.severity))


def standing(status: str, verdicts: Sequence[Mapping[str, Any]]) -> str:
    """Return the status of a run with the subjects of its bad verdicts: "finished, bad: chains"."""
    bad = dict.fromkeys(str(one["subject"]) for one in verdicts if one["severity"] == "bad")
    return f"{status}, bad: {' '.join(bad)}" if bad else status


def value(given: object) -> str:
    """Return a value on one line, as a spec would write it; "-" for null."""
    return "-" if given is None else on_one_line(given)


__all__ = ["aligned", "measured", "standing", "value", "verdicts_of"]
