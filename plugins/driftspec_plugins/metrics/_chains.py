"""How much chains tell: effective sample sizes and R-hat, rank-normalised.

    R-hat = √(V/W),   V = (1 - 1/N) W + var(chain means),   W = mean variance within a chain
    ESS   = M N / τ,   τ = -1 + 2 Σ_t (ρ_2t + ρ_2t+1),   ρ_t = 1 - (W - mean autocovariance at lag t)/V

Chains are split in halves first: M chains of N draws. The sum of τ is cut where a pair ρ_2t + ρ_2t+1 turns negative,
and its pairs are made to fall (Geyer 1992). `bulk` reads the draws' normal scores, Φ⁻¹((rank - 3/8)/(n + 1/4)), which
have moments for every law; `tail` the indicators of the 5 % and 95 % quantiles; R-hat is the larger one of the scores'
and of those of the distances to the median. Vehtari, Gelman, Simpson, Carpenter, Bürkner, *Rank-Normalization, Folding,
and Localization: An Improved R-hat for Assessing Convergence of MCMC*, 2021. As in ArviZ, to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from driftspec.components import Metric
from driftspec.errors import RunFailed, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from driftspec.evaluate import Evaluation

    Array = NDArray[np.float64]

FEWEST = 4  # draws of a chain below which its halves have no variance


class OfQuantities(Metric):
    """A metric over the quantities that reports speak of: the target's own, or the data's columns."""

    of: tuple[str, ...] | None = Field(
        None, min_length=1, description="names of the reported quantities, in constrained coordinates; null: all"
    )

    def quantities(self, evaluation: Evaluation) -> tuple[Tensor, tuple[str, ...]]:
        """(chains, draws, m) float64, with names. RunFailed where a draw is not finite."""
        values, names = evaluation.reported(evaluation.chains())
        broken = int((~values.isfinite()).any(-1).sum())
        if broken:
            raise RunFailed(f"{self.label}: {broken} of {values[..., 0].numel()} draws are not finite", "non_finite")
        columns = chosen(self, self.of, names)
        return values[..., columns], tuple(names[column] for column in columns)


def chosen(metric: Metric, of: Sequence[str] | None, names: Sequence[str]) -> list[int]:
    """Positions of the quantities that a metric is of. RunFailed for a name that is not there."""
    for name in of or ():
        if name not in names:
            text = f"{metric.label}: of: no column '{name}'; one of {', '.join(names)}{nearest(name, names)}"
            raise RunFailed(text)
    return [list(names).index(name) for name in (of or names)]


def split(x: Array) -> Array:
    """Halves of chains (2M, N/2) for x (M, N); the middle draw of an odd number is left out."""
    import numpy as np

    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, -half:]])


def scores(x: Array) -> Array:
    """Normal scores of the ranks, ties at their mean."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    return ndtri((rankdata(x).reshape(x.shape) - 0.375) / (x.size + 0.25))


def size(x: Array) -> float:
    """ESS of the mean of x (M, N), as it stands; of draws that are all alike their number."""
    import numpy as np

    m, n = x.shape
    if np.ptp(x) < 1e-15:
        return float(x.size)
    centred = x - x.mean(1, keepdims=True)
    power = np.abs(np.fft.rfft(centred, 2 ** math.ceil(math.log2(2 * n)))) ** 2
    covariance = np.fft.irfft(power.mean(0))[:n] / n  # at lags 0, 1, ..., the mean over chains
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + (x.mean(1).var(ddof=1) if m > 1 else 0.0)
    rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    pairs = rho[: 2 * max(1, (n - 1) // 2)].reshape(-1, 2).sum(1)  # the last lags rest on a draw or two
    last = int(np.argmax(pairs <= 0)) if (pairs <= 0).any() else len(pairs) - 1
    half = float(rho[2 * last])  # of the pair where the sum is cut its even lag, once
    tau = -1 + 2 * np.minimum.accumulate(pairs[:last]).sum() + (half if half > 0 or pairs[last] >= 0 else 0.0)
    return x.size / max(tau, 1 / math.log10(x.size))


def bulk(x: Array) -> float:
    """Bulk ESS of x (M, N)."""
    return size(scores(split(x)))


def tail(x: Array) -> float:
    """The smaller ESS of the 5 % and the 95 % quantile."""
    import numpy as np

    return min(size(split((x <= np.quantile(x, q)).astype(float))) for q in (0.05, 0.95))


def mean_size(x: Array) -> float:
    """ESS for the mean of x (M, N); of chains too short to be split, their number."""
    return size(split(x)) if x.shape[1] >= FEWEST else float(len(x))


def r_hat(x: Array) -> float | None:
    """Rank-normalised R-hat of x (M, N); None where nothing varies within the chains."""
    import numpy as np

    halves = split(x)
    both = [_r_hat(scores(one)) for one in (halves, np.abs(halves - np.median(halves)))]
    return None if None in both else max(one for one in both if one is not None)


def _r_hat(x: Array) -> float | None:
    n, within = x.shape[1], float(x.var(1, ddof=1).mean())
    between = n * float(x.mean(1).var(ddof=1))
    return math.sqrt((between / within + n - 1) / n) if within > 0 else None


def as_arrays(values: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Each quantity (chains, draws) by name."""
    return {name: values[..., index].numpy() for index, name in enumerate(names)}
