"""The Ornstein-Uhlenbeck process: dx = -θ x dt + √(2θ) s dw, with stationary distribution N(0, s² I), t in [0, T].

    α(t) = e^{-θt},   σ(t)² = s² (1 - e^{-2θt})

Uhlenbeck, Ornstein, *On the Theory of the Brownian Motion*, 1930. With constant β = 2θ and s = 1 it is the VP SDE.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from driftspec_plugins.dynamics._noising import NoisingSDE

if TYPE_CHECKING:
    from torch import Tensor


class OrnsteinUhlenbeck(NoisingSDE):
    """dx = -θ x dt + √(2θ) s dw."""

    type = "ornstein_uhlenbeck"

    theta: float = Field(1.0, gt=0, description="θ, rate of mean reversion")
    std: float = Field(1.0, gt=0, description="s, stationary standard deviation, model units")
    duration: float = Field(5.0, gt=0, description="T, the time of the prior")

    @model_validator(mode="after")
    def _ends_in_order(self) -> Self:
        if self.t_data >= self.duration:
            raise ValueError(f"t_data {self.t_data} must be before duration {self.duration}")
        return self

    def times(self) -> tuple[float, float]:
        return self.duration, self.t_data

    def drift_coefficient(self, t: Tensor) -> Tensor:
        """Return a(t) = -θ, of the shape of t, () or (B,)."""
        import torch

        return torch.full_like(t, -self.theta)

    def diffusion(self, t: Tensor) -> Tensor:
        """Return g(t) = √(2θ) s, of the shape of t, () or (B,)."""
        import torch

        return torch.full_like(t, (2 * self.theta) ** 0.5 * self.std)

    def kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return α(t) = e^{-θt} and σ(t) = s √(1 - e^{-2θt}), of the shape of t, () or (B,)."""
        import torch

        return torch.exp(-self.theta * t), self.std * (-torch.expm1(-2 * self.theta * t)).sqrt()

    def lowest_noise(self) -> float:
        return self.std * math.sqrt(-math.expm1(-2 * self.theta * self.t_data))

    def prior_std(self) -> float:
        return self.std
