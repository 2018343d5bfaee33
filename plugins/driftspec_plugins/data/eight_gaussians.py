"""Eight isotropic Gaussians on a circle, in FFJORD's units (Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud 2019).

    x = (4 (cos kπ/4, sin kπ/4) + ½ ε) / 1.414,   k uniform in 0, ..., 7

Entropy 2.8319 nats. Each point has its own random k.
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


class EightGaussians(Distribution):
    """p(x) = 1/8 Σ_k N(x; R (cos kπ/4, sin kπ/4), σ² I), FFJORD's units by default (entropy 2.8319 nats)."""

    type = "8gaussians"

    radius: float = Field(4 / 1.414, gt=0, description="R, radius of the circle of centres")
    std: float = Field(0.5 / 1.414, gt=0, description="σ, standard deviation of each Gaussian")

    def dim(self) -> int:
        return 2

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """Return n samples (n, 2): k uniform in 0, ..., 7, then R (cos kπ/4, sin kπ/4) + σ ε."""
        from driftspec_plugins.data import _mixture

        return _mixture.sample(n, generator, *_arrays(self.radius, self.std))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) (B,) for x (B, 2)."""
        from driftspec_plugins.data import _mixture

        return _mixture.log_prob(x, *_arrays(self.radius, self.std))

    def entropy(self) -> float | None:
        return _entropy(self.radius, self.std)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean 0 (2,) and the covariance (½ R² + σ²) I (2, 2)."""
        from driftspec_plugins.data import _mixture

        return _mixture.moments(*_arrays(self.radius, self.std))

    def normals(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weights 1/8 (K,), the centres (K, 2) and the covariances σ² I (K, 2, 2), with K = 8."""
        from driftspec_plugins.data import _mixture

        return _mixture.normals(*_arrays(self.radius, self.std))

    def mode_of(self, x: Tensor) -> Tensor:
        """Return the k (B,) of the nearest centre, -1 if it is farther than (√2 + 2) σ, for x (B, 2)."""
        from driftspec_plugins.data import _mixture

        return _mixture.mode_of(x, *_arrays(self.radius, self.std))


@functools.cache
def _arrays(radius: float, std: float) -> tuple[Array, Array, Array]:
    """Return the centres (8, 2), the standard deviation (1,) and the weights (8,)."""
    import numpy as np

    angle = np.arange(8) * (math.pi / 4)
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1), np.array([std]), np.full(8, 1 / 8)


@functools.cache
def _entropy(radius: float, std: float) -> float | None:
    from driftspec_plugins.data import _mixture

    return _mixture.entropy(*_arrays(radius, std))


__all__ = ["EightGaussians"]
