"""Concentric circles with Gaussian noise: log p in closed form.

The integral over the angle is a Bessel function, with r = |x|:

    p(x) = Σ_k w_k (2πσ²)⁻¹ exp(-(r - R_k)²/2σ²) i₀(r R_k/σ²),    i₀(z) = exp(-z) I₀(z)

The radius has the Rice distribution (S. O. Rice, Mathematical analysis of random noise, 1945).
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor


def sample(n: int, generator: Generator, radii: tuple[float, ...], std: float) -> Tensor:
    """Return n samples (n, 2): a radius R, each equally likely, a uniform angle, and noise N(0, std² I)."""
    import torch

    which, turn = torch.rand(2, n, generator=generator, dtype=torch.float64, device=generator.device)
    radius = turn.new_tensor(radii)[(which * len(radii)).long()]
    angle = 2 * math.pi * turn
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64, device=generator.device)
    return radius[:, None] * torch.stack([torch.cos(angle), torch.sin(angle)], 1) + std * noise


def log_prob(x: Tensor, radii: tuple[float, ...], std: float) -> Tensor:
    """Return log p(x) (B,) for x (B, 2), with equal weights. It is computed in float64."""
    import torch

    r = torch.linalg.vector_norm(x.double(), dim=-1, keepdim=True)
    radius = r.new_tensor(radii)
    kernel = torch.special.i0e(r * radius / std**2).log() - ((r - radius) / std).square() / 2
    scale = math.log(2 * math.pi * std**2 * len(radii))
    return (torch.logsumexp(kernel, -1) - scale).to(x.dtype)


@functools.cache
def entropy(radii: tuple[float, ...], std: float) -> float:
    """Return the entropy -∫ p log p 2πr dr in nats, by the trapezoidal rule."""
    import torch

    far = max(radii) + 9 * std
    r = torch.linspace(0, far, math.ceil(8 * far / std) + 1, dtype=torch.float64)
    with torch.no_grad():
        p = log_prob(torch.stack([r, torch.zeros_like(r)], 1), radii, std).exp()
    return float(torch.trapezoid(2 * math.pi * r * torch.special.entr(p), r))


def moments(radii: tuple[float, ...], std: float) -> tuple[Tensor, Tensor]:
    """Return the mean 0 (2,) and the covariance (½ mean R² + σ²) I (2, 2)."""
    import torch

    variance = sum(radius**2 for radius in radii) / (2 * len(radii)) + std**2
    return torch.zeros(2, dtype=torch.float64), variance * torch.eye(2, dtype=torch.float64)


__all__ = ["entropy", "log_prob", "moments", "sample"]
