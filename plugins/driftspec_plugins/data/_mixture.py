"""Mixtures of round Gaussians, which a curve blurred by Gaussian noise also is, once its parameter is integrated.

log p(x) = log Σ_k w_k N(x; m_k, σ_k² I)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Generator, Tensor

    Array = NDArray[np.float64]

CHUNK = 500_000  # numbers held at a time in one array


def chunks(x: Tensor, width: int) -> tuple[Tensor, ...]:
    """x in float64, in blocks of rows such that `width` numbers a row fit in CHUNK."""
    import torch

    return torch.split(x.double(), max(1, CHUNK // width))


def log_prob(x: Tensor, means: Array, std: Array, weights: Array) -> Tensor:
    """(B,), for x (B, d), means (K, d), std (K,) or (1,), weights (K,). Computed in float64 whatever x is."""
    import torch

    m, s, w = (torch.as_tensor(a, dtype=torch.float64, device=x.device) for a in (means, std, weights))
    d = x.shape[-1]
    scale = w.log() - d * s.log() - d / 2 * math.log(2 * math.pi)  # (K,)

    def block(rows: Tensor) -> Tensor:
        z = (rows.T[:, :, None] - m.T[:, None, :]) / s  # (d, B, K): differences first, so that nothing cancels
        return torch.logsumexp(scale - z.square().sum(0) / 2, -1)

    return torch.cat([block(rows) for rows in chunks(x, d * len(means))]).to(x.dtype)


def score(x: Tensor, means: Array, std: Array, weights: Array) -> Tensor:
    """∇log p (B, d), for x (B, d): Σ_k r_k (m_k - x)/σ_k² with r_k the share of component k in p(x), in x's dtype.

    Rows lie along the last axis. Shares are cut at e^-40: what is smaller leaves no bit in the sum, and takes its time.
    """
    import torch

    m, s, w = (torch.as_tensor(a, dtype=torch.float64, device=x.device) for a in (means, std, weights))
    scale = (w.log() - x.shape[-1] * s.log()).to(x)[:, None]  # (K, 1)
    m, precision = m.T[:, :, None].to(x), s.square().reciprocal().to(x)[:, None]

    def block(rows: Tensor) -> Tensor:
        away = m - rows.T[:, None, :]  # (d, K, B)
        log_share = torch.addcmul(scale, away.square().sum(0), precision, value=-0.5)
        share = (log_share - log_share.amax(0)).clamp(min=-40).exp()
        share = share * (precision / share.sum(0))
        return (away * share).sum(1).T

    return torch.cat([block(rows) for rows in torch.split(x, max(1, CHUNK // means.size))])


def sample(n: int, generator: Generator, means: Array, std: Array, weights: Array) -> Tensor:
    """(n, d): a component k ~ w, then m_k + σ_k ε."""
    import torch

    m, s, w = (torch.as_tensor(a, dtype=torch.float64, device=generator.device) for a in (means, std, weights))
    k = torch.multinomial(w, n, replacement=True, generator=generator)
    noise = torch.randn(n, m.shape[1], generator=generator, dtype=torch.float64, device=generator.device)
    return m[k] + s.expand(len(w))[k, None] * noise


def entropy(means: Array, std: Array, weights: Array) -> float | None:
    """Nats, on a grid, for d = 1 and 2; None beyond, or where components too narrow ask for too fine a grid."""
    from driftspec_plugins.data import _quadrature

    if means.shape[1] > 2:
        return None
    reach = 9 * std.max()
    return _quadrature.entropy(
        lambda x: log_prob(x, means, std, weights),
        list(zip((means.min(0) - reach).tolist(), (means.max(0) + reach).tolist())),
        step=float(std.min()) / 2,
        cost=len(means),
    )


def moments(means: Array, std: Array, weights: Array) -> tuple[Tensor, Tensor]:
    """Mean m = Σ w_k m_k (d,) and covariance Σ w_k ((m_k - m)(m_k - m)ᵀ + σ_k² I) (d, d)."""
    import torch

    m, s, w = (torch.as_tensor(a, dtype=torch.float64) for a in (means, std, weights))
    mean = w @ m
    blur = w @ s.square().expand(len(w))
    between = (m - mean).T @ (w[:, None] * (m - mean))
    return mean, between + blur * torch.eye(m.shape[1], dtype=torch.float64)


def normals(means: Array, std: Array, weights: Array) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (K,), means (K, d) and covariances σ_k² I (K, d, d)."""
    import torch

    m, s, w = (torch.as_tensor(a, dtype=torch.float64) for a in (means, std, weights))
    return w, m, s.square().expand(len(w))[:, None, None] * torch.eye(m.shape[1], dtype=torch.float64)


def mode_of(x: Tensor, means: Array, std: Array, weights: Array) -> Tensor:
    """The component (B,) of the nearest mean in its own deviations, -1 where that is farther than √d + 2 of them."""
    import torch

    m, s = (torch.as_tensor(a, dtype=torch.float64, device=x.device) for a in (means, std))
    away, nearest = (torch.cdist(x.double(), m) / s).min(1)
    return nearest.masked_fill(away > x.shape[1] ** 0.5 + 2, -1)


__all__ = ["chunks", "entropy", "log_prob", "mode_of", "moments", "normals", "sample", "score"]
