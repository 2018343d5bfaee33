"""Adaptive Runge-Kutta pairs: two methods of different order from the same stages; their difference sets the step size.

    adaptive_heun   order 2(1), 2 stages                                                K. Heun 1900
    fehlberg2       order 2(1), 3 stages                                                E. Fehlberg 1969
    bosh3           order 3(2), 4 stages, the last is the first of the next step        P. Bogacki, L. F. Shampine 1989
    dopri5          order 5(4), 7 stages, the last is the first of the next step        J. R. Dormand, P. J. Prince 1980
    dopri8          order 8(7), 13 stages                                               P. J. Prince, J. R. Dormand 1981

The error of a step is measured for each sample, as the root mean square of error/(atol + rtol |y|) over the sample's
state and controlled integrals. The sample with the largest error sets the step size, so that a batch does not hide the
error of one point.

The gradient is computed by backpropagation through the steps, or by the adjoint equation of `_adjoint.py` (Pontryagin
1962; Chen et al. 2018), which is solved backwards in time with its own steps. torchdiffeq computes the steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from driftspec.components import Gradient, Setting, Solution, Solver, below_epsilon
from driftspec.components.component import Finding
from driftspec_plugins.solvers._torchdiffeq import System, unused

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Rates, VectorField


class Adaptive(Solver):
    """A solver that chooses its step size by its tolerances. A solve that fails ends with a status for the reason."""

    method: ClassVar[str]
    """The pair's name in torchdiffeq."""
    STEPS: ClassVar[int] = 100
    """The error of a whole solve may be this many times the tolerance of one step."""

    rtol: float = Field(1e-6, gt=0, description="error of a step, relative to |y|; float32 gains nothing below 1e-6")
    atol: float = Field(1e-6, gt=0, description="error of a step, absolute; float32 gains nothing below 1e-6")
    gradient: Gradient = Field(
        "backprop",
        description="backprop: through the steps, exact for them; adjoint: by the adjoint equation, in constant memory",
    )
    adjoint_rtol: float | None = Field(None, gt=0, description="relative tolerance of the adjoint solve; null: rtol")
    adjoint_atol: float | None = Field(None, gt=0, description="absolute tolerance of the adjoint solve; null: atol")
    max_evaluations: int = Field(
        10_000, ge=1, description="largest number of evaluations of a solve, and of its adjoint solve"
    )

    def problems(self, around: Setting) -> Iterator[Finding]:
        for key, value in {"rtol": self.rtol, "adjoint_rtol": self.adjoint_rtol}.items():
            if value is not None and value < around.epsilon:
                yield from below_epsilon(key, value, around)
        yield from unused(self, self.gradient, "adjoint_rtol", "adjoint_atol")

    def finer(self) -> Self:
        """Return the same solver with every tolerance divided by 10."""
        names = ("rtol", "atol", "adjoint_rtol", "adjoint_atol")
        finer = self.model_copy(update={n: value / 10 for n in names if (value := getattr(self, n)) is not None})
        type(self).model_validate(finer.model_dump())
        return finer

    def allowed(self, value: Tensor) -> Tensor:
        """Return 100 (atol + rtol |value|), the errors of 100 steps, in the shape of `value` (B, k)."""
        return self.STEPS * (self.atol + self.rtol * value.abs())

    def differentiated(self, by: Gradient) -> Self:
        return self.model_copy(update={"gradient": by})

    def solve(
        self,
        f: VectorField,
        x: Tensor,
        t0: float | Tensor,
        t1: float | Tensor,
        rates: Rates | None = None,
        steps: int | None = None,
        params: Sequence[Tensor] = (),
    ) -> Solution:
        """Return x(t1) (B, d) and ∫ r dt (B, m) from x (B, d) at t0, both solved as one system (B, d+m).

        With `gradient: adjoint`, gradients reach x, t0, t1 and `params` only. A backward pass adds its counts to
        `stats`.
        """
        system = _Controlled(f, rates, x, t0, t1, self.max_evaluations)
        return system.solve(x, lambda y: self._integrate(system, y, params))

    def _integrate(self, system: _Controlled, y: Tensor, params: Sequence[Tensor]) -> Tensor:
        from torchdiffeq import odeint

        ends = system.ends.detach()
        # Without step_t the last step goes beyond t1, and torchdiffeq interpolates.
        options = {"norm": system.worst, "step_t": ends[1:]}
        forth = {"method": self.method, "rtol": self.rtol, "atol": self.atol, "options": options}
        if self.gradient == "backprop":
            return odeint(system, y, system.ends, **forth)[-1]
        rtol, atol = self.adjoint_rtol or self.rtol, self.adjoint_atol or self.atol
        options = {"norm": system.worst_back, "step_t": ends[:1]}
        back = {"method": self.method, "rtol": rtol, "atol": atol, "options": options}
        return system.adjoint(y, params, forth, back, max(atol, self.atol), max(rtol, self.rtol))


