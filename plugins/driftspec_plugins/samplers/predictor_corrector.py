"""Predictor-corrector: a reverse Euler-Maruyama step, then Langevin steps at the new time.

    predictor    x' = x - (f - g² s) h + g √h ε
    corrector    x' = x + (η/2) s(x, t) + √η ε,   η(t) = 4 (snr σ(t))²

Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole 2021. In that paper η depends on the norms of the score and of the
noise, averaged over a batch. Here η depends on t only. A step size that depends on the sample's own score would bias
the sample, and one that depends on the batch would make each sample depend on the others.
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
    """Reverse Euler-Maruyama steps, each followed by `corrector_steps` Langevin steps."""

    type = "predictor_corrector"

    corrector_steps: int = Field(1, ge=0, description="Langevin steps at each time")
    snr: float = Field(
        0.16,
        gt=0,
        lt=1,
        description="signal-to-noise ratio of a corrector step, η(t) = 4 (snr σ(t))²; at 1 the steps diverge",
    )

    last_noise: bool = Field(
        True,
        description="whether the last step adds noise and has a corrector; if not, all variances are too small by g²h",
    )

    def needs(self) -> tuple[Need, ...]:
        return (*super().needs(), Need("dynamics", ("noise_kernel",), "for σ(t) of the corrector's step"))

    def advance(self, model: Model, x: Tensor, t: Tensor, after: Tensor, noise: Iterator[Noise]) -> Tensor:
        """Return x (B, d) at `after`: a predictor step x' = x - (f - g² s) h + g √h ε, then corrector steps.

        Each of the `corrector_steps` is x' = x + (η/2) s(x, after) + √η ε.
        """
        from driftspec.numerics.sde import euler_maruyama_step, reverse_drift

        h, g = t - after, model.dynamics.diffusion(t)
        last = not self.last_noise and bool(after == model.dynamics.times()[1])
        backwards = reverse_drift(model.drift(t.to(x), x), g, model.score(t.to(x), x))
        if last:
            return euler_maruyama_step(x, backwards, h.to(x))
        x = euler_maruyama_step(x, backwards, h.to(x), (g * h.sqrt()).to(x) * next(noise).normal)
        eta = 4 * (self.snr * model.dynamics.kernel(after)[1]) ** 2
        for _ in range(self.corrector_steps):
            slope = model.score(after.to(x), x)
            x = euler_maruyama_step(x, slope, (eta / 2).to(x), eta.sqrt().to(x) * next(noise).normal)
        return x
