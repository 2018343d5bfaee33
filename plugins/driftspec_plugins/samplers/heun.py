"""Heun's method for the probability-flow ODE on a grid of noise levels (EDM).

    d_i = v(x_i, t_i);   x̃ = x_i + h d_i;   x_{i+1} = x_i + (h/2) (d_i + v(x̃, t_{i+1}))
    levels λ_i = (λ_max^{1/ρ} + i/N (λ_min^{1/ρ} - λ_max^{1/ρ}))^ρ of λ = σ/α

Karras, Aittala, Aila, Laine, *Elucidating the Design Space of Diffusion-Based Generative Models*, 2022. Order 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from driftspec.components.component import Need
from driftspec.numerics.chains import Noise
from driftspec_plugins.samplers._time_steps import TimeSteps

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Model


class Heun(TimeSteps):
    """Heun steps of the probability flow, with two evaluations each; only the first state is random."""

    type = "heun"

    steps: int = Field(40, ge=1, description="N, number of steps, with two evaluations each")
    rho: float = Field(7.0, gt=0, description="ρ: a larger value makes more noise levels small; EDM uses 7")

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("noise_kernel",), "for its levels of noise"),
            Need("dynamics", ("velocity",), "to follow"),
        )

    def grid(self, model: Model) -> Tensor:
        """Return the times (N + 1,) float64 at which σ/α = λ_i, by interpolation in a fine table."""
        import numpy as np
        import torch

        fine = torch.linspace(*model.dynamics.times(), 20001, dtype=torch.float64)
        alpha, sigma = model.dynamics.kernel(fine)
        root = (sigma / alpha) ** (1 / self.rho)
        levels = torch.linspace(float(root[0]), float(root[-1]), self.steps + 1, dtype=torch.float64)
        times = torch.from_numpy(np.interp(levels.numpy(), root.flip(0).numpy(), fine.flip(0).numpy()))
        times[0], times[-1] = fine[0], fine[-1]
        return times

    def advance(self, model: Model, x: Tensor, t: Tensor, after: Tensor, noise: Iterator[Noise]) -> Tensor:
        """Return x_{i+1} = x_i + (h/2) (v(x_i, t_i) + v(x̃, t_{i+1})) (B, d), x̃ = x_i + h v(x_i, t_i)."""
        h = (after - t).to(x)
        first = model.velocity(t.to(x), x)
        return x + h / 2 * (first + model.velocity(after.to(x), x + h * first))
