"""The order at which the adjoint's gradient approaches that of backpropagation as a solver takes more steps.

    r(N) = ‖g_N - b_N‖ / ‖b_N‖ = C N^{-p},   N equal steps of a method of order p

b_N is the gradient of the N steps by backpropagation, g_N that of the adjoint ODE in N steps back. In the limit both
are the gradient of the ODE: the adjoint equations are backpropagation for N → ∞. The value is p, fitted to all N. It is
computed in float64. Chen et al., *Neural Ordinary Differential Equations*, 2018.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from driftspec.components import FixedSteps, Measured, Metric, Setting, Solver
from driftspec.components.component import Need, default
from driftspec.components.picture import Line, Panel, Picture, Points
from driftspec_plugins.metrics._gradients import gradient
from driftspec_plugins.metrics._slopes import exponent, line
from driftspec_plugins.metrics._unfit import naming, no_flow

if TYPE_CHECKING:
    from driftspec.components import Evaluation


class GradientOrder(Metric):
    """The exponent p of the relative difference C N^{-p} of the two gradients of the estimator's loss."""

    type = "gradient_order"
    reads_test_rows: ClassVar[bool] = True
    in_float64 = frozenset({"solver"})

    solver: Solver = default("midpoint", "a solver with N equal steps and the key gradient; `steps` replaces its N")
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (32, 64, 128), min_length=2, description="N; of each interval between observations, for trajectories"
    )
    points: int = Field(20, ge=2, description="number of test rows in the loss, the first ones")

    def needs(self) -> tuple[Need, ...]:
        why = "both gradients of its loss, by a solver with the key 'gradient', such as dopri5"
        return (Need("estimator", ("solver_gradient",), why), Need("dynamics", ("trainable",), "to have parameters"))

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        yield from no_flow(around, path=True)
        if not isinstance(self.solver, FixedSteps) or self.solver.differentiated("adjoint") is None:
            yield "solver", f"{self.solver.label} is not one with N equal steps and the key 'gradient': take midpoint"
        if len(set(self.steps)) < len(self.steps):
            yield "steps", "'steps' has one number twice"

    def measure(self, evaluation: Evaluation) -> Measured:
        from driftspec.accuracy import gradients

        model = evaluation.model.double()
        rows = evaluation.rows(evaluation.test(self.points)).double()
        differences = []
        for n in self.steps:
            solver = self.solver.model_copy(update={"steps": n})
            with naming(self, f"the solve with {n} steps failed: raise the numbers in 'steps'"):
                found, right = (gradient(evaluation, model, solver, by, rows)[0] for by in ("adjoint", "backprop"))
            differences.append(gradients.relative(found, right))
        details = {"steps": list(self.steps), "differences": differences, "order": self.solver.order}
        if min(differences) == 0:
            return Measured(None, None, "", len(rows), details, "the two gradients are equal: there is no order to fit")
        order = -exponent(self.steps, differences)
        reason = "both gradients are deterministic"
        picture = _picture(self.steps, differences, order)
        return Measured(order, None, "", len(rows), details, reason, pictures={"order": picture})


def _picture(steps: tuple[int, ...], differences: list[float], order: float) -> Picture:
    """Return the differences against N, with the fitted slope."""
    marks: list[Line | Points] = [
        Points(steps, differences, "measured"),
        line(steps, differences, -order, f"slope -{order:.2f}"),
    ]
    caption = (
        "The relative difference of the gradient by the adjoint ODE and by backpropagation through the solver's steps, "
        "against the number of steps N."
    )
    return Picture([Panel(marks, "N, steps", "relative difference", log="xy")], caption)
