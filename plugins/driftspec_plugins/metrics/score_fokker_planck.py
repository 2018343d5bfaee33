"""The residual of a score s = ∇log p_t in the score Fokker-Planck equation.

    r = ∂s/∂t - ∇[½ g² (∇·s + ‖s‖²) - f·s - ∇·f],   dx = f dt + g dw

The equation is the gradient of ∂log p/∂t = ½ g² (Δlog p + ‖∇log p‖²) - f·∇log p - ∇·f, so r = 0 for the scores of the
SDE's densities p_t. Denoising score matching fits the score at each time separately; r measures whether the scores at
different times are consistent, and needs no reference. r = 0 does not prove that the score is that of the data, because
it also holds for any other density at t_data. The value is the mean of ‖r‖ over noised test rows x_t, from the noise
kernel, or without one from `steps` Euler-Maruyama steps. The interval from t_data to t_prior is divided into as many
equal parts as there are rows, and each row has a random time in a part of its own. All is in float64, with exact
divergences.

C.-H. Lai et al., *FP-Diffusion: Improving Score-based Diffusion Models by Enforcing the Underlying Score Fokker-Planck
Equation*, 2023.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from driftspec.components import Measured, Metric, Network, Setting
from driftspec.components.component import Need
from driftspec.errors import RunFailed

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation, Model

PARTS = 5  # intervals of time for which the details have separate means


class ScoreFokkerPlanck(Metric):
    """Mean norm of the residual of the score Fokker-Planck equation, over noised test rows and times."""

    type = "score_fokker_planck"
    reads_test_rows: ClassVar[bool] = True

    points: int = Field(500, ge=10, description="largest number of test rows, the first ones")
    steps: int = Field(100, ge=1, description="Euler-Maruyama steps to x_t, for an SDE without a noise kernel")

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("drift",), "the equation is that of its SDE"),
            Need("dynamics", ("score",), "to compute its residual"),
            Need("dynamics", ("smooth",), "the residual differentiates the score"),
            Need("data", ("samples",), "to have test rows"),
        )

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        first, last = around.dynamics.times()
        if first == last:
            yield "type", f"the equation is for a score that depends on time, and {around.dynamics.label} has no time"
        network = next((one for one in around.dynamics.nested().values() if isinstance(one, Network)), None)
        if network is not None:
            needed = 2 + around.dynamics.network_derivatives()
            if network.smoothness() < needed:
                text = f"the residual contains a second derivative of the score: {network.label} has"
                yield "points", f"{text} {network.smoothness():g} continuous derivatives, {needed} are needed"

    def measure(self, evaluation: Evaluation) -> Measured:
        import torch

        from driftspec.numerics.sde import noised, simulated

        model = evaluation.model.double()
        x = model.like(evaluation.rows(evaluation.test(self.points)))
        n, generator = len(x), evaluation.streams.generator("noise")
        t_prior, t_data = model.dynamics.times()
        u = (torch.arange(n) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
        t = (t_data + (t_prior - t_data) * u[torch.randperm(n, generator=generator)]).to(x)
        by_kernel = "noise_kernel" in model.own
        x_t, error = (
            (noised(model, x, t, generator), None)
            if by_kernel
            else simulated(model, x, t, self.steps, generator, compare=True)
        )
        r, rate = residual(model, t, x_t)
        norm, speed = (torch.linalg.vector_norm(v, dim=1).cpu() for v in (r, rate))
        if not bool(norm.isfinite().all()):
            bad = int((~norm.isfinite()).sum())
            raise RunFailed(f"{self.label}: the residual is not finite at {bad} of {n} points", "non_finite")
        value, stderr = float(norm.mean()), float(norm.std()) / math.sqrt(n)
        parts = ((t.cpu() - t_data) / (t_prior - t_data) * PARTS).long().clamp(0, PARTS - 1)
        width = (t_prior - t_data) / PARTS
        times = [
            {"from": t_data + k * width, "to": t_data + (k + 1) * width, "value": float(norm[parts == k].mean())}
            for k in range(PARTS)
            if bool((parts == k).any())
        ]
        details: dict[str, Any] = {"mean_rate": float(speed.mean()), "median": float(norm.median()), "times": times}
        if error is not None:
            details["path_error"] = error
        line = f"score's Fokker-Planck residual {value:.4g} ± {stderr:.2g}, where ‖∂s/∂t‖ is {details['mean_rate']:.4g}"
        return Measured(value, stderr, "1 / (model unit · time)", n, details, line=line)


def residual(model: Model, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return r (B, d) and ∂s/∂t (B, d) at x (B, d) and t (B,), by automatic differentiation."""
    import torch

    with torch.enable_grad():
        t, x = t.detach().requires_grad_(), x.detach().requires_grad_()
        s, f, g = model.score(t, x), model.drift(t, x), model.dynamics.diffusion(t)
        inside = g.square() / 2 * (_divergence(s, x) + s.square().sum(1)) - (f * s).sum(1) - _divergence(f, x)
        gradient = _derivative(inside, x)
        rate = torch.stack([_derivative(column, t) for column in s.unbind(1)], 1)
    return (rate - gradient).detach(), rate.detach()


def _divergence(f: Tensor, x: Tensor) -> Tensor:
    """Return ∇·f = Σ_i ∂f_i/∂x_i (B,), with a graph."""
    return sum((_derivative(column, x)[:, i] for i, column in enumerate(f.unbind(1))), x.new_zeros(len(x)))


def _derivative(values: Tensor, of: Tensor) -> Tensor:
    """Return the derivative of each of `values` (B,) by the same row of `of`, with a graph; 0 if it is constant."""
    import torch

    if not values.requires_grad:
        return torch.zeros_like(of)
    made: Tensor = torch.autograd.grad(values.sum(), of, create_graph=True, materialize_grads=True)[0]
    return made
