"""What a metric measures: a trained model, its data and its draws; and random streams for that metric."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driftspec.components.capabilities import capabilities
from driftspec.components.data import Distribution
from driftspec.components.metric import too_few_rows
from driftspec.errors import RunFailed, SolveFailed

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components.dataset import Dataset, Transform
    from driftspec.components.model import Model
    from driftspec.components.sampler import Draws
    from driftspec.components.setting import Setting
    from driftspec.streams import Streams

NAMED = 5
"""The largest number of rows that the message of a failed solve names."""


@dataclass(frozen=True)
class Evaluation:
    """A trained model, its data and its draws; and random streams for one metric."""

    setting: Setting  # the other components of the spec
    model: Model
    streams: Streams  # for this metric
    drawn: Callable[[], Draws]  # returns the run's own draws, made at the first call
    read: Callable[[], Dataset]  # returns the data, read at the first call
    transform: Transform
    rows: Callable[[Tensor], Tensor]  # data (n, d) -> model units, dtype and device of the run
    run_streams: Streams  # of the run

    @property
    def dataset(self) -> Dataset:
        return self.read()

    @property
    def target(self) -> Distribution | None:
        """The target of the dynamics; None without one."""
        target = self.setting.dynamics.target_law()
        return target if isinstance(target, Distribution) else None

    @property
    def truth(self) -> Distribution | None:
        """The component that knows log p of the data, in the data's own units; None without one."""
        candidates = (self.setting.data, self.target)
        return next((c for c in candidates if isinstance(c, Distribution) and "log_prob" in capabilities(c)), None)

    def test(self, n: int | None = None) -> Tensor:
        """Return the first n test rows (n, d), all by default, float64, in the data's own units."""
        rows = self.dataset.test[:n]
        if len(rows) < 2:
            raise RunFailed(too_few_rows("a metric", "test", len(rows)))
        return rows

    @contextlib.contextmanager
    def naming_rows(self) -> Iterator[None]:
        """Add to a SolveFailed the numbers of the rows that failed. The solve must start from the first test rows."""
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
    def target_alone(self) -> Distribution | None:
        """The target, if the spec has no data; else None."""
        return self.target if self.setting.data is None else None

    def chains(self, n: int | None = None) -> Tensor:
        """Return the run's own draws, by chain (chains, draws, d), float64, in the data's own units.

        With n: as many whole chains as have at most n draws together, or the first n draws of one longer chain.
        """
        values = self.drawn().values
        each = values.shape[1]
        return self.transform.to_data((values if n is None else values[: max(1, n // each), :n]).cpu())

    def reported(self, x: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """Return the quantities (..., m) that reports show for x (..., d) in the data's own units, and their names."""
        if self.target_alone is None:
            return x, self.dataset.columns
        values, names = self.target_alone.reported(x.flatten(0, -2))
        return values.reshape(*x.shape[:-1], -1), names

    def draws(self, n: int) -> Tensor:
        """Return the first n of the run's own draws (n, d), float64, in the data's own units, chain after chain."""
        return self.transform.to_data(self.drawn().flat()[:n].cpu())

    def fresh(self, n: int, name: str) -> Tensor | None:
        """Return n new data rows (n, d), float64, which the model never saw; None if the data cannot be sampled."""
        source = self.setting.data or self.target
        if isinstance(source, Distribution) and "samples" in source.offers():
            return source.sample(n, self.streams.generator(name), self.model.dim)
        return None

    def reference(self, n: int) -> Tensor:
        """Return rows (n, d) to compare n draws with: new data rows if possible, else the first n test rows."""
        fresh = self.fresh(n, "reference")
        return self.test(n) if fresh is None else fresh

    def floor(self, distance: Callable[[Tensor, Tensor], float], n: int) -> float | None:
        """Return the distance of two sets of n data rows (n, d), as for a perfect model; None without such rows."""
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
