"""Solvers: how is an ODE integrated, and its gradient taken?"""

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
"""How a gradient is taken: through the steps of a solve, or by an adjoint equation that is solved back in time."""


@dataclass(frozen=True)
class Solution:
    """One ODE solve: the state at t1, the integrals of the rates, and how it went."""

    state: Tensor  # (B, d)
    integrals: Tensor  # (B, m), with the sign of dt
    evaluations: int
    status: str = "ok"  # ok, non_finite, budget, step_underflow, not_converged
    stats: Mapping[str, int] = field(default_factory=dict)
    missed_start: Callable[[], Tensor | None] = lambda: None
    """Tolerances by which the state, solved back in a backward pass, misses each row's start (B,); else None."""

    def require(self, what: str = "the ODE") -> Self:
        """Itself, or SolveFailed with the status by name."""
        if self.status != "ok":
            text = f"solving {what} ended with status {self.status} after {self.evaluations} evaluations"
            raise SolveFailed(text, self.status)
        return self


class Solver(Component):
    """How is an ODE integrated, and its gradient taken?"""

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
        """dx/dt = f(t, x) from x at t0 to t1, forwards or backwards, and with it ∫ r dt of the integrands r.

        `rates(t, x) -> (f, r)` gives r (B, m), which do not feed back into the state (a divergence, ‖f‖², ...);
        without rates, integrals is (B, 0). Where `rates.controlled` is a number, only so many of the first integrals
        have a part in the choice of steps. `steps` is for solvers that take a number of them; `params` are the tensors
        beside x that gradients must reach, for solvers that differentiate by an adjoint equation.
        """

    def start_steps(self) -> int | None:
        """The number of steps to begin with; None for a solver that chooses its own."""
        return None

    def most_steps(self) -> int | None:
        """The largest number of steps it may take; None for no limit, and for a solver that chooses its own."""
        return None

    def finer(self) -> Solver | None:
        """The same solver ten times as accurate, for an error estimate; None where `steps` serves that purpose."""
        return None

    def allowed(self, value: Tensor) -> Tensor:
        """The largest difference to a finer solve with which a result `value` counts as converged, in its shape."""
        return value.abs().clamp(min=1) / 1000

    def differentiated(self, by: Gradient) -> Solver | None:
        """The same solver with its gradient taken in that way; None for a solver that leaves no choice.

        A solver that solves its state back in time returns one that does not for `backprop`: the gradients of both are
        compared where `Solution.missed_start` is large.
        """
        return None


def below_epsilon(key: str, value: float, around: Setting) -> Iterator[Finding]:
    """What is said of a tolerance that rounding alone exceeds."""
    text = (
        f"'{key}' is {value:g}, below {around.epsilon:.2g}, the epsilon of {around.dtype}: more steps, no more digits"
    )
    yield key, f"{text}; raise it, or take runtime.dtype: float64", "warning"


class FixedSteps(Solver):
    """A solver told its number of steps N; the difference between N and 2N says how good N is."""

    steps: int = Field(10, ge=1, description="N to begin with")
    tolerance: float = Field(
        1e-4,
        gt=0,
        description="largest |result(N) - result(2N)|: each point doubles its own N until it holds; "
        "in training (default 1e-2 there) N moves to hold it on the batch's mean",
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
        """The tolerance."""
        return value.new_full(value.shape, self.tolerance)

    def adapt(self, steps: int, difference: float) -> int:
        """The next N of training: up by half above twice the tolerance, down by 15 % below a quarter of it."""
        if difference > 2 * self.tolerance:
            return min(self.max_steps, math.ceil(1.5 * steps))
        if difference < self.tolerance / 4:
            return max(min(5, self.steps), int(0.85 * steps))
        return steps


def _for_training(body: Any, info: ValidationInfo) -> Any:
    """A solver as training wants it: looser, for a step's gradient is noisier than any error this allows."""
    keys = {"type": body} if isinstance(body, str) else body
    if not isinstance(keys, dict) or not isinstance(keys.get("type"), str):
        return body
    found, _ = registry_of(info).look_up("solver", keys["type"])
    loose = {"tolerance": 1e-2, "max_steps": 96} if found is not None and issubclass(found, FixedSteps) else {}
    return {**loose, **keys}


TrainingSolver = Annotated[Solver, BeforeValidator(_for_training)]
"""As a key's type: a solver that trains."""
