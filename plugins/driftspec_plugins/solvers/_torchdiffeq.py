"""An ODE with its integrands as torchdiffeq sees it: one system dy/dt of y = (state, integrals), counted and named.

Its gradient comes by backpropagation through the steps, or by the adjoint equation of `_adjoint.py`, solved back in
time. How far the state solved back ends from where it started is measured, row by row, in tolerances:

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
        self.missed: Tensor | None = None
        self.atol = self.rtol = math.inf

    def solve(self, x: Tensor, integrate: Callable[[Tensor], Tensor]) -> Solution:
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
        return Solution(y[:, : self.d], y[:, self.d :], self.evaluations, status, self.stats, lambda: self.missed)

    def adjoint(
        self, y: Tensor, params: Sequence[Tensor], forth: Settings, back: Settings, atol: float, rtol: float
    ) -> Tensor:
        """y(t1) (B, d+m), its gradient solved back: it reaches y, both ends of time and `params`.

        `forth` and `back` say how to solve either way; `atol` and `rtol` are the unit in which a miss of the start is
        measured. What the field closes over must be among `params`, or its gradient is lost.
        """
        from driftspec_plugins.solvers._adjoint import Adjoint

        self.atol, self.rtol = atol, rtol
        reached = {id(p): p for p in (*params, *self.ends_given) if p.requires_grad}
        apply: Callable[..., Tensor] = Adjoint.apply
        return apply(self, forth, back, y, self.ends, *reached.values())

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
        return self.slope(t.clamp(self.earliest, self.latest), y)

    def hamiltonian(self, t: Tensor, y: Tensor, a: Tensor) -> Tensor:
        """H = Σ a · f (), over rows and columns."""
        return (a * self.slope(t.to(y.dtype), y)).sum()

    def turns_back(self) -> None:
        """A backward pass begins: each has the whole budget."""
        self.spent = 0

    def arrives_back(self, back: Tensor, start: Tensor) -> None:
        """Measure how far the state solved back ends from where it started; the largest of several passes counts."""
        x = start[:, : self.d]
        missed = (back[:, : self.d] - x).abs() / (self.atol + self.rtol * x.abs())
        rows = missed.amax(1).nan_to_num(nan=math.inf, posinf=math.inf)
        self.missed = rows if self.missed is None else rows.maximum(self.missed)

    def all_finite(self, given: Parts, gradients: Parts) -> Parts:
        """The gradients. One that was lost on the way back ends the solve; one that came in so is not the solve's."""
        if _finite(given) and not _finite(gradients):
            self.stop("non_finite")
        return gradients

    def stop(self, status: str) -> NoReturn:
        what = "the ODE" if self.forwards else "the adjoint ODE"
        raise Stopped(f"solving {what} ended with status {status} after {self.spent} evaluations", status)


def unused(solver: Solver, gradient: Gradient, *keys: str) -> Iterator[Finding]:
    """Keys of the adjoint solve that are given where the gradient is backpropagation's."""
    for key in keys:
        if gradient == "backprop" and getattr(solver, key) is not None:
            yield key, f"'{key}' is for the adjoint solve, and 'gradient' is 'backprop'", "warning"


def _finite(parts: Parts) -> bool:
    return all(bool(part.isfinite().all()) for part in parts if part is not None)
