"""Hamiltonian Monte Carlo: momentum v ~ N(0, I), L leapfrog steps of length h, accepted by the change of energy.

    v <- v + (h/2) ∇log p(x);   x <- x + h v;   v <- v + (h/2) ∇log p(x),   L times
    r = exp(H(x, v) - H(x', v')),   H = -log p(x) + ‖v‖²/2

If the length h L of a trajectory is a period of the Hamiltonian dynamics, the trajectory ends where it began. So each
proposal has a random step h (1 + j (2u - 1)) with u ~ U[0, 1). It does not depend on the state, so p is still exactly
invariant. Duane, Kennedy, Pendleton, Roweth 1987; Neal, *MCMC using Hamiltonian dynamics*, 2011, section 3.2. With
L = 1, η = h² and j = 0 this is MALA. `driftspec_plugins.samplers._metropolis` accepts and rejects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from driftspec.numerics.chains import Noise
from driftspec_plugins.samplers._metropolis import Current, Metropolis

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Model


class HMC(Metropolis):
    """Hamiltonian Monte Carlo with leapfrog steps: the invariant distribution is p for every h, L and j."""

    type = "hmc"
    two_uniforms = True

    leapfrogs: int = Field(10, ge=1, description="L, leapfrog steps in a proposal")
    jitter: float = Field(
        0.2, ge=0, lt=1, description="j: each proposal has the step h (1 + j (2u - 1)), u uniform on [0, 1)"
    )
    target: float = Field(0.651, gt=0, lt=1, description="acceptance rate to which `adapt` tunes the step size")

    def propose(self, model: Model, x: Tensor, at: Current, noise: Noise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return y (B, d) after L leapfrog steps from x and v ~ N(0, I), log p(y), ∇log p(y), and log r = H - H'."""
        h = at.log_step.exp()[:, None]
        if noise.second is not None:
            h = h * (1 + self.jitter * (2 * noise.second[:, None] - 1))
        y, v, log_p, slope = x, noise.normal, at.log_p, at.slope
        for _ in range(self.leapfrogs):
            v = v + h / 2 * slope
            y = y + h * v
            log_p, slope = model.log_density_and_score(y)
            v = v + h / 2 * slope
        return y, log_p, slope, log_p - at.log_p + (noise.normal.square() - v.square()).sum(1) / 2
