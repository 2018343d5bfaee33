"""Adaptive Runge-Kutta pairs: two orders from the same stages, whose difference chooses the length of each step.

    adaptive_heun   order 2(1), 2 stages                                                K. Heun 1900
    fehlberg2       order 2(1), 3 stages                                                E. Fehlberg 1969
    bosh3           order 3(2), 4 stages, the last of which is the next step's first    P. Bogacki, L. F. Shampine 1989
    dopri5          order 5(4), 7 stages, likewise                                      J. R. Dormand, P. J. Prince 1980
    dopri8          order 8(7), 13 stages                                               P. J. Prince, J. R. Dormand 1981

The error of a step is measured sample by sample, as the root mean square of error/(atol + rtol |y|) over the sample's
state and controlled integrals, and the worst sample decides: no point hides behind its batch.

Gradients by backpropagation through the steps, or by the adjoint equation of `_adjoint.py` (Pontryagin 1962; Chen et
al. 2018), solved backwards in time with steps of its own. Coefficients and stepping are torchdiffeq's.
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
    """Steps as long as the tolerances allow. Every solve ends: with a result, or with a status that says why not."""

    method: ClassVar[str]
    """The pair's name in torchdiffeq."""
    STEPS: ClassVar[int] = 100
    """Tolerances of a step within which a whole solve is expected to stay."""

    rtol: float = Field(1e-6, gt=0, description="error of a step, relative to |y|; float32 gains nothing below 1e-6")
    atol: float = Field(1e-6, gt=0, description="error of a step, absolute; float32 gains nothing below 1e-6")
    gradient: Gradient = Field(
        "backprop",
        description="through the steps (exact for them), or by the adjoint equation (memory independent of steps)",
    )
    adjoint_rtol: float | None = Field(None, gt=0, description="relative tolerance of the adjoint solve; null: rtol")
    adjoint_atol: float | None = Field(None, gt=0, description="absolute tolerance of the adjoint solve; null: atol")
    max_evaluations: int = Field(10_000, ge=1, description="budget of a solve, and of its adjoint solve")

    def problems(self, around: Setting) -> Iterator[Finding]:
        for key, value in {"rtol": self.rtol, "adjoint_rtol": self.adjoint_rtol}.items():
            if value is not None and value < around.epsilon:
                yield from below_epsilon(key, value, around)
        yield from unused(self, self.gradient, "adjoint_rtol", "adjoint_atol")

    def finer(self) -> Self:
        """Every tolerance a tenth."""
        names = ("rtol", "atol", "adjoint_rtol", "adjoint_atol")
        finer = self.model_copy(update={n: value / 10 for n in names if (value := getattr(self, n)) is not None})
        type(self).model_validate(finer.model_dump())
        return finer

    def allowed(self, value: Tensor) -> Tensor:
        """The errors of 100 steps, 100 (atol + rtol |value|)."""
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
        """State and integrals as one system (B, d+m). `params` counts for the adjoint only; t0, t1 and x always do.

        `stats` is filled in as things happen: the adjoint's evaluations appear with the backward pass.
        """
        system = _Controlled(f, rates, x, t0, t1, self.max_evaluations)
        return system.solve(x, lambda y: self._integrate(system, y, params))

    def _integrate(self, system: _Controlled, y: Tensor, params: Sequence[Tensor]) -> Tensor:
        from torchdiffeq import odeint

        ends = system.ends.detach()
        # Without step_t a solver runs past its end and interpolates back.
        options = {"norm": system.worst, "step_t": ends[1:]}
        forth = {"method": self.method, "rtol": self.rtol, "atol": self.atol, "options": options}
        if self.gradient == "backprop":
            return odeint(system, y, system.ends, **forth)[-1]
        rtol, atol = self.adjoint_rtol or self.rtol, self.adjoint_atol or self.atol
        options = {"norm": system.worst_back, "step_t": ends[:1]}
        back = {"method": self.method, "rtol": rtol, "atol": atol, "options": options}
        return system.adjoint(y, params, forth, back, max(atol, self.atol), max(rtol, self.rtol))


class AdaptiveHeun(Adaptive):
    """Order 2, error by order 1. Heun, *Neue Methoden zur approximativen Integration*, 1900."""

    type = method = "adaptive_heun"
    order = 2


class Fehlberg2(Adaptive):
    """Order 2, error by order 1. Fehlberg, *Low-order classical Runge-Kutta formulas with stepsize control*, 1969."""

    type = method = "fehlberg2"
    order = 2


class Bosh3(Adaptive):
    """Order 3, error by order 2. Bogacki and Shampine, *A 3(2) pair of Runge-Kutta formulas*, 1989."""

    type = method = "bosh3"
    order = 3


class Dopri5(Adaptive):
    """Order 5, error by order 4. Dormand and Prince, *A family of embedded Runge-Kutta formulae*, 1980."""

    type = method = "dopri5"
    order = 5


class Dopri8(Adaptive):
    """Order 8, error by order 7. Prince and Dormand, *High order embedded Runge-Kutta formulae*, 1981."""

    type = method = "dopri8"
    order = 8


class _Controlled(System):
    """A system whose steps are chosen: the norms that choose, and a name for every end torchdiffeq would assert."""

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.failed = False
        self.stats |= {"rejected": 0, "rejected_backward": 0}

    def worst(self, rows: Tensor) -> Tensor:
        """max over samples of the root mean square over a sample's columns, ()."""
        return self.measured(self.controlled(rows.detach()).square().mean(1).amax())

    def worst_back(self, parts: tuple[Tensor, ...]) -> Tensor:
        """The same for (y, a, g...) of the way back, one mean square for each parameter."""
        import torch

        y, a, *g = parts
        squares = [self.controlled(part).square().mean(1).amax() for part in (y, a)]
        return self.measured(torch.stack([*squares, *(p.square().mean() for p in g)]).amax())

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

    def callback_reject_step(self, *_: Any) -> None:
        self.stats["rejected" if self.forwards else "rejected_backward"] += 1
