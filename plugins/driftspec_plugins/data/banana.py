"""A banana: a normal distribution on a parabola (Haario, Saksman, Tamminen, Adaptive proposal distribution, 1999).

    x₁ ~ N(0, s²),   x₂ | x₁ ~ N(b (x₁² - s²), 1)
    log p(x) = -x₁²/2s² - (x₂ - b (x₁² - s²))²/2 - log 2πs

The bend has Jacobian 1, so the entropy is that without it, log 2πe + log s. E x = 0, var x₁ = s²,
var x₂ = 1 + 2 b² s⁴ and, since E x₁³ = 0, cov(x₁, x₂) = 0. The 1999 paper has s = 10 with b = -0.03 and -0.1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from driftspec.components import Distribution

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Banana(Distribution):
    """x1 ~ N(0, s²), x2 | x1 ~ N(b (x1² - s²), 1): a curved ridge with known moments and entropy."""

    type = "banana"

    width: float = Field(2.0, gt=0, description="s, standard deviation of x1")
    bend: float = Field(0.5, description="b of the parabola b (x1² - s²) that x2 follows; 0 is a normal distribution")

    def dim(self) -> int:
        return 2

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """Return n samples (n, 2): x₁ = s ε₁, x₂ = b (x₁² - s²) + ε₂."""
        import torch

        first, second = torch.randn(2, n, generator=generator, dtype=torch.float64, device=generator.device)
        x1 = self.width * first
        return torch.stack([x1, self._ridge(x1) + second], 1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return -x₁²/2s² - (x₂ - b (x₁² - s²))²/2 - log 2πs (B,) for x (B, 2)."""
        x1, x2 = x.unbind(-1)
        across = x2 - self._ridge(x1)
        return -(x1 / self.width).square() / 2 - across.square() / 2 - math.log(2 * math.pi * self.width)

    def entropy(self) -> float:
        return 1 + math.log(2 * math.pi * self.width)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean 0 (2,) and the covariance diag(s², 1 + 2 b² s⁴) (2, 2)."""
        import torch

        variance = torch.tensor([self.width**2, 1 + 2 * self.bend**2 * self.width**4], dtype=torch.float64)
        return torch.zeros(2, dtype=torch.float64), variance.diag()

    def _ridge(self, x1: Tensor) -> Tensor:
        """Return E[x₂ | x₁] = b (x₁² - s²)."""
        return self.bend * (x1.square() - self.width**2)


__all__ = ["Banana"]
