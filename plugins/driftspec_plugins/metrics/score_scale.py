"""The factor c by which a score s would have to be multiplied to minimise the loss of score matching.

    c = argmin_c E_π [½ c² ‖s‖² + κ c tr(∇s)] = -κ E_π tr(∇s) / E_π ‖s‖²

With the loss of the theorem, κ = 1, the score of π has c = 1: this is Stein's identity E_π [tr(∇s) + ‖s‖²] = 0 for
s = ∇log π. It needs no true score. With the loss ½ (s² + ∇s) that the one-dimensional proof is sometimes closed with,
κ = ½, and c = ½: that loss is minimal at a score half as large. Test rows are used, in data units and in float64. c is
a ratio of means a/b, with a_i = -κ tr(∇s)(x_i) and b_i = ‖s(x_i)‖²; its standard error is that of the mean of
(a_i - c b_i)/b, to first order in 1/√n (the delta method).

C. Stein, *Estimation of the Mean of a Multivariate Normal Distribution*, 1981; A. Hyvärinen, *Estimation of
Non-Normalized Statistical Models by Score Matching*, 2005.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from driftspec.components import Line, Measured, Metric, Panel, Picture, Points, Setting
from driftspec.components.component import Need
from driftspec.errors import RunFailed
from driftspec_plugins.metrics._scores import SOLVES, finite, mean, score_and_trace
from driftspec_plugins.metrics._unfit import naming, no_rows

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation


class ScoreScale(Metric):
    """c = -κ E tr(∇s) / E‖s‖² over test rows: 1 for the score of the data if κ = 1."""

    type = "score_scale"
    reads_test_rows: ClassVar[bool] = True

    trace_weight: float = Field(1.0, gt=0, description="κ, the weight of tr(∇s) in the loss; 1 in the theorem")
    points: int | None = Field(None, ge=2, description="number of test rows, the first ones; null: all")

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("score",), "to measure"),
            Need("dynamics", ("smooth",), "the loss has ∇s: a score needs an activation in C1, an energy one in C2"),
            Need("data", ("samples",), "to have test rows"),
            Need("data", ("smooth",), "at hard edges Stein's identity does not hold", "warning"),
        )

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        yield from no_rows(around)

    def measure(self, evaluation: Evaluation) -> Measured:
        x = evaluation.test(self.points)
        with naming(self, SOLVES):
            s, trace = score_and_trace(evaluation, x)
        square = finite(self, s, "the score").square().sum(1)
        if not bool(square.any()):
            raise RunFailed(f"{self.label}: the score is 0 at all {len(x)} rows")
        value, stderr = ratio(-self.trace_weight * trace, square)
        details = {"trace": float(trace.mean()), "square": float(square.mean())}
        line = f"E[½ c²‖s‖² + {self.trace_weight:g} c tr ∇s] is smallest at c = {value:.4g} ± {stderr:.2g}"
        shown = {"loss": picture(details["square"], details["trace"], self.trace_weight)}
        return Measured(value, stderr, "", len(x), details, line=line, pictures=shown)


def picture(square: float, trace: float, weight: float) -> Picture:
    """Return the loss ½ c² E‖s‖² + κ c E tr(∇s) against c, with its minimum, for κ = 1 and for the metric's own κ."""
    marks: list[Line | Points] = []
    scales = [k / 50 for k in range(76)]
    for kappa in sorted({1.0, weight}, reverse=True):
        least = -kappa * trace / square

        def loss(c: float, kappa: float = kappa) -> float:
            return c**2 * square / 2 + kappa * c * trace

        marks.append(Line(scales, [loss(c) for c in scales], f"loss with κ = {kappa:g}"))
        marks.append(Points([least], [loss(least)], f"least at c = {least:.3g}"))
    caption = "The loss of score matching of c s, the learned score s times c, on test rows."
    return Picture([Panel(marks, "c", "½ c² E‖s‖² + κ c E tr(∇s)")], caption)


def ratio(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Return the ratio c of the means of a (n,) and b (n,), and its standard error by the delta method."""
    c = float(a.mean() / b.mean())
    return c, mean(a - c * b)[1] / abs(float(b.mean()))
