"""Do the two gradients agree? The adjoint's, solved back in time, and backpropagation's, exact for the discrete solver.

    ‖g_adjoint - g_backprop‖ / ‖g_backprop‖,   and the drift ‖z_back(t_0) - z(t_0)‖ of the state solved back from z(t_1)

The difference falls at the solver's order; a drift that does not is a path that cannot be solved back, and an adjoint
gradient that should not be trusted. Chen et al. 2018; Gholami, Keutzer, Biros, *ANODE*, 2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from driftspec.component import Need
from driftspec.components import Measured, Metric

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.evaluate import Evaluation


class GradientAgreement(Metric):
    """Relative difference of the loss's gradient by the estimator's solver and by the same solver told `against`."""

    type = "gradient_agreement"

    against: Literal["backprop", "adjoint"] = Field("backprop", description="how the second gradient is taken")
    points: int = Field(50, ge=1, description="test rows in the loss, the first ones")

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("estimator", ("solver_gradient",), "a loss through a solver that differentiates in both ways"),
            Need("dynamics", ("trainable",), "to have parameters"),
        )

    def measure(self, evaluation: Evaluation) -> Measured:
        import torch

        from driftspec import flow

        estimator: Any = evaluation.experiment.spec.estimator  # its solver is what `solver_gradient` promises
        model = evaluation.model
        rows = evaluation.experiment.rows(evaluation.test(self.points))
        other = estimator.model_copy(update={"solver": estimator.solver.model_copy(update={"gradient": self.against})})
        gradients, counts = [], []
        for one in (estimator, other):
            model.module.zero_grad(set_to_none=True)
            state = one.start(model, evaluation.streams.under("start"))
            loss = one.loss(model, rows, state, evaluation.streams.at(1))
            loss.value.backward()
            gradients.append(torch.cat([g.detach().flatten() for p in model.parameters() if (g := p.grad) is not None]))
            counts.append(loss.evaluations)
        model.module.zero_grad(set_to_none=True)
        first, second = gradients
        drift = flow.drift(model, rows if rows.dim() == 2 else rows[:, 0], estimator.solver)
        details = {
            "gradient_norm": float(second.norm()), "cosine": _cosine(first, second), "evaluations": counts,
            "drift": {"mean": float(drift.mean()), "max": float(drift.max())},
        }  # fmt: skip
        value = float((first - second).norm() / second.norm())
        return Measured(value, None, "relative", len(rows), details, "both gradients are deterministic")


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))
