"""Convergence of chains: R-hat, effective sample sizes (ESS), and standard errors of means.

    R-hat = √(V/W),   V = (1 - 1/N) W + var(chain means),   W = mean variance within a chain
    ESS   = M N / τ,   τ = -1 + 2 Σ_t (ρ_2t + ρ_2t+1),   ρ_t = 1 - (W - mean autocovariance at lag t)/V

Chains are first split in halves; this gives M chains of N draws. The sum in τ ends where a pair ρ_2t + ρ_2t+1 is
negative, and a pair larger than the one before it is replaced by that one (Geyer 1992). `bulk` is the ESS of the normal
scores Φ⁻¹((rank - 3/8)/(n + 1/4)) of the draws, which have moments for every distribution; `tail` is the smaller ESS of
the indicators x ≤ q of the 5 % and 95 % quantiles q. R-hat is the larger of two: that of the normal scores, and that of
the scores of |x - median|. Vehtari, Gelman, Simpson, Carpenter, Bürkner, *Rank-Normalization, Folding, and
Localization: An Improved R-hat for Assessing Convergence of MCMC*, 2021. The values equal those of ArviZ to rounding.

A short chain shows too little of its autocorrelation: with 10 draws the ESS is 1.5 to 2.4 times too large, with 20
draws up to 1.6 times. The ESS is not given for chains of fewer than 20 draws.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FEWEST = 4
"""The smallest number of draws of a chain for R-hat: each half needs 2 for a variance."""
SHORT = 20
"""The smallest number of draws of a chain for an effective sample size."""
MANY = 16
"""From this number of chains on, the standard error of a mean comes from the means of the chains."""


def split(x: Array) -> Array:
    """Return the halves (2M, N/2) of chains x (M, N), without the middle draw if N is odd."""
    import numpy as np

    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, -half:]])


def scores(x: Array) -> Array:
    """Return the normal scores Φ⁻¹((rank - 3/8)/(n + 1/4)) of x (M, N), in its shape; equal values share their mean."""
    from scipy.special import ndtri

    return ndtri((_ranks(x) - 0.375) / (x.size + 0.25))


def _ranks(x: Array) -> Array:
    """Return the ranks of x from 1 up; equal values get the mean of their ranks. scipy.stats is slow to import."""
    import numpy as np

    order = x.ravel().argsort()
    ordered = x.ravel()[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))  # of each group of equal values
    after = np.append(first[1:], x.size)
    ranks = np.empty(x.size)
    ranks[order] = np.repeat((first + 1 + after) / 2, after - first)
    return ranks.reshape(x.shape)


def size(x: Array) -> float:
    """Return the ESS of the mean of x (M, N), without splitting; M N if all values are equal."""
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
    pairs = rho[: 2 * max(1, (n - 1) // 2)].reshape(-1, 2).sum(1)  # without the last lags, which have few draws
    last = int(np.argmax(pairs <= 0)) if (pairs <= 0).any() else len(pairs) - 1
    half = float(rho[2 * last])  # the even lag of the pair at which the sum ends counts once
    tau = -1 + 2 * np.minimum.accumulate(pairs[:last]).sum() + (half if half > 0 or pairs[last] >= 0 else 0.0)
    return x.size / max(tau, 1 / math.log10(x.size))


def bulk(x: Array) -> float:
    """Return the bulk ESS of x (M, N)."""
    return size(scores(split(x)))


def tail(x: Array) -> float:
    """Return the tail ESS of x (M, N): the smaller ESS of the 5 % and the 95 % quantile."""
    import numpy as np

    return min(size(split((x <= limit).astype(float))) for limit in np.quantile(x, (0.05, 0.95)))


def split_r_hat(x: Array) -> float | None:
    """Return the rank-normalised split R-hat of x (M, N); None if every half chain is constant."""
    halves = split(x)
    return larger_r_hat(scores(halves), folded(halves))


def folded(halves: Array) -> Array:
    """Return the normal scores of |x - median|, for halves of chains x (2M, N/2)."""
    import numpy as np

    return scores(np.abs(halves - np.median(halves)))


def larger_r_hat(*scored: Array) -> float | None:
    """Return the largest R-hat of several arrays of scores (2M, N/2); None if one is constant in every row."""
    found = [_r_hat(one) for one in scored]
    return None if None in found else max(one for one in found if one is not None)


def _r_hat(x: Array) -> float | None:
    """Return √(V/W) of x (M, N)."""
    n = x.shape[1]
    if still(x):  # the variances would be rounding errors
        return None
    within, between = float(x.var(1, ddof=1).mean()), n * float(x.mean(1).var(ddof=1))
    return math.sqrt((between / within + n - 1) / n)


def still(x: Array) -> bool:
    """Return whether every chain of x (M, N) is constant, for N > 1."""
    return x.shape[1] > 1 and bool((x == x[:, :1]).all())


def mean_error(x: Array) -> float | None:
    """Return the standard error of the mean of x, M chains of N draws (M, N); None for one chain of few draws.

    For a few long chains it is s/√ESS. For many or short chains it is s/√M with s the deviation of the M means, times
    t/1.96 with t the quantile of Student's t, so that ± 1.96 standard errors cover 95 %.
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
