"""Do the two gradients agree? The adjoint's, solved back in time, and backpropagation's, exact for the discrete solver.

    ‖g_adjoint - g_backprop‖ / ‖g_backprop‖,   and the drift ‖z_back(t_0) - z(t_0)‖ of the state solved back from z(t_1)

The difference falls at the solver's order; a drift that does not is a path that cannot be solved back, and an adjoint
gradient that should not be trusted. Chen et al. 2018; Gholami, Keutzer, Biros, *ANODE*, 2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from driftspec.component import Need
from driftspec.components import Estimator, Measured, Metric

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.evaluate import Evaluation


class GradientAgreement(Metric):
    """Relative difference of the estimator's gradients by the adjoint and by backpropagation, all else being equal."""

    type = "gradient_agreement"

    against: Literal["backprop", "adjoint"] = Field(
        "backprop", description="the gradient that counts as right, which the other one is compared with"
    )
    points: int = Field(50, ge=1, description="test rows in the loss, the first ones")

    def needs(self) -> tuple[Need, ...]:
        why = "the loss's gradient in both ways, by a solver that has the key 'gradient', such as dopri5"
        return (Need("estimator", ("solver_gradient",), why), Need("dynamics", ("trainable",), "to have parameters"))

    def measure(self, evaluation: Evaluation) -> Measured:
        import torch
        from torch.nn.functional import cosine_similarity

        from driftspec import flow

        estimator: Any = evaluation.experiment.spec.estimator  # its solver is what `solver_gradient` promises
        rows = evaluation.experiment.rows(evaluation.test(self.points))
        other = "adjoint" if self.against == "backprop" else "backprop"
        right, counts = _gradient(evaluation, estimator, self.against, rows)
        found, more_counts = _gradient(evaluation, estimator, other, rows)
        drift = flow.drift(evaluation.model, rows if rows.dim() == 2 else rows[:, 0], estimator.solver)
        details = {
            "gradient_norm": float(right.norm()),
            "cosine": float(cosine_similarity(found.double(), right.double(), dim=0)),
            "evaluations": {self.against: counts, other: more_counts},
            "drift": {"mean": float(drift.mean()), "max": float(drift.max())},
        }
        value = float((found - right).norm() / right.norm().clamp_min(torch.finfo(right.dtype).tiny))
        return Measured(value, None, "relative", len(rows), details, "both gradients are deterministic")


def _gradient(evaluation: Evaluation, estimator: Estimator, by: str, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
    """∂L/∂θ as one vector, and what it took."""
    import torch

    solver: Any = estimator.nested()["solver"]
    told = estimator.model_copy(update={"solver": solver.model_copy(update={"gradient": by})})
    model, scope = evaluation.model, evaluation.streams
    loss = told.loss(model, rows, told.start(model, scope.under("start")), scope.at(1))
    gradients = torch.autograd.grad(loss.value, model.parameters(), materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients]), {"forward": loss.evaluations, **loss.stats()}
