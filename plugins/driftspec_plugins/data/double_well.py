"""A double well on the line: two modes and a barrier between them.

    p(x) = exp(-U(x))/Z,   U(x) = a (x² - b²)²,   Z by quadrature

U is -log p up to a constant, so the Langevin SDE is dx = -½ U' dt + dw (many texts write dx = -U' dt + √2 dw, which
runs twice as fast). The modes lie at ±b, the barrier at 0 is a b⁴ high, and the SDE crosses it at the rate
(2√2/π) a b² exp(-a b⁴) for high barriers (H. A. Kramers, Brownian motion in a field of force, 1940): 0.244 with a = 2,
b = 1, where the smallest eigenvalue is 0.22727.
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
DEEP = 100.0  # the grid ends where U is this high


class DoubleWell(Distribution):
    """p ∝ exp(-a (x² - b²)²) on the line, normalised by quadrature; modes at ±b."""

    type = "double_well"

    steepness: float = Field(2.0, gt=0, description="a, of the energy U = a (x² - b²)², which is -log p")
    well: float = Field(1.0, gt=0, description="b: the modes are at b and -b")

    def dim(self) -> int:
        return 1

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """(n, 1): |x| by its inverse distribution function, then a sign."""
        import torch

        side, u = torch.rand(2, n, generator=generator, dtype=torch.float64, device=generator.device)
        distance = self._quantile(1 - u)
        return torch.where(side < 0.5, -distance, distance)[:, None]

    def log_prob(self, x: Tensor) -> Tensor:
        y = x[:, 0]
        return -self.steepness * ((y - self.well) * (y + self.well)).square() - _table(self.steepness, self.well)[3]

    def entropy(self) -> float:
        """E[U] + log Z."""
        x, weight, _, log_z = _table(self.steepness, self.well)
        return float(weight @ _energy(x, self.steepness, self.well)) + log_z

    def moments(self) -> tuple[Tensor, Tensor]:
        import torch

        x, weight, _, _ = _table(self.steepness, self.well)
        return torch.zeros(1, dtype=torch.float64), torch.tensor([[weight @ x**2]], dtype=torch.float64)

    def _quantile(self, u: Tensor) -> Tensor:
        """The distance d with P(|x| <= d) = u, for u in (0, 1]: linear between nodes, P itself right to 1e-7."""
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
    """For |x|: nodes (K,), weights (K,) of an expectation, distribution function (K,); and log Z.

    By the trapezoidal rule over {x >= 0, U <= DEEP}, which loses exp(-DEEP) at the ends and nothing at 0, where U is
    even: it converges exponentially.
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
