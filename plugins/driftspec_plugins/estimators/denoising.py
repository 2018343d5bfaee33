"""Denoising score matching: at noise σ the score to fit is known, -ε/σ, and its regression is the noised density's score.

    x_t = α x_0 + σ ε,   L = E w ‖s(x_t, t) + ε/σ‖² / 2,   optimum s(x, t) = ∇log p_t(x)

One σ (of x + σ ε, whatever the dynamics), or the whole schedule of an SDE, with weight w = σ², g² or 1. With g² and times
drawn from U the loss bounds the likelihood; with times drawn in proportion to g²/σ² it is the same loss with less variance
(`importance`). For small σ the target's variance d/σ² swamps the loss; its control variate is known: ‖ε‖²/σ² has mean
d/σ², and 2 sᵀε/σ loses its part s(x_0)ᵀε, of mean zero.
Vincent 2011; Song, Ermon 2019; Song et al. 2021; Song, Durkan, Murray, Ermon, *Maximum Likelihood Training of Score-Based
Diffusion Models*, 2021; control variate: Wang et al., *A Wasserstein Minimum Velocity Approach*, 2020.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from driftspec.component import Need
from driftspec.components import Estimator, Loss

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.model import Model
    from driftspec.streams import Streams


class Denoising(Estimator):
    """Mean of (w/2) ‖s(α x + σ ε, t) + ε/σ‖² over the batch, less its control variate where asked for."""

    type = "denoising"

    sigma: float | None = Field(None, gt=0, description="one noise level, model units; null: the dynamics' schedule")
    weight: Literal["one", "sigma2", "g2"] | None = Field(
        None, description="w: 1, σ² or g²; null: 1 for one σ, σ² for a schedule"
    )
    times: Literal["uniform", "importance"] = Field(
        "uniform", description="law of t: uniform, or in proportion to w/σ² with w taken out of the loss"
    )
    control_variate: bool = Field(False, description="subtract what has mean zero (one σ): less variance at small σ")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.sigma is not None and (self.weight == "g2" or self.times == "importance"):
            raise ValueError("weight: g2 and times: importance belong to a schedule, and sigma is one level")
        if self.sigma is None and self.control_variate:
            raise ValueError("control_variate belongs to one level: give sigma")
        return self

    def needs(self) -> tuple[Need, ...]:
        schedule = () if self.sigma is not None else (Need("dynamics", ("noise_kernel",), "for α(t) and σ(t)"),)
        return (Need("data", ("samples",), "to learn from"), *schedule, Need("dynamics", ("score",), "to fit"))

    def loss(self, model: Model, batch: Tensor, state: Any, streams: Streams) -> Loss:
        import torch

        generator = streams.generator("noise")
        noise = torch.randn(batch.shape, generator=generator, dtype=torch.float64).to(batch)
        if self.sigma is not None:
            t, sigma = batch.new_tensor(model.t_data), self.sigma
            s = model.score(t, batch + sigma * noise)
            each = (s + noise / sigma).square().sum(1) / 2
            if self.control_variate:
                # At the clean point the cross term has mean zero given x: what it loses is noise alone.
                clean = model.score(t, batch)
                each = each - noise.square().sum(1) / (2 * sigma**2) + batch.shape[1] / (2 * sigma**2)
                each = each - (clean * noise).sum(1) / sigma
            return Loss((each * (self.sigma**2 if self.weight == "sigma2" else 1)).mean(), {}, state)
        t, factor = self._times(model, batch, generator)
        alpha, sigma = (value[:, None] for value in model.dynamics.kernel(t))
        s = model.score(t, alpha * batch + sigma * noise)
        each = factor * (s + noise / sigma).square().sum(1) / 2
        return Loss(each.mean(), {}, state)

    def _times(self, model: Model, batch: Tensor, generator: Any) -> tuple[Tensor, Tensor]:
        """(t (B,), w(t)/density(t) (B,)): stratified over the batch, by inverting the density's integral on a grid."""
        import torch

        n = len(batch)
        u = (torch.arange(n, dtype=torch.float64) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
        u = u[torch.randperm(n, generator=generator)].to(batch.device)
        t_prior, t_data = model.dynamics.times()
        ladder = getattr(model.dynamics, "ladder", lambda: None)()
        if ladder is not None:
            t = ladder.to(u.device)[(u * len(ladder)).long()]
            return t.to(batch), self._weight(model, t).to(batch)
        if self.times == "uniform":
            t = t_data + u * (t_prior - t_data)
            return t.to(batch), self._weight(model, t).to(batch)
        grid = t_data + torch.linspace(0, 1, 4097, dtype=torch.float64, device=u.device) ** 2 * (t_prior - t_data)
        density = self._weight(model, grid) / model.dynamics.kernel(grid)[1].square()
        total = torch.cat([grid.new_zeros(1), torch.cumulative_trapezoid(density, grid)])
        index = torch.searchsorted(total, u * total[-1]).clamp(1, len(grid) - 1)
        share = (u * total[-1] - total[index - 1]) / (total[index] - total[index - 1])
        t = grid[index - 1] + share * (grid[index] - grid[index - 1])
        # w / density = σ² · (∫ w/σ²) / (T - ε), constant in t but for σ²
        factor = model.dynamics.kernel(t)[1].square() * total[-1] / (t_prior - t_data)
        return t.to(batch), factor.to(batch)

    def _weight(self, model: Model, t: Tensor) -> Tensor:
        import torch

        if self.weight == "one":
            return torch.ones_like(t)
        if self.weight == "g2":
            return model.dynamics.diffusion(t).square()
        return model.dynamics.kernel(t)[1].square()
