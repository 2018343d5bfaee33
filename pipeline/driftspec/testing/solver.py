"""Checks of a solver: its order, its status and its gradients, on an ODE whose solution is known in closed form.

    dx/dt = c(t) x (1 - x),  c(t) = 1 + cos 3t;    with C(t) = t + sin(3t)/3,  u = C(t1) - C(t0):
    x(t1) = x e^u / (1 - x + x e^u),    ∫ c x dt = log(1 - x + x e^u),    ∫ tr(∂f/∂x) dt = Σ (u - 2 log(1 - x + x e^u))

The field and its divergence depend on both t and x, so every weight of a quadrature is tested.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from driftspec.components import Solution, Solver
from driftspec.testing.checks import apart, expect, no_global_draws, normal, unfit
from driftspec.testing.component import ComponentTests

T0, T1 = 0.2, 1.7
STEPS = (4, 8, 16, 32, 64, 128, 256)
LARGEST, SMALLEST = 1e-2, 1e-11
"""The range of errors from which the order is estimated: larger ones have too long steps, smaller ones are rounding."""
STATUSES = ("non_finite", "budget", "step_underflow", "not_converged")


class Logistic:
    """The field times a factor, whose gradient is checked, and the closed forms of solution and integrals."""

    def __init__(self, factor: Tensor | float = 1.0):
        self.factor = factor

    def f(self, t: Tensor, x: Tensor) -> Tensor:
        """Return c(t) x (1 - x) (B, d) at x (B, d), t () or (B,)."""
        return self.factor * (1 + torch.cos(3 * _column(t))).to(x) * x * (1 - x)

    def rates(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return f (B, d), and the integrands (B, 2): c x_1 and tr ∂f/∂x."""
        c = self.factor * (1 + torch.cos(3 * _column(t))).to(x)
        return self.f(t, x), torch.cat([c * x[:, :1], (c * (1 - 2 * x)).sum(1, keepdim=True)], 1)

    def exact(self, x: Tensor, t0: Any = T0, t1: Any = T1) -> tuple[Tensor, Tensor]:
        """Return x(t1) (B, d) and the integrals (B, 2) of both integrands, for the start x (B, d)."""
        start, end = (torch.as_tensor(t, dtype=torch.float64) for t in (t0, t1))
        u = self.factor * (end + torch.sin(3 * end) / 3 - start - torch.sin(3 * start) / 3)
        grown = 1 - x + x * torch.exp(u)
        return x * torch.exp(u) / grown, torch.stack([grown[:, 0].log(), (u - 2 * grown.log()).sum(1)], 1)


def _column(t: Tensor) -> Tensor:
    """Return times (B,) as a column (B, 1); a time () stays."""
    return t[:, None] if t.dim() else t


def points(n: int = 7, d: int = 2) -> Tensor:
    """Return start points (n, d) with coordinates in (0, 1)."""
    return torch.sigmoid(normal(n, d))


