"""Pictures of a model trained by denoising: noised data, p_t = E_i N(α(t) x_i, σ(t)² I), beside the learned score."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from driftspec.components import Model
from driftspec.experiment.build import Experiment
from driftspec.report import chain_plots, drawing

SHARES = (0.1, 0.3, 0.6, 1.0)  # of the way from t_data to t_prior: the times that are shown
ROWS, ARROWS = 2000, 16
Level = tuple[float, float, float]  # t, α and σ


def levels(experiment: Experiment) -> list[Level]:
    """Return the levels that the picture shows: the estimator's one level, or four of the noise kernel.

    There is none if nothing is trained, or without noise.
    """
    dynamics, estimator = experiment.spec.dynamics, experiment.spec.estimator
    t_prior, t_data = dynamics.times()
    if estimator is None:
        return []
    if (level := estimator.noise_level()) is not None:
        return [(t_data, 1.0, level)]
    if "noise_kernel" not in dynamics.offers():
        return []
    times = t_data + torch.tensor(SHARES, dtype=torch.float64) * (t_prior - t_data)
    if (ladder := dynamics.ladder()) is not None:
        times = ladder.flip(0)[torch.linspace(0, len(ladder) - 1, min(len(ladder), len(SHARES))).round().long()]
    return list(zip(times.tolist(), *(value.tolist() for value in dynamics.kernel(times)), strict=True))


def noised(experiment: Experiment, model: Model, shown: Sequence[Level], columns: Sequence[str]) -> Figure:
    """Plot the noised rows and the model's score at each level, in 1 or 2 dimensions, in model units."""
    rows = experiment.transform.to_model(experiment.dataset.train[:ROWS])
    generator = experiment.streams.under("plots").generator("noise")
    noise = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
    high = 2 if model.dim == 1 else 1
    figure = Figure(figsize=(3.0 * len(shown) + 0.6, 2.6 * high + 0.4), layout="constrained")
    panels = figure.subplots(high, len(shown), squeeze=False, sharex="col" if high == 2 else False)
    for column, (t, alpha, sigma) in zip(panels.T, shown, strict=True):
        points = alpha * rows + sigma * noise
        low, top = chain_plots.limits(points.numpy(), 0.2)
        column[0].set_title(f"σ = {sigma:.3g}" if len(shown) == 1 else f"t = {t:.3g}, σ = {sigma:.3g}")
        if model.dim == 1:
            x = torch.linspace(low[0], top[0], 201, dtype=torch.float64)
            density, truth = normals(x, alpha * rows[:, 0], sigma)
            column[0].plot(x, density, color=drawing.COLORS[1])
            column[1].plot(x, _score(model, t, x[:, None])[:, 0], color=drawing.COLORS[0], label="learned")
            column[1].plot(x, truth, color=drawing.COLORS[1], linestyle="--", label="of the noised rows")
            column[1].set_xlabel(f"{columns[0]} (model units)")
        else:
            at = chain_plots.grid((low[0], top[0], low[1], top[1]), ARROWS)
            arrows = chain_plots.shortened(_score(model, t, at))
            column[0].scatter(*points.T.numpy(), s=2, alpha=0.4, color=chain_plots.SAMPLES, linewidths=0)
            column[0].quiver(*at.T.numpy(), *arrows.T.numpy(), color=chain_plots.ARROW, width=0.004)
            column[0].set(xlabel=f"{columns[0]} (model units)", aspect="equal")
    panels[0, 0].set_ylabel("p of the noised rows" if high == 2 else f"{columns[1]} (model units)")
    if high == 2:
        panels[1, 0].set_ylabel("score")
        panels[1, 0].legend(frameon=False, fontsize=8)
    return figure


def _score(model: Model, t: float, x: Tensor) -> Tensor:
    """Return the model's score (n, d) float64 at a time t and x (n, d), model units."""
    with torch.no_grad():
        rows = model.like(x)
        return model.score(rows.new_tensor(t), rows).double().cpu()


def normals(x: Tensor, means: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Return the density (n,) of the equal mixture of N(m_i, σ²) and its score (n,), for x (n,) and means (k,)."""
    away = (means - x[:, None]) / sigma
    logs = -away.square() / 2
    density = logs.exp().mean(1) / (sigma * math.sqrt(2 * math.pi))
    return density, (logs.softmax(1) * away).sum(1) / sigma


__all__ = ["levels", "noised", "normals"]
