"""Langevin dynamics, the lecture's step: x' = x + (η/2) ∇log p(x) + √η ε, ε ~ N(0, I).

It is the Euler-Maruyama step of the Langevin SDE with dt = η, and so only nearly right: on N(0, Σ) it settles at
Σ (I - (η/4) Σ⁻¹)⁻¹, and for η ≥ 4 σ²_min not at all. With temperature τ the noise is √(τη) ε and the law p^{1/τ}; τ = 0
climbs to a mode. Roberts, Tweedie 1996; Welling, Teh 2011. Many libraries call η/2 the step.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import Field

from driftspec.chains import ChainSampler, Moved, Noise
from driftspec.component import Need

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.model import Model


class Langevin(ChainSampler):
    """The unadjusted Langevin algorithm."""

    type = "langevin"

    step: float = Field(gt=0, description="η, the lecture's: x + (η/2) s + √η ε; model units squared")
    temperature: float = Field(1.0, ge=0, description="τ: the law is p^{1/τ}; 0 climbs to a mode")

    def needs(self) -> tuple[Need, ...]:
        return (Need("dynamics", ("score",), "to climb"),)

    def advance(self, model: Model, x: Tensor, state: Any, chance: Noise, warming: bool) -> Moved:
        """x' = x + (η/2) s(x) + √(τη) ε."""
        slope = model.score(x.new_tensor(model.t_data), x)
        return Moved(x + self.step / 2 * slope + math.sqrt(self.temperature * self.step) * chance.normal)