class SolverTests(ComponentTests):
    """Checks of a solver."""

    kind = "solver"
    steps: ClassVar[int] = 64
    """The number of steps for an accurate solve, for a solver with a fixed number of steps."""

    def fixed(self) -> bool:
        """Whether the solver takes a fixed number of steps."""
        return self.made().start_steps() is not None

    def solve(self, solver: Solver, f: Callable[..., Tensor], x: Tensor, *given: Any, **keys: Any) -> Solution:
        """Return the solution of dx/dt = f(t, x) from x (B, d), with `steps` steps if their number is fixed."""
        steps = self.steps if solver.start_steps() is not None else None
        return solver.solve(f, x, *given, **{"steps": steps, **keys})

    def error(self, solver: Solver, steps: int | None, t0: float = T0, t1: float = T1) -> tuple[float, float]:
        """Return the largest errors of the state and of the integrals."""
        x, problem = points(), Logistic()
        path = solver.solve(problem.f, x, t0, t1, problem.rates, steps)
        expect(path.status == "ok", f"an easy ODE ends with status {path.status}")
        state, integrals = problem.exact(x, t0, t1)
        return float((path.state - state).abs().max()), float((path.integrals - integrals).abs().max())

    def test_steps_converge_with_the_order_it_says(self) -> None:
        solver = self.made()
        if not self.fixed():
            unfit(f"{solver.label} chooses its steps itself: its tolerance is checked instead")
        for t0, t1 in ((T0, T1), (T1, T0)):
            errors = [self.error(solver, steps, t0, t1) for steps in STEPS]
            where = "forwards" if t0 < t1 else "backwards"
            found = order([one[0] for one in errors])
            text = f"{where}, errors of the state fall with order {found:.2f}, but `order` is {solver.order}"
            expect(abs(found - solver.order) <= 0.3, text)
            found = order([one[1] for one in errors])
            text = f"{where}, errors of the integrals fall with order {found:.2f}, but `order` is {solver.order}"
            expect(found >= solver.order - 0.3, text)

    def test_the_error_follows_the_tolerance(self) -> None:
        solver = self.made()
        finer = solver.finer()
        if self.fixed() or finer is None:
            unfit(f"{solver.label} takes a fixed number of steps, or has no finer(): its order is checked instead")
        expect(type(finer) is type(solver), f"finer() must be the same solver, not {finer.label}")
        for t0, t1 in ((T0, T1), (T1, T0)):
            coarse, fine = self.error(solver, None, t0, t1), self.error(finer, None, t0, t1)
            for what, first, second in zip(("state", "integrals"), coarse, fine):
                text = f"the error of the {what} is {first:.1e}, and {second:.1e} at a tenth of the tolerance"
                expect(second <= max(first / 2, 3e-12), text)
                expect(first < 1e-2, text)

    def test_without_time_or_rates_there_is_nothing_to_integrate(self) -> None:
        solver, x, problem = self.made(), points(), Logistic()
        path = self.solve(solver, problem.f, x, 0.5, 0.5, problem.rates)
        expect(apart(path.state, x) < 1e-12, "a solve from t to the same t changes the state")
        zero = path.integrals.shape == (7, 2) and not bool(path.integrals.any())
        expect(zero, "in a solve from t to the same t the integrals are not 0")
        shape = tuple(self.solve(solver, problem.f, x, T0, T1).integrals.shape)
        expect(shape == (7, 0), f"without rates, integrals must be (B, 0), not {shape}")

    def test_float32_is_kept(self) -> None:
        solver, x, problem = self.made(), points(), Logistic()
        double = self.solve(solver, problem.f, x, T0, T1, problem.rates)
        single = self.solve(solver, problem.f, x.float(), T0, T1, problem.rates)
        for what in ("state", "integrals"):
            got: Tensor = getattr(single, what)
            expect(got.dtype == torch.float32, f"the {what} of a float32 start is {got.dtype}")
            error = apart(got.double(), getattr(double, what))
            expect(error < 1e-3, f"the {what} in float32 differs from float64 by {error:.1e}")

    def test_a_row_depends_on_no_other(self) -> None:
        """One stiff row among 199 easy ones, x = (y, k) with y' = -k y: each must be as accurate as alone."""
        solver = self.made()
        x = torch.tensor([[1.0, 0.01]], dtype=torch.float64).repeat(200, 1)
        x[77] = torch.tensor([1.0, 20.0])

        def f(t: Tensor, x: Tensor) -> Tensor:
            return torch.stack([-x[:, 1] * x[:, 0], 0 * x[:, 1]], 1)

        true = x[:, 0] * torch.exp(-x[:, 1])
        among = self.solve(solver, f, x, 0.0, 1.0).require("a stiff row").state[:, 0]
        for row in (0, 77):
            alone = self.solve(solver, f, x[row : row + 1], 0.0, 1.0).require("a stiff row").state[0, 0]
            errors = [float((value - true[row]).abs()) for value in (among[row], alone)]
            text = f"row {row} among 200 is wrong by {errors[0]:.1e}, alone by {errors[1]:.1e}"
            expect(errors[0] <= max(10 * errors[1], 1e-9), f"{text}: it depends on the others")

    def test_it_evaluates_within_its_time_alone(self) -> None:
        solver, x, problem, asked = self.made(), points(), Logistic(), []

        def f(t: Tensor, x: Tensor) -> Tensor:
            asked.append(t.detach().double().reshape(-1))
            return problem.f(t, x)

        for t0, t1 in ((T0, T1), (T1, T0)):
            path = self.solve(solver, f, x, t0, t1)
            times = torch.cat(asked)
            inside = bool((times >= T0 - 1e-6).all() and (times <= T1 + 1e-6).all())
            text = f"the field is evaluated outside [{T0}, {T1}]: from {times.min():.3g} to {times.max():.3g}"
            expect(inside, text)
            expect(path.evaluations > 0, "it counts no evaluations")

    def test_a_path_that_leaves_in_finite_time_ends_with_a_status(self) -> None:
        """The solution of z' = z² from 1 is infinite at t = 1; another field is NaN for x > 1.5."""
        solver = self.made()
        one = torch.ones(3, 1, dtype=torch.float64)
        fields = {
            "z' = z², which is infinite at t = 1,": lambda t, x: x * x,
            "a field that is NaN beyond 1.5": lambda t, x: torch.where(x > 1.5, math.nan, 1.0 + 0 * x),
        }
        for what, f in fields.items():
            path = self.solve(solver, f, one, 0.0, 4.0)
            text = f"{what} ends with status '{path.status}', which is none of {', '.join(STATUSES)}"
            expect(path.status in STATUSES, text)

    def test_gradients_are_those_of_the_path(self) -> None:
        """Gradients in the start x, in both end times, and in a tensor used by the field and given as `params`."""
        solver, weights, more = self.made(), normal(7, 2, seed=3), normal(7, 2, seed=4)
        names = ("x", "t0", "t1", "params")

        def leaves() -> list[Tensor]:
            values = (points(), *(torch.tensor(v, dtype=torch.float64) for v in (T0, T1, 0.9)))
            return [value.clone().requires_grad_() for value in values]

        x, t0, t1, factor = true = leaves()
        state, integrals = Logistic(factor).exact(x, t0, t1)
        expected = torch.autograd.grad((state * weights).sum() + (integrals * more).sum(), true)
        x, t0, t1, factor = given = leaves()
        problem = Logistic(factor)
        path = self.solve(solver, problem.f, x, t0, t1, problem.rates, params=(factor,), steps=self.many())
        got = torch.autograd.grad(
            (path.state * weights).sum() + (path.integrals * more).sum(), given, allow_unused=True
        )
        bound = max(1e-4, 100 * float((path.state - state).detach().abs().max()))
        for name, one, right in zip(names, got, expected):
            if one is None:
                expect(False, f"no gradient reaches {name}")
                continue
            error = apart(one, right)
            expect(error < bound, f"the gradient in {name} is wrong by {error:.1e}, relative to 1 + its size")

    def test_a_state_solved_back_is_compared_with_its_start(self) -> None:
        """With a field that is -x forwards and 0 backwards, only a row at 0 arrives at its start again, solved back."""
        solver = self.made().differentiated("adjoint")
        if solver is None:
            unfit(f"{self.made().label} solves no state backwards: its gradient goes through its steps")
        steps = solver.differentiated("backprop")
        if steps is None:
            expect(False, "differentiated('backprop') is None: there is no gradient to compare with")
            return

        def missed(using: Solver) -> tuple[Tensor | None, Tensor | None]:
            """Return `missed_start` before the backward pass and after it."""
            speed, x = [-1.0], torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, -2.0]], dtype=torch.float64)
            path = self.solve(using, lambda t, x: speed[-1] * x, x.requires_grad_(), T0, T1)
            before = path.missed_start()
            speed.append(0.0)
            torch.autograd.grad(path.state.sum(), x)
            return before, path.missed_start()

        before, after = missed(solver)
        expect(before is None, "missed_start() is not None before the backward pass")
        shape = None if after is None else tuple(after.shape)
        expect(shape == (3,), f"after it missed_start() has shape {shape}, not (3,): one number of tolerances per row")
        if after is not None:
            right = bool(after[1] == 0 and after[0] > 1 and after[2] > 1)
            text = f"missed_start() is {after.tolist()}: it should be 0 for row 1, and more than 1 for rows 0 and 2"
            expect(right, text)
        expect(missed(steps) == (None, None), "with 'backprop', missed_start() is not None")

    def many(self) -> int | None:
        """Return enough steps for an error of 1e-3 with a method of order 1; None if the number is not fixed."""
        return 512 if self.fixed() and self.made().order == 1 else self.steps if self.fixed() else None

    def test_it_draws_from_no_generator(self) -> None:
        solver, x, problem = self.made(), points(), Logistic()
        with no_global_draws(solver.label):
            first, second = (self.solve(solver, problem.f, x, T0, T1).state for _ in range(2))
        expect(torch.equal(first, second), "solved twice, the same ODE has two results")


def order(errors: list[float]) -> float:
    """Return the slope of log error against log step size, from errors between SMALLEST and LARGEST."""
    seen = [(n, e) for n, e in zip(STEPS, errors) if SMALLEST < e < LARGEST]
    expect(len(seen) >= 2, f"errors with {', '.join(map(str, STEPS))} steps show no order: {errors}")
    (first, larger), (last, smaller) = seen[-2 if len(seen) < 4 else -3], seen[-1]
    return math.log(larger / smaller) / math.log(last / first)


__all__ = ["SolverTests"]
