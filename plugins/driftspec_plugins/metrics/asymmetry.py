"""Asymmetry of the score's derivative: mean of ‖J - Jᵀ‖_F / ‖J‖_F over points, J = ∂s/∂x, in model units.

The score of a density is a gradient, and J is the Hessian of log p, so the asymmetry is 0. For an energy model it is 0
by construction. A network that predicts a score need not be a gradient, and then it is the score of no density; the
asymmetry measures this. It is at most 2, for J = -Jᵀ, and 0 in one dimension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from driftspec.components import Measured, Metric
from driftspec.components.component import Need
from driftspec_plugins.metrics._scores import BLOCK, jacobian, mean

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation


class Asymmetry(Metric):
    """Mean of ‖J - Jᵀ‖ / ‖J‖ over held-out rows, J = ∂s/∂x, Frobenius norms."""

    type = "asymmetry"
    reads_test_rows: ClassVar[bool] = True

    points: int = Field(1000, ge=2, description="number of test rows, the first ones")

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("score",), "to differentiate"),
            Need("dynamics", ("smooth",), "J is a derivative: a score needs an activation in C1, an energy one in C2"),
            Need("data", ("samples",), "to have test rows"),
        )

    def measure(self, evaluation: Evaluation) -> Measured:
        import torch

        model = evaluation.model.double()
        u = model.like(evaluation.transform.to_model(evaluation.test(self.points)))
        each = torch.cat([asymmetry(jacobian(model, part)) for part in torch.split(u, BLOCK)]).cpu()
        value, stderr = mean(each)
        return Measured(value, stderr, "", len(u), {"largest": float(each.max())})


def asymmetry(j: Tensor) -> Tensor:
    """Return ‖J - Jᵀ‖_F / ‖J‖_F (n,) for J (n, d, d); 0 if J = 0."""
    import torch

    tiny = torch.finfo(j.dtype).tiny
    return torch.linalg.matrix_norm(j - j.mT) / torch.linalg.matrix_norm(j).clamp_min(tiny)
