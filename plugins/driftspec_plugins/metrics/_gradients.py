"""The gradient of an estimator's loss by a solver that can be differentiated by the adjoint and by backpropagation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation, Gradient, Model, Solver


def gradient(
    evaluation: Evaluation, model: Model, solver: Solver, by: Gradient, rows: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Return ∂L/∂θ of the loss on rows (n, ...) as one vector (P,), and the numbers of evaluations.

    Every call has the same probes. The estimator offers `solver_gradient`, so it has a solver, which is replaced.
    """
    from driftspec.accuracy import gradients

    estimator: Any = evaluation.setting.estimator
    using = estimator.model_copy(update={"solver": solver.differentiated(by)})
    scope = evaluation.streams
    loss = using.loss(model, rows, using.start(model, scope.under("start")), scope.at(1))
    return gradients.flat(loss.value, model), {"forward": loss.evaluations, **loss.stats()}


__all__ = ["gradient"]
