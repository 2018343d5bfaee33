"""Difference of the gradient by the adjoint equation to that by backpropagation, which is exact for the solver's steps.

    ‖g_adjoint - g_backprop‖ / ‖g_backprop‖,   and the drift ‖z_back(t_0) - z(t_0)‖ of the state solved back from z(t_1)

Smaller steps or tolerances reduce the difference at the order of the solver. If they do not reduce the drift, the state
cannot be solved back, and the adjoint's gradient is not reliable. Chen et al. 2018; Gholami, Keutzer, Biros, *ANODE*,
2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from driftspec.components import Gradient, Measured, Metric
from driftspec.components.component import Need
from driftspec_plugins.metrics._gradients import gradient

if TYPE_CHECKING:
    from driftspec.components import Evaluation


class GradientAgreement(Metric):
    """Relative difference of the gradients of the estimator's loss by the adjoint equation and by backpropagation."""

    type = "gradient_agreement"

    against: Gradient = Field(
        "backprop", description="the gradient that is the reference; the other one is compared with it"
    )
    points: int = Field(50, ge=1, description="number of test rows in the loss, the first ones")

    def needs(self) -> tuple[Need, ...]:
        why = "both gradients of its loss, by a solver with the key 'gradient', such as dopri5"
        return (Need("estimator", ("solver_gradient",), why), Need("dynamics", ("trainable",), "to have parameters"))

    def measure(self, evaluation: Evaluation) -> Measured:
        from torch.nn.functional import cosine_similarity

        from driftspec.accuracy import gradients
        from driftspec.numerics import transport

        estimator: Any = evaluation.setting.estimator  # it offers `solver_gradient`, so it has a solver
        rows = evaluation.rows(evaluation.test(self.points))
        other: Gradient = "adjoint" if self.against == "backprop" else "backprop"
        (right, counts), (found, more_counts) = (
            gradient(evaluation, evaluation.model, estimator.solver, by, rows) for by in (self.against, other)
        )
        evaluations = {self.against: counts, other: more_counts}
        missed = evaluations["adjoint"].pop("missed_start", None)
        drift = transport.return_error(evaluation.model, rows if rows.dim() == 2 else rows[:, 0], estimator.solver)
        details = {
            "gradient_norm": float(right.norm()),
            "cosine": float(cosine_similarity(found.double(), right.double(), dim=0)),
            "evaluations": evaluations,
            "drift": {"mean": float(drift.mean()), "max": float(drift.max())},
            "missed_start": missed,
        }
        value = gradients.relative(found, right)
        return Measured(value, None, "relative", len(rows), details, "both gradients are deterministic")
