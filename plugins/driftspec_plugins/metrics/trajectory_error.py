"""Trajectory error: the mean squared distance of the observations to the solution from the first observation.

    1/(n (K-1)) Σ_i Σ_{k>0} ‖z_i(t_k) - y_ik‖²,   z_i(t_0) = y_i0

For a perfect model it is not 0, because y_i0 and y_ik contain noise: d σ² (1 + mean ‖∂z(t_k)/∂z(t_0)‖²_F / d).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from driftspec.components import Measured, Metric, Solver, Verdict
from driftspec.components.component import Need, default
from driftspec_plugins.metrics._scores import stated

if TYPE_CHECKING:
    from driftspec.accuracy.refinement import Solved
    from driftspec.components import Evaluation


class TrajectoryError(Metric):
    """Mean squared distance over test trajectories, in squared data units, with its standard error over them."""

    type = "trajectory_error"

    solver: Solver = default(
        {"type": "dopri5", "rtol": 1e-6, "atol": 1e-8}, "solves the ODE from observation to observation"
    )

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("velocity",), "to integrate"),
            Need("data", ("trajectories",), "to compare with observations at known times"),
        )

    def measure(self, evaluation: Evaluation) -> Measured:
        from driftspec.numerics import transport

        observed = evaluation.test()
        start = evaluation.rows(observed[:, 0])
        with evaluation.naming_rows():
            solved = transport.along(evaluation.model, start, evaluation.model.observed_at(), self.solver)
        predicted = evaluation.transform.to_data(solved.value.cpu().view(observed.shape))
        squared = (predicted - observed)[:, 1:].square().sum(-1)
        each = squared.mean(1)
        details = {
            "at_end": float(squared[:, -1].mean()), "evaluations_per_point": solved.evaluations / len(each),
            "solver_error": stated(evaluation.transform.error_to_data((solved.error + solved.rounding).cpu())),
            "not_converged": solved.not_converged,
        }  # fmt: skip
        floor = None if evaluation.setting.data is None else evaluation.setting.data.noise_floor()
        if floor is not None:
            details["floor"] = floor
        stderr = float(each.std()) / math.sqrt(len(each))
        return Measured(
            float(each.mean()), stderr, "squared data units", len(each), details, verdicts=_verdicts(solved)
        )


def _verdicts(solved: Solved) -> tuple[Verdict, ...]:
    """Return a bad verdict if the errors of some trajectories are above the solver's tolerance."""
    if not solved.not_converged:
        return ()
    found = f"{solved.not_converged} of {len(solved.value)} trajectories did not converge"
    reason = f"{found}: they are off by up to {float(solved.error.max()):.1e} model units"
    return (Verdict("solver", "not_converged", reason, "bad"),)
