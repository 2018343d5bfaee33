"""A failure that follows a loss that rose says so, and names what shortens the steps of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from driftspec.components import Estimator, Loss, Model
from driftspec.errors import RunFailed, SolveFailed
from driftspec.experiment.losses import Losses
from driftspec.experiment.train import Training, train
from driftspec.registry import Registry, discover
from driftspec.runs.lifecycle import start
from driftspec.streams import Streams


def risen(*losses: float) -> str:
    made = Losses()
    for step, loss in enumerate(losses, 1):
        made.add(step, loss, 0.1)
    return made.rise()


RISES = {
    "at once": ([3.0, 40.0, 500.0], "step 1, from 3 to 500"),
    "after a fall": ([3.0, 2.0, 1.5, 2.9, 60.0, 45.0], "step 3, from 1.5 to 45"),
    "below zero": ([-2.0, -3.25, 5.5], "step 2, from -3.25 to 5.5"),
    "a slow one": ([3.0, *(3 + k / 100 for k in range(1, 60))], "step 1, from 3 to 3.59"),
    "late": ([*(10 / k for k in range(1, 60)), 0.5], "step 59, from 0.1695 to 0.5"),
}
NONE = {
    "falls": [10 / k for k in range(1, 60)],
    "a rise as large as the fall before": [3.0, 1.0, 3.0],
    "one": [3.0],
    "nothing": [],
}


@pytest.mark.parametrize("losses, said", RISES.values(), ids=RISES)
def test_a_rise_is_told_from_the_lowest_loss(losses: Sequence[float], said: str) -> None:
    assert risen(*losses) == f"the loss had risen since {said}"


@pytest.mark.parametrize("losses", NONE.values(), ids=NONE)
def test_what_is_no_rise(losses: Sequence[float]) -> None:
    assert risen(*losses) == ""


def test_noise_is_rarely_a_rise() -> None:
    """Of 1,000 flat courses at most 5 %."""
    courses = torch.randn(1000, 60, generator=torch.Generator().manual_seed(0)).tolist()
    assert sum(bool(risen(*course)) for course in courses) < 50
    assert all(risen(*course, 50.0) for course in courses)


class Course(Estimator):
    """Losses as given, then a failure."""

    type = "course"
    losses: tuple[float, ...] = (3.0, 1.5, 40.0)
    status: str = "not_converged"

    def loss(self, model: Model, batch: Tensor, state: Any, streams: Streams) -> Loss:
        if streams.step > len(self.losses):
            text = "the log density ended with status not_converged"
            raise SolveFailed(text, self.status, cure="raise max_steps, or make the field smoother")
        value = sum(p.sum() for p in model.parameters())
        return Loss(value - value.detach() + self.losses[streams.step - 1], {}, state)


@pytest.fixture
def registry() -> Registry:
    found = discover()
    found.add_component(Course)
    return found


def failure(registry: Registry, *sets: str) -> str:
    made = tiny.experiment("data.samples=100", *sets, registry=registry)
    with pytest.raises(SolveFailed) as raised:
        for _ in train(Training(made)):
            pass
    assert raised.value.step is not None and str(raised.value).startswith(f"step {raised.value.step}: ")
    return str(raised.value)


ENDED = "the log density ended with status not_converged"


def test_a_failed_step_names_the_rate_the_warmup_and_the_clipping(registry: Registry) -> None:
    """In place of a cure for a field that is hard to solve: the field is what the steps made of it."""
    rose = "the loss had risen since step 2, from 1.5 to 40: lower lr in train.optimizer (the rate was 0.01)"
    assert failure(registry, "estimator=course") == (
        f"step 4: {ENDED}; {rose}, raise warmup in train.schedule, or set clip_norm"
    )
    clipped = failure(registry, "estimator=course", "train.clip_norm=5")
    assert clipped.endswith("raise warmup in train.schedule, or lower clip_norm (it is 5)")
    falling = failure(registry, "estimator={type: course, losses: [3.0, 2.0, 1.5]}")
    assert falling == f"step 4: {ENDED}; raise max_steps, or make the field smoother"
    once = failure(registry, "estimator={type: course, losses: [3.0]}")
    assert once.startswith(f"step 2: {ENDED}; the first update of the weights led there: lower lr")
    never = failure(registry, "estimator={type: course, losses: []}")
    assert never == f"step 1: {ENDED}; raise max_steps, or make the field smoother"
    other = failure(registry, "estimator={type: course, status: adjoint_unreliable}")
    assert other == f"step 4: {ENDED}; raise max_steps, or make the field smoother"


def test_a_likelihood_whose_steps_are_too_long_says_so() -> None:
    """The issue of a real run: the solver's budget ends it, and the rate is why."""
    said = failure(
        discover(), "train.optimizer.lr=3", "estimator.solver={type: dopri5, rtol: 1e-3, max_evaluations: 100}"
    )
    assert "status budget after 100 evaluations; the first update of the weights led there: lower lr" in said


def test_what_fails_after_training_says_that_the_loss_had_risen_in_it(registry: Registry, tmp_path: Path) -> None:
    metric = "evaluate=[{type: nll, solver: {type: dopri5, max_evaluations: 5}, points: 4}]"
    rose = "; the loss had risen since step 1, from 1.5 to 40: lower lr"
    for losses, cure in (("[1.5, 40.0]", rose), ("[4.0, 3.0]", "")):
        sets = (
            metric,
            "data.samples=100",
            "train.steps=2",
            "train.log_every=1",
            f"estimator={{type: course, losses: {losses}}}",
        )
        loaded = tiny.loaded(*sets, "sample=null", registry=registry)
        with pytest.raises(RunFailed, match="status budget after 5 evaluations") as raised:
            start(loaded, registry, out=tmp_path / losses)
        assert cure in str(raised.value) and ("lower lr" in str(raised.value)) == bool(cure)
        assert raised.value.step is None
