"""Two interleaving half circles with noise (scikit-learn's make_moons, with independent points).

    c(u) = (cos πu, sin πu)  or  (1 - cos πu, ½ - sin πu),   u uniform in [0, 1]
    x = c(u) + σ ε                                            scikit-learn's units
    x = 2 (c(u) + σ ε) + (-1, -1/5)                           FFJORD's units (Grathwohl et al. 2019)

log p(x) = log ∫ N(x; c(u), σ² I) du, by quadrature in u. Entropies in nats: 1.0076 at σ = 0.1 and 0.2892 at σ = 0.05 in
scikit-learn's units, 2.3939 at σ = 0.1 in FFJORD's. In make_moons the angles are equally spaced; here they are random.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from driftspec.components import Distribution

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Generator, Tensor

    Array = NDArray[np.float64]

FACTOR = {"sklearn": 1.0, "ffjord": 2.0}
SHIFT = {"sklearn": (0.0, 0.0), "ffjord": (-1.0, -0.2)}


class Moons(Distribution):
    """Two half circles of radius 1 with Gaussian noise, in scikit-learn's units or, with `scaling`, FFJORD's."""

    type = "moons"

    noise: float = Field(0.1, ge=1e-3, description="σ, standard deviation of the noise, for circles of radius 1")
    scaling: Literal["sklearn", "ffjord"] = Field(
        "sklearn", description="units: scikit-learn's, with circles of radius 1, or FFJORD's, 2 x + (-1, -0.2)"
    )

    def dim(self) -> int:
        return 2

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """Return n samples (n, 2) of c(u) + σ ε, in the units of `scaling`."""
        import torch

        lower, u = torch.rand(2, n, generator=generator, dtype=torch.float64, device=generator.device)
        circle = torch.stack([torch.cos(math.pi * u), torch.sin(math.pi * u)], 1)
        mirrored = circle.new_tensor([1.0, 0.5]) - circle
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64, device=generator.device)
        x = torch.where(lower[:, None] < 0.5, mirrored, circle) + self.noise * noise
        return FACTOR[self.scaling] * x + x.new_tensor(SHIFT[self.scaling])

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log(½ ∫ N(y; c(u), σ² I) du over both moons) - 2 log k (B,), with y = (x - shift)/k, for x (B, 2)."""
        from driftspec_plugins.data import _mixture

        factor = FACTOR[self.scaling]
        y = (x.double() - x.new_tensor(SHIFT[self.scaling]).double()) / factor
        return (_mixture.log_prob(y, *_nodes(self.noise)) - 2 * math.log(factor)).to(x.dtype)

    def entropy(self) -> float | None:
        from driftspec_plugins.data import _mixture

        plain = _mixture.entropy_at(_nodes, self.noise)
        return None if plain is None else plain + 2 * math.log(FACTOR[self.scaling])

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean (2,) and covariance (2, 2) of c(u) + σ ε by quadrature in u, in the units of `scaling`."""
        from driftspec_plugins.data import _mixture

        factor = FACTOR[self.scaling]
        mean, covariance = _mixture.moments(*_nodes(self.noise))
        return factor * mean + mean.new_tensor(SHIFT[self.scaling]), factor**2 * covariance


@functools.cache
def _nodes(noise: float) -> tuple[Array, Array, Array]:
    """Return points c(u) on both moons (K, 2), the standard deviation of the noise (1,), and weights (K,)."""
    import numpy as np

    from driftspec_plugins.data import _quadrature

    def circle(angle: Array) -> Array:
        return np.stack([np.cos(angle), np.sin(angle)], 1)

    angle, weight = _quadrature.along(circle, 0.0, math.pi, noise)
    weight = weight / (2 * math.pi)
    points = circle(angle)
    return np.concatenate([points, [1.0, 0.5] - points]), np.array([noise]), np.concatenate([weight, weight])


__all__ = ["Moons"]
