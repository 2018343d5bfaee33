"""How far chains have converged: R-hat, effective sample sizes, and standard errors of means.

    R-hat = √(V/W),   V = (1 - 1/N) W + var(chain means),   W = mean variance within a chain
    ESS   = M N / τ,   τ = -1 + 2 Σ_t (ρ_2t + ρ_2t+1),   ρ_t = 1 - (W - mean autocovariance at lag t)/V

Chains are split in halves first: M chains of N draws. The sum of τ is cut where a pair ρ_2t + ρ_2t+1 turns negative,
and its pairs are made to fall (Geyer 1992). `bulk` reads the draws' normal scores, Φ⁻¹((rank - 3/8)/(n + 1/4)), which
have moments for every law; `tail` the indicators of the 5 % and 95 % quantiles; R-hat is the larger one of the scores'
and of those of the distances to the median. Vehtari, Gelman, Simpson, Carpenter, Bürkner, *Rank-Normalization, Folding,
and Localization: An Improved R-hat for Assessing Convergence of MCMC*, 2021. As in ArviZ, to rounding.

Halves of a few draws show too little of the autocorrelation: of chains of 10 draws the ESS is 1.5 to 2.4 times too
large, of 20 up to 1.6 times. Chains of fewer than 20 draws have no ESS here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FEWEST = 4
"""Draws of a chain below which its halves have no variance."""
SHORT = 20
"""Draws of a chain below which it has no effective sample size."""
MANY = 16
"""Chains whose means show by their spread how well the mean of all is known."""


def split(x: Array) -> Array:
    """Halves of chains (2M, N/2) for x (M, N); the middle draw of an odd number is left out."""
    import numpy as np

    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, -half:]])


def scores(x: Array) -> Array:
    """Normal scores of the ranks, ties at their mean."""
    from scipy.special import ndtri

    return ndtri((_ranks(x) - 0.375) / (x.size + 0.25))


def _ranks(x: Array) -> Array:
    """1, 2, ... from the smallest on; equal values share the mean of theirs. Without scipy.stats, slow to import."""
    import numpy as np

    order = x.ravel().argsort()
    ordered = x.ravel()[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))  # of each run of equal values
    after = np.append(first[1:], x.size)
    ranks = np.empty(x.size)
    ranks[order] = np.repeat((first + 1 + after) / 2, after - first)
    return ranks.reshape(x.shape)


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

    return min(size(split((x <= limit).astype(float))) for limit in np.quantile(x, (0.05, 0.95)))


def split_r_hat(x: Array) -> float | None:
    """Rank-normalised R-hat of x (M, N); None where nothing varies within the chains."""
    halves = split(x)
    return larger_r_hat(scores(halves), folded(halves))


def folded(halves: Array) -> Array:
    """Scores of the distances to the median."""
    import numpy as np

    return scores(np.abs(halves - np.median(halves)))


def larger_r_hat(*scored: Array) -> float | None:
    found = [_r_hat(one) for one in scored]
    return None if None in found else max(one for one in found if one is not None)


def _r_hat(x: Array) -> float | None:
    n = x.shape[1]
    if still(x):  # whose variances may be rounding alone
        return None
    within, between = float(x.var(1, ddof=1).mean()), n * float(x.mean(1).var(ddof=1))
    return math.sqrt((between / within + n - 1) / n)


def still(x: Array) -> bool:
    """Whether nothing moves within chains x (M, N) that make several draws each."""
    return x.shape[1] > 1 and bool((x == x[:, :1]).all())


def mean_error(x: Array) -> float | None:
    """Standard error of the mean of x (M, N); None where one chain is too short to show it.

    Of many or of short chains by the spread of their M means, s/√M, which needs no autocorrelation. It is widened by
    Student's t, so that ± 1.96 of it holds 95 %. Of a few long chains it is s/√ESS.
    """
    from scipy.special import stdtrit

    chains, draws = x.shape
    if chains < MANY and draws >= SHORT:
        return float(x.std(ddof=1)) / math.sqrt(size(split(x)))
    if chains < 2:
        return None
    wider = float(stdtrit(chains - 1, 0.975)) / 1.96 if draws > 1 else 1.0
    return wider * float(x.mean(1).std(ddof=1)) / math.sqrt(chains)


__all__ = [
    "FEWEST", "SHORT", "bulk", "folded", "larger_r_hat", "mean_error", "scores", "size", "split", "split_r_hat",
    "still", "tail",
]  # fmt: skip
