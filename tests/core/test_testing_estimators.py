"""The conformance kit can fail: what is trained and by what, each breaking one promise."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from kit import held, outcome
from torch import Generator, Tensor

from driftspec.components import (
    Estimator,
    Loss,
    Optimizer,
    Schedule,
    Trace,
)
from driftspec.components.component import Component, Need
from driftspec.testing import (
    EstimatorTests,
    OptimizerTests,
    ScheduleTests,
    TraceTests,
)

# ------------------------------------------------------------------------------------------------------------ estimator


class Fit(Estimator):
    """Mean of ‖s(x + ε)‖²/2 and more: no method of anyone's, but a loss that keeps all promises."""

    type = "fit"

    def needs(self) -> Any:
        return (Need("dynamics", ("velocity",), "to fit"), Need("data", ("samples",), "to fit it to"))

    def start(self, model: Any, streams: Any) -> Any:
        return {"mean": torch.zeros(model.dim, dtype=torch.float64), "steps": 0}

    def loss(self, model: Any, batch: Tensor, state: Any, streams: Any) -> Loss:
        t = batch.new_tensor(0.5)
        noise = torch.randn(batch.shape, generator=self.chance(streams), dtype=torch.float64).to(batch)
        off = model.velocity(t, batch + noise) - batch + state["mean"].to(batch)
        value = off.square().mean()
        after = {"mean": 0.9 * state["mean"] + 0.1 * batch.mean(0).double(), "steps": state["steps"] + 1}
        return Loss(value, {"off": float(value.detach())}, self.after(state, after))

    def chance(self, streams: Any) -> Any:
        return streams.generator("noise")

    def after(self, state: Any, after: Any) -> Any:
        return after


class Chancy(Fit):
    """Draws from the global generator."""

    type = "chancy"

    def chance(self, streams: Any) -> Any:
        return None


class Holds(Fit):
    """Keeps its state to itself."""

    type = "holds"
    KEPT: ClassVar[dict[str, float]] = {"calls": 0.0}

    def loss(self, model: Any, batch: Tensor, state: Any, streams: Any) -> Loss:
        self.KEPT["calls"] += 1
        found = super().loss(model, batch, state, streams)
        return replace(found, value=found.value * self.KEPT["calls"])


class Overwrites(Fit):
    """Changes the state that it is given."""

    type = "overwrites"

    def after(self, state: Any, after: Any) -> Any:
        state["mean"].copy_(after["mean"])
        return after


class Unsavable(Fit):
    """Whose state no checkpoint can hold."""

    type = "unsavable"

    def after(self, state: Any, after: Any) -> Any:
        return {**after, "set": {1, 2}}


class Rounds(Fit):
    """Whose state is lost in part when it is saved: a number beside what the tree holds."""

    type = "rounds"
    KEPT: ClassVar[dict[str, Any]] = {}

    def start(self, model: Any, streams: Any) -> Any:
        self.KEPT["seen"] = 0
        return super().start(model, streams)

    def loss(self, model: Any, batch: Tensor, state: Any, streams: Any) -> Loss:
        found = super().loss(model, batch, state, streams)
        lost = id(state["mean"]) % 1000 / 1000  # stands for whatever is not in the tree
        return replace(found, value=found.value * (1 + (state["steps"] > 0) * lost))


class PartOnly(Fit):
    """Whose loss never sees one of the parameters."""

    type = "part_only"

    def loss(self, model: Any, batch: Tensor, state: Any, streams: Any) -> Loss:
        found = super().loss(model, batch, state, streams)
        w0 = model.module.w0
        return replace(found, value=(w0 * w0).sum())


class NoGraph(Fit):
    """Whose loss has no graph."""

    type = "no_graph"

    def loss(self, model: Any, batch: Tensor, state: Any, streams: Any) -> Loss:
        found = super().loss(model, batch, state, streams)
        return replace(found, value=found.value.detach())


class OneIsTooFew(Fit):
    """Which divides by n - 1."""

    type = "one_is_too_few"

    def loss(self, model: Any, batch: Tensor, state: Any, streams: Any) -> Loss:
        found = super().loss(model, batch, state, streams)
        n = torch.tensor(float(len(batch)), dtype=batch.dtype)
        return replace(found, value=found.value * n / (n - 1))


class TensorTerms(Fit):
    """Whose terms are tensors."""

    type = "tensor_terms"

    def loss(self, model: Any, batch: Tensor, state: Any, streams: Any) -> Loss:
        found = super().loss(model, batch, state, streams)
        return replace(found, terms={"off": found.value.detach()})  # type: ignore[dict-item]  # what is wrong with it


