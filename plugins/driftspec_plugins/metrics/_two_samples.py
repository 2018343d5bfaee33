"""Functions for the metrics that compare the draws of a run with data.

Draws of one chain depend on each other, and different chains are independent. So a standard error treats a chain as one
row: terms are first averaged over the draws of a chain, and a kernel between two chains is the mean over all pairs of
their draws.

With few chains the standard error is itself uncertain. So it is multiplied by t/1.96, with t the 97.5 % quantile of
Student's t with one degree of freedom less than the number of chains. Then ± 1.96 standard errors cover about 95 %.
Measured for chains of N(m, I): 95 to 99 % with 4 chains, 93 to 97 % with 8, 94 to 96 % with 16 or 50; without the
factor 84 to 91 % with 4.
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

FEWEST = 4  # smallest number of rows, or of chains, for a standard error
QUANTILE = 0.975  # at 1.96 standard errors of a normal distribution


@dataclass(frozen=True)
class Compared:
    """Draws x (n, d) of `chains` chains of equal length, chain by chain, and data y (m, d); float64, data units."""

    x: Tensor
    y: Tensor
    chains: int

    @property
    def parts(self) -> int:
        """The number of independent parts of x: its chains, or its rows if there are too few chains."""
        return self.chains if self.chains >= FEWEST else len(self.x)

    def stated(self, stderr: float) -> float:
        """Return the standard error times t/1.96; the factor is near 1 for many parts."""
        from scipy.special import ndtri, stdtrit

        return stderr * float(stdtrit(self.parts - 1, QUANTILE) / ndtri(QUANTILE))

    def measured(
        self, value: float, stderr: float, unit: str, details: Mapping[str, Any], line: str | None = None
    ) -> Measured:
        """Return the result with its standard error times t/1.96, or without it if there are too few chains."""
        details = {"against": len(self.y), "chains": self.chains, **details}
        if self.parts == self.chains:
            return Measured(value, self.stated(stderr), unit, len(self.x), details, line=line)
        reason = f"draws of one chain depend on each other, and {self.chains} chains are too few: {FEWEST} are needed"
        return Measured(value, None, unit, len(self.x), details, reason)


def by_chain(values: Tensor, parts: int) -> Tensor:
    """Return the means (parts, ...) of values (n, ...) over each of `parts` parts of equal length."""
    return values if parts == len(values) else values.reshape(parts, -1, *values.shape[1:]).mean(1)


class TwoSamples(Metric):
    """A metric that compares the first draws of a run, in whole chains, with data."""

    draws_wanted = "samples"

    samples: int = Field(2000, ge=10, description="number of draws, the first ones of the run, and of data rows")

    def needs(self) -> tuple[Need, ...]:
        return (Need("data", ("samples",), "to compare with"),)

    def compared(self, evaluation: Evaluation) -> Compared:
        """Return the draws and as many data rows, or fewer if there are not enough test rows."""
        drawn, data = evaluation.chains(self.samples), evaluation.reference(self.samples)
        x, y = checked(self, drawn.flatten(0, 1), "draws"), checked(self, data, "data rows")
        return Compared(x, y, len(drawn))

    def paired(self, evaluation: Evaluation) -> Compared:
        """Return equally many draws and data rows, for a metric whose bias depends on n: value and floor share it."""
        both = self.compared(evaluation)
        each = len(both.x) // both.chains
        chains = max(1, min(len(both.x), len(both.y)) // each)
        n = min(chains * each, len(both.y))
        return Compared(both.x[:n], both.y[:n], chains)


def checked(metric: Metric, rows: Tensor, what: str) -> Tensor:
    """Return rows (n, d) unchanged. Raise RunFailed if one is not finite, or if there are too few."""
    broken = int((~rows.isfinite()).any(1).sum())
    if broken:
        raise RunFailed(f"{metric.label}: {broken} of {len(rows)} {what} are not finite", "non_finite")
    if len(rows) < FEWEST:
        raise RunFailed(f"{metric.label} compares at least {FEWEST} rows, and there are {len(rows)} {what}")
    return rows


def root(power: float, variance: float, p: int) -> tuple[float, float]:
    """Return W and its standard error from W^p and its variance, by the delta method: sd(W) = sd(W^p) / (p W^(p-1))."""
    if power <= 0:  # both sets have the same points
        return 0.0, 0.0
    value = power ** (1 / p)
    return value, math.sqrt(variance) / (p * value ** (p - 1))
