"""Adaptive Runge-Kutta pairs: two orders from the same stages, whose difference chooses the length of each step.

    dopri5   order 5(4), 7 stages, the last of which is the next step's first   J. R. Dormand, P. J. Prince 1980
    dopri8   order 8(7), 13 stages                                              P. J. Prince, J. R. Dormand 1981

The error of a step is measured sample by sample, as the root mean square of error/(atol + rtol |y|) over the sample's
state and integrals, and the worst sample decides: no point hides behind its batch.

Gradients by backpropagation through the steps, or by the adjoint equation (Pontryagin 1962; Chen et al. 2018), solved
backwards in time: da_y/dt = -a_yᵀ ∂f/∂y, da_θ/dt = -a_yᵀ ∂f/∂θ. Coefficients and stepping are torchdiffeq's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, Self

from pydantic import Field

from driftspec.components import Path, Solver
from driftspec.errors import SolveFailed

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Rates, VectorField


class Adaptive(Solver):
    """Steps as long as the tolerances allow. Every solve ends: with a result, or with a status that says why not."""

    method: ClassVar[str]
    """The pair's name in torchdiffeq."""

    rtol: float = Field(1e-6, gt=0, description="error of a step, relative to |y|; float32 gains nothing below 1e-6")
    atol: float = Field(1e-6, gt=0, description="error of a step, absolute; float32 gains nothing below 1e-6")
    gradient: Literal["backprop", "adjoint"] = Field(
        "backprop",
        description="through the steps (exact for them), or by the adjoint equation (memory independent of steps)",
    )
    adjoint_rtol: float | None = Field(None, gt=0, description="relative tolerance of the adjoint solve; null: rtol")
    adjoint_atol: float | None = Field(None, gt=0, description="absolute tolerance of the adjoint solve; null: atol")
    max_evaluations: int = Field(10_000, ge=1, description="budget of a solve, and of its adjoint solve")

    def finer(self) -> Self:
        """Every tolerance a tenth."""
        names = ("rtol", "atol", "adjoint_rtol", "adjoint_atol")
        finer = self.model_copy(update={n: value / 10 for n in names if (value := getattr(self, n)) is not None})
        type(self).model_validate(finer.model_dump())
        return finer

    def solve(
        self,
        f: VectorField,
        x: Tensor,
        t0: float | Tensor,
        t1: float | Tensor,
        rates: Rates | None = None,
        steps: int | None = None,
        params: Sequence[Tensor] = (),
    ) -> Path:
        """State and integrals as one system (B, d+m). `params` counts for the adjoint only; t0, t1 and x always do.

        `stats` is filled in as things happen: the adjoint's evaluations appear with the backward pass.
        """
        import torch

        ends = torch.stack([torch.as_tensor(t, dtype=torch.float64, device=x.device) for t in (t0, t1)])
        system = _System(f, rates, x.shape[1], ends, self.max_evaluations)
        y = system.start(x)
        try:
            if ends[0] == ends[1] or not len(x):
                y = y + (ends[1] - ends[0]).to(y.dtype) * system.slope(ends[0].to(y.dtype), y)
            elif self.gradient == "adjoint":
                closed_over = [*params, *(t for t in (t0, t1) if isinstance(t, torch.Tensor))]
                y = self._adjoint(system, y, ends, closed_over)
            else:
                y = self._forward(system, y, ends)
            status = "ok" if y.isfinite().all() else "non_finite"
        except _Stopped as stopped:
            y, status = torch.full_like(y, torch.nan), stopped.status
        system.forwards = False
        state, integrals = y[:, : x.shape[1]], y[:, x.shape[1] :]
        return Path(state, integrals, system.evaluations, status, system.stats)

    def _forward(self, system: _System, y: Tensor, ends: Tensor) -> Tensor:
        from torchdiffeq import odeint

        # Without step_t a solver runs past the end and interpolates back.
        options = {"norm": system.worst, "step_t": ends[1:].detach()}
        return odeint(system, y, ends, rtol=self.rtol, atol=self.atol, method=self.method, options=options)[-1]

    def _adjoint(self, system: _System, y: Tensor, ends: Tensor, closed_over: Sequence[Tensor]) -> Tensor:
        from torchdiffeq import odeint_adjoint

        # Of two decreasing times torchdiffeq turns the sign, and that of `options`, but not of `adjoint_options`.
        start = ends[:1].detach() * (1 if ends[0] < ends[1] else -1)
        solution = odeint_adjoint(
            system,
            y,
            ends,
            rtol=self.rtol,
            atol=self.atol,
            method=self.method,
            options={"norm": system.worst, "step_t": ends[1:].detach()},
            adjoint_rtol=self.adjoint_rtol,
            adjoint_atol=self.adjoint_atol,
            adjoint_options={"norm": system.worst_adjoint, "step_t": start},
            adjoint_params=tuple({id(p): p for p in closed_over if p.requires_grad}.values()),
        )
        if solution.grad_fn is not None:
            solution.grad_fn.register_prehook(system.before_backward)
        return solution[-1]