@pytest.mark.parametrize(
    ("found", "check"),
    [
        (Chancy, "the_same_streams_give_the_same_bits"),
        (Holds, "the_same_streams_give_the_same_bits"),
        (Overwrites, "the_same_streams_give_the_same_bits"),
        (Unsavable, "saved_and_restored_it_goes_on_to_the_same_bits"),
        (Rounds, "saved_and_restored_it_goes_on_to_the_same_bits"),
        (PartOnly, "gradients_reach_every_parameter"),
        (NoGraph, "the_loss_is_a_finite_number_with_a_graph"),
        (OneIsTooFew, "the_loss_is_a_finite_number_with_a_graph"),
        (TensorTerms, "terms_are_plain_numbers"),
    ],
    ids=lambda one: getattr(one, "type", None),
)
def test_what_an_estimator_gets_wrong(found: type[Component], check: str) -> None:
    assert outcome(held(EstimatorTests, found), check).startswith("failed: ")
    assert outcome(held(EstimatorTests, Fit), check) == "passed"


def test_an_estimator_that_nothing_fits_says_what_it_lacks() -> None:
    class Wants(Fit):
        """Wants what the kit has not."""

        type = "wants"

        def needs(self) -> Any:
            return (Need("dynamics", ("dist.magic",), "to work"),)

    said = outcome(held(EstimatorTests, Wants), "gradients_reach_every_parameter")
    assert said.startswith("skipped: ")
    assert "dist.magic" in said


# ---------------------------------------------------------------------------------------------------------------- trace


class Probes(Trace):
    """vᵀ J v with normal v, as it should be."""

    type = "probes"

    def probe(self, x: Tensor, generator: Generator) -> Tensor:
        return torch.randn(2, *x.shape, generator=generator, dtype=torch.float64).to(x)

    def divergence(self, f: Any, x: Tensor, probe: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if probe is None:
            raise ValueError("it needs probes")
        x = x if x.requires_grad else x.detach().requires_grad_()
        with torch.enable_grad():
            value = f(x)
            rows = [torch.autograd.grad(value, x, v, create_graph=True)[0] for v in probe]
        return value, self.joined(torch.stack([(row * v).sum(1) for row, v in zip(rows, probe)]))

    def joined(self, each: Tensor) -> Tensor:
        return each.mean(0)


class Biased(Probes):
    """A twentieth too large."""

    type = "biased"

    def joined(self, each: Tensor) -> Tensor:
        return 1.05 * each.mean(0)


class Summed(Probes):
    """The sum of the probes for their mean."""

    type = "summed"

    def joined(self, each: Tensor) -> Tensor:
        return each.sum(0)


class WideProbes(Probes):
    """Probes whose covariance is not I."""

    type = "wide_probes"

    def probe(self, x: Tensor, generator: Generator) -> Tensor:
        return super().probe(x, generator) * torch.linspace(1.0, 1.3, x.shape[1], dtype=x.dtype)


class Shared(Probes):
    """One probe for all rows."""

    type = "shared"

    def probe(self, x: Tensor, generator: Generator) -> Tensor:
        return super().probe(x[:1], generator).expand(-1, len(x), -1)


class GlobalProbes(Probes):
    """Probes from the global generator."""

    type = "global_probes"

    def probe(self, x: Tensor, generator: Generator) -> Tensor:
        return torch.randn(2, *x.shape, dtype=x.dtype)


class NoGradient(Probes):
    """Whose trace has no graph."""

    type = "no_gradient"

    def joined(self, each: Tensor) -> Tensor:
        return each.mean(0).detach()


class Crossed(Probes):
    """Which takes a part of every other row's."""

    type = "crossed"

    def joined(self, each: Tensor) -> Tensor:
        return each.mean(0) + 0.01 * (each.mean(0) - each.mean())


class DoubleProbes(Probes):
    """Which goes to float64."""

    type = "double_probes"

    def joined(self, each: Tensor) -> Tensor:
        return each.mean(0).double()


class Placed(Probes):
    """Whose probes are on the CPU."""

    type = "placed"

    def probe(self, x: Tensor, generator: Generator) -> Tensor:
        return super().probe(torch.zeros(x.shape, dtype=x.dtype), generator)


class Exact(Probes):
    """Which says that it is exact, and is not."""

    type = "exact"

    def exact(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("found", "check"),
    [
        (Biased, "it_is_the_trace_of_a_linear_field"),
        (Biased, "it_is_the_trace_of_a_nonlinear_field"),
        (Biased, "it_is_the_trace_of_a_field_that_is_itself_a_slope"),
        (Summed, "it_is_the_trace_of_a_linear_field"),
        (WideProbes, "it_is_the_trace_of_a_linear_field"),
        (Exact, "it_is_the_trace_of_a_linear_field"),
        (Exact, "it_is_the_trace_of_a_nonlinear_field"),
        (Shared, "every_row_has_its_own_probe"),
        (GlobalProbes, "every_row_has_its_own_probe"),
        (NoGradient, "gradients_flow_through_the_trace"),
        (Crossed, "the_trace_of_a_row_is_its_own"),
        (DoubleProbes, "it_keeps_float32"),
        (Placed, "it_stays_on_its_device"),
    ],
    ids=lambda one: getattr(one, "type", None),
)
def test_what_a_trace_gets_wrong(found: type[Component], check: str) -> None:
    assert outcome(held(TraceTests, found), check).startswith("failed: ")
    assert outcome(held(TraceTests, Probes), check) == "passed"


# -------------------------------------------------------------------------------------------------- optimizer, schedule


class Descent(torch.optim.Optimizer):
    """Steps of a fixed length with a velocity in its state, right unless told otherwise."""

    def __init__(self, parameters: Any, wrong: str = ""):
        super().__init__(parameters, {"lr": 0.02})
        self.wrong, self.kept = wrong, 0.0

    def step(self, closure: Any = None) -> Any:
        self.kept += 1
        with torch.no_grad():
            for number, p in enumerate(self.param_groups[0]["params"]):
                if p.grad is None and self.wrong != "moves_all":
                    continue
                grad = torch.zeros_like(p) if p.grad is None else p.grad
                if self.wrong == "climbs":
                    grad = -grad
                state = self.state[p]
                state["v"] = 0.5 * state.get("v", torch.zeros_like(p)) + grad
                if self.wrong == "unsavable":
                    state["seen"] = {1}
                step = self.param_groups[0]["lr"] * state["v"]
                if self.wrong == "forgets":
                    step = step / self.kept
                if self.wrong == "draws":
                    step = step * torch.rand(())
                if self.wrong == "moves_all":
                    step = step + 1e-3
                if not (self.wrong == "first_only" and number):
                    p.sub_(step)


class Descends(Optimizer):
    """Gradient descent with momentum."""

    type = "descends"

    def build(self, parameters: Any) -> Any:
        return Descent(parameters, "" if self.type == "descends" else self.type)


def wrong_descent(name: str) -> type[Optimizer]:
    return type(name, (Descends,), {"type": name, "__doc__": name, "__module__": __name__})


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("climbs", "it_lowers_a_bowl_and_moves_every_parameter"),
        ("first_only", "it_lowers_a_bowl_and_moves_every_parameter"),
        ("moves_all", "a_parameter_without_a_gradient_stays"),
        ("draws", "it_draws_from_no_global_generator"),
        ("forgets", "saved_and_restored_it_goes_on_to_the_same_bits"),
        ("unsavable", "saved_and_restored_it_goes_on_to_the_same_bits"),
    ],
)
def test_what_an_optimizer_gets_wrong(name: str, check: str) -> None:
    assert outcome(held(OptimizerTests, wrong_descent(name)), check).startswith("failed: ")
    assert outcome(held(OptimizerTests, Descends), check) == "passed"


