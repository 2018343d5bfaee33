"""Denoising score matching: fit s to -ε/σ, whose mean given x_t is ∇log p_t(x_t), the score of the noised data.

    x_t = α x_0 + σ ε,   L = E (w/2) ‖s(x_t, t) + ε/σ‖²,   optimum s(x, t) = ∇log p_t(x)

The noise has one σ (x + σ ε, for a dynamics without a time), finitely many levels, or the whole schedule of an SDE. The
weight w is σ², g² or 1. With w = g² and uniform times the loss bounds -log p. With the density of times
proportional to w/σ² (`importance`) it is the same loss with less variance. For one small σ the loss has a large
variance, because ε/σ has; subtracting a control variate of mean zero, c = (‖ε‖² - d)/(2σ²) + s(x_0)ᵀ ε/σ, removes it:

    ½ ‖s + ε/σ‖² - c = ½ ‖s‖² + (s(x_0 + σ ε) - s(x_0))ᵀ ε/σ + d/(2σ²)

For a schedule it would add more variance at large σ than it removes at small σ.

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
"""The number of cells of t, in each of which importance-sampled times have a constant density."""


class Denoising(Estimator):
    """The mean of (w/2) ‖s(α x + σ ε, t) + ε/σ‖² over the batch, minus a control variate if `control_variate`."""

    type = "denoising"

    sigma: float | None = Field(None, gt=0, description="one noise level, model units; null: the dynamics' schedule")
    weight: Literal["one", "sigma2", "g2"] | None = Field(
        None, description="w: 1, σ² or g²; null: 1 for one σ, σ² for a schedule"
    )
    times: Literal["uniform", "importance"] = Field(
        "uniform", description="density of t: uniform, or proportional to w/σ²; the loss is divided by the density"
    )
    control_variate: bool = Field(False, description="for one σ: subtract a term of mean zero, to reduce the variance")

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
        """Return the mean of (w/2) ‖s(α x_0 + σ ε, t) + ε/σ‖² over a batch x_0 (B, d), minus the control variate."""
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
        """Return ε ~ N(0, I) (B, d) in the dtype of `like` (B, d)."""
        import torch

        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)

    def levels(self, model: Model, batch: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw times t () or (B,); return them with α(t), σ(t) (1,) or (B, 1) and the loss weights (1,) or (B,).

        A weight is w(t) divided by the density from which t was drawn.
        """
        if self.sigma is not None:
            sigma = batch.new_tensor([self.sigma])
            weight = sigma**2 if self.weight == "sigma2" else sigma**0
            return batch.new_tensor(model.t_data), sigma**0, sigma, weight
        t, weight = self._times(model, _strata(len(batch), generator).to(batch.device))
        alpha, sigma = (value[:, None].to(batch) for value in model.dynamics.kernel(t))
        return t.to(batch), alpha, sigma, weight.to(batch)

    def _times(self, model: Model, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return t = F⁻¹(u) (B,), with F the distribution function of t, and w(t)/q(t) (B,), with q = F' T.

        T is t_prior - t_data, so that q is 1 for uniform times.
        """
        import torch

        ladder = model.dynamics.ladder()
        if ladder is None and self.times == "uniform":
            t_prior, t_data = model.dynamics.times()
            t = t_data + u * (t_prior - t_data)
            return t, self._weight(model, t)
        edges = self._grid(model).to(u)
        middles, widths = (edges[1:] + edges[:-1]) / 2, edges.diff().abs()
        if ladder is not None:  # t is discrete: one of the noise levels
            middles, widths = ladder.to(u), torch.ones(len(ladder)).to(u)
        mass = widths
        if self.times == "importance":
            mass = widths * self._weight(model, middles) / model.dynamics.kernel(middles)[1].square()
        total = mass.cumsum(0)
        place = u * total[-1]
        cell = torch.searchsorted(total, place, right=True).clamp(max=len(middles) - 1)
        t = middles[cell]
        if ladder is None:  # the density is constant within a cell, so that the weight is exact on any grid
            share = 1 - (total[cell] - place) / mass[cell]
            t = edges[cell] + share * edges.diff()[cell]
        density = mass[cell] / total[-1] / (widths[cell] / widths.sum())
        return t, self._weight(model, t) / density

    def _grid(self, model: Model) -> Tensor:
        """Return the edges of the cells from t_data to t_prior, finer near t_data, where σ is small."""
        import torch

        t_prior, t_data = model.dynamics.times()
        return t_data + torch.linspace(0, 1, CELLS + 1, dtype=torch.float64) ** 2 * (t_prior - t_data)

    def _weight(self, model: Model, t: Tensor) -> Tensor:
        """Return w(t): 1, g(t)² or σ(t)²."""
        import torch

        if self.weight == "one":
            return torch.ones_like(t)
        return (model.dynamics.diffusion(t) if self.weight == "g2" else model.dynamics.kernel(t)[1]).square()


def _strata(n: int, generator: Generator) -> Tensor:
    """Return n uniform random numbers (n,) float64, one in each [i/n, (i + 1)/n), in random order."""
    import torch

    u = (torch.arange(n, dtype=torch.float64) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
    return u[torch.randperm(n, generator=generator)]


def _time(value: float) -> Tensor:
    import torch

    return torch.tensor(value, dtype=torch.float64)
