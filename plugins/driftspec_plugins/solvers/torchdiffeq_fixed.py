"""Methods of N equal steps of length h, with a gradient by backpropagation or by the adjoint equation.

    euler            order 1: x' = x + h f(t, x)                                                        L. Euler 1768
    midpoint         order 2: x' = x + h f(t + h/2, x + h/2 f(t, x))                                    C. Runge 1895
    heun3            order 3: x' = x + h/4 (k1 + 3 k3), stages at 0, 1/3 and 2/3                        K. Heun 1900
    explicit_adams   order 4: x' = x + h/24 (55 f_0 - 59 f_1 + 37 f_2 - 9 f_3), f_k from k steps ago    J. C. Adams 1883

The integrands r are integrated with the state, by the same sums. The gradient by backpropagation is exact for these
steps. The gradient by the adjoint equation of `_adjoint.py`, solved back from t1 in its own steps (Pontryagin 1962;
Chen et al. 2018), is that of the ODE, with an error of the method's order; no steps are stored. torchdiffeq computes
the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from driftspec.components import FixedSteps, Gradient, Setting, Solution
from driftspec.components.component import Finding
from driftspec_plugins.solvers._torchdiffeq import System, unused
from driftspec_plugins.solvers.rk4 import spread

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Rates, VectorField


class EqualSteps(FixedSteps):
    """A solver with N equal steps of one method. Each evaluation is one of f and of the integrands."""

    method: ClassVar[str]
    """The method's name in torchdiffeq."""
    options: ClassVar[Mapping[str, Any]] = {}
    """The options that torchdiffeq passes to the method."""

    gradient: Gradient = Field(
        "backprop",
        description="backprop: through the steps, exact for them; adjoint: by the adjoint equation, in constant memory",
    )
    adjoint_steps: int | None = Field(None, ge=1, description="steps of the adjoint solve; null: N")

    def problems(self, around: Setting) -> Iterator[Finding]:
        yield from super().problems(around)
        yield from unused(self, self.gradient, "adjoint_steps")

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
        """Return x(t1) (B, d) and ∫ r dt (B, m) in N = `steps` steps from x (B, d) at t0, as one system (B, d+m).

        With `gradient: adjoint`, gradients reach x, t0, t1 and `params` only.
        """
        n, system = self.steps if steps is None else steps, System(f, rates, x, t0, t1)
        return system.solve(x, lambda y: self._integrate(system, y, n, params))

    def differentiated(self, by: Gradient) -> Self:
        return self.model_copy(update={"gradient": by})

    def _integrate(self, system: System, y: Tensor, n: int, params: Sequence[Tensor]) -> Tensor:
        from torchdiffeq import odeint

        forth = {"method": self.method, "options": {**self.options, "grid_constructor": _grid(n)}}
        if self.gradient == "backprop":
            return odeint(system, y, system.ends, **forth)[-1]
        back = {"method": self.method, "options": {**self.options, "grid_constructor": _grid(self.adjoint_steps or n)}}
        return system.adjoint(y, params, forth, back, self.tolerance, 0.0)


def _grid(n: int) -> Callable[[Any, Tensor, Tensor], Tensor]:
    """Return the function (f, y, t) -> n+1 equally spaced times (n+1,) float64 from t[0] to t[-1]."""
    import torch

    def grid(f: Any, y: Tensor, t: Tensor) -> Tensor:
        return spread(t[0], t[-1], torch.arange(n + 1, dtype=torch.float64, device=t.device) / n)

    return grid


class Euler(EqualSteps):
    """Euler's method of order 1, N evaluations. Euler, *Institutiones calculi integralis*, 1768."""

    type = method = "euler"
    order = 1


class Midpoint(EqualSteps):
    """The midpoint method of order 2, 2 N evaluations.

    Runge, *Über die numerische Auflösung von Differentialgleichungen*, 1895.
    """

    type = method = "midpoint"
    order = 2


class Heun3(EqualSteps):
    """Heun's method of order 3, 3 N evaluations. Heun, *Neue Methoden zur approximativen Integration*, 1900."""

    type = method = "heun3"
    order = 3


class ExplicitAdams(EqualSteps):
    """The method of Adams and Bashforth of order 4, N + 6 evaluations for N > 1.

    The first steps are Runge-Kutta steps. Bashforth and Adams, 1883.
    """

    type = method = "explicit_adams"
    options: ClassVar[Mapping[str, Any]] = {"max_order": 5}  # one more than the order, in torchdiffeq
    order = 4
