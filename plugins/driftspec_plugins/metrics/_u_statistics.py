"""U-statistics of kernels: means over pairs of independent parts, and their standard errors.

The variance of such a mean has a term of first order, which the jackknife estimates, and one of second order,

    S = 2 ξ/(n (n - 1)),   ξ the mean square of the doubly centred kernel k_ij - k_i. - k_.j + k_..

Hoeffding, *A Class of Statistics with Asymptotically Normal Distribution*, 1948. If P = Q, the first order is 0. Then
the jackknife is too small whenever the mean is small, and about 15 % of the values are below the truth by more than
1.96 standard errors, some by 10. So the variance is at least 3 S, its size when the true mean is about 2 √S: a mean
near 0 does not show which case it is. For P = Q the standard error is then 1.8 times the true one, √S, which is
reported too as `chance`. For 100 draws and 100 data rows of normal distributions, ± 1.96 standard errors cover the
truth in 100 % of cases if P = Q, in 91 to 98 % if the mean is 3 to 6 times √S (the energy distance least), and in 94 to
95 % beyond.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driftspec_plugins.metrics._two_samples import by_chain

if TYPE_CHECKING:
    from torch import Tensor

    Kernel = Callable[[Tensor, Tensor], Tensor]  # points (n, d) and (m, d) -> k(x_i, y_j) (n, m), a new tensor

AT_ONCE = 2**22
"""The number of values of a kernel that are in memory at once: 32 MiB in float64."""


@dataclass(frozen=True)
class Pairs:
    """Sums of a symmetric kernel over pairs i ≠ j of n parts: Σ_j k_ij of each row (n,), and Σ_ij k_ij² ()."""

    rows: Tensor
    squares: Tensor

    @property
    def n(self) -> int:
        """The number of parts."""
        return len(self.rows)

    @property
    def mean(self) -> Tensor:
        """The mean of k_ij over i ≠ j, ()."""
        return self.rows.sum() / (self.n * (self.n - 1))

    @property
    def without(self) -> Tensor:
        """The mean without part i, (n,)."""
        return (self.rows.sum() - 2 * self.rows) / ((self.n - 1) * (self.n - 2))

    @property
    def second(self) -> Tensor:
        """S (), the variance of second order."""
        n, means = self.n, self.rows / (self.n - 1)
        centred = self.squares - 2 * n * means.square().sum() + n * (n + 1) * self.mean.square()
        return 2 * centred / (n * (n - 1)) ** 2


def pairs(kernel: Kernel, x: Tensor, parts: int) -> Pairs:
    """Return the sums of k(x_i, x_j) over pairs of the parts of x (n, d)."""
    import torch

    sums, squares = _zeros(parts), _zeros(1)
    for first, k in _blocks(kernel, x, parts, x, parts):
        at = torch.arange(len(k))
        k[at, first + at] = 0
        sums[first : first + len(k)] = k.sum(1)
        squares += k.square_().sum()
    return Pairs(sums, squares[0])


def discrepancy(kernel: Kernel, x: Tensor, y: Tensor, parts: int) -> tuple[float, float, float]:
    """Return E k(X, X') + E k(Y, Y') - 2 E k(X, Y), its standard error, and the standard error if P = Q.

    x (n, d) has `parts` independent parts of equal length, y (m, d) has m. The variance of second order is
    S_x + S_y + 4 ξ_xy/(nm), with n the number of parts.
    """
    of_x, of_y = pairs(kernel, x, parts), pairs(kernel, y, len(y))
    n, m = of_x.n, of_y.n
    rows, columns, square = _zeros(n), _zeros(m), _zeros(1)
    for first, k in _blocks(kernel, x, parts, y, m):
        rows[first : first + len(k)] = k.sum(1)
        columns += k.sum(0)
        square += k.square_().sum()
    total, squares = rows.sum(), square[0]
    # Without one part, its terms are subtracted from each sum. Constants do not change a variance.
    without_x = of_x.without - 2 * (total - rows) / ((n - 1) * m)
    without_y = of_y.without - 2 * (total - columns) / (n * (m - 1))
    across = squares - rows.square().sum() / m - columns.square().sum() / n + total.square() / (n * m)
    second = of_x.second + of_y.second + 4 * across / (n * m) ** 2
    stderr = standard_error(jackknife(without_x) + jackknife(without_y), second)
    return float(of_x.mean + of_y.mean - 2 * total / (n * m)), stderr, math.sqrt(max(float(second), 0.0))


def _zeros(n: int) -> Tensor:
    """Return sums (n,) that are still 0. They are made before the blocks, between which they would split the heap."""
    import torch

    return torch.zeros(n, dtype=torch.float64)


def _blocks(kernel: Kernel, x: Tensor, parts: int, y: Tensor, others: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the means of k over pairs of a part of x and a part of y, some parts of x (b, others) at a time.

    With them comes the number of the first part. At most AT_ONCE values of the kernel are in memory.
    """
    import torch

    each = len(x) // parts
    together, piece = max(1, AT_ONCE // (each * len(y))), max(1, AT_ONCE // len(y))
    for first in range(0, parts, together):
        rows = x[first * each : (first + together) * each]
        pieces = (rows[start : start + piece] for start in range(0, len(rows), piece))
        k = torch.cat([by_chain(kernel(some, y).T, others).T for some in pieces])
        yield first, by_chain(k, len(rows) // each)


def jackknife(without: Tensor) -> Tensor:
    """Return the jackknife variance (), from the values without part i (n,)."""
    return without.var(correction=0) * (len(without) - 1)


def standard_error(variance: Tensor, second: Tensor) -> float:
    """Return the larger of √V and √(3 S), for the jackknife variance V () and S ()."""
    return math.sqrt(max(float(variance), 3 * float(second)))
