"""The gradient of an ODE solve by Pontryagin's principle: an ODE solved back in time, without storing the steps.

    dy/dt = f(t, y; θ),    y(t0) = y0,    a loss L of y(t1)

The adjoint a(t) = ∂L/∂y(t) is the derivative of the loss with respect to the state at time t. All equations follow from
the Hamiltonian H(t, y, a; θ) = a · f, a sum over all rows of the batch:

    dy/dt =  ∂H/∂a =  f                  y(t1), the result of the forward solve
    da/dt = -∂H/∂y = -aᵀ ∂f/∂y           a(t1) = ∂L/∂y(t1)
    dg/dt = -∂H/∂θ = -aᵀ ∂f/∂θ           g(t1) = 0

All three are solved together from t1 back to t0, where a(t0) = ∂L/∂y0 and g(t0) = ∂L/∂θ. The derivatives with respect
to the two times need no integral: ∂L/∂t1 = H(t1) and ∂L/∂t0 = -H(t0).

Every solver of `driftspec_plugins.solvers.torchdiffeq_fixed` and `driftspec_plugins.solvers.torchdiffeq_adaptive` (such
as `midpoint` and `dopri5`) solves them if the spec has `gradient: adjoint`.

The weak point is y. If the flow contracts forwards, it expands backwards, and errors grow: the y that was solved back
differs from y0, and ∂H/∂y and ∂H/∂θ are evaluated at wrong states. So this difference is measured in every backward
pass.

L. S. Pontryagin, V. G. Boltyanskii, R. V. Gamkrelidze, E. F. Mishchenko, *The Mathematical Theory of Optimal
Processes*, 1962; R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, *Neural ODEs*, 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253  (a method imports this module)
from torch import Tensor  # noqa: TID253
from torchdiffeq import odeint  # noqa: TID253

from driftspec.errors import SolveFailed

if TYPE_CHECKING:
    from driftspec_plugins.solvers._torchdiffeq import System

Settings = Mapping[str, Any]
"""Keyword arguments of torchdiffeq's `odeint`: method, tolerances, options."""


class Adjoint(torch.autograd.Function):
    """y(t1) as a function of y0, (t0, t1) and every θ, with its gradient by the adjoint equation."""

    @staticmethod
    def forward(
        ctx: Any, system: System, forth: Settings, back: Settings, y0: Tensor, ends: Tensor, *theta: Tensor
    ) -> Tensor:
        """Return y(t1) (B, D) for y0 (B, D) and ends (2,). Autograd does not record; y0, y(t1) and θ are stored."""
        y1: Tensor = odeint(system, y0, ends, **forth)[-1]
        ctx.system, ctx.back = system, back
        ctx.save_for_backward(y0, y1, ends, *theta)
        return y1

    @staticmethod
    def backward(ctx: Any, a1: Tensor) -> tuple[Tensor | None, ...]:
        """Return ∂L/∂y0 (B, D), ∂L/∂(t0, t1) (2,) and every ∂L/∂θ, given a1 = ∂L/∂y(t1) (B, D)."""
        if torch.is_grad_enabled():  # create_graph=True: autograd would take this gradient for a constant
            raise SolveFailed("the adjoint gives first derivatives only: use gradient: backprop", "failed")
        y0, y1, ends, *theta = ctx.saved_tensors
        system: System = ctx.system
        system.turns_back()
        at_t1 = (y1, a1, *map(torch.zeros_like, theta))
        y, a0, *g = (part[-1] for part in odeint(Backward(system, theta), at_t1, ends.flip(0), **ctx.back))
        system.arrives_back(y, y0)
        (t0, t1), in_ends = ends, None
        if ctx.needs_input_grad[4]:
            in_ends = torch.stack([-system.hamiltonian(t0, y0, a0), system.hamiltonian(t1, y1, a1)]).to(ends)
        return system.all_finite((a1,), (None, None, None, a0, in_ends, *g))


class Backward:
    """The right-hand side of the three equations: (t, (y, a, g)) -> (f, -∂H/∂y, -∂H/∂θ)."""

    def __init__(self, system: System, theta: Sequence[Tensor]):
        self.system, self.theta = system, theta

    def __call__(self, t: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        y, a = parts[0].detach().requires_grad_(), parts[1]
        with torch.enable_grad():
            f = self.system(t, y)
        if not f.requires_grad:  # a constant
            return f, *map(torch.zeros_like, parts[1:])
        inputs = (y, *self.theta)
        # The graph is retained because one θ may be computed from another θ.
        slopes = torch.autograd.grad(f, inputs, -a, retain_graph=True, materialize_grads=True)
        return f.detach(), *slopes

    def __getattr__(self, name: str) -> Any:
        """Return the attribute of the system: torchdiffeq looks up `callback_step` and others here."""
        return getattr(self.system, name)
