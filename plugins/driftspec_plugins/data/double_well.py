"""A double well in one dimension: two modes and a barrier between them.

    p(x) = exp(-U(x))/Z,   U(x) = a (x² - b²)²,   Z by quadrature

U is -log p up to a constant, so the Langevin SDE is dx = -½ U' dt + dw (many texts have dx = -U' dt + √2 dw, which is
twice as fast). The modes are at ±b, and the barrier at 0 has the height a b⁴. For a high barrier the SDE crosses it at
the rate (2√2/π) a b² exp(-a b⁴) (H. A. Kramers, Brownian motion in a field of force, 1940): 0.244 with a = 2, b = 1,
where the smallest eigenvalue of the SDE's generator is 0.22727.
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

NODES = 2**15 + 1
DEEP = 100.0  # the value of U at which the grid ends


class DoubleWell(Distribution):
    """p ∝ exp(-a (x² - b²)²) in one dimension, normalised by quadrature, with modes at ±b."""

    type = "double_well"

    steepness: float = Field(2.0, gt=0, description="a of the energy U = a (x² - b²)²; p is proportional to exp(-U)")
    well: float = Field(1.0, gt=0, description="b: the modes are at b and -b")

    def dim(self) -> int:
        return 1

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """Return n samples (n, 1): |x| from its inverse distribution function, and a random sign."""
        import torch

        side, u = torch.rand(2, n, generator=generator, dtype=torch.float64, device=generator.device)
        distance = self._quantile(1 - u)
        return torch.where(side < 0.5, -distance, distance)[:, None]

    def log_prob(self, x: Tensor) -> Tensor:
        """Return -a (x² - b²)² - log Z (B,) for x (B, 1)."""
        y = x[:, 0]
        return -self.steepness * ((y - self.well) * (y + self.well)).square() - _table(self.steepness, self.well)[3]

    def entropy(self) -> float:
        """Return E[U] + log Z, in nats."""
        x, weight, _, log_z = _table(self.steepness, self.well)
        return float(weight @ _energy(x, self.steepness, self.well)) + log_z

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean 0 (d,) and the variance E x² (d, d), with d = 1, by quadrature."""
        import torch

        x, weight, _, _ = _table(self.steepness, self.well)
        return torch.zeros(1, dtype=torch.float64), torch.tensor([[weight @ x**2]], dtype=torch.float64)

    def _quantile(self, u: Tensor) -> Tensor:
        """Return r (n,) with P(|x| <= r) = u (n,) in (0, 1], by linear interpolation, to an error of 1e-7 in P."""
        import torch

        x, _, cdf, _ = _table(self.steepness, self.well)
        nodes, below = torch.as_tensor(x, device=u.device), torch.as_tensor(cdf, device=u.device)
        k = torch.searchsorted(below, u)  # below[k - 1] < u <= below[k]
        part = (u - below[k - 1]) / (below[k] - below[k - 1])
        return nodes[k - 1] + part * (nodes[k] - nodes[k - 1])


def _energy(x: Array, a: float, b: float) -> Array:
    return a * ((x - b) * (x + b)) ** 2


@functools.cache
def _table(a: float, b: float) -> tuple[Array, Array, Array, float]:
    """Return, for |x|, nodes (K,), weights (K,) of an expectation, the distribution function (K,); and log Z.

    They are from the trapezoidal rule over {x >= 0, U <= DEEP}. Its error is about exp(-DEEP) at the outer ends, and
    zero at 0, where U is even: the rule converges exponentially.
    """
    import numpy as np

    reach = math.sqrt(DEEP / a)
    x = np.linspace(math.sqrt(max(0.0, b**2 - reach)), math.sqrt(b**2 + reach), NODES)
    step, density = float(x[1] - x[0]), np.exp(-_energy(x, a, b))
    cells = (density[1:] + density[:-1]) * step / 2
    cdf = np.concatenate([[0.0], np.cumsum(cells)])
    half = float(cdf[-1])
    weight = density * step / half
    weight[[0, -1]] /= 2
    return x, weight, cdf / half, math.log(2 * half)


__all__ = ["DoubleWell"]