class Rates(torch.optim.lr_scheduler.LRScheduler):
    """A falling rate, right unless told otherwise."""

    def __init__(self, optimizer: Any, wrong: str = ""):
        self.wrong, self.steps_seen, self.noise = wrong, 0, 1.0
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        self.steps_seen += 1
        step = {"forgets_steps": self.steps_seen, "": self.last_epoch}.get(self.wrong, self.last_epoch)
        rate = 0.9**step
        if self.wrong == "below_zero":
            rate -= 0.5
        if self.wrong == "draws_rates":
            rate *= 0.5 + random.random()
        return [base * rate for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        dropped = ("steps_seen",) if self.wrong == "forgets_steps" else ()
        return {name: value for name, value in super().state_dict().items() if name not in dropped}


class Falls(Schedule):
    """base · 0.9^step."""

    type = "falls"

    def build(self, optimizer: Any, steps: int) -> Any:
        return Rates(optimizer, "" if self.type == "falls" else self.type)


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("below_zero", "rates_are_finite_and_not_negative"),
        ("draws_rates", "it_is_the_same_each_time"),
        ("forgets_steps", "saved_and_restored_it_goes_on_with_the_same_rates"),
    ],
)
def test_what_a_schedule_gets_wrong(name: str, check: str) -> None:
    found = type(name, (Falls,), {"type": name, "__doc__": name, "__module__": __name__})
    assert outcome(held(ScheduleTests, found), check).startswith("failed: ")
    assert outcome(held(ScheduleTests, Falls), check) == "passed"
