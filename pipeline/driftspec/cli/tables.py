"""Numbers and columns as the verbs print them."""

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
    """Rows of equal length as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield (indent + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))).rstrip()


def measured(entry: Mapping[str, Any] | None) -> str:
    """A metric's value and its standard error: "0.332 ± 0.011", or "-" where there is none."""
    if entry is None or entry.get("value") is None:
        return "-"
    return with_error(entry["value"], entry.get("stderr"))


def verdicts_of(record: RunRecord) -> list[Judged]:
    """The verdicts that run.json has, the worst first; those that are damaged are left out."""
    from driftspec.components.verdict import SEVERITIES, Judged

    found = []
    for entry in record.verdicts or ():
        with contextlib.suppress(RunFailed):
            found.append(Judged.read(entry))
    return sorted(found, key=lambda one: -SEVERITIES.index(one.verdict.severity))


def standing(status: str, verdicts: Sequence[Mapping[str, Any]]) -> str:
    """How a run ended, with the subjects of its bad verdicts: "finished, bad: chains"."""
    bad = dict.fromkeys(str(one["subject"]) for one in verdicts if one["severity"] == "bad")
    return f"{status}, bad: {' '.join(bad)}" if bad else status


def value(given: object) -> str:
    """A value as a spec would have it, on one line; "-" for null."""
    return "-" if given is None else on_one_line(given)


__all__ = ["aligned", "measured", "standing", "value", "verdicts_of"]
