"""The evaluation loop, and what a metric sees. No files, no prints."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from driftspec.components import Distribution, Draws, Measured, Setting
from driftspec.errors import RunFailed, SolveFailed, blamed
from driftspec.experiment.build import Experiment
from driftspec.experiment.dataset import Dataset, Transform
from driftspec.numerics.model import Model
from driftspec.spec.fits import capabilities
from driftspec.streams import Streams

NAMED = 5
"""Rows that a failed solve names, at most."""


@dataclass(frozen=True)
class Evaluation:
    """A trained model, its data, its draws, and random streams of the metric's own."""

    experiment: Experiment
    model: Model
    streams: Streams
    drawn: Callable[[], Draws]

    @property
    def dataset(self) -> Dataset:
        return self.experiment.dataset

    @property
    def transform(self) -> Transform:
        return self.experiment.transform

    @property
    def setting(self) -> Setting:
        """What stands around the run's sampler."""
        spec = self.experiment.spec
        return Setting(spec.dynamics, data=spec.data, sampler=spec.sampler)

    @property
    def truth(self) -> Distribution | None:
        """The component that knows log p of the data, in the data's own units."""
        candidates = (self.experiment.spec.data, self.experiment.spec.dynamics.nested().get("target"))
        return next((c for c in candidates if isinstance(c, Distribution) and "log_prob" in capabilities(c)), None)

    def test(self, n: int | None = None) -> Tensor:
        """The first n test rows (all by default), float64, in the data's own units."""
        rows = self.dataset.test[:n]
        if len(rows) < 2:
            raise RunFailed(f"a metric reads test rows, at least 2, and data.split leaves {len(rows)}")
        return rows

    @contextlib.contextmanager
    def naming_rows(self) -> Iterator[None]:
        """Adds to a failed solve the numbers of the rows at fault; its points are the test rows from the first on."""
        try:
            yield
        except SolveFailed as error:
            numbers = [] if self.dataset.numbers is None else [int(self.dataset.numbers[i]) for i in error.rows]
            if not numbers:
                raise
            more = ", ..." if len(numbers) > NAMED else ""
            which = f"row{'s'[: len(numbers) > 1]} {', '.join(map(str, numbers[:NAMED]))}{more} of the data"
            text = f"{error.message}: {which}"
            raise SolveFailed(text, error.status, error.step, error.cure, error.rows) from error

    @property
    def law(self) -> Distribution | None:
        """The target, where it stands for the data."""
        target = self.experiment.spec.dynamics.nested().get("target") if self.experiment.spec.data is None else None
        return target if isinstance(target, Distribution) else None

    def chains(self, n: int | None = None) -> Tensor:
        """The run's own draws, chains apart (chains, draws, d), float64, in the data's own units.

        All of them, or the first n in whole chains; where one chain has more than n, the first n of that.
        """
        values = self.drawn().values
        each = values.shape[1]
        return self.transform.to_data((values if n is None else values[: max(1, n // each), :n]).cpu())

    def reported(self, x: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """The quantities (..., m) that reports speak of, for x (..., d) in the data's own units, and their names."""
        if self.law is None:
            return x, self.dataset.columns
        values, names = self.law.reported(x.flatten(0, -2))
        return values.reshape(*x.shape[:-1], -1), names

    def draws(self, n: int) -> Tensor:
        """The first n of the run's own draws (n, d), float64, in the data's own units; those of one chain depend."""
        return self.transform.to_data(self.drawn().flat()[:n].cpu())

    def fresh(self, n: int, name: str) -> Tensor | None:
        """n rows the model never saw, (n, d), float64: drawn anew; None where the data cannot be drawn from."""
        source = self.experiment.spec.data or self.experiment.spec.dynamics.nested().get("target")
        if isinstance(source, Distribution) and "samples" in source.offers():
            return source.sample(n, self.streams.generator(name), self.model.dim)
        return None

    def reference(self, n: int) -> Tensor:
        """What n draws are compared with: fresh data of that size where they can be drawn, else the test rows."""
        fresh = self.fresh(n, "reference")
        return self.test(n) if fresh is None else fresh

    def floor(self, distance: Callable[[Tensor, Tensor], float], n: int) -> float | None:
        """The same distance between two fresh sets of n rows: what a perfect model would score. None without them."""
        first, second = self.fresh(n, "floor first"), self.fresh(n, "floor second")
        if self.experiment.spec.data is None and (first is None or second is None):
            return None
        if first is None or second is None:
            order = torch.randperm(len(self.dataset.train), generator=self.streams.generator("floor"))
            rows = self.dataset.train[order]
            m = min(n, len(rows) // 2)
            first, second = rows[:m], rows[m : 2 * m]
        return distance(first, second) if len(first) > 1 else None


def evaluate(experiment: Experiment, model: Model, drawn: Callable[[], Draws]) -> Iterator[tuple[str, Measured]]:
    """Each metric of the spec with its result, in order. A metric's streams are its own: adding one shifts no other."""
    for metric in experiment.spec.evaluate or ():
        scope = experiment.streams.under("evaluate").under(metric.key())
        with blamed(metric.label):
            measured = metric.measure(Evaluation(experiment, model, scope, drawn))
        if metric.wanted() or metric.reads_chains:
            measured = _of_draws(measured, drawn())
        yield metric.key(), measured


def _of_draws(measured: Measured, draws: Draws) -> Measured:
    """The result with what the sampler says of the draws that were read: `details["convergence"]`."""
    found = [verdict for verdict in draws.verdicts if verdict.subject == "chains"]
    if not found:
        return measured
    told = {"convergence": {"outcome": found[0].outcome, "reason": found[0].reason}}
    return replace(measured, details={**measured.details, **told})


def sample(experiment: Experiment, model: Model) -> Draws:
    """The run's own draws; without a verdict on their convergence where a metric aims at a finite time."""
    spec = experiment.spec
    if spec.sample is None or spec.sampler is None:
        raise RunFailed("the spec draws no samples: add sample: {count: N}")
    with blamed(spec.sampler.label):
        draws = spec.sampler.draw(model, spec.sample.count, experiment.streams.under("sample"))
    if not any(metric.finite_time for metric in spec.evaluate or ()):
        return draws
    return replace(draws, verdicts=tuple(one for one in draws.verdicts if one.subject != "chains"))


def once(function: Callable[[], Draws]) -> Callable[[], Draws]:
    """Draws are made when first asked for, and once."""
    return functools.cache(function)


def as_json(measured: Measured) -> dict[str, Any]:
    """A metric's entry in metrics.json."""
    entry: dict[str, Any] = {
        "value": measured.value, "stderr": measured.stderr, "unit": measured.unit, "n": measured.n,
        "details": dict(measured.details),
    }  # fmt: skip
    if measured.stderr is None:
        entry["stderr_reason"] = measured.stderr_reason or "not stated"
    return entry


__all__ = ["Evaluation", "as_json", "evaluate", "once", "sample"]
