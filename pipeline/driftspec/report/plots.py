"""Pictures of a run: its loss; histograms of 1-D data; samples, log density and trajectories of 2-D data.

What the dynamics offers (a velocity, a log p) decides which pictures are made; its name never does.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from driftspec.components import Distribution, Measured, Model, ShowsStates, Solver, Trace
from driftspec.components.capabilities import capabilities
from driftspec.components.picture import Bars, Line, Panel, Picture
from driftspec.errors import Interrupted, SolveFailed
from driftspec.experiment.build import Experiment
from driftspec.numerics import likelihood
from driftspec.report import chain_plots, drawing, flow_plots, noise_plots
from driftspec.report.drawing import DATA, DRAWN, PATHS, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Array = NDArray[Any]
    LogDensity = Callable[[torch.Tensor], torch.Tensor]

GRID, DEPTH = 64, 12.0  # points per side; the range of log p that the colours show, in nats below the highest
SHOWN, WALKERS = 4000, 1024


def draw(
    experiment: Experiment,
    model: Model,
    stages: Sequence[str],
    records: Sequence[Mapping[str, Any]],
    samples: Array | None,
    measured: Mapping[str, Measured] | None = None,
    lost: Callable[[str, Exception], None] | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Yield (name, PNG) of each picture of these stages.

    If a picture fails, `lost` is called with its name and the error, and the next one is made. Without `lost` the
    error is raised.
    """
    for name, make, caption in _pictures(experiment, model, stages, records, samples, measured or {}):
        try:
            png = drawing.png(make, caption)
        except Interrupted:
            raise
        except Exception as error:
            if lost is None:
                raise
            lost(name, error)
        else:
            yield name, png


Drawable = tuple[str, Callable[[], Figure], str]
"""The name of a picture, a function that makes it, and its caption."""


def _pictures(
    experiment: Experiment,
    model: Model,
    stages: Sequence[str],
    records: Sequence[Mapping[str, Any]],
    samples: Array | None,
    measured: Mapping[str, Measured],
) -> Iterator[Drawable]:
    """Yield each picture with the function that makes it; nothing is computed before that call."""
    if records:
        monitor = experiment.spec.train.monitor if experiment.spec.train is not None else None
        watched = None if monitor is None or not any("validation" in one for one in records) else monitor.key()
        beside = "" if watched is None else f" Beside it: {watched} of the validation rows."
        caption = f"The loss of each logged step, and its mean over a window.{beside}"
        yield "loss", lambda: _loss(records, watched), caption
    for name, result in measured.items():
        for which, picture in result.pictures.items():
            yield f"{name}_{which}", partial(drawing.figure, picture), picture.caption
        if curves := result.details.get("curves"):
            caption = f"{name}: the densities as lines, with the histograms that they are compared with."
            yield f"{name}_curves", partial(_curves, curves), caption
    if samples is not None:
        yield from _of_chains(experiment, samples)
        yield from _of_states(experiment, model)
        if experiment.spec.data is None and model.dim <= 2:
            yield from _beside_the_target(experiment, samples)
    if experiment.has_data() and experiment.dataset.times is not None and model.dim == 2:
        caption = "Held-out observations (points), and the solution from the first of each (lines)."
        yield "paths", lambda: flow_plots.observed(experiment, model, next(_all(experiment, Solver))), caption
    elif experiment.has_data() and experiment.dataset.times is None and model.dim <= 2:
        yield from _beside_the_data(experiment, model, stages, samples)


