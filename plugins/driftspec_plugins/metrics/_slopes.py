"""The exponent p of a power law y = C x^p, fitted to points, and its line in a picture with logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from driftspec.components.picture import Line


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Return p, the slope of the least-squares line of log y against log x, for positive x and y (n,), n > 1."""
    u, v = ([math.log(one) for one in values] for values in (x, y))
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    products = sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True))
    return products / sum((a - mean_u) ** 2 for a in u)


def line(x: Sequence[float], y: Sequence[float], p: float, label: str) -> Line:
    """Return the line C x^p between the ends of x, with C such that it passes through the last point."""
    return Line([x[0], x[-1]], [y[-1] * (x[0] / x[-1]) ** p, y[-1]], label)


__all__ = ["exponent", "line"]
