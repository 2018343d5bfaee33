"""A neural ODE fitted to observed trajectories: a loss on z(t_k), its gradient through the solver or by the adjoint.

    L = 1/(K-1) Σ_{k>0} ‖z(t_k) - y_k‖²,   dz/dt = f(z, t; θ),   z(t_0) = y_0

By Pontryagin's principle the gradient needs no stored path: a_z = ∂L/∂z obeys da_z/dt = -a_zᵀ ∂f/∂z, solved back in
time and raised by ∂L/∂z(t_k) at each observation; ∂L/∂θ = ∫ a_zᵀ ∂f/∂θ dt. Chen et al. 2018.
That is `solver: {type: dopri5, gradient: adjoint}`. By default the gradient is backpropagation's, right for any field;
the adjoint needs one whose paths can be solved back. `driftspec_plugins.solvers._adjoint` has all its equations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from driftspec.components import Estimator, Loss, Solution, Solver
from driftspec.components.component import Need, default

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Model
    from driftspec.streams import Streams


class Trajectory(Estimator):
    """Mean over trajectories and observations of the distance between z(t_k) and y_k, from z(t_0) = y_0."""

    type = "trajectory"

    solver: Solver = default(
        {"type": "dopri5", "rtol": 1e-6, "atol": 1e-8},
        "integrates from observation to observation; its `gradient` is backpropagation's or the adjoint's",
    )
    at: Literal["all", "end"] = Field("all", description="compare at every observation, or at the last alone")
    distance: Literal["squared", "absolute"] = Field("squared", description="‖z - y‖² or ‖z - y‖")

    def offers(self) -> frozenset[str]:
        return frozenset() if self.solver.differentiated("adjoint") is None else frozenset({"solver_gradient"})

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("velocity",), "to integrate"),
            Need("data", ("trajectories",), "to compare with observations at known times"),
        )

    def loss(self, model: Model, batch: Tensor, state: Any, streams: Streams) -> Loss:
        """The loss on trajectories (B, K, d) observed at model.times (K,), over which the ODE runs."""
        from driftspec.accuracy.gradients import watched

        value, paths = self.apart(model, batch, self.solver)
        loss = Loss(value, {}, state, sum(path.evaluations for path in paths))
        return watched(loss, paths, model, self.solver, batch, lambda using, rows: self.apart(model, rows, using)[0])

    def apart(self, model: Model, batch: Tensor, solver: Solver) -> tuple[Tensor, list[Solution]]:
        """The mean distance () of the paths by `solver` from the trajectories, and the solves."""
        import torch

        from driftspec.numerics import transport

        times, observed = model.observed_at(), batch[:, 1:]
        if self.at == "end":
            times, observed = times[[0, -1]], batch[:, -1:]
        z, paths = transport.states_at(model, batch[:, 0], times, solver)
        apart = z[1:].transpose(0, 1) - observed
        distance = apart.square().sum(-1) if self.distance == "squared" else torch.linalg.vector_norm(apart, dim=-1)
        return distance.mean(), paths
