"""Denoising score matching: at noise σ the score to fit is known, -ε/σ; its mean given x_t is the noised density's.

    x_t = α x_0 + σ ε,   L = E (w/2) ‖s(x_t, t) + ε/σ‖²,   optimum s(x, t) = ∇log p_t(x)

One σ (of x + σ ε, for a dynamics without a time), a ladder of them, or the whole schedule of an SDE, with weight
w = σ², g² or 1. With g² and times drawn from U the loss bounds the likelihood; with times drawn in proportion to w/σ²
it is the same loss with less variance (`importance`). For one small σ the target's variance swamps the loss, and a
control variate of mean zero takes it out, c = (‖ε‖² - d)/(2σ²) + s(x_0)ᵀ ε/σ:

    ½ ‖s + ε/σ‖² - c = ½ ‖s‖² + (s(x_0 + σ ε) - s(x_0))ᵀ ε/σ + d/(2σ²)

Over a schedule it would add more at large σ than it takes out at small.

Vincent 2011; Song, Ermon 2019; Song et al. 2021; Song, Durkan, Murray, Ermon, *Maximum Likelihood Training of
Score-Based Diffusion Models*, 2021; control variate: Wang, Cheng, Li, Zhu, Zhang, *A Wasserstein Minimum Velocity
Approach to Learning Unnormalized Models*, 2020.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from driftspec.components import Estimator, Loss, Setting
from driftspec.components.component import Need
from driftspec.errors import Problem, SpecError

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from driftspec.components import Model
    from driftspec.streams import Streams

CELLS = 4096
"""Of the grid on which the law of importance-sampled times is laid."""


class Denoising(Estimator):
    """Mean of (w/2) ‖s(α x + σ ε, t) + ε/σ‖² over the batch, less its control variate where asked for."""

    type = "denoising"

    sigma: float | None = Field(None, gt=0, description="one noise level, model units; null: the dynamics' schedule")
    weight: Literal["one", "sigma2", "g2"] | None = Field(
        None, description="w: 1, σ² or g²; null: 1 for one σ, σ² for a schedule"
    )
    times: Literal["uniform", "importance"] = Field(
        "uniform", description="law of t: uniform, or in proportion to w/σ², which is then divided out of the loss"
    )
    control_variate: bool = Field(False, description="one σ: subtract what has mean zero, for less variance at small σ")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.sigma is not None and (self.weight == "g2" or self.times == "importance"):
            raise ValueError("weight: g2 and times: importance belong to a schedule, and sigma is one level")
        if self.sigma is None and self.control_variate:
            raise ValueError("control_variate belongs to one level: give sigma")
        return self

    def noise_level(self) -> float | None:
        return self.sigma

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("data", ("samples",), "to learn from"),
            Need("dynamics", ("noise_kernel",), "for α(t) and σ(t)", unless="timeless"),
            Need("dynamics", ("score",), "to fit"),
        )

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        t_prior, t_data = around.dynamics.times()
        scheduled = "noise_kernel" in around.dynamics.offers()
        if self.sigma is not None and t_prior != t_data and scheduled:
            yield "sigma", f"'sigma' is one level, and {around.dynamics.label} has a time: leave it out"
        if self.sigma is None and t_prior == t_data and not scheduled:
            yield "sigma", f"{around.dynamics.label} has no time, and so no schedule of σ: give one level, 'sigma'"

    def start(self, model: Model, streams: Streams) -> Any:
        t_data = model.t_data
        if self.sigma is None and self.weight in ("one", "g2") and float(model.dynamics.kernel(_time(t_data))[1]) == 0:
            text = f"weight: {self.weight} has an infinite loss where σ = 0, at t = {t_data} of {model.dynamics.label}"
            raise SpecError(Problem("X303", f"{self.label}: {text}: raise dynamics.t_data, or weight: sigma2"))
        return {}

    def loss(self, model: Model, batch: Tensor, state: Any, streams: Streams) -> Loss:
        generator = streams.generator("noise")
        t, alpha, sigma, weight = self.levels(model, batch, generator)
        noise = self.noise(batch, generator)
        s = model.score(t, alpha * batch + sigma * noise)
        if self.control_variate:
            change = s - model.score(t, batch)
            each = s.square().sum(1) / 2 + (change * noise / sigma).sum(1) + batch.shape[1] / (2 * sigma**2)
        else:
            each = (s + noise / sigma).square().sum(1) / 2
        return Loss((weight * each).mean(), {}, state)

    def noise(self, like: Tensor, generator: Generator) -> Tensor:
        """ε (B, d), standard normal."""
        import torch

        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)

    def levels(self, model: Model, batch: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(t () or (B,), α and σ as factors of rows, weight over the density of t): the batch's noise levels."""
        if self.sigma is not None:
            sigma = batch.new_tensor([self.sigma])
            weight = sigma**2 if self.weight == "sigma2" else sigma**0
            return batch.new_tensor(model.t_data), sigma**0, sigma, weight
        t, weight = self._times(model, _strata(len(batch), generator).to(batch.device))
        alpha, sigma = (value[:, None].to(batch) for value in model.dynamics.kernel(t))
        return t.to(batch), alpha, sigma, weight.to(batch)

    def _times(self, model: Model, u: Tensor) -> tuple[Tensor, Tensor]:
        """(t (B,), w(t)/density(t) (B,)), the density relative to the uniform one; t by inverting its integral at u."""
        import torch

        ladder = model.dynamics.ladder()
        if ladder is None and self.times == "uniform":
            t_prior, t_data = model.dynamics.times()
            t = t_data + u * (t_prior - t_data)
            return t, self._weight(model, t)
        edges = self._grid(model).to(u)
        middles, widths = (edges[1:] + edges[:-1]) / 2, edges.diff().abs()
        if ladder is not None:  # the law is one on the rungs
            middles, widths = ladder.to(u), torch.ones(len(ladder)).to(u)
        mass = widths
        if self.times == "importance":
            mass = widths * self._weight(model, middles) / model.dynamics.kernel(middles)[1].square()
        total = mass.cumsum(0)
        place = u * total[-1]
        cell = torch.searchsorted(total, place, right=True).clamp(max=len(middles) - 1)
        t = middles[cell]
        if ladder is None:  # within a cell the density is constant, so that weight and law agree whatever the grid
            share = 1 - (total[cell] - place) / mass[cell]
            t = edges[cell] + share * edges.diff()[cell]
        density = mass[cell] / total[-1] / (widths[cell] / widths.sum())
        return t, self._weight(model, t) / density

    def _grid(self, model: Model) -> Tensor:
        """Edges of cells from t_data to t_prior, finer towards the data, where σ is small."""
        import torch

        t_prior, t_data = model.dynamics.times()
        return t_data + torch.linspace(0, 1, CELLS + 1, dtype=torch.float64) ** 2 * (t_prior - t_data)

    def _weight(self, model: Model, t: Tensor) -> Tensor:
        import torch

        if self.weight == "one":
            return torch.ones_like(t)
        return (model.dynamics.diffusion(t) if self.weight == "g2" else model.dynamics.kernel(t)[1]).square()


def _strata(n: int, generator: Generator) -> Tensor:
    """n uniform numbers (n,) float64, one in each [i/n, (i + 1)/n), in random order."""
    import torch

    u = (torch.arange(n, dtype=torch.float64) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
    return u[torch.randperm(n, generator=generator)]


def _time(value: float) -> Tensor:
    import torch

    return torch.tensor(value, dtype=torch.float64)
