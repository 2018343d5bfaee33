"""Four concentric circles with noise, in FFJORD's units (Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud 2019).

    x = 3 ρ (cos φ, sin φ) + σ ε,   ρ uniform in {¼, ½, ¾, 1}, φ uniform on the circle, σ = 0.08

Entropy 2.6232 nats. In the original the angles are equally spaced; here each point has its own random ring and angle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from driftspec.components import Distribution

if TYPE_CHECKING:
    from torch import Generator, Tensor

SCALE = 3.0


class Rings(Distribution):
    """x = 3 ρ (cos φ, sin φ) + σ ε, ρ uniform in {1/K, ..., 1}; FFJORD's units, where K = 4 (entropy 2.6232 nats)."""

    type = "rings"

    rings: int = Field(4, ge=1, le=100, description="K, number of circles, with radii 3/K, ..., 3")
    noise: float = Field(0.08, ge=1e-3, description="σ, standard deviation of the noise, in the units of x")

    def dim(self) -> int:
        return 2

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """Return n samples (n, 2): x = 3 ρ (cos φ, sin φ) + σ ε, ρ the radius of a random ring, φ a random angle."""
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
        """Return the mean 0 (2,) and the covariance (½ E (3ρ)² + σ²) I (2, 2)."""
        from driftspec_plugins.data import _rings

        return _rings.moments(*self._parameters())

    def mode_of(self, x: Tensor) -> Tensor:
        """Return the number (B,) of the nearest circle, 0 for the smallest, or -1 if it is not within 3 σ."""
        import torch

        radii, std = self._parameters()
        r = torch.linalg.vector_norm(x.double(), dim=1)
        away, nearest = (r[:, None] - r.new_tensor(radii)).abs().min(1)
        return nearest.masked_fill(away > 3 * std, -1)

    def _parameters(self) -> tuple[tuple[float, ...], float]:
        """Return the radii and the standard deviation of the noise, in the units of x."""
        return tuple(SCALE * k / self.rings for k in range(1, self.rings + 1)), self.noise


__all__ = ["Rings"]
