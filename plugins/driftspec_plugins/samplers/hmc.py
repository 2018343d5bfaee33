"""Hamiltonian Monte Carlo: momentum v ~ N(0, I), L leapfrog steps of length h, accepted by the change of energy.

    v <- v + (h/2) ∇log p(x);   x <- x + h v;   v <- v + (h/2) ∇log p(x),   L times
    r = exp(H(x, v) - H(x', v')),   H = -log p(x) + ‖v‖²/2

A path of fixed length h L comes back to where it began on a law whose period it is. So each proposal has a length of
its own, h (1 + j (2u - 1)) with u ~ U[0, 1): it depends on no state, and p stays exactly. Duane, Kennedy, Pendleton,
Roweth 1987; Neal, *MCMC using Hamiltonian dynamics*, 2011, section 3.2. With L = 1, η = h² and j = 0 it is MALA.
`driftspec_plugins.samplers._metropolis` accepts and rejects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from driftspec.numerics.chains import Noise
from driftspec_plugins.samplers._metropolis import Here, Metropolis

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Model


class HMC(Metropolis):
    """Leapfrog proposals with Metropolis: the law is p for every h, L and jitter."""

    type = "hmc"
    two_uniforms = True

    leapfrogs: int = Field(10, ge=1, description="L, leapfrog steps in a proposal")
    jitter: float = Field(
        0.2, ge=0, lt=1, description="j: each proposal has the step h (1 + j (2u - 1)), u uniform; 0: all have h"
    )
    target: float = Field(0.651, gt=0, lt=1, description="rate of acceptance that adaptation aims at")

    def propose(self, model: Model, x: Tensor, here: Here, chance: Noise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """L leapfrog steps from a fresh momentum, their length jittered."""
        h = here.log_step.exp()[:, None]
        if chance.second is not None:
            h = h * (1 + self.jitter * (2 * chance.second[:, None] - 1))
        y, v, log_p, slope = x, chance.normal, here.log_p, here.slope
        for _ in range(self.leapfrogs):
            v = v + h / 2 * slope
            y = y + h * v
            log_p, slope = model.log_density_and_score(y)
            v = v + h / 2 * slope
        return y, log_p, slope, log_p - here.log_p + (chance.normal.square() - v.square()).sum(1) / 2
