"""The variance-exploding SDE: dx = g(t) dw, σ(t) = σ_min (σ_max/σ_min)^t, g² = 2 σ² log(σ_max/σ_min), t in [0, 1].

    α(t) = 1,   p(x_t | x_0) = N(x_0, σ(t)² I),   prior N(0, σ_max² I)

At t = 0 the noise is σ_min, so that x_0 above, a data point, is not the start of the SDE. The SDE starts from
x_0 + σ_min ε; from x_0 it would give N(x_0, (σ(t)² - σ_min²) I). The noise levels are σ(t) at equal steps of t, a
geometric sequence. Song, Ermon, *Generative Modeling by Estimating Gradients of the Data
Distribution*, 2019; Song et al. 2021.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from driftspec_plugins.dynamics._noising import NoisingSDE

if TYPE_CHECKING:
    from torch import Tensor


class VESDE(NoisingSDE):
    """dx = g(t) dw, with the noise levels that both denoising and annealed Langevin use."""

    type = "ve_sde"

    sigma_min: float = Field(
        0.01, gt=0, description="σ at t = 0, model units: noise of the data, to which the SDE adds σ(t)² - σ_min²"
    )
    sigma_max: float = Field(10.0, gt=0, description="σ at t = 1, model units")
    levels: int | None = Field(None, ge=2, description="number of noise levels; null: every t")

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"sigma_max {self.sigma_max} must be more than sigma_min {self.sigma_min}")
        return self

    def sigma(self, t: Any) -> Any:
        """Return σ(t), for t a tensor or a float."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def drift_coefficient(self, t: Tensor) -> Tensor:
        """Return a(t) = 0, of the shape of t, () or (B,)."""
        import torch

        return torch.zeros_like(t)

    def diffusion(self, t: Tensor) -> Tensor:
        """Return g(t) = σ(t) √(2 log(σ_max/σ_min)), of the shape of t, () or (B,)."""
        return self.sigma(t) * math.sqrt(2 * math.log(self.sigma_max / self.sigma_min))

    def kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return α(t) = 1 and σ(t), of the shape of t, () or (B,)."""
        import torch

        return torch.ones_like(t), self.sigma(t)

    def lowest_noise(self) -> float:
        return float(self.sigma(self.t_data if self.levels is None else 0.0))

    def ladder(self) -> Tensor | None:
        """Return the times (K,) float64 of K = `levels` noise levels, the highest σ first; None for every t."""
        import torch

        return None if self.levels is None else torch.linspace(1, 0, self.levels, dtype=torch.float64)
