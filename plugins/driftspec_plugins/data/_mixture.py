"""Mixtures of isotropic Gaussians: log p(x) = log Σ_k w_k N(x; m_k, σ_k² I).

A curve with Gaussian noise is computed as such a mixture: the integral along the curve is a sum over its nodes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Generator, Tensor

    Array = NDArray[np.float64]

CHUNK = 500_000  # the largest number of values in one array


def chunks(x: Tensor, width: int) -> tuple[Tensor, ...]:
    """Return x (B, d) in float64, in blocks of rows; a block has at most CHUNK values if each row has `width`."""
    import torch

    return torch.split(x.double(), max(1, CHUNK // width))


def log_prob(x: Tensor, means: Array, std: Array, weights: Array) -> Tensor:
    """Return log p(x) (B,) for x (B, d), means (K, d), std (K,) or (1,), weights (K,). It is computed in float64."""
    import torch

    m, s, w = (torch.as_tensor(a, dtype=torch.float64, device=x.device) for a in (means, std, weights))
    d = x.shape[-1]
    scale = w.log() - d * s.log() - d / 2 * math.log(2 * math.pi)  # (K,)

    def block(rows: Tensor) -> Tensor:
        z = (rows.T[:, :, None] - m.T[:, None, :]) / s  # (d, B, K): differences are taken first, to lose no digits
        return torch.logsumexp(scale - z.square().sum(0) / 2, -1)

    return torch.cat([block(rows) for rows in chunks(x, d * len(means))]).to(x.dtype)


def score(x: Tensor, means: Array, std: Array, weights: Array) -> Tensor:
    """Return ∇log p(x) = Σ_k r_k (m_k - x)/σ_k² (B, d) for x (B, d), in its dtype; r_k is component k's share of p(x).

    A share below e^-40 of the largest is replaced by that: it does not change the sum, and smaller numbers cost time.
    """
    import torch

    m, s, w = (torch.as_tensor(a, dtype=torch.float64, device=x.device) for a in (means, std, weights))
    scale = (w.log() - x.shape[-1] * s.log()).to(x)[:, None]  # (K, 1)
    m, precision = m.T[:, :, None].to(x), s.square().reciprocal().to(x)[:, None]

    def block(rows: Tensor) -> Tensor:
        away = m - rows.T[:, None, :]  # (d, K, B): rows along the last axis are faster
        log_share = torch.addcmul(scale, away.square().sum(0), precision, value=-0.5)
        share = (log_share - log_share.amax(0)).clamp(min=-40).exp()
        share = share * (precision / share.sum(0))
        return (away * share).sum(1).T

    return torch.cat([block(rows) for rows in torch.split(x, max(1, CHUNK // means.size))])


def sample(n: int, generator: Generator, means: Array, std: Array, weights: Array) -> Tensor:
    """Return n samples (n, d): a component k ~ w, then m_k + σ_k ε."""
    import torch

    m, s, w = (torch.as_tensor(a, dtype=torch.float64, device=generator.device) for a in (means, std, weights))
    k = torch.multinomial(w, n, replacement=True, generator=generator)
    noise = torch.randn(n, m.shape[1], generator=generator, dtype=torch.float64, device=generator.device)
    return m[k] + s.expand(len(w))[k, None] * noise


def entropy(means: Array, std: Array, weights: Array) -> float | None:
    """Return the entropy in nats, on a grid; None for d > 2, or if narrow components would need too fine a grid."""
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


@functools.cache
def entropy_at(nodes: Callable[[float], tuple[Array, Array, Array]], noise: float) -> float | None:
    """Return the entropy in nats of the mixture `nodes(noise)`, computed once for each noise."""
    return entropy(*nodes(noise))


def moments(means: Array, std: Array, weights: Array) -> tuple[Tensor, Tensor]:
    """Return the mean m = Σ w_k m_k (d,) and the covariance Σ w_k ((m_k - m)(m_k - m)ᵀ + σ_k² I) (d, d)."""
    import torch

    m, s, w = (torch.as_tensor(a, dtype=torch.float64) for a in (means, std, weights))
    mean = w @ m
    blur = w @ s.square().expand(len(w))
    between = (m - mean).T @ (w[:, None] * (m - mean))
    return mean, between + blur * torch.eye(m.shape[1], dtype=torch.float64)


def normals(means: Array, std: Array, weights: Array) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights (K,), means (K, d) and covariances σ_k² I (K, d, d)."""
    import torch

    m, s, w = (torch.as_tensor(a, dtype=torch.float64) for a in (means, std, weights))
    return w, m, s.square().expand(len(w))[:, None, None] * torch.eye(m.shape[1], dtype=torch.float64)


def mode_of(x: Tensor, means: Array, std: Array, weights: Array) -> Tensor:
    """Return the component k (B,) with the smallest ‖x - m_k‖/σ_k, or -1 if that is above √d + 2, for x (B, d)."""
    import torch

    m, s = (torch.as_tensor(a, dtype=torch.float64, device=x.device) for a in (means, std))
    away, nearest = (torch.cdist(x.double(), m) / s).min(1)
    return nearest.masked_fill(away > x.shape[1] ** 0.5 + 2, -1)


__all__ = ["chunks", "entropy", "entropy_at", "log_prob", "mode_of", "moments", "normals", "sample", "score"]
