"""A neural ODE fitted to observed trajectories: a loss on z(t_k), with a gradient by backpropagation or the adjoint.

    L = 1/(K-1) Σ_{k>0} ‖z(t_k) - y_k‖²,   dz/dt = f(z, t; θ),   z(t_0) = y_0

By Pontryagin's principle the gradient does not need the stored steps: a_z = ∂L/∂z satisfies da_z/dt = -a_zᵀ ∂f/∂z. It
is solved back in time, and ∂L/∂z(t_k) is added at each observation; then ∂L/∂θ = ∫ a_zᵀ ∂f/∂θ dt. Chen et al. 2018.
The key is `solver: {type: dopri5, gradient: adjoint}`. The default, backpropagation, is correct for any f; the adjoint
needs an f whose ODE can be solved back in time. `driftspec_plugins.solvers._adjoint` has all its equations.
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
    """The mean over trajectories and observations of the distance between z(t_k) and y_k, where z(t_0) = y_0."""

    type = "trajectory"

    solver: Solver = default(
        {"type": "dopri5", "rtol": 1e-6, "atol": 1e-8},
        "integrates from each observation to the next; its key `gradient` selects backpropagation or the adjoint",
    )
    at: Literal["all", "end"] = Field("all", description="compare at every observation, or only at the last")
    distance: Literal["squared", "absolute"] = Field("squared", description="‖z - y‖² or ‖z - y‖")

    def offers(self) -> frozenset[str]:
        return frozenset() if self.solver.differentiated("adjoint") is None else frozenset({"solver_gradient"})

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("velocity",), "to integrate"),
            Need("data", ("trajectories",), "to compare with observations at known times"),
        )

    def loss(self, model: Model, batch: Tensor, state: Any, streams: Streams) -> Loss:
        """Return the loss on trajectories (B, K, d) observed at model.times (K,)."""
        from driftspec.accuracy.gradients import watched

        value, solves = self.compared(model, batch, self.solver)
        loss = Loss(value, {}, state, sum(solve.evaluations for solve in solves))
        return watched(loss, solves, model, self.solver, batch, lambda by, rows: self.compared(model, rows, by)[0])

    def compared(self, model: Model, batch: Tensor, solver: Solver) -> tuple[Tensor, list[Solution]]:
        """Return the mean distance () between the solutions and the trajectories (B, K, d), and the solves."""
        import torch

        from driftspec.numerics import transport

        times, observed = model.observed_at(), batch[:, 1:]
        if self.at == "end":
            times, observed = times[[0, -1]], batch[:, -1:]
        z, solves = transport.states_at(model, batch[:, 0], times, solver)
        error = z[1:].transpose(0, 1) - observed
        distance = error.square().sum(-1) if self.distance == "squared" else torch.linalg.vector_norm(error, dim=-1)
        return distance.mean(), solves
