"""Maximum mean discrepancy: MMD²(P, Q) = E k(X, X') + E k(Y, Y') - 2 E k(X, Y), zero only for P = Q.

k(x, y) = mean_s exp(-‖x - y‖² / (2 (s h)²)) is a Gaussian kernel with bandwidth h, or a mean of several with scales s.

Gretton, Borgwardt, Rasch, Schölkopf, Smola, *A kernel two-sample test*, 2012. The value is the unbiased U-statistic of
lemma 6, which may be negative; the default h is the median heuristic of section 8. `_u_statistics` computes the
standard error, which for P = Q is 1.8 times the true one; `chance` is the standard error if P = Q.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from driftspec.errors import RunFailed
from driftspec_plugins.metrics._two_samples import TwoSamples
from driftspec_plugins.metrics._u_statistics import discrepancy

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation, Measured

HEURISTIC_ROWS = 1000


class MMD(TwoSamples):
    """MMD² between the run's draws and data. It has no unit."""

    type = "mmd"

    bandwidth: float | None = Field(
        None, gt=0, description="h of the Gaussian kernel, data units; null: the median distance of training rows"
    )
    scales: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (1.0,), min_length=1, description="factors s of h; the kernel is the mean over them"
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
        value, stderr, chance = mmd(both.x, both.y, h, self.scales, both.parts)
        floor = evaluation.floor(lambda a, b: mmd(a, b, h, self.scales)[0], len(both.x))
        return both.measured(value, stderr, "", {"floor": floor, "chance": chance, **details})


def median_distance(x: Tensor) -> float:
    """Return the median of ‖x_i - x_j‖ over all pairs i < j of rows of x (n, d)."""
    import torch

    return float(torch.pdist(x).median())


def mmd(
    x: Tensor, y: Tensor, bandwidth: float, scales: Sequence[float] = (1.0,), parts: int | None = None
) -> tuple[float, float, float]:
    """Return MMD², its standard error, and its standard error if P = Q, for x (n, d) and y (m, d).

    x has `parts` independent parts of equal length (None: n).
    """
    return discrepancy(lambda a, b: _kernel(a, b, bandwidth, scales), x, y, parts or len(x))


def _kernel(x: Tensor, y: Tensor, bandwidth: float, scales: Sequence[float]) -> Tensor:
    """Return k(x_i, y_j) (n, m); ‖x‖² + ‖y‖² - 2 x·y would lose digits far from the origin, so it is not used."""
    import torch

    exponents = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").div_(bandwidth).square_().div_(-2)
    k = torch.zeros_like(exponents)
    for s in scales:
        k += (exponents / s**2).exp_()
    return k / len(scales)
