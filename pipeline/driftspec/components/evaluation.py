"""What a metric sees: a trained model, its data, its draws, and random streams of the metric's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driftspec.components.capabilities import capabilities
from driftspec.components.data import Distribution
from driftspec.errors import RunFailed, SolveFailed

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components.dataset import Dataset, Transform
    from driftspec.components.model import Model
    from driftspec.components.sampler import Draws
    from driftspec.components.setting import Setting
    from driftspec.streams import Streams

NAMED = 5
"""Rows that a failed solve names, at most."""


def too_few_rows(who: str, part: str, left: int) -> str:
    """The message where a metric has not enough rows to read."""
    return f"{who} reads {part} rows, at least 2: 'split' in data leaves {left}"


@dataclass(frozen=True)
class Evaluation:
    """A trained model, its data, its draws, and random streams of the metric's own."""

    setting: Setting  # the spec's components around the metric
    model: Model
    streams: Streams  # the metric's own
    drawn: Callable[[], Draws]  # the run's own draws, made when first needed
    read: Callable[[], Dataset]  # the data, read when first needed
    transform: Transform
    rows: Callable[[Tensor], Tensor]  # data (n, d) -> model units, dtype and device of the run
    run_streams: Streams  # the run's

    @property
    def dataset(self) -> Dataset:
        return self.read()

    @property
    def target(self) -> Distribution | None:
        """The distribution that a dynamics on a known target aims at."""
        target = self.setting.dynamics.target_law()
        return target if isinstance(target, Distribution) else None

    @property
    def truth(self) -> Distribution | None:
        """The component that knows log p of the data, in the data's own units."""
        candidates = (self.setting.data, self.target)
        return next((c for c in candidates if isinstance(c, Distribution) and "log_prob" in capabilities(c)), None)

    def test(self, n: int | None = None) -> Tensor:
        """The first n test rows (all by default), float64, in the data's own units."""
        rows = self.dataset.test[:n]
        if len(rows) < 2:
            raise RunFailed(too_few_rows("a metric", "test", len(rows)))
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
        return self.target if self.setting.data is None else None

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
        source = self.setting.data or self.target
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
        if self.setting.data is None and (first is None or second is None):
            return None
        if first is None or second is None:
            import torch

            order = torch.randperm(len(self.dataset.train), generator=self.streams.generator("floor"))
            rows = self.dataset.train[order]
            m = min(n, len(rows) // 2)
            first, second = rows[:m], rows[m : 2 * m]
        return distance(first, second) if len(first) > 1 else None


__all__ = ["Evaluation"]
