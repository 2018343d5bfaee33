"""Predictor-corrector: a reverse Euler-Maruyama step, then Langevin steps at the time it led to.

    predictor    x' = x - (f - g² s) h + g √h ε
    corrector    x' = x + (η/2) s(x, t) + √η ε,   η(t) = 4 (snr σ(t))²

Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole 2021. There the corrector's step is scaled by the norms of a batch's
score and noise; here it depends on t alone: a step that looks at a sample's own score biases it, and one that looks at
the batch makes each sample depend on the rest.
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


class PredictorCorrector(TimeSteps):
    """Reverse diffusion with `corrector_steps` of Langevin dynamics at each time."""

    type = "predictor_corrector"

    corrector_steps: int = Field(1, ge=0, description="Langevin steps at each time")
    snr: float = Field(
        0.16,
        gt=0,
        lt=1,
        description="signal-to-noise ratio of a corrector step: η(t) = 4 (snr σ(t))²; at 1 it diverges",
    )

    last_noise: bool = Field(
        True, description="false: the last step is the predictor's mean alone, and all variances are g²h too small"
    )

    def needs(self) -> tuple[Need, ...]:
        return (*super().needs(), Need("dynamics", ("noise_kernel",), "for σ(t) of the corrector's step"))

    def advance(self, model: Model, x: Tensor, t: Tensor, after: Tensor, chance: Iterator[Noise]) -> Tensor:
        from driftspec.numerics.sde import euler_maruyama_step, reverse_drift

        h, g = t - after, model.dynamics.diffusion(t)
        last = not self.last_noise and bool(after == model.dynamics.times()[1])
        backwards = reverse_drift(model.drift(t.to(x), x), g, model.score(t.to(x), x))
        if last:
            return euler_maruyama_step(x, backwards, h.to(x))
        x = euler_maruyama_step(x, backwards, h.to(x), (g * h.sqrt()).to(x) * next(chance).normal)
        eta = 4 * (self.snr * model.dynamics.kernel(after)[1]) ** 2
        for _ in range(self.corrector_steps):
            slope = model.score(after.to(x), x)
            x = euler_maruyama_step(x, slope, (eta / 2).to(x), eta.sqrt().to(x) * next(chance).normal)
        return x
