"""The exponent p of a power law y = C x^p, fitted to points, and its line in a picture with logarithmic axes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from driftspec.components.picture import Line


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Return p, the slope of the least-squares line of log y against log x, for positive x and y (n,), n > 1."""
    return statistics.linear_regression(*([math.log(one) for one in values] for values in (x, y))).slope


def line(x: Sequence[float], y: Sequence[float], p: float, label: str) -> Line:
    """Return the line C x^p between the ends of x, with C such that it passes through the last point."""
    return Line([x[0], x[-1]], [y[-1] * (x[0] / x[-1]) ** p, y[-1]], label)


__all__ = ["exponent", "line"]
