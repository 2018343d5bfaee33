"""Solvers: they integrate an ODE, and compute the gradient of its solution."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo

from driftspec.components.component import Component, Finding, registry_of
from driftspec.errors import SolveFailed

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components.setting import Setting

    VectorField = Callable[[Tensor, Tensor], Tensor]  # f(t, x) -> (B, d)
    Rates = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (t, x) -> f (B, d), integrands (B, m)

Gradient = Literal["backprop", "adjoint"]
"""How a solve is differentiated: through its steps, or by an adjoint equation that is solved back in time."""


@dataclass(frozen=True)
class Solution:
    """The result of an ODE solve: the state at t1, the integrals of the rates, and the status."""

    state: Tensor  # (B, d)
    integrals: Tensor  # (B, m), with the sign of dt
    evaluations: int
    status: str = "ok"  # ok, non_finite, budget, step_underflow, not_converged
    stats: Mapping[str, int] = field(default_factory=dict)
    missed_start: Callable[[], Tensor | None] = lambda: None
    """Returns the distance (B,), in tolerances, of the state solved back in the backward pass to its start; or None."""

    def require(self, what: str = "the ODE") -> Self:
        """Return the solution itself. SolveFailed names the status if it is not "ok"."""
        if self.status != "ok":
            text = f"solving {what} ended with status {self.status} after {self.evaluations} evaluations"
            raise SolveFailed(text, self.status)
        return self


class Solver(Component):
    """Integrates an ODE, and computes the gradient of its solution."""

    kind = "solver"
    order: ClassVar[int]

    @abstractmethod
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
        """Solve dx/dt = f(t, x) from x (B, d) at t0 to t1, forwards or backwards, and ∫ r dt along the solution.

        `rates(t, x) -> (f, r)` gives the integrands r (B, m), which do not affect the state (a divergence, ‖f‖², ...);
        without rates, the integrals are (B, 0). If `rates.controlled` is a number, only that many of the first
        integrals affect the choice of steps. `steps` is for solvers with a fixed number of steps. `params` are the
        tensors other than x that gradients must reach, for solvers that differentiate by an adjoint equation.
        """

    def start_steps(self) -> int | None:
        """Return the number of steps to start with; None for a solver that chooses its steps."""
        return None

    def most_steps(self) -> int | None:
        """Return the largest number of steps that it may take; None without a limit, and if it chooses its steps."""
        return None

    def finer(self) -> Solver | None:
        """Return the same solver with ten times the accuracy, for an error estimate; None if it takes `steps`."""
        return None

    def allowed(self, value: Tensor) -> Tensor:
        """Return the largest difference (B, ...) to a finer solve at which a result `value` (B, ...) has converged."""
        return value.abs().clamp(min=1) / 1000

    def differentiated(self, by: Gradient) -> Solver | None:
        """Return the same solver with this kind of gradient; None for a solver that has no choice.

        With "backprop" a solver that solves its state back in time returns one that does not: the gradients of the two
        are compared if `Solution.missed_start` is large.
        """
        return None


def below_epsilon(key: str, value: float, around: Setting) -> Iterator[Finding]:
    """Yield the warning for a tolerance that is smaller than the rounding error of the dtype."""
    text = f"'{key}' is {value:g}, below {around.epsilon:.2g}, the epsilon of {around.dtype}"
    yield key, f"{text}: it costs steps and gives no digits; raise it, or take runtime.dtype: float64", "warning"


class FixedSteps(Solver):
    """A solver with a given number of steps N; the results of N and 2N steps differ by about its error."""

    steps: int = Field(10, ge=1, description="N to start with")
    tolerance: float = Field(
        1e-4,
        gt=0,
        description="largest |result(N) - result(2N)|: each point doubles its own N until it is met; "
        "in training (default 1e-2 there) N adapts so that the batch's mean meets it",
    )
    max_steps: int = Field(
        1024, ge=2, description="largest N (default 96 in training); a point that needs more counts as not converged"
    )

    def problems(self, around: Setting) -> Iterator[Finding]:
        if self.steps > self.max_steps:
            yield "steps", f"'steps' is {self.steps}, more than 'max_steps', which is {self.max_steps}"
        if self.tolerance < around.epsilon:
            yield from below_epsilon("tolerance", self.tolerance, around)

    def start_steps(self) -> int | None:
        return self.steps

    def most_steps(self) -> int | None:
        return self.max_steps

    def allowed(self, value: Tensor) -> Tensor:
        """Return the tolerance, in the shape (B, ...) of `value`."""
        return value.new_full(value.shape, self.tolerance)

    def adapt(self, steps: int, difference: float) -> int:
        """Return the next N in training: 1.5 N above twice the tolerance, 0.85 N below a quarter of it, else N."""
        if difference > 2 * self.tolerance:
            return min(self.max_steps, math.ceil(1.5 * steps))
        if difference < self.tolerance / 4:
            return max(min(5, self.steps), int(0.85 * steps))
        return steps


def _for_training(body: Any, info: ValidationInfo) -> Any:
    """Return the keys of a solver for training: looser, because the noise of the gradient exceeds the solver error."""
    keys = {"type": body} if isinstance(body, str) else body
    if not isinstance(keys, dict) or not isinstance(keys.get("type"), str):
        return body
    found, _ = registry_of(info).look_up("solver", keys["type"])
    loose = {"tolerance": 1e-2, "max_steps": 96} if found is not None and issubclass(found, FixedSteps) else {}
    return {**loose, **keys}


TrainingSolver = Annotated[Solver, BeforeValidator(_for_training)]
"""The annotation of a key that holds a solver for training."""
