"""Two concentric circles with noise (scikit-learn's make_circles, with independent points), in the units of FFJORD.

    x = 3 (ρ (cos φ, sin φ) + σ ε),   ρ = 1 or ½, each half the time, φ uniform on the circle, σ = 0.08

Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud 2019. Entropy 3.2681 nats. In make_circles the
angles are equally spaced; here each point has its own random circle and angle.
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

    factor: float = Field(0.5, gt=0, lt=1, description="radius of the inner circle, before x 3; the outer one has 1")
    noise: float = Field(0.08, ge=1e-3, description="σ, standard deviation of the noise, before x 3")

    def dim(self) -> int:
        return 2

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """Return n samples (n, 2) of x = 3 (ρ (cos φ, sin φ) + σ ε)."""
        from driftspec_plugins.data import _rings

        return _rings.sample(n, generator, *self._parameters())

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) (B,) for x (B, 2), in closed form."""
        from driftspec_plugins.data import _rings

        return _rings.log_prob(x, *self._parameters())

    def entropy(self) -> float:
        from driftspec_plugins.data import _rings

        return _rings.entropy(*self._parameters())

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean 0 (2,) and the covariance 9 (½ E ρ² + σ²) I (2, 2)."""
        from driftspec_plugins.data import _rings

        return _rings.moments(*self._parameters())

    def _parameters(self) -> tuple[tuple[float, ...], float]:
        """Return the radii and the standard deviation of the noise, in the units of x."""
        return (SCALE, SCALE * self.factor), SCALE * self.noise


__all__ = ["Circles"]
