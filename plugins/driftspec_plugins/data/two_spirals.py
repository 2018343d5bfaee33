"""Two spirals with noise, x and -x, in the units of FFJORD.

    x = ±(c(n) + δ)/3 + σ ε,   c(n) = n (-cos n, sin n),   n = 3π √u,   u ~ U[0, 1], δ ~ U[0, ½]², σ = 0.1

Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud 2019. The noise of a coordinate is uniform on a width w = ½/3 plus
Gaussian, with the density k:

    k(z) = (Φ(z/σ) - Φ((z - w)/σ))/w,   p(x) = ½ (q(x) + q(-x)),   q(x) = ∫ k(x₁ - c₁/3) k(x₂ - c₂/3) 2n dn/(3π)²

by quadrature over n. Entropy 2.6454 nats.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from pydantic import Field

from driftspec.components import Distribution

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Generator, Tensor

    Array = NDArray[np.float64]

TURN = 3 * math.pi
SCALE = 1 / 3
TINY = 1e-200  # below it log p is summed in logarithms


class TwoSpirals(Distribution):
    """x = ±(n (-cos n, sin n) + δ)/3 + σ ε, n = 3π √u, δ uniform; FFJORD's units (entropy 2.6454 nats)."""

    type = "2spirals"

    noise: float = Field(0.1, ge=5e-3, description="σ, standard deviation of the Gaussian noise, in the units of x")
    jitter: float = Field(0.5, ge=1e-3, le=5.0, description="δ is uniform in [0, jitter]², before the division by 3")

    def dim(self) -> int:
        return 2

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """Return n samples (count, 2) of x = ±(c + δ)/3 + σ ε."""
        import torch

        u = torch.rand(4, n, generator=generator, dtype=torch.float64, device=generator.device)
        angle = TURN * u[0].sqrt()
        arm = angle[:, None] * torch.stack([-torch.cos(angle), torch.sin(angle)], 1) + self.jitter * u[1:3].T
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64, device=generator.device)
        return torch.where(u[3, :, None] < 0.5, arm, -arm) * SCALE + self.noise * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log ½(q(x) + q(-x)) (B,) for x (B, 2). It is computed in float64."""
        import torch

        from driftspec_plugins.data import _mixture

        centres, weights = (torch.as_tensor(a, device=x.device) for a in _nodes(self.noise, self.jitter))
        half = SCALE * self.jitter / 2

        def block(rows: Tensor) -> Tensor:
            both = torch.stack([rows, -rows])  # (2, B, 2)
            z = (both.permute(2, 0, 1)[..., None] - centres.T[:, None, None, :]).abs()  # (2, 2, B, K), from box centres
            k = _blur(z, half, self.noise)
            p = (k[0] * k[1] * weights / 2).sum((0, 2))
            if bool((p > TINY).all()):
                return p.log()
            far = torch.logsumexp(_log_blur(z, half, self.noise).sum(0) + (weights / 2).log(), (0, 2))
            return p.clamp(min=TINY).log().where(p > TINY, far)

        return torch.cat([block(rows) for rows in _mixture.chunks(x, 4 * len(centres))]).to(x.dtype)

    def entropy(self) -> float | None:
        return _entropy(self.noise, self.jitter)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean 0 (2,) and the covariance ∫ c cᵀ + (σ² + w²/12) I (2, 2), for boxes of centre c, width w."""
        import torch

        centres, weights = (torch.as_tensor(a) for a in _nodes(self.noise, self.jitter))
        blur = self.noise**2 + (SCALE * self.jitter) ** 2 / 12
        covariance = centres.T @ (weights[:, None] * centres) + blur * torch.eye(2, dtype=torch.float64)
        return torch.zeros(2, dtype=torch.float64), covariance


def _blur(z: Tensor, half: float, std: float) -> Tensor:
    """Return k = (Φ((half - z)/std) - Φ((-half - z)/std))/(2 half), with z >= 0 the distance from the box centre."""
    import torch

    unit = math.sqrt(2) * std
    return (torch.erfc((z - half) / unit) - torch.erfc((z + half) / unit)) / (4 * half)


def _log_blur(z: Tensor, half: float, std: float) -> Tensor:
    """Return the logarithm of `_blur`, also if that is too small for a float."""
    import torch

    upper, lower = torch.special.log_ndtr((half - z) / std), torch.special.log_ndtr((-half - z) / std)
    return upper + torch.log(-torch.expm1(lower - upper)) - math.log(2 * half)


@functools.cache
def _nodes(noise: float, jitter: float) -> tuple[Array, Array]:
    """Return the centres (K, 2) of boxes along one spiral, in which jitter moves a point, and their weights (K,)."""
    import numpy as np

    from driftspec_plugins.data import _quadrature

    def spiral(n: Array) -> Array:
        return SCALE * (n[:, None] * np.stack([-np.cos(n), np.sin(n)], 1) + jitter / 2)

    n, weight = _quadrature.along(spiral, 0.0, TURN, noise)
    return spiral(n), weight * 2 * n / TURN**2


@functools.cache
def _entropy(noise: float, jitter: float) -> float | None:
    from driftspec_plugins.data import _quadrature

    centres, _ = _nodes(noise, jitter)
    reach = float(abs(centres).max()) + SCALE * jitter / 2 + 9 * noise
    data = TwoSpirals(noise=noise, jitter=jitter)
    return _quadrature.entropy(data.log_prob, [(-reach, reach)] * 2, 0.8 * noise, cost=8 * len(centres))


__all__ = ["TwoSpirals"]
