"""The variance-exploding SDE: dx = g(t) dw, σ(t) = σ_min (σ_max/σ_min)^t, g² = 2 σ² log(σ_max/σ_min), t in [0, 1].

    α(t) = 1,   p(x_t | x_0) = N(x_0, σ(t)² I),   prior N(0, σ_max² I)

At t = 0 it has the noise σ_min: the data themselves are never reached, and x_0 above is not where the SDE begins. It
begins at x_0 + σ_min ε; begun at x_0 itself it would lead to N(x_0, (σ(t)² - σ_min²) I). Its ladder of σ is σ(t) at
equal steps of t, a geometric sequence. Song, Ermon, *Generative Modeling by Estimating Gradients of the Data
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
    """dx = g(t) dw; with `levels`, σ takes the rungs of a ladder, for denoising and annealed Langevin."""

    type = "ve_sde"

    sigma_min: float = Field(
        0.01, gt=0, description="σ at t = 0, model units: noise that the data get before the SDE adds σ(t)² - σ_min²"
    )
    sigma_max: float = Field(10.0, gt=0, description="σ at t = 1, model units")
    levels: int | None = Field(None, ge=2, description="rungs of the ladder; null: every t")

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"sigma_max {self.sigma_max} must be more than sigma_min {self.sigma_min}")
        return self

    def sigma(self, t: Any) -> Any:
        """σ(t), for t a tensor or a float."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def pull(self, t: Tensor) -> Tensor:
        import torch

        return torch.zeros_like(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma(t) * math.sqrt(2 * math.log(self.sigma_max / self.sigma_min))

    def kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        return torch.ones_like(t), self.sigma(t)

    def lowest_noise(self) -> float:
        return float(self.sigma(self.t_data if self.levels is None else 0.0))

    def ladder(self) -> Tensor | None:
        """Times of the rungs (levels,) float64, from the highest σ to the lowest; None for every t."""
        import torch

        return None if self.levels is None else torch.linspace(1, 0, self.levels, dtype=torch.float64)
