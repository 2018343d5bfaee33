"""Pictures of chains and of their target: score field, energy landscape, traces, autocorrelation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from driftspec.components import Model
from driftspec.experiment.build import Experiment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Box = tuple[float, float, float, float]

ARROWS, CELLS, DEPTH = 22, 80, 12.0  # arrows and cells per side; the range of energies that the colours show
SHOWN, LAGS = 4, 100
SAMPLES, ARROW = "#c44e52", "#333333"


def grid(box: Box, side: int) -> torch.Tensor:
    """Return a grid of points (n, 2) in the box, n = side²; the second coordinate changes faster."""
    across = torch.linspace(box[0], box[1], side, dtype=torch.float64)
    up = torch.linspace(box[2], box[3], side, dtype=torch.float64)
    return torch.cartesian_prod(across, up)


def limits(points: Array, margin: float, within: tuple[float, float] = (0.001, 0.999)) -> tuple[Array, Array]:
    """Return lower and upper limits (d,) around points (n, d), with a margin that is never 0."""
    low, high = np.quantile(points, within, axis=0)
    size = np.abs(points).max(0)
    least = np.where(size > 0, 1e-6 * size, 1.0)
    room = np.maximum(margin * (high - low), (least - (high - low)) / 2)
    return low - room, high + room


def score_field(experiment: Experiment, model: Model, box: Box, points: Array, columns: Sequence[str]) -> Figure:
    """Plot ∇log p at the data time, in data units, over points (n, d): draws or data. Long arrows are shortened."""
    at = grid(box, ARROWS)
    rows = experiment.rows(at)
    with torch.no_grad():
        score = model.score(rows.new_tensor(model.t_data), rows).double().cpu() @ experiment.transform.matrix
    arrows = shortened(score).numpy()
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(points[:, 0], points[:, 1], s=2, alpha=0.4, color=SAMPLES, linewidths=0)
    axes.quiver(at[:, 0].numpy(), at[:, 1].numpy(), arrows[:, 0], arrows[:, 1], color=ARROW, width=0.003)
    axes.set(xlim=box[:2], ylim=box[2:], xlabel=columns[0], ylabel=columns[1], aspect="equal")
    return figure


def shortened(arrows: torch.Tensor) -> torch.Tensor:
    """Return arrows (n, 2) divided by their length plus the median length; arrows of length 0 are unchanged."""
    length = torch.linalg.vector_norm(arrows, dim=1, keepdim=True)
    scale = length + length.median()
    return arrows / scale.where(scale > 0, torch.ones(()))


def energy_landscape(experiment: Experiment, model: Model, box: Box, columns: Sequence[str]) -> Figure:
    """Plot E(x) minus its lowest value on the map."""
    at = grid(box, CELLS)
    with torch.no_grad():
        energy = -model.log_density(experiment.rows(at)).double().cpu()
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.subplots()
    values = (energy - energy.min()).reshape(CELLS, CELLS).T.numpy()
    image = axes.imshow(values, origin="lower", extent=box, vmin=0, vmax=DEPTH, cmap="magma_r", aspect="equal")
    axes.set(xlabel=columns[0], ylabel=columns[1])
    figure.colorbar(image, ax=axes, label="E - min E", extend="max", shrink=0.8)
    return figure


def marginals(states: Array, titles: Sequence[str], columns: Sequence[str]) -> Figure:
    """Plot the states (K, chains, d) of chains after K numbers of steps, one panel per number.

    All panels have the scale of the last one. If its states are all equal, they have the scale of all states.
    """
    low, high = limits(states[-1], 0.5)
    lowest, highest = limits(states.reshape(-1, states.shape[-1]), 0.5)
    if ((high - low) < 1e-3 * (highest - lowest)).any():
        low, high = lowest, highest
    figure = Figure(figsize=(2.4 * len(states), 2.8), layout="constrained")
    panels = figure.subplots(1, len(states), squeeze=False, sharex=True, sharey=True)[0]
    for panel, points, title in zip(panels, states, titles, strict=True):
        if states.shape[2] == 1:
            bars, edges = np.histogram(points[:, 0], np.linspace(low[0], high[0], 61))
            panel.stairs(bars / len(points) / np.diff(edges), edges, color=SAMPLES, fill=True)
        else:
            panel.scatter(points[:, 0], points[:, 1], s=2, alpha=0.5, color=SAMPLES, linewidths=0)
            panel.set(ylim=(low[1], high[1]), aspect="equal")
        panel.set(title=title, xlabel=columns[0], xlim=(low[0], high[0]))
    panels[0].set_ylabel("p" if states.shape[2] == 1 else columns[1])
    return figure


def traces(values: Array, names: Sequence[str]) -> Figure:
    """Plot the first chains of values (chains, draws, m) against the draw, and the autocorrelation over all chains."""
    shown = min(SHOWN, values.shape[2])
    figure = Figure(figsize=(9, 1.9 * shown), layout="constrained")
    panels = figure.subplots(shown, 2, squeeze=False, width_ratios=[2, 1])
    for index, (left, right) in enumerate(panels):
        left.plot(values[:SHOWN, :, index].T, linewidth=0.6)
        left.set(ylabel=names[index])
        right.bar(*autocorrelation(values[:, :, index]), width=1.0, color=SAMPLES)
        right.set(ylim=(-0.2, 1))
    panels[0, 0].set_title("chains")
    panels[0, 1].set_title("autocorrelation")
    panels[-1, 0].set_xlabel("draw")
    panels[-1, 1].set_xlabel("lag")
    return figure


def autocorrelation(chains: Array) -> tuple[Array, Array]:
    """Return lags and the autocorrelation ρ at each, for chains (chains, draws).

    Covariances are about each chain's own mean, and summed over chains. ρ is NaN if no chain moves: its plot is empty.
    """
    centred = chains - chains.mean(1, keepdims=True)
    n = centred.shape[1]
    lags = np.arange(min(LAGS, n // 2) + 1)
    covariance = np.array([(centred[:, : n - lag] * centred[:, lag:]).sum() for lag in lags])
    return lags, covariance / covariance[0] if covariance[0] > 0 else np.full(len(lags), np.nan)
