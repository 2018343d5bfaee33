"""The training loop: what one step does, what is carried from step to step, and what ends it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from driftspec.components import Estimator, Loss, Model, Solver, Trace
from driftspec.components.observer import Record
from driftspec.errors import RunFailed, SolveFailed
from driftspec.experiment.records import CheckpointRecord
from driftspec.experiment.train import Training, train
from driftspec.numerics import likelihood
from driftspec.registry import Registry, discover
from driftspec.runs import checkpoint
from driftspec.streams import Streams


def training(*sets: str, registry: Registry | None = None) -> Training:
    return Training(tiny.experiment(*sets, registry=registry))


def weights(module: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()]).clone()


def steps(made: Training, n: int, monitor: Callable[[Model], float] | None = None) -> list[Record]:
    watch = monitor and (lambda model: (monitor(model), {}))
    return list(itertools.islice(train(made, watch), n))


# Batches -----------------------------------------------------------------------------------------------------------


def test_an_epoch_shows_each_row_at_most_once_and_in_its_own_order() -> None:
    made = training("train.batch_size=64")
    per_epoch = 1600 // 64
    epochs = [torch.cat([made.batch(e * per_epoch + i) for i in range(per_epoch)]) for e in range(3)]
    for rows in epochs:
        assert len(rows) == per_epoch * 64 == len(rows.unique(dim=0))
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])
    assert torch.equal(made.batch(3), epochs[0][3 * 64 : 4 * 64])  # out of order, and an epoch ago
    assert {tuple(row) for row in epochs[2].tolist()} <= {tuple(row) for row in made.rows.tolist()}


def test_the_ragged_end_of_an_epoch_is_dropped() -> None:
    made = training("train.batch_size=700")
    batches = [made.batch(step) for step in range(4)]
    assert all(len(batch) == 700 for batch in batches)
    assert len(torch.cat(batches[:2]).unique(dim=0)) == 1400


# One step ----------------------------------------------------------------------------------------------------------


def test_a_record_says_what_the_step_did() -> None:
    made = training("train.schedule={type: cosine, warmup: 4}", "train.log_every=1")
    before = weights(made.model.module)
    first, second = steps(made, 2)
    batch = made.batch(0)
    fresh = training()
    expected = fresh.estimator.loss(fresh.model, batch, fresh.state, fresh.streams.at(1)).value
    expected.backward()
    gradient = torch.cat([p.grad.flatten() for p in fresh.model.parameters()])
    assert first.step == 1 and second.step == 2
    assert first.loss == pytest.approx(expected.item(), rel=1e-6)
    assert first.grad_norm == pytest.approx(float(gradient.norm()), rel=1e-5)
    assert 0 < first.lr < second.lr < 1e-2  # warming up
    assert first.evaluations == 51 and first.terms == {"steps": 10.0}
    assert 0 < first.seconds < 60 and not first.last
    assert not torch.equal(before, weights(made.model.module))
    assert list(first.line()) == ["step", "loss", "steps", "grad_norm", "lr", "evaluations", "seconds"]


def test_the_gradient_is_cut_to_its_norm_and_recorded_uncut() -> None:
    moved = []
    for clip in (0.01, 1e9):
        made = training("train.optimizer={type: sgd, lr: 1.0}", f"train.clip_norm={clip}")
        before = weights(made.model.module)
        (record,) = steps(made, 1)
        moved.append(weights(made.model.module) - before)
        assert record.grad_norm > 0.1
        assert float(moved[-1].norm()) == pytest.approx(min(clip, record.grad_norm), rel=1e-4)
    cosine = torch.dot(moved[0], moved[1]) / (moved[0].norm() * moved[1].norm())
    assert float(cosine) == pytest.approx(1, abs=1e-5)


def test_averaged_weights_are_the_closed_form_over_three_steps() -> None:
    decay = 0.7
    made = training(f"train.ema={decay}")
    seen = [weights(made.model.module)]
    for _ in train(made):
        seen.append(weights(made.model.module))
        if len(seen) == 4:
            break
    by_hand = decay**3 * seen[0] + (1 - decay) * (decay**2 * seen[1] + decay * seen[2] + seen[3])
    torch.testing.assert_close(weights(made.averaged().module), by_hand)
    assert made.averaged().module is not made.model.module
    assert training().averaged().module is not None


def test_training_fits_a_gaussian() -> None:
    """1-D data N(3, 2²) through a linear flow, which can be exact: the KL of the fit in closed form."""
    made = training(
        "data={type: gaussian, mean: [3.0], std: 2.0, samples: 4000}", "dynamics.network.hidden=[]",
        "train.steps=120", "train.optimizer.lr=5e-2", "train.schedule=cosine", "train.batch_size=256",
    )  # fmt: skip
    records = steps(made, 120)
    assert records[-1].last and made.is_over()
    entropy = 0.5 * math.log(2 * math.pi * math.e * 4)
    last = torch.tensor([record.loss for record in records[-30:]])
    # A batch mean of -log N at 256 rows has the standard error sqrt(1/2 / 256).
    assert abs(float(last.mean()) - entropy) < 4 * math.sqrt(0.5 / 256 / 30) + 0.02
    assert records[0].loss > entropy + 0.5


# Carried from step to step -----------------------------------------------------------------------------------------

STATEFUL = (
    "train.ema=0.9", "estimator={type: hutchinson, check_every: 4}", "train.schedule={type: cosine, warmup: 3}",
    "train.early_stopping={every: 6, patience: 5}",
)  # fmt: skip


def through(made: Training) -> CheckpointRecord:
    """The checkpoint as its files give it back."""
    return CheckpointRecord.read(checkpoint.decode(*checkpoint.encode(made.checkpoint().entries())))


def test_half_the_steps_a_checkpoint_and_the_other_half_are_the_same_bits() -> None:
    whole, first, second = (training(*STATEFUL) for _ in range(3))
    records = steps(whole, 30)
    halves = steps(first, 13)
    assert not torch.equal(weights(first.model.module), weights(whole.model.module))
    second.restore(through(first))
    halves += steps(second, 17)
    assert checkpoint.encode(second.checkpoint().entries()) == checkpoint.encode(whole.checkpoint().entries())
    strip = [{k: v for k, v in record.line().items() if k != "seconds"} for record in records + halves]
    assert strip[:30] == strip[30:]


def test_the_number_of_steps_is_part_of_what_is_carried() -> None:
    made = training("estimator.check_every=1")
    steps(made, 5)
    assert made.state["steps"] < 10
    other = training("estimator.check_every=1")
    other.restore(through(made))
    assert other.state == made.state
    assert steps(other, 1)[0].terms["steps"] == made.state["steps"]


# Watching and stopping ---------------------------------------------------------------------------------------------


def values(records: list[Record]) -> list[tuple[int, float]]:
    return [(record.step, record.validation) for record in records if record.validation is not None]


def test_the_validation_loss_has_the_same_noise_at_every_check() -> None:
    still = (
        "estimator=hutchinson",
        "train.optimizer={type: sgd, lr: 1e-30}",
        "train.early_stopping={every: 2, patience: 9}",
    )
    checks = values(steps(training(*still), 6))
    assert [step for step, _ in checks] == [2, 4, 6]
    assert len({value for _, value in checks}) == 1


def test_the_validation_loss_is_the_averaged_models_over_every_row() -> None:
    made = training("train.ema=0.5", "train.early_stopping={every: 4, patience: 9}", "train.batch_size=48")
    ((_, value),) = values(steps(made, 4))
    rows = made.validation_rows
    assert len(rows) == 200  # not a multiple of the batch
    one = made.estimator.loss(made.averaged(), rows, made.state, Streams(0).at(1)).value
    assert value == pytest.approx(one.item(), rel=1e-5)


def test_patience_ends_training_and_the_best_check_is_known() -> None:
    made = training("train.early_stopping={every: 3, patience: 2}")
    script = iter([5.0, 3.0, 4.0, 3.5, 1.0])
    records = steps(made, 99, lambda model: next(script))
    assert [record.step for record in records if record.best] == [3, 6]
    assert records[-1].step == 12 and records[-1].last and not any(record.last for record in records[:-1])
    assert made.best.entries() == {"value": 3.0, "step": 6, "checks_since": 2}
    assert steps(made, 99) == []  # it stays over
    assert list(records[-1].line())[-2:] == ["validation", "best"]


def test_the_terms_of_a_monitor_are_recorded_where_it_watches_and_must_be_finite() -> None:
    made = training("train.early_stopping={every: 2, patience: 9}")
    terms = {"left": 2.0, "right": 3.0}
    records = list(itertools.islice(train(made, lambda model: (1.0, terms)), 2))
    assert "validation_terms" not in records[0].line()
    assert records[1].line()["validation_terms"] == terms and records[1].validation == 1.0
    terms["right"] = math.nan
    with pytest.raises(RunFailed, match="step 4: validation right nan"):
        list(itertools.islice(train(made, lambda model: (1.0, terms)), 2))


def test_an_improvement_is_more_than_min_delta() -> None:
    made = training("train.early_stopping={every: 3, patience: 3, min_delta: 0.5}")
    script = iter([5.0, 4.6, 4.4, 4.0, 9.0, 9.0, 9.0])
    records = steps(made, 99, lambda model: next(script))
    assert [record.step for record in records if record.best] == [3, 9]


def test_a_monitor_is_asked_for_the_averaged_model_in_evaluation_mode() -> None:
    made = training("train.ema=0.9", "train.checkpoint_every=2")
    asked: list[Model] = []

    def monitor(model: Model) -> float:
        assert not model.module.training
        asked.append(model)
        return 1.0

    records = steps(made, 4, monitor)
    assert len(asked) == 2 and all(model.module is made.ema for model in asked)
    assert made.model.module.training
    assert values(records) == [(2, 1.0), (4, 1.0)]


# What ends it ------------------------------------------------------------------------------------------------------


class Scripted(Estimator):
    """A loss that turns bad at a step."""

    type = "scripted"
    how: str = "nan"
    at: int = 3

    def loss(self, model: Model, batch: Tensor, state: Any, streams: Streams) -> Loss:
        value = sum(p.square().sum() for p in model.parameters())
        if streams.step == self.at:
            if self.how == "solve":
                raise SolveFailed("solving the ODE ended with status budget", "budget")
            if self.how == "nan gradient":
                value = value + torch.sqrt(0 * value)
            else:
                value = value * float(self.how)
        return Loss(value, {}, state)


@pytest.fixture
def scripted() -> Registry:
    found = discover()
    found.add_component(Scripted)
    return found


@pytest.mark.parametrize(
    "how, status, message",
    [
        ("nan", "non_finite", "step 3: loss nan"),
        ("inf", "non_finite", "step 3: loss inf"),
        ("nan gradient", "non_finite", "step 3: gradient norm nan"),
        ("solve", "budget", "step 3: solving the ODE ended with status budget"),
    ],
)
def test_a_step_that_cannot_go_on_is_named_and_changes_nothing(
    how: str, status: str, message: str, scripted: Registry
) -> None:
    made = training(f"estimator={{type: scripted, how: {how}}}", registry=scripted)
    seen = []
    with pytest.raises(RunFailed, match=message) as raised:
        for _ in train(made):
            seen.append(weights(made.model.module))
    assert (raised.value.status, raised.value.step) == (status, 3)
    assert len(seen) == 2 and made.step == 2
    assert torch.equal(weights(made.model.module), seen[-1])


def test_a_validation_loss_that_is_no_number_ends_training(scripted: Registry) -> None:
    made = training("train.early_stopping={every: 2}")
    with pytest.raises(RunFailed, match="step 2: validation loss nan"):
        steps(made, 4, lambda model: math.nan)
    failing = training(
        "train.early_stopping={every: 2}", "estimator={type: scripted, how: solve, at: 1}", registry=scripted
    )
    with pytest.raises(SolveFailed, match="step 1:"):
        steps(failing, 4)


# The number of steps is an accuracy knob, and training would cheat with it -----------------------------------------


@pytest.mark.slow
def test_with_few_steps_for_good_training_cheats_and_with_control_it_does_not() -> None:
    """N(0, 1) and a field that can oscillate in time: the loss of a fixed N falls without end and is no likelihood."""
    told, true = {}, {}
    for name, solver in (("fixed", "{steps: 4, tolerance: 1e6, type: lobatto}"), ("moved", "lobatto")):
        made = training(
            "data={type: gaussian, mean: [0.0], samples: 4000}", "train.batch_size=128", f"estimator.solver={solver}",
            "dynamics.network={type: mlp, hidden: [32, 32], time: fourier, frequencies: 2}",
            "train.steps=200", "train.clip_norm=5.0",
        )  # fmt: skip
        records = steps(made, 200)
        told[name] = sum(record.loss for record in records[-30:]) / 30
        rows = made.experiment.rows(made.experiment.dataset.test)
        scored = likelihood.log_prob(
            made.averaged(), rows, Solver.make("lobatto"), Trace.make("exact_trace"), Streams(0)
        )
        true[name] = -float(scored.log_prob.mean())
    entropy = 0.5 * math.log(2 * math.pi * math.e)
    assert told["fixed"] < entropy - 5 < entropy + 1 < true["fixed"]
    # Means over 3,840 and 400 points of values with the variance 1/2.
    assert abs(told["moved"] - true["moved"]) < 4 * math.sqrt(0.5 / 400 + 0.5 / 3840) + 0.02
    assert abs(true["moved"] - entropy) < 4 * math.sqrt(0.5 / 400) + 0.05
    assert made.state["steps"] > 10
