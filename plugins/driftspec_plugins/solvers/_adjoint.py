"""The gradient of an ODE solve by Pontryagin's principle: solved back in time from its end, no step of it being kept.

    dy/dt = f(t, y; θ),    y(t0) = y0,    a loss L of y(t1)

The adjoint a(t) = ∂L/∂y(t) says how the loss changes with the state at time t. The Hamiltonian H(t, y, a; θ) = a · f, a
sum over all rows of the batch, gives every equation:

    dy/dt =  ∂H/∂a =  f                  y(t1) as the way forwards left it
    da/dt = -∂H/∂y = -aᵀ ∂f/∂y           a(t1) = ∂L/∂y(t1)
    dg/dt = -∂H/∂θ = -aᵀ ∂f/∂θ           g(t1) = 0

All three are solved together from t1 back to t0, where a(t0) = ∂L/∂y0 and g(t0) = ∂L/∂θ. The ends of time need no
integral: ∂L/∂t1 = H(t1) and ∂L/∂t0 = -H(t0).

Every solver of `driftspec_plugins.solvers.torchdiffeq_fixed` and `driftspec_plugins.solvers.torchdiffeq_adaptive` (such
as `midpoint` and `dopri5`) solves them where a spec says `gradient: adjoint`.

The weak point is y. Where the flow contracts, the way back expands, and errors grow: y solved back misses y0, and ∂H/∂y
and ∂H/∂θ are evaluated away from the path. So the distance between the two is measured in every backward pass.

L. S. Pontryagin, V. G. Boltyanskii, R. V. Gamkrelidze, E. F. Mishchenko, *The Mathematical Theory of Optimal
Processes*, 1962; R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, *Neural ODEs*, 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253  (this module is imported by a method)
from torch import Tensor  # noqa: TID253
from torchdiffeq import odeint  # noqa: TID253

from driftspec.errors import SolveFailed

if TYPE_CHECKING:
    from driftspec_plugins.solvers._torchdiffeq import System

Settings = Mapping[str, Any]
"""What torchdiffeq's `odeint` takes: method, tolerances, options."""


class Adjoint(torch.autograd.Function):
    """y(t1) from y0, with gradients in y0, in both ends of time and in every θ."""

    @staticmethod
    def forward(
        ctx: Any, system: System, forth: Settings, back: Settings, y0: Tensor, ends: Tensor, *theta: Tensor
    ) -> Tensor:
        """y(t1) (B, D). Autograd records nothing here: all that is kept is y0, y(t1) and θ."""
        y1: Tensor = odeint(system, y0, ends, **forth)[-1]
        ctx.system, ctx.back = system, back
        ctx.save_for_backward(y0, y1, ends, *theta)
        return y1

    @staticmethod
    def backward(ctx: Any, a1: Tensor) -> tuple[Tensor | None, ...]:
        """From a(t1) = ∂L/∂y(t1): a(t0), the slopes in both ends of time, g(t0)."""
        if torch.is_grad_enabled():  # asked for a graph of the gradient, which would silently be a constant
            raise SolveFailed("the adjoint gives first derivatives only: use gradient: backprop", "failed")
        y0, y1, ends, *theta = ctx.saved_tensors
        system: System = ctx.system
        system.turns_back()
        at_t1 = (y1, a1, *map(torch.zeros_like, theta))
        y, a0, *g = (part[-1] for part in odeint(WayBack(system, theta), at_t1, ends.flip(0), **ctx.back))
        system.arrives_back(y, y0)
        (t0, t1), in_ends = ends, None
        if ctx.needs_input_grad[4]:
            in_ends = torch.stack([-system.hamiltonian(t0, y0, a0), system.hamiltonian(t1, y1, a1)]).to(ends)
        return system.all_finite((a1,), (None, None, None, a0, in_ends, *g))


class WayBack:
    """(f, -∂H/∂y, -∂H/∂θ) at (y, a, g), as torchdiffeq calls it."""

    def __init__(self, system: System, theta: Sequence[Tensor]):
        self.system, self.theta = system, theta

    def __call__(self, t: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        y, a = parts[0].detach().requires_grad_(), parts[1]
        with torch.enable_grad():
            f = self.system(t, y)
        if not f.requires_grad:  # a constant
            return f, *map(torch.zeros_like, parts[1:])
        inputs = (y, *self.theta)
        # The graph is retained for a θ that is itself computed from another θ.
        slopes = torch.autograd.grad(f, inputs, -a, retain_graph=True, materialize_grads=True)
        return f.detach(), *slopes

    def __getattr__(self, name: str) -> Any:
        """The system's own: torchdiffeq looks for `callback_step` and its like here."""
        return getattr(self.system, name)