class AdaptiveHeun(Adaptive):
    """Heun's method of order 2, error by order 1.

    Heun, *Neue Methoden zur approximativen Integration*, 1900.
    """

    type = method = "adaptive_heun"
    order = 2


class Fehlberg2(Adaptive):
    """The pair of Fehlberg of order 2, error by order 1.

    Fehlberg, *Low-order classical Runge-Kutta formulas with stepsize control*, 1969.
    """

    type = method = "fehlberg2"
    order = 2


class Bosh3(Adaptive):
    """The pair of Bogacki and Shampine of order 3, error by order 2.

    Bogacki and Shampine, *A 3(2) pair of Runge-Kutta formulas*, 1989.
    """

    type = method = "bosh3"
    order = 3


class Dopri5(Adaptive):
    """The pair of Dormand and Prince of order 5, error by order 4.

    Dormand and Prince, *A family of embedded Runge-Kutta formulae*, 1980.
    """

    type = method = "dopri5"
    order = 5


class Dopri8(Adaptive):
    """The pair of Prince and Dormand of order 8, error by order 7.

    Prince and Dormand, *High order embedded Runge-Kutta formulae*, 1981.
    """

    type = method = "dopri8"
    order = 8


class _Controlled(System):
    """A system with error norms for the step size, which stops with a status before torchdiffeq would assert."""

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.failed = False
        self.stats |= {"rejected": 0, "rejected_backward": 0}

    def worst(self, rows: Tensor) -> Tensor:
        """Return the largest over samples of the root mean square of a sample's columns (), for errors (B, d+m)."""
        return self.measured(self.controlled(rows.detach()).square().mean(1).amax())

    def worst_back(self, parts: tuple[Tensor, ...]) -> Tensor:
        """Return the norm () of errors of (y, a, g...): the largest root mean square of a sample or a parameter."""
        import torch

        y, a, *g = parts
        squares = [self.controlled(part).square().mean(1).amax() for part in (y, a)]
        return self.measured(torch.stack([*squares, *(p.square().mean() for p in g)]).amax())

    def measured(self, square: Tensor) -> Tensor:
        """Return √square (); inf for NaN, so that the step is rejected and a shorter one is tried."""
        self.failed = not bool(square.isfinite())
        return square.sqrt().nan_to_num(nan=math.inf, posinf=math.inf)

    def callback_step(self, t: Tensor, y: Tensor | tuple[Tensor, ...], dt: Tensor) -> None:
        """Stop the solve if a step of length dt () from y at t () is impossible; an unknown length is given as 0."""
        now, step = float(t.detach()), float(dt.detach())
        finite = all(bool(part.isfinite().all()) for part in (y if isinstance(y, tuple) else (y,)))
        if not finite:
            self.stop("non_finite")
        if now + step == now or now - step == now:
            self.stop("non_finite" if self.failed else "step_underflow")

    def callback_reject_step(self, *_: Any) -> None:
        """Count a rejected step."""
        self.stats["rejected" if self.forwards else "rejected_backward"] += 1
