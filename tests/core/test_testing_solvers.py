"""The conformance kit can fail: solvers that break a promise, one for each check."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from kit import held, outcome
from pydantic import Field
from torch import Tensor

from driftspec.components import (
    FixedSteps,
    Solution,
    Solver,
)
from driftspec.components.component import Component
from driftspec.testing import (
    SolverTests,
)
from driftspec_plugins.solvers.torchdiffeq_fixed import Midpoint


class Fixed(FixedSteps):
    """The midpoint rule; its mutants are not."""

    type = "fixed"
    order = 2

    def solve(
        self, f: Any, x: Tensor, t0: Any, t1: Any, rates: Any = None, steps: int | None = None, params: Any = ()
    ) -> Solution:
        n = self.steps if steps is None else steps
        t0, t1 = (torch.as_tensor(t, dtype=torch.float64) for t in (t0, t1))
        h = (t1 - t0).to(x) / n
        total = x.new_zeros(len(x), 0 if rates is None else rates(t0.to(x), x)[1].shape[1])
        for k in range(n):
            t = t0.to(x) + k * h
            x, total = self.moved(f, x, t, h, rates, total)
        return Solution(x, total, 2 * n, self.named(x))

    def moved(self, f: Any, x: Tensor, t: Tensor, h: Tensor, rates: Any, total: Tensor) -> tuple[Tensor, Tensor]:
        y = x + h / 2 * f(t + h / 2 * self.early(), x)
        if rates is not None:
            total = total + h * rates(t + h / 2, y)[1]
        return x + h * f(t + h / 2, y), total

    def early(self) -> float:
        return 0.0

    def named(self, x: Tensor) -> str:
        return "ok" if bool(x.isfinite().all()) else "non_finite"


class FirstOrder(Fixed):
    """Euler's, which says order 2."""

    type = "first_order"

    def moved(self, f: Any, x: Tensor, t: Tensor, h: Tensor, rates: Any, total: Tensor) -> tuple[Tensor, Tensor]:
        return x + h * f(t, x), super().moved(f, x, t, h, rates, total)[1]


