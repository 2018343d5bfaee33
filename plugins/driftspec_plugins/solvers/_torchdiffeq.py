"""An ODE with its integrands as torchdiffeq sees it: one system dy/dt of y = (state, integrals), counted and named.

Gradients by backpropagation through the steps, or by Pontryagin's adjoint equation, solved back in time:

    da_y/dt = -a_yᵀ ∂f/∂y,    da_θ/dt = -a_yᵀ ∂f/∂θ,    a_y(t1) = ∂L/∂y(t1),  a_θ(t1) = 0

L. S. Pontryagin and others, *The Mathematical Theory of Optimal Processes*, 1962; Chen et al. 2018. What the field
closes over is an adjoint parameter, or its gradient would be lost without a word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from driftspec.components import Path
from driftspec.errors import SolveFailed

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Rates, VectorField


class Stopped(SolveFailed):
    """Ends a solve from within: forwards it becomes a status, backwards it reaches whoever asked for gradients."""


class System:
    """dy/dt as torchdiffeq calls it, within [t0, t1]; `stats` goes on counting in the backward pass."""

    def __init__(
        self,
        f: VectorField,
        rates: Rates | None,
        x: Tensor,
        t0: float | Tensor,
        t1: float | Tensor,
        budget: float = math.inf,
    ):
        import torch

        self.f, self.rates, self.d, self.budget = f, rates, x.shape[1], budget
        self.ends = torch.stack([torch.as_tensor(t, dtype=torch.float64, device=x.device) for t in (t0, t1)])
        self.ends_given = [t for t in (t0, t1) if isinstance(t, torch.Tensor)]
        self.earliest, self.latest = sorted(self.ends.tolist())
        self.columns = None if (first := getattr(rates, "controlled", None)) is None else self.d + first
        self.forwards = True
        self.evaluations = self.spent = 0
        self.stats = {"evaluations_backward": 0}

    def solve(self, x: Tensor, integrate: Callable[[Tensor], Tensor]) -> Path:
        """The path to where `integrate` carries y (B, d+m); without any time, y and the gradient in time."""
        import torch

        y = self.start(x)
        try:
            if self.earliest == self.latest or not len(x):
                y = y + (self.ends[1] - self.ends[0]).to(y.dtype) * self.slope(self.ends[0].to(y.dtype), y)
            else:
                y = integrate(y)
            status = "ok" if y.isfinite().all() else "non_finite"
        except Stopped as stopped:
            y, status = torch.full_like(y, torch.nan), stopped.status
        self.forwards = False
        return Path(y[:, : self.d], y[:, self.d :], self.evaluations, status, self.stats)

    def adjoint(self, y: Tensor, params: Sequence[Tensor], **settings: Any) -> Tensor:
        """y(t1) (B, d+m) by torchdiffeq's odeint_adjoint: gradients reach y, both ends of time and `params`."""
        from torchdiffeq import odeint_adjoint

        reached = {id(p): p for p in (*params, *self.ends_given) if p.requires_grad}
        solution = odeint_adjoint(self, y, self.ends, adjoint_params=tuple(reached.values()), **settings)
        if solution.grad_fn is not None:
            solution.grad_fn.register_prehook(self.before_backward)
            solution.grad_fn.register_hook(self.after_backward)
        return solution[-1]

    def start(self, x: Tensor) -> Tensor:
        """(x, 0) (B, d+m), the integrals counted by asking for the rates once."""
        import torch

        if self.rates is None:
            return x
        with torch.no_grad():
            m = self.rates(self.ends[0].to(x.dtype), x)[1].shape[1]
        self.evaluations = self.spent = 1
        return torch.cat([x, x.new_zeros(len(x), m)], 1)

    def controlled(self, rows: Tensor) -> Tensor:
        """The columns of (B, d+m) whose error counts."""
        return rows[:, : self.columns]

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        """(f, r) (B, d+m)."""
        import torch

        if self.spent >= self.budget:
            self.stop("budget")
        self.spent += 1
        if self.forwards:
            self.evaluations += 1
        else:
            self.stats["evaluations_backward"] += 1
        x = y[:, : self.d]
        return self.f(t, x) if self.rates is None else torch.cat(self.rates(t, x), 1)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        # The search for a first step, and rounding to float32, may look past an end.
        out = self.slope(t.clamp(self.earliest, self.latest), y)
        if not self.forwards and not out.requires_grad:  # the adjoint differentiates even what is constant
            out = out + 0 * y
        return out

    def before_backward(self, _: Any) -> None:
        """A new budget for each backward pass; none for a second derivative, which would silently be zero."""
        import torch

        if torch.is_grad_enabled():
            raise SolveFailed("the adjoint gives first derivatives only: use gradient: backprop", "failed")
        self.spent = 0

    def after_backward(self, gradients: Sequence[Tensor | None], given: Sequence[Tensor | None]) -> None:
        """A gradient that was lost on the way back is named, one that came in so is not the solve's."""
        if _finite(given) and not _finite(gradients):
            self.stop("non_finite")

    def stop(self, status: str) -> NoReturn:
        what = "the ODE" if self.forwards else "the adjoint ODE"
        raise Stopped(f"solving {what} ended with status {status} after {self.spent} evaluations", status)


def _finite(parts: Sequence[Tensor | None]) -> bool:
    return all(bool(part.isfinite().all()) for part in parts if part is not None)
