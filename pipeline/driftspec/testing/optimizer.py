"""Checks of an optimizer and of a schedule: they change what they should, and continue exactly from a checkpoint."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import SGD

from driftspec.components import Optimizer
from driftspec.errors import DriftspecError
from driftspec.runs.checkpoint import decode, encode
from driftspec.testing.checks import expect, no_global_draws, normal, same
from driftspec.testing.component import ComponentTests

STEPS = 12


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    """Return parameters to optimise: a matrix (4, 3), a vector (4,) and a number ()."""
    shapes = ((4, 3), (4,), ())
    return [nn.Parameter(normal(*shape, seed=30 + i).to(dtype)) for i, shape in enumerate(shapes)]


def value(p: list[nn.Parameter], step: int = 0) -> Tensor:
    """Return the value () of a quadratic function, plus a small linear one that differs from step to step."""
    bowls = [(one - 0.1).square().sum() for one in p]
    tilt = [(one * normal(*one.shape, seed=1000 * step + i).to(one)).sum() for i, one in enumerate(p)]
    return torch.stack(bowls).sum() + 0.1 * torch.stack(tilt).sum()


def descend(optimizer: Any, p: list[nn.Parameter], steps: range) -> None:
    """Take these steps of the optimizer."""
    for step in steps:
        optimizer.zero_grad(set_to_none=True)
        value(p, step).backward()  # type: ignore[no-untyped-call]  # torch declares none
        optimizer.step()


def through_a_checkpoint(what: str, tree: Any) -> Any:
    """Return a state that is encoded and decoded as in a checkpoint."""
    try:
        return decode(*encode(tree))
    except DriftspecError as error:
        expect(False, f"the state of {what} cannot be saved: {error}")
        raise


class OptimizerTests(ComponentTests):
    """Checks of an optimizer."""

    kind = "optimizer"

    def test_it_lowers_a_bowl_and_moves_every_parameter(self) -> None:
        for dtype in (torch.float32, torch.float64):
            p = parameters(dtype)
            before = [one.detach().clone() for one in p]
            optimizer = self.made().build(p)
            first = float(value(p).detach())
            descend(optimizer, p, range(200))
            last = float(value(p).detach())
            text = f"200 steps change a quadratic function from {first:.4g} to {last:.4g}"
            expect(math.isfinite(last) and last < first, text)
            still = [str(tuple(one.shape)) for one, old in zip(p, before) if torch.equal(one, old)]
            expect(not still, f"parameters of shape {', '.join(still)} do not change")
            expect(all(one.dtype == dtype for one in p), f"{dtype} parameters change their dtype")

    def test_a_parameter_without_a_gradient_stays(self) -> None:
        p = parameters()
        optimizer, kept = self.made().build(p), p[1].detach().clone()
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            value([p[0], p[2]]).backward()  # type: ignore[no-untyped-call]  # torch declares none
            optimizer.step()
        expect(torch.equal(p[1], kept), "a parameter that has no gradient is changed")

    def test_it_draws_from_no_global_generator(self) -> None:
        made: Optimizer = self.made()
        with no_global_draws(made.label):
            first, second = parameters(), parameters()
            descend(made.build(first), first, range(5))
            descend(made.build(second), second, range(5))
        expect(same([*first], [*second]), "the same steps lead to different parameters")

    def test_saved_and_restored_it_goes_on_to_the_same_bits(self) -> None:
        made: Optimizer = self.made()
        whole, half = parameters(), parameters()
        descend(made.build(whole), whole, range(2 * STEPS))
        optimizer = made.build(half)
        descend(optimizer, half, range(STEPS))
        tree = through_a_checkpoint(made.label, {"state": optimizer.state_dict(), "p": [one.detach() for one in half]})
        restored = [nn.Parameter(one) for one in tree["p"]]
        again = made.build(restored)
        again.load_state_dict(tree["state"])
        descend(again, restored, range(STEPS, 2 * STEPS))
        text = f"{2 * STEPS} steps without a checkpoint, and with one after {STEPS} steps, lead to different parameters"
        expect(same([*whole], [*restored]), text)


class ScheduleTests(ComponentTests):
    """Checks of a schedule for SGD with momentum."""

    kind = "schedule"
    steps: ClassVar[int] = 40
    """The number of optimiser steps for which it is built."""
    BASE: ClassVar[float] = 0.1

    def run(self, optimizer: SGD, schedule: Any, steps: int) -> list[float]:
        """Return the learning rate of each step."""
        rates = []
        for _ in range(steps):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            schedule.step()
        return rates

    def built(self) -> tuple[SGD, Any]:
        """Return an optimizer and the schedule for it."""
        optimizer = SGD(parameters(), lr=self.BASE, momentum=0.9)
        return optimizer, self.made().build(optimizer, self.steps)

    def test_rates_are_finite_and_not_negative(self) -> None:
        rates = self.run(*self.built(), self.steps)
        wrong = [(step, rate) for step, rate in enumerate(rates) if not (math.isfinite(rate) and rate >= 0)]
        expect(not wrong, f"the rate of step {wrong[0][0] if wrong else 0} is {wrong[0][1] if wrong else 0}")
        expect(any(rates), "the rate is 0 at every step")

    def test_it_is_the_same_each_time(self) -> None:
        with no_global_draws(self.made().label):
            first, second = self.run(*self.built(), self.steps), self.run(*self.built(), self.steps)
        expect(first == second, "built twice, it gives different rates")

    def test_saved_and_restored_it_goes_on_with_the_same_rates(self) -> None:
        made = self.made()
        whole = self.run(*self.built(), self.steps)
        half = self.steps // 2
        optimizer, schedule = self.built()
        first = self.run(optimizer, schedule, half)
        tree = through_a_checkpoint(made.label, {"o": optimizer.state_dict(), "s": schedule.state_dict()})
        optimizer, schedule = self.built()
        optimizer.load_state_dict(tree["o"])
        schedule.load_state_dict(tree["s"])
        rest = self.run(optimizer, schedule, self.steps - half)
        at = next((i for i, (a, b) in enumerate(zip(whole, first + rest)) if a != b), None)
        expect(at is None, f"saved after {half} steps and restored, the rate of step {at} differs")


__all__ = ["OptimizerTests", "ScheduleTests"]
