"""Numbers and columns as the verbs print them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from driftspec.scalars import on_one_line


def aligned(rows: Sequence[Sequence[str]], indent: str = "") -> Iterator[str]:
    """Rows of equal length as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield (indent + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))).rstrip()


def measured(entry: Mapping[str, Any] | None) -> str:
    """A metric's value and its standard error: "0.3315 ± 0.011", or "-" where there is none."""
    if entry is None or entry.get("value") is None:
        return "-"
    error = entry.get("stderr")
    return f"{entry['value']:.4g}" if error is None else f"{entry['value']:.4g} ± {error:.2g}"


def value(given: object) -> str:
    """A value as a spec would have it, on one line; "-" for null."""
    return "-" if given is None else on_one_line(given)


__all__ = ["aligned", "measured", "value"]
