"""What the metrics that compare the run's draws with data share: the two sets of rows, and the root of a power.

Draws of one chain depend on each other, chains do not. So a chain counts as one row: what a standard error is made of
is averaged over its draws first, and a kernel between two chains is the mean over the pairs of their draws.

A standard error from few chains is uncertain itself: it is stated times t/1.96, t the 97.5 % quantile of Student's law
with one degree of freedom less than there are chains, so that 1.96 of it cover what 95 % should. Measured for chains of
N(m, I): 95 to 99 % with 4, 93 to 97 % with 8, 94 to 96 % with 16 or 50; without the factor 84 to 91 % with 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from driftspec.components import Measured, Metric
from driftspec.components.component import Need
from driftspec.errors import RunFailed

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation

FEWEST = 4  # rows, or chains, below which no standard error can be had
QUANTILE = 0.975  # at 1.96 standard errors


@dataclass(frozen=True)
class Compared:
    """Draws x (n, d) of so many chains, one after another and equally long, and data y (m, d); float64, data units."""

    x: Tensor
    y: Tensor
    chains: int

    @property
    def parts(self) -> int:
        """Into how many independent parts x falls; where there are too few, into its rows, as if these were."""
        return self.chains if self.chains >= FEWEST else len(self.x)

    def stated(self, stderr: float) -> float:
        """The standard error times t/1.96, which is 1 for many parts."""
        from scipy.special import ndtri, stdtrit

        return stderr * float(stdtrit(self.parts - 1, QUANTILE) / ndtri(QUANTILE))

    def measured(
        self, value: float, stderr: float, unit: str, details: Mapping[str, Any], line: str | None = None
    ) -> Measured:
        """The result, its standard error as stated, and withheld where the chains are too few for it."""
        details = {"against": len(self.y), "chains": self.chains, **details}
        if self.parts == self.chains:
            return Measured(value, self.stated(stderr), unit, len(self.x), details, line=line)
        reason = f"draws of one chain depend on each other, and {self.chains} chains are too few: it takes {FEWEST}"
        return Measured(value, None, unit, len(self.x), details, reason)


def by_chain(values: Tensor, parts: int) -> Tensor:
    """Means (parts, ...) over the rows (n, ...) of each part."""
    return values if parts == len(values) else values.view(parts, -1, *values.shape[1:]).mean(1)


class TwoSamples(Metric):
    """A metric between the first draws of a run, in whole chains, and data."""

    draws_wanted = "samples"

    samples: int = Field(2000, ge=10, description="draws compared, the run's first ones, with as many data")

    def needs(self) -> tuple[Need, ...]:
        return (Need("data", ("samples",), "to compare with"),)

    def compared(self, evaluation: Evaluation) -> Compared:
        """The draws, and as many data or, where the test rows are few, fewer."""
        drawn, data = evaluation.chains(self.samples), evaluation.reference(self.samples)
        x, y = checked(self, drawn.flatten(0, 1), "draws"), checked(self, data, "data rows")
        return Compared(x, y, len(drawn))

    def paired(self, evaluation: Evaluation) -> Compared:
        """The same cut to one length, for a metric whose bias depends on it: value and floor share the bias."""
        both = self.compared(evaluation)
        each = len(both.x) // both.chains
        chains = max(1, min(len(both.x), len(both.y)) // each)
        n = min(chains * each, len(both.y))
        return Compared(both.x[:n], both.y[:n], chains)


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
