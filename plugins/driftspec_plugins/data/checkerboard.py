"""A checkerboard: uniform on every other cell of a board, in the units of FFJORD.

    p(x) = 2/(K s)² on the cells where ⌊x₁/s⌋ + ⌊x₂/s⌋ is even, 0 elsewhere,   |x_i| < K s/2

Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud 2019: K = 4 cells in a row, s = 2. Entropy log 32 = 3.4657 nats.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from driftspec.components import Distribution

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Checkerboard(Distribution):
    """Uniform on every other cell of a K x K board centred at 0; FFJORD's units (entropy log 32 = 3.4657 nats)."""

    type = "checkerboard"
    hard_edges = True

    cells: int = Field(4, ge=2, multiple_of=2, description="K, number of cells along each side, even")
    edge: float = Field(2.0, gt=0, description="s, length of the side of a cell")

    def dim(self) -> int:
        return 2

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """Return n samples (n, 2): a random column, one of its K/2 cells, a point in that cell."""
        import torch

        half = self.cells // 2
        column = torch.randint(-half, half, (n,), generator=generator, device=generator.device)
        row = 2 * torch.randint(0, half, (n,), generator=generator, device=generator.device) - half
        row = row + (column + row) % 2
        inside = torch.rand(n, 2, generator=generator, dtype=torch.float64, device=generator.device)
        return self.edge * (torch.stack([column, row], 1) + inside)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return -log(K² s²/2) on the cells, -inf elsewhere (B,), for x (B, 2); the gradient is 0."""
        import torch

        cell = torch.floor(x.detach() / self.edge)
        on = (cell.sum(-1) % 2 == 0) & (cell >= -self.cells // 2).all(-1) & (cell < self.cells // 2).all(-1)
        level = x.new_tensor(-self.entropy()).where(on, -math.inf)
        return level + 0 * x.sum(-1)  # keeps x in the graph

    def mode_of(self, x: Tensor) -> Tensor:
        """Return the number (B,) of the cell of each row of x (B, 2): 0, ..., K²/2 - 1, by columns; -1 for none."""
        import torch

        half = self.cells // 2
        column, row = (torch.floor(x.double() / self.edge).long() + half).unbind(1)
        on = ((column + row) % 2 == 0) & (torch.minimum(column, row) >= 0) & (torch.maximum(column, row) < self.cells)
        return (column * half + row // 2).where(on, -1)

    def entropy(self) -> float:
        return math.log(self.cells**2 * self.edge**2 / 2)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean 0 (2,) and the covariance (2, 2): variances (K s)²/12, as x_i is uniform, and cov s²/4.

        x₁ and x₂ are both in cells of even index, or both in cells of odd index; the means of these are s/2 and -s/2.
        """
        import torch

        covariance = torch.full((2, 2), self.edge**2 / 4, dtype=torch.float64)
        covariance.diagonal().fill_((self.cells * self.edge) ** 2 / 12)
        return torch.zeros(2, dtype=torch.float64), covariance


__all__ = ["Checkerboard"]
