"""The theorem of score matching, both sides on test rows: the distance to the true score, and the form without it.

    ½ E_π ‖s - ∇log π‖² = E_π [½ ‖s‖² + tr(∇s)] + const,   const = ½ E_π ‖∇log π‖²

The left side is the Fisher divergence. The right side without the constant is the loss of score matching. It needs no
true score, and its expectation is that of the left side, because E_π [sᵀ ∇log π] = -E_π tr(∇s) by parts; the boundary
term must be zero. Row by row the sides differ, so the value is the mean of the paired differences, with its standard
error: for a true theorem it is 0 for every smooth score s, trained or not. ∇log π is the known score of the data, and
the trace is exact. All is in data units, and in float64.

As `train.monitor` the metric minimises the left side, because the difference has nothing to minimise; both sides are
logged. A. Hyvärinen, *Estimation of Non-Normalized Statistical Models by Score Matching*, 2005, theorem 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from driftspec.components import Measured, Metric, Setting
from driftspec.components.component import Need
from driftspec.errors import RunFailed
from driftspec_plugins.metrics._scores import SOLVES, finite, mean, score_and_trace
from driftspec_plugins.metrics._unfit import naming, no_rows

if TYPE_CHECKING:
    from driftspec.components import Evaluation


class ScoreMatchingTheorem(Metric):
    """Mean over test rows of ½ ‖s - ∇log π‖² - [½ ‖s‖² + tr(∇s) + ½ ‖∇log π‖²]: 0 by the theorem of score matching."""

    type = "score_matching_theorem"
    reads_test_rows: ClassVar[bool] = True

    points: int | None = Field(None, ge=2, description="number of test rows, the first ones; null: all")

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("score",), "to measure"),
            Need("dynamics", ("smooth",), "the theorem has ∇s: a score needs an activation in C1, an energy one in C2"),
            Need("data", ("log_prob",), "its gradient is the true score"),
            Need("data", ("samples",), "to have test rows"),
            Need("data", ("smooth",), "at hard edges the boundary term of the theorem is not zero"),
        )

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        yield from no_rows(around)

    def measure(self, evaluation: Evaluation) -> Measured:
        x, law = evaluation.test(self.points), evaluation.truth
        if law is None:
            raise RunFailed(f"{self.label}: the score of the data is not known")
        truth = finite(self, law.score(x).detach(), "the data's score")
        with naming(self, SOLVES):
            s, trace = score_and_trace(evaluation, x)
        finite(self, s, "the score")
        left = (s - truth).square().sum(1) / 2
        loss, constant = s.square().sum(1) / 2 + trace, truth.square().sum(1) / 2
        right = loss + constant
        named = {"left": left, "right": right, "loss": loss, "constant": constant}
        details: dict[str, Any] = {
            name: dict(zip(("value", "stderr"), mean(values), strict=True)) for name, values in named.items()
        }
        value, stderr = mean(left - right)
        terms = {name: details[name]["value"] for name in ("left", "right")}
        line = f"½ E‖s - ∇log π‖² = {terms['left']:.4g}, E[½‖s‖² + tr ∇s] + const = {terms['right']:.4g}"
        line += f": the difference is {value:.2g} ± {stderr:.2g}"
        return Measured(value, stderr, "1/data units²", len(x), details, line=line, terms=terms)

    def watched(self, measured: Measured) -> float | None:
        """Return the left side, the Fisher divergence: the difference of the sides has nothing to minimise."""
        return measured.terms["left"]
