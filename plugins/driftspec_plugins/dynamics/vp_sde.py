"""The variance-preserving SDE: dx = -½ β(t) x dt + √β(t) dw, β(t) = β_min + t (β_max - β_min), t in [0, 1].

    α(t) = exp(-½ ∫_0^t β),   σ(t)² = 1 - α(t)²,   prior N(0, I)

Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, 2020, in the continuous form of Song et al. 2021.
`driftspec_plugins.dynamics._noising` is the base class; `driftspec.numerics.sde` has the reverse SDE and the
probability flow.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from driftspec_plugins.dynamics._noising import NoisingSDE

if TYPE_CHECKING:
    from torch import Tensor


class VPSDE(NoisingSDE):
    """dx = -½ β x dt + √β dw; data of variance 1 keep this variance."""

    type = "vp_sde"

    beta_min: float = Field(0.1, gt=0, description="β at t = 0")
    beta_max: float = Field(20.0, gt=0, description="β at t = 1")

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.beta_max < self.beta_min:
            raise ValueError(f"beta_max {self.beta_max} is below beta_min {self.beta_min}")
        return self

    def rate(self, t: Tensor) -> Tensor:
        """Return β(t), of the shape of t, () or (B,)."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def total(self, t: Any) -> Any:
        """Return ∫_0^t β, for t a tensor or a float."""
        return t * self.beta_min + t * t * (self.beta_max - self.beta_min) / 2

    def drift_coefficient(self, t: Tensor) -> Tensor:
        """Return a(t) = -½ β(t), of the shape of t, () or (B,)."""
        return -self.rate(t) / 2

    def diffusion(self, t: Tensor) -> Tensor:
        """Return g(t) = √β(t), of the shape of t, () or (B,)."""
        return self.rate(t).sqrt()

    def kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return α(t) = exp(-½ ∫β) and σ(t) = √(1 - α²), () or (B,) like t; expm1 keeps digits for small t."""
        import torch

        total = self.total(t)
        return torch.exp(-total / 2), (-torch.expm1(-total)).sqrt()

    def lowest_noise(self) -> float:
        return math.sqrt(-math.expm1(-self.total(self.t_data)))

    def prior_std(self) -> float:
        return 1.0
