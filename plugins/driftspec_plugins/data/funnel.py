"""The funnel: normal variables whose scale is random, over many orders of magnitude (R. M. Neal, Slice sampling, 2003).

    v ~ N(0, σ²),   x_i | v ~ N(0, e^v),   i = 1, ..., n,   d = n + 1
    log p = -v²/2σ² - ½ Σ x_i² e^{-v} - (n/2) v - log σ - (d/2) log 2π

Neal has σ = 3 and n = 9. Entropy (d/2) log 2πe + log σ, since E v = 0. All means and covariances are 0, var v = σ² and
var x_i = E e^v = e^{σ²/2}, which is 90 for σ = 3. Draws estimate it badly, since E x⁴ = 3 e^{2σ²}: test samplers by v.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from driftspec.components import Distribution

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Funnel(Distribution):
    """v ~ N(0, σ²), x_i | v ~ N(0, e^v): Neal's funnel, with the columns v, x1, x2, ..."""

    type = "funnel"

    dimensions: int = Field(10, ge=2, description="d: v and d - 1 variables whose scale it sets")
    std: float = Field(3.0, gt=0, le=30, description="σ, standard deviation of v, the log variance of the others")

    def dim(self) -> int:
        return self.dimensions

    def columns(self) -> tuple[str, ...]:
        return ("v", *(f"x{i + 1}" for i in range(self.dimensions - 1)))

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """Return n samples (n, d): v = σ ε₀, x_i = e^{v/2} ε_i."""
        import torch

        noise = torch.randn(n, self.dimensions, generator=generator, dtype=torch.float64, device=generator.device)
        v = self.std * noise[:, :1]
        return torch.cat([v, torch.exp(v / 2) * noise[:, 1:]], 1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return -v²/2σ² - ½ Σ x_i² e^{-v} - (n/2) v - log σ - (d/2) log 2π (B,) for (v, x) (B, d)."""
        import torch

        v, others = x[:, :1], x[:, 1:]
        z = torch.cat([v / self.std, others * torch.exp(-v / 2)], 1)  # N(0, I)
        log_det = (self.dimensions - 1) / 2 * v[:, 0] + math.log(self.std)
        return -z.square().sum(1) / 2 - log_det - self.dimensions / 2 * math.log(2 * math.pi)

    def entropy(self) -> float:
        return self.dimensions / 2 * (1 + math.log(2 * math.pi)) + math.log(self.std)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean 0 (d,) and the covariance diag(σ², e^{σ²/2}, ...) (d, d)."""
        import torch

        variance = torch.full((self.dimensions,), math.exp(self.std**2 / 2), dtype=torch.float64)
        variance[0] = self.std**2
        return torch.zeros_like(variance), variance.diag()


__all__ = ["Funnel"]
