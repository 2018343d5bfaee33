"""What the metrics that compare the run's draws with data share: the two sets of rows, and the root of a power."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from driftspec.component import Need
from driftspec.components import Metric
from driftspec.errors import RunFailed

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.evaluate import Evaluation

FEWEST = 4  # rows below which no standard error can be had


class TwoSamples(Metric):
    """A metric between the first draws of a run and data. The draws count as independent."""

    draws_wanted = "samples"

    samples: int = Field(2000, ge=10, description="draws compared, the run's first ones, with as many data")

    def needs(self) -> tuple[Need, ...]:
        return (Need("data", ("samples",), "to compare with"),)

    def compared(self, evaluation: Evaluation) -> tuple[Tensor, Tensor]:
        """Draws (n, d) and data (m, d), float64, in the data's own units; m < n where the test rows are few."""
        drawn, data = evaluation.draws(self.samples), evaluation.reference(self.samples)
        return checked(self, drawn, "draws"), checked(self, data, "data rows")

    def paired(self, evaluation: Evaluation) -> tuple[Tensor, Tensor]:
        """The same cut to one length, for a metric whose bias depends on it: value and floor share the bias."""
        drawn, data = self.compared(evaluation)
        n = min(len(drawn), len(data))
        return drawn[:n], data[:n]


def checked(metric: Metric, rows: Tensor, what: str) -> Tensor:
    """Rows (n, d) as they are. RunFailed where one is not finite, or they are too few."""
    broken = int((~rows.isfinite()).any(1).sum())
    if broken:
        raise RunFailed(f"{metric.label}: {broken} of {len(rows)} {what} are not finite", "non_finite")
    if len(rows) < FEWEST:
        raise RunFailed(f"{metric.label} compares at least {FEWEST} rows, and there are {len(rows)} {what}")
    return rows


def root(power: float, variance: float, p: int) -> tuple[float, float]:
    """(W, standard error) from W^p and its variance, by the delta method: sd(W) = sd(W^p) / (p W^(p-1))."""
    if power <= 0:  # the same points twice
        return 0.0, 0.0
    value = power ** (1 / p)
    return value, math.sqrt(variance) / (p * value ** (p - 1))
