"""Pictures of a run: its loss, and for 2-D data the samples, the log density and the way from the prior to the data.

What can be drawn follows from what the dynamics offers (a velocity, a log p), never from its name.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from driftspec import flow
from driftspec.build import Experiment, capabilities
from driftspec.components import Distribution, Solver, Trace
from driftspec.model import Model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Array = NDArray[Any]

DATA, DRAWN, PATHS = "#4c72b0", "#c44e52", "#555555"
GRID, DEPTH = 100, 12.0  # points a side; nats below the highest that the map still tells apart
SHOWN, TIMES = 4000, 24


def draw(
    experiment: Experiment, model: Model, records: Sequence[Mapping[str, Any]], samples: Array | None
) -> Iterator[tuple[str, bytes]]:
    """(name, PNG) of each picture that makes sense for this run."""
    if records:
        yield "loss", _png(_loss(records))
    if model.dim != 2 or experiment.spec.data is None:
        return
    data = experiment.dataset.test if len(experiment.dataset.test) else experiment.dataset.train
    box = _box(data.numpy())
    columns = experiment.dataset.columns
    if samples is not None:
        yield "samples", _png(_samples(data.numpy(), samples, box, columns))
    offered = capabilities(experiment.spec.dynamics)
    trace, solver = _first(experiment, Trace), _first(experiment, Solver)
    if "log_prob" in offered and trace is not None and solver is not None:
        yield "log_density", _png(_density(experiment, model, solver, trace, box, columns))
    if {"velocity", "prior"} <= offered and solver is not None:
        yield "trajectories", _png(_trajectories(experiment, model, solver))


def _first(experiment: Experiment, kind: type[Any]) -> Any:
    """A component of the run's own to compute a picture with."""
    return next((c for c in experiment.spec.components().values() if isinstance(c, kind)), None)


def _figure(panels: int, box: tuple[float, ...] = (0, 1, 0, 1)) -> tuple[Figure, list[Axes]]:
    """Panels as tall as the box asks for, between half and one and a half times their width."""
    ratio = min(1.5, max(0.5, (box[3] - box[2]) / (box[1] - box[0])))
    figure = Figure(figsize=(4.4 * panels, 0.8 + 3.6 * ratio), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    return figure, list(axes)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _box(x: Array) -> tuple[float, float, float, float]:
    """Limits that hold the data with a margin."""
    low, high = np.quantile(x, [0.001, 0.999], axis=0)
    margin = 0.15 * (high - low)
    return low[0] - margin[0], high[0] + margin[0], low[1] - margin[1], high[1] + margin[1]


def _dress(axes: Axes, title: str, box: tuple[float, ...], columns: Sequence[str]) -> None:
    axes.set(title=title, xlim=box[:2], ylim=box[2:], xlabel=columns[0], ylabel=columns[1])
    axes.set_aspect("equal")


def _loss(records: Sequence[Mapping[str, Any]]) -> Figure:
    figure, (axes,) = _figure(1)
    steps, losses = (np.array([r[key] for r in records], dtype=float) for key in ("step", "loss"))
    axes.plot(steps, losses, color=DATA, alpha=0.4, linewidth=1, label="batch")
    width = max(1, len(losses) // 20)
    if len(losses) > width > 1:
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], smooth, color=DATA, linewidth=2, label=f"mean of {width} records")
    checks = [(r["step"], r["validation"]) for r in records if "validation" in r]
    if checks:
        axes.plot(*zip(*checks, strict=True), color=DRAWN, marker=".", label="validation")
    axes.set(title="training", xlabel="step", ylabel="loss")
    # The first steps of an untrained model would flatten all that follows.
    low, high = np.quantile(losses, [0.0, 0.98])
    axes.set_ylim(low - 0.1 * (high - low) - 1e-9, high + 0.1 * (high - low) + 1e-9)
    axes.legend(frameon=False)
    return figure


def _samples(data: Array, samples: Array, box: tuple[float, float, float, float], columns: Sequence[str]) -> Figure:
    figure, axes = _figure(2, box)
    shown = min(SHOWN, len(data), len(samples))
    for panel, points, title, color in zip(axes, (data, samples), ("data", "samples"), (DATA, DRAWN), strict=True):
        panel.scatter(*points[:shown].T, s=3, alpha=0.5, color=color, linewidths=0)
        _dress(panel, title, box, columns)
    return figure


def _density(
    experiment: Experiment, model: Model, solver: Solver, trace: Trace,
    box: tuple[float, float, float, float], columns: Sequence[str],
) -> Figure:  # fmt: skip
    """log p on a grid, in the data's units; the truth beside it where it is known. Same colours, same scale."""
    across, up = torch.linspace(*box[:2], GRID, dtype=torch.float64), torch.linspace(*box[2:], GRID, dtype=torch.float64)
    points = torch.cartesian_prod(across, up)
    streams = experiment.streams.under("plots")
    scored = flow.log_prob(model, experiment.rows(points), solver, trace, streams, compare=False)
    maps = {"log p, model": scored.log_prob.double().cpu() + experiment.transform.log_det()}
    data = experiment.spec.data
    if isinstance(data, Distribution) and "log_prob" in data.offers():
        maps["log p, truth"] = data.log_prob(points)
    top = max(float(values.max()) for values in maps.values())
    figure, axes = _figure(len(maps), box)
    for panel, (title, values) in zip(axes, maps.items(), strict=True):
        image = panel.imshow(
            values.reshape(GRID, GRID).T.numpy(), origin="lower", extent=box, vmin=top - DEPTH, vmax=top, cmap="magma"
        )
        _dress(panel, title, box, columns)
    figure.colorbar(image, ax=axes, label="log p (nats)", extend="min")
    return figure


def _trajectories(experiment: Experiment, model: Model, solver: Solver) -> Figure:
    """Prior samples on their way to the data, in model units."""
    t_prior, t_data = model.dynamics.times()
    z = model.prior().sample(200, experiment.streams.under("plots").generator("prior"), model.dim)
    states, steps = [model.like(z)], solver.start_steps()
    times = np.linspace(t_prior, t_data, TIMES + 1)
    with torch.no_grad():
        for before, after in zip(times[:-1], times[1:], strict=True):
            few = None if steps is None else max(1, -(-4 * steps // TIMES))
            states.append(solver.solve(model.velocity, states[-1], float(before), float(after), steps=few).state)
    path = torch.stack(states).double().cpu().numpy()
    figure, (axes,) = _figure(1)
    axes.plot(path[:, :, 0], path[:, :, 1], color=PATHS, linewidth=0.5, alpha=0.4)
    axes.scatter(*path[0].T, s=6, color=DATA, label=f"prior, t = {t_prior:g}", zorder=2)
    axes.scatter(*path[-1].T, s=6, color=DRAWN, label=f"data, t = {t_data:g}", zorder=3)
    axes.set(title="trajectories (model units)")
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize=8)
    return figure