class Dopri5(Adaptive):
    """Order 5, error by order 4. Dormand and Prince, *A family of embedded Runge-Kutta formulae*, 1980."""

    type = method = "dopri5"
    order = 5


class Dopri8(Adaptive):
    """Order 8, error by order 7. Prince and Dormand, *High order embedded Runge-Kutta formulae*, 1981."""

    type = method = "dopri8"
    order = 8


class _Stopped(SolveFailed):
    """Ends a solve from within: forwards it becomes a status, backwards it reaches whoever asked for gradients."""


class _System:
    """dy/dt of y = (state, integrals) as torchdiffeq calls it: counted, within [t0, t1], stopped by name."""

    def __init__(self, f: VectorField, rates: Rates | None, d: int, ends: Tensor, budget: int):
        self.f, self.rates, self.d, self.budget = f, rates, d, budget
        self.earliest, self.latest = sorted(ends.tolist())
        self.t0 = ends[0].detach()
        self.forwards = True
        self.evaluations = self.spent = 0
        self.failed = False
        self.stats = {"rejected": 0, "evaluations_backward": 0, "rejected_backward": 0}

    def start(self, x: Tensor) -> Tensor:
        """(x, 0) (B, d+m), the integrals counted by asking for the rates once."""
        import torch

        if self.rates is None:
            return x
        with torch.no_grad():
            m = self.rates(self.t0.to(x.dtype), x)[1].shape[1]
        self.evaluations = self.spent = 1
        return torch.cat([x, x.new_zeros(len(x), m)], 1)

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

    def worst(self, rows: Tensor) -> Tensor:
        """max over samples of the root mean square over a sample's columns, ()."""
        return self.measured(rows.detach().square().mean(1).amax())

    def worst_adjoint(self, parts: tuple[Tensor, ...]) -> Tensor:
        """The same for (a_t, y, a_y, a_θ...), one mean square for each parameter."""
        import torch

        a_t, y, a_y, *a_params = parts
        squares = [a_t.square(), y.square().mean(1).amax(), a_y.square().mean(1).amax()]
        return self.measured(torch.stack([*squares, *(p.square().mean() for p in a_params)]).amax())

    def measured(self, square: Tensor) -> Tensor:
        """The root; inf for NaN, so that a step which leads there is rejected and a shorter one tried."""
        self.failed = not bool(square.isfinite())
        return square.sqrt().nan_to_num(nan=math.inf, posinf=math.inf)

    def callback_step(self, t: Tensor, y: Tensor | tuple[Tensor, ...], dt: Tensor) -> None:
        """Before each step: what torchdiffeq would assert next, by name. A step of unknown length comes as length 0."""
        now, step = float(t.detach()), float(dt.detach())
        finite = all(bool(part.isfinite().all()) for part in (y if isinstance(y, tuple) else (y,)))
        if not finite:
            self.stop("non_finite")
        if now + step == now or now - step == now:
            self.stop("non_finite" if self.failed else "step_underflow")

    callback_step_adjoint = callback_step

    def callback_reject_step(self, *_: Any) -> None:
        self.stats["rejected"] += 1

    def callback_reject_step_adjoint(self, *_: Any) -> None:
        self.stats["rejected_backward"] += 1

    def before_backward(self, _: Any) -> None:
        """A new budget for each backward pass; none for a second derivative, which would silently be zero."""
        import torch

        if torch.is_grad_enabled():
            raise SolveFailed("the adjoint gives first derivatives only: use gradient: backprop", "failed")
        self.spent = 0

    def stop(self, status: str) -> NoReturn:
        what = "the ODE" if self.forwards else "the adjoint ODE"
        raise _Stopped(f"solving {what} ended with status {status} after {self.spent} evaluations", status)
