"""Hamiltonian Monte Carlo: momentum v ~ N(0, I), L leapfrog steps of length h, accepted by the change of energy.

    v <- v + (h/2) ∇log p(x);   x <- x + h v;   v <- v + (h/2) ∇log p(x),   L times
    r = exp(H(x, v) - H(x', v')),   H = -log p(x) + ‖v‖²/2

Duane, Kennedy, Pendleton, Roweth 1987; Neal, *MCMC using Hamiltonian dynamics*, 2011. With L = 1 and η = h² it is MALA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from driftspec.chains import Noise
from driftspec_plugins.samplers._metropolis import Here, Metropolis

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.model import Model


class HMC(Metropolis):
    """Leapfrog proposals with Metropolis: the law is p for every h and L."""

    type = "hmc"

    leapfrogs: int = Field(10, ge=1, description="L, leapfrog steps in a proposal")
    target: float = Field(0.651, gt=0, lt=1, description="rate of acceptance that adaptation aims at")

    def propose(self, model: Model, x: Tensor, here: Here, chance: Noise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """L leapfrog steps from a fresh momentum."""
        h = here.log_step.exp()[:, None]
        y, v, log_p, slope = x, chance.normal, here.log_p, here.slope
        for _ in range(self.leapfrogs):
            v = v + h / 2 * slope
            y = y + h * v
            log_p, slope = model.log_density_and_score(y)
            v = v + h / 2 * slope
        return y, log_p, slope, log_p - here.log_p + (chance.normal.square() - v.square()).sum(1) / 2
