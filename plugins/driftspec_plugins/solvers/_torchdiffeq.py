"""An ODE and its integrands as one system dy/dt for torchdiffeq, with y = (state, integrals).

The gradient is computed by backpropagation through the steps, or by the adjoint equation of `_adjoint.py`, which is
solved back in time. The error of the state that was solved back is measured for each row b, in tolerances:

    m_b = max_i |x_back(t0) - x(t0)|_bi / (atol + rtol |x(t0)|_bi)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from driftspec.components import Solution
from driftspec.errors import SolveFailed

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Gradient, Rates, Solver, VectorField
    from driftspec.components.component import Finding
    from driftspec_plugins.solvers._adjoint import Settings

    Parts = tuple[Tensor | None, ...]


class Stopped(SolveFailed):
    """The exception that ends a solve early. A forward solve catches it and returns its status."""


class System:
    """The function (t, y) -> dy/dt for t in [t0, t1]. It counts its evaluations, also in the backward pass."""

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
        self.missed: Tensor | None = None
        self.atol = self.rtol = math.inf

    def solve(self, x: Tensor, integrate: Callable[[Tensor], Tensor]) -> Solution:
        """Return the solution at t1 from x (B, d) at t0; `integrate` solves the system from y (B, d+m).

        If t0 = t1, the solution is y; its derivative is -dy/dt with respect to t0 and dy/dt with respect to t1.
        """
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
        return Solution(y[:, : self.d], y[:, self.d :], self.evaluations, status, self.stats, lambda: self.missed)

    def adjoint(
        self, y: Tensor, params: Sequence[Tensor], forth: Settings, back: Settings, atol: float, rtol: float
    ) -> Tensor:
        """Return y(t1) (B, d+m) with its gradient by the adjoint equation, for y, t0, t1 and `params`.

        `forth` and `back` are the settings of the forward and the backward solve, `atol` and `rtol` those in m above.
        A tensor that f depends on and that is not in `params` gets no gradient.
        """
        from driftspec_plugins.solvers._adjoint import Adjoint

        self.atol, self.rtol = atol, rtol
        reached = {id(p): p for p in (*params, *self.ends_given) if p.requires_grad}
        apply: Callable[..., Tensor] = Adjoint.apply
        return apply(self, forth, back, y, self.ends, *reached.values())

    def start(self, x: Tensor) -> Tensor:
        """Return y(t0) = (x, 0) (B, d+m) for x (B, d); one evaluation of the rates gives m."""
        import torch

        if self.rates is None:
            return x
        with torch.no_grad():
            m = self.rates(self.ends[0].to(x.dtype), x)[1].shape[1]
        self.evaluations = self.spent = 1
        return torch.cat([x, x.new_zeros(len(x), m)], 1)

    def controlled(self, rows: Tensor) -> Tensor:
        """Return the columns of rows (B, d+m) whose error controls the step size."""
        return rows[:, : self.columns]

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt = (f, r) (B, d+m) at y (B, d+m) and t (), and count the evaluation."""
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
        # The search for a first step, and rounding to float32, may ask for a time outside [t0, t1].
        return self.slope(t.clamp(self.earliest, self.latest), y)

    def hamiltonian(self, t: Tensor, y: Tensor, a: Tensor) -> Tensor:
        """Return H = Σ a · f (), a sum over rows and columns, for y and a (B, d+m)."""
        return (a * self.slope(t.to(y.dtype), y)).sum()

    def turns_back(self) -> None:
        """Reset the count of evaluations: each backward pass has the whole budget."""
        self.spent = 0

    def arrives_back(self, back: Tensor, start: Tensor) -> None:
        """Set `missed` to m (B,) for y solved back and y at the start (B, d+m); keep the largest of several passes."""
        x = start[:, : self.d]
        missed = (back[:, : self.d] - x).abs() / (self.atol + self.rtol * x.abs())
        rows = missed.amax(1).nan_to_num(nan=math.inf, posinf=math.inf)
        self.missed = rows if self.missed is None else rows.maximum(self.missed)

    def all_finite(self, given: Parts, gradients: Parts) -> Parts:
        """Return the gradients. Stop if one is not finite although the incoming gradient `given` is."""
        if _finite(given) and not _finite(gradients):
            self.stop("non_finite")
        return gradients

    def stop(self, status: str) -> NoReturn:
        """Raise Stopped with this status."""
        what = "the ODE" if self.forwards else "the adjoint ODE"
        raise Stopped(f"solving {what} ended with status {status} after {self.spent} evaluations", status)


def unused(solver: Solver, gradient: Gradient, *keys: str) -> Iterator[Finding]:
    """Yield a warning for each key of the adjoint solve that is given although the gradient is by backpropagation."""
    for key in keys:
        if gradient == "backprop" and getattr(solver, key) is not None:
            yield key, f"'{key}' is for the adjoint solve, and 'gradient' is 'backprop'", "warning"


def _finite(parts: Parts) -> bool:
    return all(bool(part.isfinite().all()) for part in parts if part is not None)
