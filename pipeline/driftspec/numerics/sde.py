"""x_t of an SDE dx = f dt + g dw from x at t_data: through its noise kernel, or by steps where it has none.

    kernel   x_t = α(t) x + σ(t) ε
    steps    x' = x + f(x, s) h + g(s) √h ε,   h = (t - t_data)/n, every row on its own way to a time of its own

The steps are Euler and Maruyama's. Their error is told as the root mean square distance to the paths that the same
Wiener process drives in steps half as long; it falls with h, for g does not depend on x.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from driftspec.numerics.model import Model


def noised(model: Model, x: Tensor, t: Tensor, generator: Generator) -> Tensor:
    """x_t (B, d) for x (B, d) and t (B,), of a dynamics that offers `noise_kernel`."""
    alpha, sigma = (value[:, None] for value in model.dynamics.kernel(t))
    return alpha * x + sigma * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)


def simulated(
    model: Model, x: Tensor, t: Tensor, steps: int, generator: Generator, compare: bool = False
) -> tuple[Tensor, float]:
    """(x_t (B, d), its error) for x (B, d) and t (B,), in so many steps; without `compare` the error is not known."""
    rows, n = len(x), 2 * steps if compare else steps
    chance = (
        torch.randn(rows, x.shape[1], generator=generator, dtype=torch.float64).to(x).div(math.sqrt(n))
        for _ in range(n)
    )
    coarse = fine = x
    with torch.no_grad():
        for number in range(steps):
            increment = next(chance)
            if compare:
                second = next(chance)
                fine = _step(model, fine, t, 2 * number, n, increment)
                fine = _step(model, fine, t, 2 * number + 1, n, second)
                increment = increment + second
            coarse = _step(model, coarse, t, number, steps, increment)
    return coarse, float((coarse - fine).square().sum(1).mean().sqrt()) if compare else math.nan


def _step(model: Model, x: Tensor, t: Tensor, number: int, of: int, increment: Tensor) -> Tensor:
    """One of `of` steps from t_data to t; the increment is that of a Wiener process over a time of 1."""
    span = t - model.t_data
    now = model.t_data + span * (number / of)
    g = model.dynamics.diffusion(now)[:, None] * span.abs().sqrt()[:, None]
    return x + model.drift(now, x) * (span / of)[:, None] + g * increment


__all__ = ["noised", "simulated"]
