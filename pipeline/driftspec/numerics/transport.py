"""Transport of points along dx/dt = f(t, x), with each point's numerical error.

x(t1) = x(t0) + ∫_{t0}^{t1} f(t, x(t)) dt
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from driftspec.accuracy.refinement import Integrator, Solved, by_blocks, refined, smallest
from driftspec.components import Solution, Solver
from driftspec.components.model import Model


def transport(model: Model, x: Tensor, t0: float, t1: float, solver: Solver) -> Solved:
    """Return x(t1) (B, d), the solution of dx/dt = velocity(t, x) from x (B, d) at t0, with its error."""

    def summed(y: Tensor, rows: Tensor) -> Tensor:
        return torch.cat([x[rows], y], 1).abs().amax(1)

    def solve(using: Integrator, rows: Tensor, steps: int | None) -> tuple[Tensor, int]:
        path = by_blocks(lambda part: using.solve(model.velocity, x[part], t0, t1, steps=steps), rows)
        return torch.cat([p.state for p in path]), sum(p.evaluations for p in path)

    with torch.no_grad():
        return refined(solve, len(x), solver, slice(None), True, summed, smallest(x))


def states_at(
    model: Model, z: Tensor, times: Tensor, solver: Solver, params: Sequence[Tensor] = ()
) -> tuple[Tensor, list[Solution]]:
    """Return z(t_k) (K, B, d), the solution of the ODE from z (B, d) at times[0], and the K - 1 solves between times.

    Gradients reach z, the model's parameters, the times (K,), and `params`, other tensors that the velocity depends on.
    """
    states, paths = [z], []
    for before, after in itertools.pairwise(times):
        path = solver.solve(model.velocity, states[-1], before, after, params=(*model.parameters(), *params))
        states.append(path.require("the trajectory").state)
        paths.append(path)
    return torch.stack(states), paths


def along(model: Model, z: Tensor, times: Tensor, solver: Solver) -> Solved:
    """Return z(t_k) at all K times (B, K d), from z (B, d) at the first; the error of a row is its largest."""

    def solve(using: Integrator, rows: Tensor, steps: int | None) -> tuple[Tensor, int]:
        def one(part: Tensor) -> Solution:
            paths = [Solution(z[part], z.new_zeros(len(part), 0), 0)]
            for before, after in itertools.pairwise(times):
                paths.append(using.solve(model.velocity, paths[-1].state, before, after, steps=steps))
            status = next((path.status for path in paths if path.status != "ok"), "ok")
            states, evaluations = torch.cat([path.state for path in paths], 1), sum(path.evaluations for path in paths)
            return Solution(states, paths[0].integrals, evaluations, status)

        found = by_blocks(one, rows)
        return torch.cat([path.state for path in found]), sum(path.evaluations for path in found)

    def summed(states: Tensor, rows: Tensor) -> Tensor:
        return states.abs().amax(1)

    with torch.no_grad():
        return refined(solve, len(z), solver, slice(None), True, summed, smallest(z))


def there_and_back(model: Model, x: Tensor, solver: Solver) -> Solved:
    """Return x' (B, d), the result of solving from x (B, d) at t_data to t_prior and back, with the error of both."""
    t_prior, t_data = model.dynamics.times()
    there = transport(model, x, t_data, t_prior, solver)
    back = transport(model, there.value, t_prior, t_data, solver)
    error, rounding = there.error.maximum(back.error), there.rounding.maximum(back.rounding)
    evaluations = there.evaluations + back.evaluations
    return Solved(back.value, error, rounding, there.converged & back.converged, evaluations)


def ends(model: Model) -> tuple[float, float]:
    """Return the times of the data and of the prior, or for trajectories of the first and the last observation."""
    if model.times is not None:
        return float(model.times[0]), float(model.times[-1])
    t_prior, t_data = model.dynamics.times()
    return t_data, t_prior


def return_error(model: Model, x: Tensor, solver: Solver) -> Tensor:
    """Return ‖x' - x‖ (B,), where x' is the result of solving from x (B, d) to the other end of time and back."""
    start, end = ends(model)
    with torch.no_grad():
        there = solver.solve(model.velocity, x, start, end).require("the ODE").state
        back = solver.solve(model.velocity, there, end, start).require("the ODE").state
    return torch.linalg.vector_norm(back - x, dim=1)


__all__ = ["along", "ends", "return_error", "states_at", "there_and_back", "transport"]
