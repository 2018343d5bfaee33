"""MALA, the Metropolis-adjusted Langevin algorithm: a Langevin step that is accepted or rejected; p is invariant.

    y = x + (η/2) ∇log p(x) + √η ε
    r = p(y) q(x|y) / (p(x) q(y|x)),   q(y|x) = N(x + (η/2) ∇log p(x), η I)

Roberts, Tweedie, *Exponential convergence of Langevin distributions*, 1996. The best acceptance rate in high dimension
is 0.574: Roberts, Rosenthal 1998. `driftspec_plugins.samplers._metropolis` accepts and rejects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from driftspec.numerics.chains import Noise
from driftspec_plugins.samplers._metropolis import Current, Metropolis

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Model


class MALA(Metropolis):
    """The Metropolis-adjusted Langevin algorithm: the invariant distribution is p for every η."""

    type = "mala"

    def propose(self, model: Model, x: Tensor, at: Current, noise: Noise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return y = x + (η/2) ∇log p(x) + √η ε (B, d), log p(y), ∇log p(y) and log r (B,)."""
        eta = at.log_step.exp()[:, None]
        y = x + eta / 2 * at.slope + eta.sqrt() * noise.normal
        log_p, slope = model.log_density_and_score(y)
        there, back = y - x - eta / 2 * at.slope, x - y - eta / 2 * slope
        log_q = (there.square() - back.square()).sum(1) / (2 * eta[:, 0])
        return y, log_p, slope, log_p - at.log_p + log_q
