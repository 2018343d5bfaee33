"""Pictures of a flow: its paths in 1 and 2 dimensions, a grid that it deforms, and observed trajectories."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from driftspec.components import Model, Solver
from driftspec.experiment.build import Experiment
from driftspec.numerics import transport
from driftspec.report.drawing import DATA, DRAWN, PATHS, panels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

TIMES, PRIOR_ROWS = 24, 1024
FAN, GRID_LINES, POINTS = 21, 13, 161  # paths of a 1-D flow; lines of a 2-D grid in each direction, points of a line


def observed(experiment: Experiment, model: Model, solver: Solver) -> Figure:
    """Plot held-out observations, and the model's trajectory from the first of each, in data units."""
    dataset, finer = experiment.dataset, 8
    rows = dataset.test if len(dataset.test) else dataset.train
    observed, times = rows[:4], model.observed_at()
    share = torch.arange(finer, device=times.device, dtype=times.dtype) / finer
    dense = torch.cat([(times[:-1, None] + share * times.diff()[:, None]).flatten(), times[-1:]])
    with torch.no_grad():
        states, _ = transport.states_at(model, experiment.rows(observed[:, 0]), dense, solver)
    path = experiment.transform.to_data(states.cpu()).numpy()
    figure, (axes,) = panels(1)
    axes.plot(path[:, :, 0], path[:, :, 1], color=DRAWN, linewidth=1)
    for trajectory in observed.numpy():
        axes.scatter(trajectory[:, 0], trajectory[:, 1], s=8, color=DATA, zorder=2)
    axes.set(xlabel=dataset.columns[0], ylabel=dataset.columns[1])
    axes.set_aspect("equal")
    return figure


def _states(model: Model, start: torch.Tensor, times: Array, solver: Solver) -> Array:
    """Return the states (K, B, d) at the times (K,), from start (B, d), model units, float64."""
    states, steps = [start], solver.start_steps()
    few = None if steps is None else max(1, -(-4 * steps // (len(times) - 1)))
    with torch.no_grad():
        for before, after in itertools.pairwise(times):
            path = solver.solve(model.velocity, states[-1], float(before), float(after), steps=few)
            states.append(path.require("the paths").state)
    return torch.stack(states).double().cpu().numpy()


def there_and_back(experiment: Experiment, model: Model, solver: Solver, data: Array) -> Figure:
    """Plot the paths of a fan of 1-D data points to the prior, and back from where they end."""
    t_prior, t_data = model.dynamics.times()
    starts = torch.from_numpy(np.quantile(data, np.linspace(0.01, 0.99, FAN), axis=0))
    times = np.linspace(t_data, t_prior, TIMES + 1)
    there = _states(model, experiment.rows(starts), times, solver)
    back = _states(model, model.like(torch.from_numpy(there[-1])), times[::-1], solver)[::-1]
    figure, (axes,) = panels(1)
    axes.plot(times, there[:, :, 0], color=PATHS, linewidth=1)
    axes.plot(times, back[:, :, 0], color=DRAWN, marker=".", markersize=4, linestyle="")
    handles = [
        Line2D([], [], color=PATHS, label="data to prior"),
        Line2D([], [], color=DRAWN, marker=".", linestyle="", label="prior to data"),
    ]
    axes.legend(handles=handles, frameon=False, fontsize=8)
    axes.set(xlabel=f"t (data at {t_data:g}, prior at {t_prior:g})", ylabel="z(t), model units")
    return figure


def grid(experiment: Experiment, model: Model, solver: Solver) -> Figure:
    """Plot a regular grid over the central part of a 2-D prior at five times, from the prior to the data."""
    t_prior, t_data = model.dynamics.times()
    z = model.prior().sample(PRIOR_ROWS, experiment.streams.under("plots").generator("grid"), model.dim)
    low, top = np.quantile(z.numpy(), (0.02, 0.98), axis=0)
    fine, levels = np.linspace(low, top, POINTS), np.linspace(low, top, GRID_LINES)
    across = [np.stack([fine[:, 0], np.full(POINTS, level)], 1) for level in levels[:, 1]]
    up = [np.stack([np.full(POINTS, level), fine[:, 1]], 1) for level in levels[:, 0]]
    start = model.like(torch.from_numpy(np.concatenate([*across, *up])))
    times = np.linspace(t_prior, t_data, 5)
    figure = Figure(figsize=(13.0, 3.1), layout="constrained")
    panels = figure.subplots(1, len(times))
    for panel, t, state in zip(panels, times, _states(model, start, times, solver), strict=True):
        first, second = state.reshape(-1, POINTS, 2).transpose(2, 1, 0)
        panel.plot(first[:, :GRID_LINES], second[:, :GRID_LINES], color=DATA, linewidth=0.7)
        panel.plot(first[:, GRID_LINES:], second[:, GRID_LINES:], color=DRAWN, linewidth=0.7)
        wide, high = (float(np.ptp(one)) for one in (first, second))
        panel.set(title=f"t = {t:g}", xlabel="z1", aspect="equal" if 0.1 < wide / high < 10 else "auto")
    panels[0].set(ylabel="z2")
    return figure


def trajectories(experiment: Experiment, model: Model, solver: Solver) -> Figure:
    """Plot the trajectories of prior samples from the prior time to the data time, in model units."""
    t_prior, t_data = model.dynamics.times()
    z = model.prior().sample(200, experiment.streams.under("plots").generator("prior"), model.dim)
    states = _states(model, model.like(z), np.linspace(t_prior, t_data, TIMES + 1), solver)
    first, second = states.transpose(2, 0, 1)
    figure, (axes,) = panels(1)
    axes.plot(first, second, color=PATHS, linewidth=0.5, alpha=0.4)
    axes.scatter(first[0], second[0], s=6, color=DATA, label=f"prior, t = {t_prior:g}", zorder=2)
    axes.scatter(first[-1], second[-1], s=6, color=DRAWN, label=f"data, t = {t_data:g}", zorder=3)
    axes.set(xlabel="z1", ylabel="z2")
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize=8)
    return figure


__all__ = ["grid", "observed", "there_and_back", "trajectories"]
