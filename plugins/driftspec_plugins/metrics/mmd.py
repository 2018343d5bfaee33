"""Maximum mean discrepancy: MMD²(P, Q) = E k(X, X') + E k(Y, Y') - 2 E k(X, Y), zero only for P = Q.

k(x, y) = mean_s exp(-‖x - y‖² / (2 (s h)²)), h the bandwidth and s its scales: a Gaussian kernel, or a mixture.

Gretton, Borgwardt, Rasch, Schölkopf, Smola, *A kernel two-sample test*, 2012: the unbiased U-statistic of lemma 6,
which may come out below zero; the median heuristic of section 8. Its variance has a part of first order, and one of
second order, S = 2 ξ_xx/(n(n - 1)) + 2 ξ_yy/(m(m - 1)) + 4 ξ_xy/(nm), ξ the mean square of the doubly centred kernel.
For P = Q only S remains. The jackknife counts S twice (Efron, Stein, *The jackknife estimate of variance*, 1981), so
one S is taken off, and no less than S is left; for P = Q the standard error is still too large, by about 1.25.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from driftspec.errors import RunFailed
from driftspec_plugins.metrics._two_samples import TwoSamples, by_chain

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Measured
    from driftspec.evaluate import Evaluation

HEURISTIC_ROWS = 1000


class MMD(TwoSamples):
    """MMD² between the run's draws and data; the kernel has no unit, so neither has the value."""

    type = "mmd"

    bandwidth: float | None = Field(
        None, gt=0, description="h of the Gaussian kernel, in the data's units; null: median distance of training rows"
    )
    scales: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (1.0,), min_length=1, description="factors of h; more than one is a mixture, sensitive to more than one scale"
    )

    def measure(self, evaluation: Evaluation) -> Measured:
        both = self.compared(evaluation)
        details: dict[str, Any] = {"bandwidth": self.bandwidth, "bandwidth_from": "the spec"}
        if self.bandwidth is None:
            rows = evaluation.dataset.rows()[:HEURISTIC_ROWS]
            source = f"median distance of {len(rows)} training rows"
            details = {"bandwidth": median_distance(rows), "bandwidth_from": source}
        h = details["bandwidth"]
        if not h:
            raise RunFailed(f"{self.label}: more than half of all pairs of training rows are equal; give a bandwidth")
        value, stderr = mmd(both.x, both.y, h, self.scales, both.parts)
        floor = evaluation.floor(lambda a, b: mmd(a, b, h, self.scales)[0], len(both.x))
        return both.measured(value, stderr, "", {"floor": floor, **details})


def median_distance(x: Tensor) -> float:
    """The median of ‖x_i - x_j‖ over all pairs i < j of rows of x (n, d)."""
    import torch

    return float(torch.pdist(x).median())


def mmd(
    x: Tensor, y: Tensor, bandwidth: float, scales: Sequence[float] = (1.0,), parts: int | None = None
) -> tuple[float, float]:
    """(MMD², standard error) for x (n, d) in so many independent parts (null: n) and y (m, d)."""
    n, m = parts or len(x), len(y)
    k_xx, k_yy, k_xy = (_kernel(a, b, bandwidth, scales) for a, b in ((x, x), (y, y), (x, y)))
    k_xx, k_xy = by_chain(by_chain(k_xx, n).T, n), by_chain(k_xy, n)
    within_x, within_y = k_xx.fill_diagonal_(0).sum(1), k_yy.fill_diagonal_(0).sum(1)
    rows, columns = k_xy.sum(1), k_xy.sum(0)
    total_x, total_y, total = within_x.sum(), within_y.sum(), rows.sum()
    value = total_x / (n * (n - 1)) + total_y / (m * (m - 1)) - 2 * total / (n * m)
    # Jackknife: leaving one row out takes that row's own terms from each sum. Constants do not matter to a variance.
    without_x = (total_x - 2 * within_x) / ((n - 1) * (n - 2)) - 2 * (total - rows) / ((n - 1) * m)
    without_y = (total_y - 2 * within_y) / ((m - 1) * (m - 2)) - 2 * (total - columns) / (n * (m - 1))
    jackknife = without_x.var(correction=0) * (n - 1) + without_y.var(correction=0) * (m - 1)
    mean_x, mean_y = within_x / (n - 1), within_y / (m - 1)
    k_xx, k_yy = _centred(k_xx, mean_x, mean_x).fill_diagonal_(0), _centred(k_yy, mean_y, mean_y).fill_diagonal_(0)
    second = (
        2 * k_xx.square().sum() / (n * (n - 1)) ** 2
        + 2 * k_yy.square().sum() / (m * (m - 1)) ** 2
        + 4 * _centred(k_xy, rows / m, columns / n).square().sum() / (n * m) ** 2
    )
    return float(value), math.sqrt(max(float(jackknife - second), float(second)))


def _kernel(x: Tensor, y: Tensor, bandwidth: float, scales: Sequence[float]) -> Tensor:
    """k(x_i, y_j) (n, m). The distances are differences, not ‖x‖² + ‖y‖² - 2 x·y, which cancels far from the origin."""
    import torch

    exponents = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").div_(bandwidth).square_().div_(-2)
    k = torch.zeros_like(exponents)
    for s in scales:
        k += (exponents / s**2).exp_()
    return k / len(scales)


def _centred(k: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """k_ij less its row's mean and its column's, plus the mean of all."""
    return k - rows[:, None] - columns[None, :] + rows.mean()
