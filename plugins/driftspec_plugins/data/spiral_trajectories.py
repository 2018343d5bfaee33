"""A damped planar spiral observed at known times: dz/dt = A z, A = [[-δ, ω], [-ω, -δ]], with noise on each observation.

    z(t) = e^{-δt} R(ωt) z(0),    y_k = z(t_k) + σ ε_k

z(0) has a uniform angle and a radius uniform in [1, 2]. It is like the spiral of Chen, Rubanova, Bettencourt, Duvenaud,
*Neural Ordinary Differential Equations*, 2018, but A z is linear, not cubic, so that z(t) has a closed form.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from driftspec.components import Data, Table

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from driftspec.source.files import Files


class SpiralTrajectories(Data):
    """Trajectories (n, K, 2): n spirals, observed at the same K times from 0 to `duration`, both ends included."""

    type = "spiral_trajectories"

    samples: int = Field(200, ge=1, description="number of trajectories, before the split")
    times: int = Field(20, ge=2, description="K, number of observations of each, equally spaced from 0 to duration")
    duration: float = Field(10.0, gt=0, description="time of the last observation")
    noise: float = Field(0.02, ge=0, description="σ, standard deviation of the noise of each observed coordinate")
    damping: float = Field(0.1, description="δ, decay of the radius per unit of time")
    frequency: float = Field(1.0, description="ω, radians per unit of time")

    @field_validator("frequency")
    @classmethod
    def _turns(cls, frequency: float) -> float:
        if frequency == 0:
            raise ValueError("a spiral turns: frequency must not be 0")
        return frequency

    def dim(self) -> int:
        return 2

    def offers(self) -> frozenset[str]:
        return frozenset({"trajectories"})

    def flow(self, z: Tensor, t: Tensor) -> Tensor:
        """Return z(t) = e^{-δt} R(ωt) z(0) (B, K, 2) for z(0) (B, 2) and times t (K,)."""
        import torch

        decay, angle = torch.exp(-self.damping * t), self.frequency * t
        rows = [torch.stack([angle.cos(), angle.sin()], -1), torch.stack([-angle.sin(), angle.cos()], -1)]
        return torch.einsum("k,kij,bj->bki", decay, torch.stack(rows, -2), z)

    def rows(self) -> int:
        return self.samples

    def observed_at(self) -> Tensor:
        """Return the times t_k (K,) of the observations."""
        import torch

        return torch.linspace(0, self.duration, self.times, dtype=torch.float64)

    def noise_floor(self) -> float:
        """Return E‖z(t_k) - y_k‖² = 2σ² (1 + mean e^{-2δ t_k}) over k > 0, for the true ODE from z(0) = y_0."""
        import torch

        return 2 * self.noise**2 * (1 + float(torch.exp(-2 * self.damping * self.observed_at()[1:]).mean()))

    def read(self, files: Files, generator: Generator) -> Table:
        import torch

        angle = 2 * math.pi * torch.rand(self.samples, generator=generator, dtype=torch.float64)
        radius = 1 + torch.rand(self.samples, generator=generator, dtype=torch.float64)
        z = radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
        times = self.observed_at()
        clean = self.flow(z, times)
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        return Table(clean + self.noise * noise, ("z1", "z2"), times)
