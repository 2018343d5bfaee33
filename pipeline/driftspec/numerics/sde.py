"""An SDE dx = f(x, t) dt + g(t) dw: its step, its probability flow, its reverse, and x_t from x at t_data.

    Wiener process     w(t) - w(s) ~ N(0, t - s), independent of what was before s
    step               x' = x + f h + g √h ε                                   Euler and Maruyama
    probability flow   dx/dt = f - ½ g² s                                      the same p_t without noise
    reverse            dx = (g² s - f) dτ + g dw,  τ = t_prior - t             Anderson 1982
    kernel             x_t = α(t) x + σ(t) ε
    simulation         steps of h = (t - t_data)/n; each row has its own time t

The error of a simulation is the root mean square distance to a simulation with the same Wiener process and steps half
as long. It is of order h, because g does not depend on x.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from driftspec.components.model import Model


def euler_maruyama_step(x: Tensor, f: Tensor, h: Tensor, noise: Tensor | None = None) -> Tensor:
    """Return x + f h + noise (B, d), with noise = g √h ε, or x + f h if `noise` is None."""
    mean = x + h * f
    return mean if noise is None else mean + noise


def probability_flow(f: Tensor, g: Tensor, s: Tensor) -> Tensor:
    """Return f - ½ g² s (B, d), for f and the score s (B, d) and g () or (B,)."""
    half = (g * g / 2).to(f)
    return f - (half[:, None] if half.dim() else half) * s


def reverse_drift(f: Tensor, g: Tensor, s: Tensor) -> Tensor:
    """Return g² s - f (B, d), the drift of the SDE that runs from t_prior back to t_data, for f and s (B, d), g ()."""
    return (g * g).to(f) * s - f


def noised(model: Model, x: Tensor, t: Tensor, generator: Generator) -> Tensor:
    """Return x_t = α(t) x + σ(t) ε (B, d) for x (B, d) and t (B,); the dynamics offers `noise_kernel`."""
    alpha, sigma = (value[:, None] for value in model.dynamics.kernel(t))
    return alpha * x + sigma * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)


def simulated(
    model: Model, x: Tensor, t: Tensor, steps: int, generator: Generator, compare: bool = False
) -> tuple[Tensor, float]:
    """Return x_t (B, d) from x (B, d) at t_data, t (B,), in `steps` Euler-Maruyama steps, and its error.

    Without `compare` the error is NaN.
    """
    rows, n = len(x), 2 * steps if compare else steps
    wiener = (
        torch.randn(rows, x.shape[1], generator=generator, dtype=torch.float64).to(x).div(math.sqrt(n))
        for _ in range(n)
    )
    coarse = fine = x
    with torch.no_grad():
        for number in range(steps):
            increment = next(wiener)
            if compare:
                second = next(wiener)
                fine = _step(model, fine, t, 2 * number, n, increment)
                fine = _step(model, fine, t, 2 * number + 1, n, second)
                increment = increment + second
            coarse = _step(model, coarse, t, number, steps, increment)
    return coarse, float((coarse - fine).square().sum(1).mean().sqrt()) if compare else math.nan


def _step(model: Model, x: Tensor, t: Tensor, number: int, of: int, increment: Tensor) -> Tensor:
    """Return x (B, d) after step `number` of `of` equal steps from t_data to t (B,).

    `increment` (B, d) is w((number + 1)/of) - w(number/of), w a Wiener process.
    """
    span = t - model.t_data
    now = model.t_data + span * (number / of)
    g = model.dynamics.diffusion(now)[:, None] * span.abs().sqrt()[:, None]
    return euler_maruyama_step(x, model.drift(now, x), (span / of)[:, None], g * increment)


__all__ = ["euler_maruyama_step", "noised", "probability_flow", "reverse_drift", "simulated"]
