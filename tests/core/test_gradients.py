"""When gradients are compared, and what follows, with a plugin's solver that says by how much it misses its start."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import tiny
import torch
from pydantic import Field
from torch import Tensor

from driftspec.accuracy.gradients import DECADE, watched
from driftspec.components import Loss, Solution, Solver, Verdict
from driftspec.components.observer import Record
from driftspec.errors import SolveFailed
from driftspec.experiment.records import CheckpointRecord
from driftspec.experiment.train import Training, train
from driftspec.registry import Registry, discover
from driftspec.runs.checkpoint import decode, encode


class OneStep(Solver):
    """Euler's step. Its gradient is `factor` times the right one, and its misses are those of a test."""

    type = "one_step"
    order = 1
    factor: float = Field(1.0, description="what the gradient is multiplied by")
    choice: bool = Field(True, description="whether it can differentiate its step as well")

    misses: ClassVar[list[float]] = []
    """Of row 20, from step to step of training; the other rows miss by 1."""
    compared: ClassVar[list[Tensor]] = []
    """The rows of each solve whose gradient is the step's own."""

    def differentiated(self, by: str) -> Solver | None:
        return self.model_copy(update={"factor": 1.0 if by == "backprop" else self.factor}) if self.choice else None

    def solve(
        self, f: Any, x: Tensor, t0: Any, t1: Any, rates: Any = None, steps: int | None = None, params: Any = ()
    ) -> Solution:
        t = torch.as_tensor(t0, dtype=x.dtype)
        speed, r = (f(t, x), x.new_zeros(len(x), 0)) if rates is None else rates(t, x)
        h = torch.as_tensor(t1, dtype=x.dtype) - t
        state, integrals = (self.scaled(value) for value in (x + h * speed, h * r))
        if self.factor == 1:
            self.compared.append(x.detach())
            return Solution(state, integrals, 1)
        each = torch.ones(len(x))
        each[20 % len(x)] = self.misses[0] if self.misses else 1.0
        return Solution(state, integrals, 1, missed_start=lambda: each)

    def scaled(self, value: Tensor) -> Tensor:
        return value.detach() + self.factor * (value - value.detach())


@pytest.fixture
def registry() -> Iterator[Registry]:
    found = discover()
    found.add_component(OneStep)
    yield found
    OneStep.misses.clear()
    OneStep.compared.clear()


SPIRALS = "data={type: spiral_trajectories, samples: 100, times: 3}"
ESTIMATORS = {
    "trajectory": ("estimator={type: trajectory, at: end, solver: SOLVER}", SPIRALS, "evaluate=[]", "sample=null"),
    "exact_trace": ("estimator={type: exact_trace, solver: SOLVER}",),
    "hutchinson": ("estimator={type: hutchinson, solver: SOLVER, kinetic: 0.1}",),
}
over = pytest.mark.parametrize


def training(which: str, registry: Registry, **keys: Any) -> Training:
    words = ", ".join(f"{key}: {str(value).lower()}" for key, value in {"type": "one_step", **keys}.items())
    sets = [text.replace("SOLVER", f"{{{words}}}") for text in ESTIMATORS[which]]
    return Training(tiny.experiment(*sets, "data.samples=100", "train.batch_size=32", registry=registry))


def stepped(made: Training, *misses: float) -> list[Record]:
    """A step of training with each of the misses."""
    records, steps = [], train(made)
    for miss in misses:
        OneStep.misses[:] = [miss]
        records.append(next(steps))
    return records


@over("which", ESTIMATORS)
def test_gradients_are_compared_beyond_the_trigger_and_at_each_new_decade(which: str, registry: Registry) -> None:
    """Once at 150, not again at 900; at 1000; never below; also in a run that goes on from a checkpoint."""
    made, seen = training(which, registry, factor=1.0001), []
    for miss in (50.0, 100.0, 150.0, 900.0, 120.0, 1000.0, 2000.0):
        (record,) = stepped(made, miss)
        assert record.terms["missed_start"] == miss and record.verdicts == ()
        seen.append(len(OneStep.compared))
        OneStep.compared.clear()
    assert [bool(count) for count in seen] == [False, False, True, False, False, True, False]
    assert made.state[DECADE] == 3
    again = training(which, registry, factor=1.0001)
    again.restore(CheckpointRecord.read(decode(*encode(made.checkpoint().entries()))))
    stepped(again, 9000.0)
    assert OneStep.compared == []
    stepped(again, 1e4, math.inf)
    assert OneStep.compared and again.state[DECADE] == 99


@over("which", ESTIMATORS)
def test_the_difference_on_the_worst_rows_is_the_verdict(which: str, registry: Registry) -> None:
    """A gradient 1 % too large is a warning with the number, one 20 % too large the end, before any weight moves."""
    made = training(which, registry, factor=1.01)
    batch = made.batch(0)
    (record,) = stepped(made, 3e4)
    (verdict,) = record.verdicts
    assert (verdict.subject, verdict.outcome, verdict.severity) == ("adjoint", "adjoint_inaccurate", "warning")
    assert "on 16 rows the gradient differs from backpropagation's by 1.0e-02" in verdict.reason
    assert "misses its start by 3.0e+04 tolerances" in verdict.reason
    worst = batch[20] if batch.dim() == 2 else batch[20, 0]
    assert all(len(rows) == 16 and (rows == worst).all(1).any() for rows in OneStep.compared) and OneStep.compared
    made = training(which, registry, factor=1.2)
    before = [p.detach().clone() for p in made.model.parameters()]
    with pytest.raises(SolveFailed, match=r"step 1: .* status adjoint_unreliable: .* by 2\.0e-01, relative") as raised:
        stepped(made, 200.0)
    assert (raised.value.status, raised.value.step) == ("adjoint_unreliable", 1)
    assert all(torch.equal(old, new) for old, new in zip(before, made.model.parameters()))


def test_a_gradient_that_is_not_a_number_is_unreliable(registry: Registry) -> None:
    made = training("trajectory", registry, factor=1.01)
    OneStep.misses[:] = [1e3]
    loss = made.estimator.loss(made.model, made.batch(0), made.state, made.streams.at(1))
    with torch.no_grad():
        next(iter(made.model.parameters())).fill_(math.nan)
    with pytest.raises(SolveFailed, match="differs from backpropagation's by nan"):
        loss.verdicts()


def test_without_another_gradient_the_verdict_is_unknown(registry: Registry) -> None:
    (record,) = stepped(training("exact_trace", registry, factor=1.2, choice=False), 300.0)
    text = (
        "the state solved back misses its start by 3.0e+02 tolerances, and solver 'one_step' offers no other gradient"
    )
    assert record.verdicts == (Verdict("adjoint", "unknown", f"{text} to compare with", "unknown"),)


def test_a_solver_that_solves_nothing_back_leaves_the_state_alone(registry: Registry) -> None:
    made = training("trajectory", registry)
    (record,) = stepped(made, 1e9)
    assert made.state == {} and record.verdicts == () and "missed_start" not in record.terms


def test_the_worst_of_several_solves_counts() -> None:
    x = torch.zeros(2, 1)
    misses = (torch.tensor([5.0, 1.0]), torch.tensor([2.0, 50.0]), None)
    paths = [Solution(x, x, 1, stats={"rejected": 2}, missed_start=lambda one=one: one) for one in misses]
    made = tiny.experiment("data.samples=100")
    loss = watched(Loss(x.sum(), {}, {}), paths, made.model, OneStep(), x, lambda solver, rows: rows.sum())
    assert loss.stats() == {"rejected": 6, "missed_start": 50.0}
