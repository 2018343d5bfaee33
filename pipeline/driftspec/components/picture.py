"""Pictures that a metric returns as data: panels of lines, points, bars, maps and arrows. The report draws them.

A component that returns a picture imports no plotting library. The report gives each mark of a panel a line style, a
marker and a grey value of its own, so a picture can be read without colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Numbers = Sequence[float]
"""Numbers of one axis: a list, or a numpy array (n,)."""


@dataclass(frozen=True)
class Line:
    """A line through the points (x_i, y_i)."""

    x: Numbers
    y: Numbers
    label: str = ""
    faint: bool = False  # thin and grey: one of many, such as the paths of particles


@dataclass(frozen=True)
class Points:
    """A marker at each point (x_i, y_i); with `errors`, bars of y_i ± errors_i."""

    x: Numbers
    y: Numbers
    label: str = ""
    errors: Numbers | None = None


@dataclass(frozen=True)
class Bars:
    """A histogram: n heights between n + 1 edges."""

    edges: Numbers
    heights: Numbers
    label: str = ""


@dataclass(frozen=True)
class Map:
    """Values on a grid as an image with its scale beside it: `values[j][i]` is at (x_i, y_j)."""

    x: Numbers
    y: Numbers
    values: Sequence[Numbers]
    label: str = ""  # of the scale


@dataclass(frozen=True)
class Arrows:
    """An arrow (u_i, v_i) at each point (x_i, y_i). All are scaled by one factor, so the longest one fits."""

    x: Numbers
    y: Numbers
    u: Numbers
    v: Numbers
    label: str = ""


Mark = Line | Points | Bars | Map | Arrows


@dataclass(frozen=True)
class Panel:
    """The marks on one pair of axes, drawn in their order, and the axes' labels, with units."""

    marks: Sequence[Mark]
    x: str
    y: str
    heading: str = ""  # what this panel has of its own, such as "t = 0.5"
    log: Literal["", "x", "y", "xy"] = ""  # the axes with a logarithmic scale
    equal: bool = False  # whether both axes have the same scale


@dataclass(frozen=True)
class Picture:
    """Panels side by side, and the caption below them."""

    panels: Sequence[Panel]
    caption: str


__all__ = ["Arrows", "Bars", "Line", "Map", "Panel", "Picture", "Points"]
