"""The evaluation loop and the draws of the stage `sample`. Writes no files and prints nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from driftspec.components import Draws, Evaluation, Measured, Model
from driftspec.errors import RunFailed, blamed, returned
from driftspec.experiment.build import Experiment
from driftspec.streams import Streams


def evaluation_of(experiment: Experiment, model: Model, streams: Streams, drawn: Callable[[], Draws]) -> Evaluation:
    """Return what a metric reads of an experiment: this model, these draws, and the metric's own random streams."""
    return Evaluation(
        experiment.spec.setting(), model, streams, drawn, experiment.data, experiment.transform, experiment.rows,
        experiment.streams,
    )  # fmt: skip


def evaluate(experiment: Experiment, model: Model, drawn: Callable[[], Draws]) -> Iterator[tuple[str, Measured]]:
    """Yield the key and the result of each metric of the spec, in order.

    Each metric has random streams of its own, so adding one metric does not change the numbers of another.
    """
    for metric in experiment.spec.evaluate or ():
        scope = experiment.streams.under("evaluate").under(metric.key())
        with blamed(metric.label):
            result = metric.measure(evaluation_of(experiment, model, scope, drawn))
            measured = returned(result, Measured, "measure")
        if metric.wanted() or metric.reads_chains:
            measured = _of_draws(measured, drawn())
        yield metric.key(), measured


def _of_draws(measured: Measured, draws: Draws) -> Measured:
    """Return the result with the sampler's verdict on convergence added as `details["convergence"]`."""
    found = [verdict for verdict in draws.verdicts if verdict.subject == "chains"]
    if not found:
        return measured
    convergence = {"outcome": found[0].outcome, "reason": found[0].reason}
    return replace(measured, details={**measured.details, "convergence": convergence})


def sample(experiment: Experiment, model: Model) -> Draws:
    """Return the draws of the stage `sample`.

    Where a metric measures the chains at a finite time, they are not meant to converge: that verdict is left out.
    """
    spec = experiment.spec
    if spec.sample is None or spec.sampler is None:
        raise RunFailed("the spec draws no samples: add sample: {count: N}")
    streams = experiment.streams.under("sample")
    with blamed(spec.sampler.label):
        draws = returned(spec.sampler.draw(model, spec.sample.count, streams), Draws, "draw")
        shape = tuple(draws.values.shape)
        if shape != (*spec.sampler.layout(spec.sample.count), model.dim):
            raise TypeError(f"draw returned values of shape {shape}, not (chains, draws, d)")
    if not any(metric.finite_time for metric in spec.evaluate or ()):
        return draws
    return replace(draws, verdicts=tuple(one for one in draws.verdicts if one.subject != "chains"))


def once(function: Callable[[], Draws]) -> Callable[[], Draws]:
    """Return the function with a cache: the draws are made at its first call, and only once."""
    return functools.cache(function)


def as_json(measured: Measured) -> dict[str, Any]:
    """Return a metric's entry in metrics.json."""
    entry: dict[str, Any] = {
        "value": measured.value, "stderr": measured.stderr, "unit": measured.unit, "n": measured.n,
        "details": dict(measured.details),
    }  # fmt: skip
    if measured.stderr is None:
        entry["stderr_reason"] = measured.stderr_reason or "not stated"
    return entry


__all__ = ["as_json", "evaluate", "evaluation_of", "once", "sample"]
