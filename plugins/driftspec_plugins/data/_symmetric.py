"""The smallest eigenvalue of a symmetric matrix, in plain Python, because checking a spec imports no numpy.

The cyclic Jacobi method: each rotation makes one pair of entries zero, until all entries off the diagonal are zero. A
sweep costs d³, and a spec has at most 10,000 values, so d < 100. Jacobi, Über ein leichtes Verfahren (1846).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

SWEEPS = 50


def smallest_eigenvalue(matrix: Sequence[Sequence[float]]) -> float:
    """Return the smallest eigenvalue of a symmetric matrix, of which only the lower triangle is read."""
    d = len(matrix)
    a = [[float(matrix[max(i, j)][min(i, j)]) for j in range(d)] for i in range(d)]
    pairs = [(p, q) for p in range(d) for q in range(p + 1, d)]
    small = max(abs(x) for row in a for x in row) * 1e-17
    for _ in range(SWEEPS):
        left = [(p, q) for p, q in pairs if abs(a[p][q]) > small]
        if not left:
            break
        for p, q in left:
            if a[p][q]:
                _rotate(a, p, q)
    return min(a[i][i] for i in range(d))


def _rotate(a: list[list[float]], p: int, q: int) -> None:
    """Replace a by Rᵀ a R, where R is the rotation in the plane of p and q that makes a[p][q] zero."""
    slope = (a[q][q] - a[p][p]) / (2 * a[p][q])
    t = math.copysign(1, slope) / (abs(slope) + math.hypot(slope, 1))
    c = 1 / math.hypot(t, 1)
    s = t * c
    a[p], a[q] = [c * x - s * y for x, y in zip(a[p], a[q])], [s * x + c * y for x, y in zip(a[p], a[q])]
    for row in a:
        row[p], row[q] = c * row[p] - s * row[q], s * row[p] + c * row[q]
    a[p][q] = a[q][p] = 0.0


__all__ = ["smallest_eigenvalue"]
