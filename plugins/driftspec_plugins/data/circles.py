"""Two concentric circles, blurred (scikit-learn's make_circles, with independent points), in the units of FFJORD.

    x = 3 (ρ (cos φ, sin φ) + σ ε),   ρ = 1 or ½, each half the time, φ uniform on the circle, σ = 0.08

Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud 2019. Entropy 3.2681 nats. make_circles spaces its angles evenly; here
each point draws its own circle and angle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from driftspec.components import Distribution

if TYPE_CHECKING:
    from torch import Generator, Tensor

SCALE = 3.0


class Circles(Distribution):
    """x = 3 (ρ (cos φ, sin φ) + σ ε), ρ = 1 or `factor`; FFJORD's units (entropy 3.2681 nats)."""

    type = "circles"

    factor: float = Field(0.5, gt=0, lt=1, description="radius of the inner circle; the outer one's is 1, before x 3")
    noise: float = Field(0.08, ge=1e-3, description="σ, deviation of the noise before x 3")

    def dim(self) -> int:
        return 2

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        from driftspec_plugins.data import _rings

        return _rings.sample(n, generator, *self._law())

    def log_prob(self, x: Tensor) -> Tensor:
        from driftspec_plugins.data import _rings

        return _rings.log_prob(x, *self._law())

    def entropy(self) -> float:
        from driftspec_plugins.data import _rings

        return _rings.entropy(*self._law())

    def moments(self) -> tuple[Tensor, Tensor]:
        from driftspec_plugins.data import _rings

        return _rings.moments(*self._law())

    def _law(self) -> tuple[tuple[float, ...], float]:
        """Radii and deviation in the units of x."""
        return (SCALE, SCALE * self.factor), SCALE * self.noise


__all__ = ["Circles"]
