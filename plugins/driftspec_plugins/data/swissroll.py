"""The Swiss roll in two dimensions: a spiral with noise, in the units of FFJORD.

    x = (t cos t, t sin t)/5 + (σ/5) ε,   t uniform in [3π/2, 9π/2], σ = 1

Coordinates 1 and 3 of scikit-learn's make_swiss_roll, divided by 5 (Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud
2019). log p(x) = log ∫ N(x; c(t), (σ/5)² I) dt/3π, by quadrature in t. Entropy 2.6697 nats.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from pydantic import Field

from driftspec.components import Distribution

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Generator, Tensor

    Array = NDArray[np.float64]

START, STOP = 1.5 * math.pi, 4.5 * math.pi
SCALE = 1 / 5


class SwissRoll(Distribution):
    """x = ((t cos t, t sin t) + σ ε)/5, t uniform in [3π/2, 9π/2]; FFJORD's units (entropy 2.6697 nats)."""

    type = "swissroll"

    noise: float = Field(1.0, ge=0.02, description="σ, standard deviation of the noise, before the division by 5")

    def dim(self) -> int:
        return 2

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """Return n samples (n, 2) of x = ((t cos t, t sin t) + σ ε)/5, with t uniform in [3π/2, 9π/2]."""
        import torch

        t = START + (STOP - START) * torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device)
        roll = t[:, None] * torch.stack([torch.cos(t), torch.sin(t)], 1)
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64, device=generator.device)
        return SCALE * (roll + self.noise * noise)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log ∫ N(x; c(t), (σ/5)² I) dt/3π (B,) for x (B, 2), with c(t) = (t cos t, t sin t)/5."""
        from driftspec_plugins.data import _mixture

        return _mixture.log_prob(x, *_nodes(self.noise))

    def entropy(self) -> float | None:
        from driftspec_plugins.data import _mixture

        return _mixture.entropy_at(_nodes, self.noise)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean (2,) and the covariance (2, 2), by quadrature in t."""
        from driftspec_plugins.data import _mixture

        return _mixture.moments(*_nodes(self.noise))


@functools.cache
def _nodes(noise: float) -> tuple[Array, Array, Array]:
    """Return points on the roll (K, 2), the standard deviation of the noise (1,), and weights (K,)."""
    import numpy as np

    from driftspec_plugins.data import _quadrature

    def roll(t: Array) -> Array:
        return SCALE * t[:, None] * np.stack([np.cos(t), np.sin(t)], 1)

    std = SCALE * noise
    t, weight = _quadrature.along(roll, START, STOP, std)
    return roll(t), np.array([std]), weight / (STOP - START)


__all__ = ["SwissRoll"]
