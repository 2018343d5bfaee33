"""Annealed Langevin dynamics: Langevin steps at one noise level after another, from the highest σ to the lowest.

    x' = x + (η_i/2) s(x, σ_i) + √η_i ε,   η_i = η (σ_i/σ_L)²,   σ_1 > ... > σ_L the noise levels of the dynamics

Song, Ermon, *Generative Modeling by Estimating Gradients of the Data Distribution*, 2019. The last state x still
contains noise of size σ_L. By default the draw is x + σ_L² s(x, σ_L), the mean of the data given x (Tweedie's formula):
Jolicoeur-Martineau et al. 2021.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from driftspec.components import Setting
from driftspec.components.component import Finding, Need
from driftspec.errors import RunFailed
from driftspec.numerics.chains import Noise
from driftspec_plugins.samplers._time_steps import TimeSteps

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Model
    from driftspec.streams import Streams


class AnnealedLangevin(TimeSteps):
    """Langevin steps at each noise level of the dynamics, from the highest to the lowest."""

    type = "annealed_langevin"
    heuristic = True  # the chains need not converge at a level
    example: ClassVar[Mapping[str, Any]] = {"step": 1e-4, "steps_per_level": 20}

    steps: int = Field(10, ge=1, description="number of noise levels, if the dynamics has no noise levels of its own")
    steps_per_level: int = Field(100, ge=1, description="Langevin steps at each σ")
    step: float = Field(gt=0, description="η at the lowest σ; η_i = η (σ_i/σ_L)²")
    denoise: bool = Field(True, description="end with the mean x + σ_L² s(x, σ_L)")

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("noise_kernel",), "for its levels of noise"),
            Need("dynamics", ("score",), "to climb"),
        )

    def halved(self) -> Self:
        return self.model_copy(update={"step": self.step / 2, "steps_per_level": 2 * self.steps_per_level})

    def problems(self, around: Setting) -> Iterator[Finding]:
        yield from super().problems(around)
        lowest = around.dynamics.lowest_noise()
        if lowest is not None and self.step >= 4 * lowest**2:
            yield "step", _unstable(self.step, 4 * lowest**2)

    def grid(self, model: Model) -> Tensor:
        """Return the times of the noise levels (L + 1,) float64, highest σ first; the last is there twice.

        One step of the time loop is one level.
        """
        import torch

        ladder = model.dynamics.ladder()
        times = torch.linspace(*model.dynamics.times(), self.steps, dtype=torch.float64) if ladder is None else ladder
        return torch.cat([times, times[-1:]])

    def begin(self, model: Model, chains: int, streams: Streams) -> Tensor:
        """Return the first states (chains, d). Raise RunFailed for η ≥ 4 σ_L²: the steps would diverge at a large σ."""
        limit = 4 * float(model.dynamics.kernel(self.grid(model)[-1])[1]) ** 2
        if self.step >= limit:
            raise RunFailed(f"{self.label}: {_unstable(self.step, limit)}", "unstable", 0)
        return super().begin(model, chains, streams)

    def advance(self, model: Model, x: Tensor, t: Tensor, after: Tensor, noise: Iterator[Noise]) -> Tensor:
        """Make `steps_per_level` steps x' = x + (η_i/2) s(x, σ_i) + √η_i ε (B, d), σ_i = σ(t)."""
        from driftspec.numerics.sde import euler_maruyama_step

        lowest, sigma = (model.dynamics.kernel(time)[1] for time in (self.grid(model)[-1], t))
        eta = (self.step * (sigma / lowest) ** 2).to(x)
        for _ in range(self.steps_per_level):
            x = euler_maruyama_step(x, model.score(t.to(x), x), eta / 2, eta.sqrt() * next(noise).normal)
        return x

    def finish(self, model: Model, x: Tensor, t: Tensor) -> Tensor:
        """Return (x + σ² s(x, t)) / α (B, d), or x (B, d) without `denoise`."""
        if not self.denoise:
            return x
        alpha, sigma = (value.to(x) for value in model.dynamics.kernel(t))
        return (x + sigma**2 * model.score(t.to(x), x)) / alpha


def _unstable(step: float, limit: float) -> str:
    return f"'step' is {step:g}, past stability, 4 σ_L² = {limit:.6g}: take a smaller one"