def _beside_the_data(
    experiment: Experiment, model: Model, stages: Sequence[str], samples: Array | None
) -> Iterator[Drawable]:
    """Yield the pictures of models in 1 and 2 dimensions that show the data, and use their range for the axes."""
    dataset = experiment.dataset
    data = (dataset.test if len(dataset.test) else dataset.train).numpy()
    offered, own = capabilities(experiment.spec.dynamics), experiment.spec.dynamics.offers()
    solver: Solver | None = next(_all(experiment, Solver), None)
    log_p = _log_density(experiment, model, solver) if "log_prob" in offered else None
    flows = {"velocity", "prior"} <= offered and "sample" in stages
    if "evaluate" in stages and "score" in offered and (levels := noise_plots.levels(experiment)):
        make = partial(noise_plots.noised, experiment, model, levels, dataset.columns)
        yield "noised", make, f"Data with noise{' of four levels' if len(levels) > 1 else ''}, and the learned score."
    if model.dim == 1:
        make = partial(_histogram, data, samples, log_p, dataset.columns[0])
        yield "density", make, "Histograms of data and draws, with the density of the model where it has one."
        if flows and solver is not None:
            caption = (
                "Paths from data rows to the prior (lines), and back from where they end (points), in model units. "
                "Where the solution is unique no paths cross, and the points are on the lines."
            )
            yield "paths", partial(flow_plots.there_and_back, experiment, model, solver, data), caption
        return
    box = _box(data)
    if samples is not None:
        yield "samples", lambda: _samples(data, samples, box, dataset.columns), "Held-out data and draws of the model."
    if "score" in own and "sample" in stages and samples is not None:
        shown = samples[:: max(1, len(samples) // SHOWN)]
        make = partial(chain_plots.score_field, experiment, model, box, shown, dataset.columns)
        yield "score", make, "The score ∇log p at the data's time, over draws. Long arrows are shortened."
    if "energy" in own and "evaluate" in stages:
        make = partial(chain_plots.energy_landscape, experiment, model, box, dataset.columns)
        yield "energy", make, "The energy E(x), less its lowest value on this map."
    if log_p is not None and "evaluate" in stages:
        caption = "log p of the model, and beside it that of the data where it is known, on one scale."
        yield "log_density", lambda: _density(experiment, log_p, box), caption
    if flows and solver is not None:
        caption = "Paths from draws of the prior to draws of the model, in model units."
        yield "trajectories", lambda: flow_plots.trajectories(experiment, model, solver), caption
        caption = (
            "A regular grid of the prior, carried by the flow to the data, in model units. Where the solution is "
            "unique and accurate, no line crosses a neighbour."
        )
        yield "grid", partial(flow_plots.grid, experiment, model, solver), caption


def _of_chains(experiment: Experiment, samples: Array) -> Iterator[Drawable]:
    """Yield the picture of the traces of chains that have 20 draws or more, in the quantities that reports name."""
    sampler, target = experiment.spec.sampler, experiment.spec.dynamics.target_law()
    chains, draws = sampler.layout(len(samples)) if sampler is not None else (len(samples), 1)

    def traces() -> Figure:
        values, names = samples, tuple(f"x{i + 1}" for i in range(samples.shape[1]))
        if isinstance(target, Distribution):
            quantities, names = target.reported(torch.from_numpy(samples))
            values = quantities.numpy()
        return chain_plots.traces(values.reshape(chains, draws, -1), names)

    if draws >= 20:
        yield "chains", traces, "The first chains, draw by draw, and the autocorrelation over all chains."


def _of_states(experiment: Experiment, model: Model) -> Iterator[Drawable]:
    """Yield the picture of some chains at five times from their start to their draw, in 1 and 2 dimensions."""
    sampler = experiment.spec.sampler
    differentiates = model.own.isdisjoint({"score", "energy"})  # then each step of a chain solves an ODE
    if not isinstance(sampler, ShowsStates) or model.dim > 2 or differentiates:
        return
    length = sampler.length(model)
    if not length:
        return
    after = sorted({round(length * k / 4) for k in range(5)})

    def marginals() -> Figure:
        states = sampler.states(model, WALKERS, experiment.streams.under("sample"), after)
        columns = experiment.dataset.columns if experiment.has_data() else [f"x{i + 1}" for i in range(model.dim)]
        shown = experiment.transform.to_data(states.cpu()).numpy()
        return chain_plots.marginals(shown, [f"after {n} steps" for n in after], columns)

    yield "marginals", marginals, "The states of all chains after five numbers of steps."


def _beside_the_target(experiment: Experiment, samples: Array) -> Iterator[Drawable]:
    """Yield the picture of draws next to exact draws of the target, in 1 and 2 dimensions, if there are such draws."""
    target = experiment.spec.dynamics.target_law()
    if not isinstance(target, Distribution) or "samples" not in target.offers():
        return
    d = samples.shape[1]
    columns = target.columns() or tuple(f"x{i + 1}" for i in range(d))
    shown = samples[:: max(1, len(samples) // SHOWN)]  # some draws of every chain

    def data() -> Array:
        generator = experiment.streams.under("plots").generator("target")
        return target.sample(min(SHOWN, len(samples)), generator, d).numpy()

    def histogram() -> Figure:
        log_p = target.log_prob if "log_prob" in target.offers() else None
        return _histogram(data(), shown, log_p, columns[0])

    def side_by_side() -> Figure:
        drawn = data()
        return _samples(drawn, shown, _box(drawn), columns)

    caption = "Exact draws of the target, and draws of the chains."
    yield ("density", histogram, caption) if d == 1 else ("samples", side_by_side, caption)


def _log_density(experiment: Experiment, model: Model, solver: Solver | None) -> LogDensity | None:
    """Return the function x (B, d) -> log p(x) (B,) in data units; None without a solver or a trace.

    It uses an exact trace if the run has one.
    """
    trace: Trace | None = min(_all(experiment, Trace), key=lambda trace: not trace.exact(), default=None)
    if solver is None or trace is None:
        return None

    def log_p(x: torch.Tensor) -> torch.Tensor:
        streams = experiment.streams.under("plots")
        compare = solver.start_steps() is not None  # for a picture, the error of an adaptive solver is not estimated
        scored = likelihood.log_prob(model, experiment.rows(x), solver, trace, streams, compare)
        return scored.log_prob.double().cpu() + experiment.transform.log_det()

    return log_p


def _all(experiment: Experiment, kind: type[Any]) -> Iterator[Any]:
    """Return the components of the run that are of this class."""
    return (c for c in experiment.spec.components().values() if isinstance(c, kind))


def _box(x: Array) -> tuple[float, float, float, float]:
    """Return the limits (x0, x1, y0, y1) around x (n, 2), with a margin."""
    low, high = chain_plots.limits(x, 0.15)
    return low[0], high[0], low[1], high[1]


def _dress(axes: Axes, title: str, box: tuple[float, ...], columns: Sequence[str]) -> None:
    """Set the title, the limits and the labels of a 2-D panel, with equal scales."""
    axes.set(title=title, xlim=box[:2], ylim=box[2:], xlabel=columns[0], ylabel=columns[1])
    axes.set_aspect("equal")


def _curves(curves: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot each density of a metric with the histogram it is compared with, one panel per pair (see `Measured`)."""
    panels = [
        Panel(
            [Bars(one["edges"], one["histogram"], "particles"), Line(one["x"], one["density"], "density")],
            one["axis"], "p", one["title"],
        )
        for one in curves
    ]  # fmt: skip
    return drawing.figure(Picture(panels, ""))


def _loss(records: Sequence[Mapping[str, Any]], watched: str | None = None) -> Figure:
    """Plot the loss of each record, its moving mean, and the validation losses.

    If a metric monitors training, `watched` is its key, and a second panel shows its terms, or else its value.
    """
    figure, (axes, *beside) = panels(1 if watched is None else 2)
    steps, losses = (np.array([r[key] for r in records], dtype=float) for key in ("step", "loss"))
    axes.plot(steps, losses, color=DATA, alpha=0.4, linewidth=1, label="batch")
    width = max(1, len(losses) // 20)
    if len(losses) > width > 1:
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], smooth, color=DATA, linewidth=2, label=f"mean of {width} records")
    checks = [(r["step"], r["validation"]) for r in records if "validation" in r]
    if watched is not None:
        axes.set_title("training rows")
        _monitored(beside[0], watched, [r for r in records if "validation" in r])
    elif checks:
        axes.plot(*zip(*checks, strict=True), color=DRAWN, marker=".", label="validation")
    axes.set(xlabel="step", ylabel="loss")
    # The highest 2 % of the losses, mostly of the first steps, are left out of the scale.
    (low,), (high,) = chain_plots.limits(losses[:, None], 0.1, (0.0, 0.98))
    axes.set_ylim(low, high)
    axes.legend(frameon=False)
    return figure


def _monitored(axes: Axes, name: str, checks: Sequence[Mapping[str, Any]]) -> None:
    """Plot the terms of the metric that monitors training at each check; its value if it has none."""
    steps = [one["step"] for one in checks]
    terms = [one.get("validation_terms", {}) for one in checks]
    lines = {key: [one.get(key, math.nan) for one in terms] for key in terms[0]}
    looks = itertools.cycle(zip(drawing.COLORS, drawing.STYLES, drawing.MARKERS, strict=True))
    for (key, values), look in zip((lines or {name: [one["validation"] for one in checks]}).items(), looks):
        color, style, marker = look
        axes.plot(steps, values, color=color, linestyle=style, marker=marker, markersize=4, label=key)
    axes.set(title="validation rows", xlabel="step", ylabel=name)
    axes.legend(frameon=False)


def _samples(data: Array, samples: Array, box: tuple[float, float, float, float], columns: Sequence[str]) -> Figure:
    """Plot data (n, 2) and samples (m, 2) side by side, with equally many points."""
    figure, axes = panels(2, box)
    shown = min(SHOWN, len(data), len(samples))
    for panel, points, title, color in zip(axes, (data, samples), ("data", "samples"), (DATA, DRAWN), strict=True):
        panel.scatter(points[:shown, 0], points[:shown, 1], s=3, alpha=0.5, color=color, linewidths=0)
        _dress(panel, title, box, columns)
    return figure


def _histogram(data: Array, samples: Array | None, log_p: LogDensity | None, column: str) -> Figure:
    """Plot histograms of 1-D data and samples with the same bins, and the model's density."""
    figure, (axes,) = panels(1)
    (low,), (high,) = chain_plots.limits(data[:, :1], 0.2)
    across = np.linspace(low, high, 401)
    looks: tuple[tuple[str, dict[str, Any]], ...] = (
        ("data", {"color": DATA, "alpha": 0.35, "fill": True}), ("samples", {"color": DRAWN, "linewidth": 1.5}),
    )  # fmt: skip
    for (name, look), points in zip(looks, (data, samples), strict=True):
        if points is not None:
            bars, edges = np.histogram(points[:, 0], across[::5])
            axes.stairs(bars / len(points) / np.diff(edges), edges, label=name, **look)
    with contextlib.suppress(SolveFailed):
        if log_p is not None:
            axes.plot(across, log_p(torch.from_numpy(across)[:, None]).exp(), color=PATHS, label="model's density")
    axes.set(xlabel=column, ylabel="p")
    axes.legend(frameon=False)
    return figure


def _density(experiment: Experiment, log_p: LogDensity, box: tuple[float, float, float, float]) -> Figure:
    """Plot log p on a grid in data units, and beside it, on the same scale, that of the data if it is known."""
    sides = (torch.linspace(*ends, GRID, dtype=torch.float64) for ends in (box[:2], box[2:]))
    points = torch.cartesian_prod(*sides)
    maps = {"log p, model": log_p(points)}
    data = experiment.spec.data
    if isinstance(data, Distribution) and "log_prob" in data.offers():
        maps["log p, truth"] = data.log_prob(points)
    top = max(float(values.max()) for values in maps.values())
    figure, axes = panels(len(maps), box)
    for panel, (title, values) in zip(axes, maps.items(), strict=True):
        image = panel.imshow(
            values.reshape(GRID, GRID).T.numpy(), origin="lower", extent=box, vmin=top - DEPTH, vmax=top, cmap="magma",
            interpolation="bilinear",
        )  # fmt: skip
        _dress(panel, title, box, experiment.dataset.columns)
    figure.colorbar(image, ax=axes, label="log p (nats)", extend="min")
    return figure