class FirstOrderIntegrals(Fixed):
    """Whose integrals take the wrong end of a step."""

    type = "first_order_integrals"

    def moved(self, f: Any, x: Tensor, t: Tensor, h: Tensor, rates: Any, total: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = super().moved(f, x, t, h, rates, total)
        return y, total if rates is None else total + h * rates(t, x)[1]


class WrongSign(Fixed):
    """Whose integrals run forwards where time runs back."""

    type = "wrong_sign"

    def moved(self, f: Any, x: Tensor, t: Tensor, h: Tensor, rates: Any, total: Tensor) -> tuple[Tensor, Tensor]:
        y, after = super().moved(f, x, t, h, rates, total)
        return y, total + (after - total) * h.sign()


class NoStatus(Fixed):
    """Which says ok of anything."""

    type = "no_status"

    def named(self, x: Tensor) -> str:
        return "ok"


class Detaching(Fixed):
    """Which cuts the graph."""

    type = "detaching"

    def moved(self, f: Any, x: Tensor, t: Tensor, h: Tensor, rates: Any, total: Tensor) -> tuple[Tensor, Tensor]:
        y, total = super().moved(f, x.detach(), t, h, rates, total)
        return y, total


class Batchwise(Fixed):
    """Whose step looks at the batch."""

    type = "batchwise"

    def moved(self, f: Any, x: Tensor, t: Tensor, h: Tensor, rates: Any, total: Tensor) -> tuple[Tensor, Tensor]:
        y, total = super().moved(f, x, t, h, rates, total)
        return y + 1e-3 * h * (x - x.mean(0)) * (len(x) > 7), total


class Outside(Fixed):
    """Which asks for the field before the beginning."""

    type = "outside"

    def moved(self, f: Any, x: Tensor, t: Tensor, h: Tensor, rates: Any, total: Tensor) -> tuple[Tensor, Tensor]:
        f(t - 3 * h, x)
        return super().moved(f, x, t, h, rates, total)


class ToDouble(Fixed):
    """Which answers in float64."""

    type = "to_double"

    def moved(self, f: Any, x: Tensor, t: Tensor, h: Tensor, rates: Any, total: Tensor) -> tuple[Tensor, Tensor]:
        y, total = super().moved(f, x, t, h, rates, total)
        return y.double(), total


class AlwaysOneColumn(Fixed):
    """Whose integrals are there without rates."""

    type = "always_one_column"

    def solve(self, f: Any, x: Tensor, t0: Any, t1: Any, rates: Any = None, *given: Any, **keys: Any) -> Solution:
        path = super().solve(f, x, t0, t1, rates, *given, **keys)
        return path if rates is not None else Solution(path.state, x.new_zeros(len(x), 1), 1, path.status)


class Noisy(Fixed):
    """Which draws."""

    type = "noisy"

    def early(self) -> float:
        return 1e-6 * random.random()


class Ignores(Solver):
    """Adaptive by name: its tolerance changes nothing."""

    type = "ignores"
    order = 2
    rtol: float = Field(1e-4, gt=0, description="a tolerance")

    def finer(self) -> Solver:
        return self.model_copy(update={"rtol": self.rtol / 10})

    def solve(self, *given: Any, **keys: Any) -> Solution:
        keys["steps"] = 20
        return Fixed().solve(*given[:5], **{key: keys[key] for key in ("steps",)})


class Obeys(Ignores):
    """Which takes as many steps as its tolerance asks for."""

    type = "obeys"

    def solve(self, *given: Any, **keys: Any) -> Solution:
        return Fixed().solve(*given[:5], steps=round(3 * self.rtol**-0.5))


@pytest.mark.parametrize(
    ("found", "check"),
    [
        (FirstOrder, "steps_converge_with_the_order_it_says"),
        (FirstOrderIntegrals, "steps_converge_with_the_order_it_says"),
        (WrongSign, "steps_converge_with_the_order_it_says"),
        (NoStatus, "a_path_that_leaves_in_finite_time_ends_with_a_status"),
        (Detaching, "gradients_are_those_of_the_path"),
        (Batchwise, "a_row_depends_on_no_other"),
        (Outside, "it_evaluates_within_its_time_alone"),
        (ToDouble, "float32_is_kept"),
        (AlwaysOneColumn, "without_time_or_rates_there_is_nothing_to_integrate"),
        (Noisy, "it_draws_from_no_generator"),
    ],
    ids=lambda one: getattr(one, "type", None),
)
def test_what_a_solver_gets_wrong(found: type[Component], check: str) -> None:
    assert outcome(held(SolverTests, found), check).startswith("failed: ")
    assert outcome(held(SolverTests, Fixed), check) == "passed"


class SolvedBack(Midpoint):
    """Whose gradient is an adjoint equation's; its mutants do not say what they should of the state solved back."""

    type = "solved_back"

    def solve(self, *given: Any, **keys: Any) -> Solution:
        path = super().solve(*given, **keys)
        return replace(path, missed_start=lambda: self.said(path.missed_start()))

    def said(self, missed: Tensor | None) -> Tensor | None:
        return missed


class Silent(SolvedBack):
    """Nothing."""

    type = "silent"

    def said(self, missed: Tensor | None) -> Tensor | None:
        return None


class OneForAll(SolvedBack):
    """The worst row's miss for every row."""

    type = "one_for_all"

    def said(self, missed: Tensor | None) -> Tensor | None:
        return None if missed is None else missed.amax().expand(len(missed))


class NoOtherWay(SolvedBack):
    """That there is no backpropagation to compare it with."""

    type = "no_other_way"

    def differentiated(self, by: Any) -> Any:
        return super().differentiated(by) if by == "adjoint" else None


def test_what_a_solver_that_solves_back_gets_wrong() -> None:
    check = "a_state_solved_back_is_compared_with_its_start"
    assert outcome(held(SolverTests, SolvedBack), check) == "passed"
    for found in (Silent, OneForAll, NoOtherWay):
        assert outcome(held(SolverTests, found), check).startswith("failed: "), found
    assert outcome(held(SolverTests, Fixed), check).startswith("skipped: ")


def test_what_a_solver_that_chooses_its_steps_gets_wrong() -> None:
    check = "the_error_follows_the_tolerance"
    assert outcome(held(SolverTests, Ignores), check).startswith("failed: ")
    assert outcome(held(SolverTests, Obeys), check) == "passed"
    assert outcome(held(SolverTests, Fixed), check).startswith("skipped: ")
    assert outcome(held(SolverTests, Obeys), "steps_converge_with_the_order_it_says").startswith("skipped: ")
