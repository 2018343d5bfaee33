"""Optimisers and schedules against torch's own, and both against an interruption."""

from __future__ import annotations

import copy
import inspect
import json
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.optim import lr_scheduler

from driftspec.components import Optimizer, Schedule
from driftspec.runs.checkpoint import decode, encode
from driftspec_plugins import COMPONENTS
from driftspec_plugins.optimizers import torch_optimizers

CLASSES = {name: getattr(torch_optimizers, path.partition(":")[2]) for name, path in COMPONENTS["optimizer"].items()}
NOT_HERE = {"LBFGS", "Muon", "SparseAdam"}
LEFT_OUT = {"params", "foreach", "fused", "capturable", "differentiable", "maximize"}

OPTIMIZERS: list[dict[str, Any]] = [
    *({"type": name} for name in CLASSES),
    {"type": "adadelta", "lr": 0.5, "rho": 0.8, "eps": 1e-5, "weight_decay": 0.1},
    {"type": "adafactor", "lr": 0.1, "beta2_decay": -0.5, "eps": [1e-6, 0.01], "d": 2.0, "weight_decay": 0.1},
    {"type": "adagrad", "lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 1, "eps": 1e-5},
    {"type": "adam", "lr": 0.01, "betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0.1, "amsgrad": True},
    {"type": "adamax", "lr": 0.01, "betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0.1},
    {"type": "adamw", "lr": 0.01, "betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0.2, "amsgrad": True},
    {"type": "asgd", "lr": 0.1, "lambd": 0.01, "alpha": 0.5, "t0": 5, "weight_decay": 0.1},
    {"type": "nadam", "lr": 0.01, "betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0.1, "momentum_decay": 0.01,
     "decoupled_weight_decay": True},
    {"type": "radam", "lr": 0.01, "betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0.1,
     "decoupled_weight_decay": True},
    {"type": "rmsprop", "lr": 0.02, "alpha": 0.9, "eps": 1e-6, "weight_decay": 0.1, "momentum": 0.5, "centered": True},
    {"type": "rprop", "lr": 0.02, "etas": [0.4, 1.3], "step_sizes": [1e-5, 1.0]},
    {"type": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    {"type": "sgd", "lr": 0.1, "momentum": 0.9, "dampening": 0.5},
]  # fmt: skip
SCHEDULES: list[dict[str, Any]] = [
    {"type": "constant"},
    {"type": "cosine"},
    {"type": "cosine", "eta_min": 0.02},
    {"type": "linear"},
    {"type": "linear", "start_factor": 0.25, "end_factor": 0.75, "total_iters": 8},
    {"type": "step", "step_size": 7},
    {"type": "step", "step_size": 3, "gamma": 0.5},
    {"type": "multi_step", "milestones": [4, 9, 9, 6]},
    {"type": "multi_step", "milestones": [5], "gamma": 0.3},
    {"type": "exponential", "gamma": 0.9},
    {"type": "polynomial"},
    {"type": "polynomial", "total_iters": 12, "power": 2},
]
ONE_CYCLES: list[dict[str, Any]] = [
    {"type": "one_cycle"},
    {"type": "one_cycle", "max_lr": 0.5, "pct_start": 0.2, "anneal_strategy": "linear", "cycle_momentum": False},
    {"type": "one_cycle", "three_phase": True, "base_momentum": 0.5, "max_momentum": 0.6, "div_factor": 5,
     "final_div_factor": 10},
]  # fmt: skip
STEPS = 20
BASE = 0.1


def label(body: dict[str, Any]) -> str:
    return "-".join(f"{value}" for value in body.values())


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=g).to(dtype)) for shape in ((5, 3), (5,), (2, 5), (2,))]


def descend(values: list[nn.Parameter], step: int) -> None:
    """Gradients of a loss that is not quadratic, with a noise that depends on the step alone."""
    g = torch.Generator().manual_seed(100 + step)
    for value in values:
        value.grad = value.detach().sin() + torch.randn(value.shape, generator=g).to(value.dtype)


def run(body: dict[str, Any], steps: int = STEPS, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    values = parameters(dtype)
    optimizer = Optimizer.make(body).build(values)
    for step in range(steps):
        descend(values, step)
        optimizer.step()
    return values


def same(a: list[nn.Parameter], b: list[nn.Parameter]) -> bool:
    assert all(x.isfinite().all() for x in (*a, *b))
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    return decode(*encode(state))


# --------------------------------------------------------------------------------------------------------- optimisers


def test_every_optimizer_of_torch_has_a_name() -> None:
    theirs = {
        name for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    }  # fmt: skip
    assert theirs <= {kind.__name__ for kind in CLASSES.values()} | NOT_HERE
    assert {name: kind.type for name, kind in CLASSES.items()} == {name: name for name in CLASSES}


@pytest.mark.parametrize("name", CLASSES)
def test_keys_and_defaults_are_torchs(name: str) -> None:
    signature = inspect.signature(getattr(torch.optim, CLASSES[name].__name__)).parameters
    left_out = LEFT_OUT | ({"decoupled_weight_decay"} if name == "adam" else set())
    expected = {key: value.default for key, value in signature.items() if key not in left_out}
    fields = CLASSES[name].model_fields
    assert {key: field.default for key, field in fields.items()} == expected
    assert all(field.description for field in fields.values())


@pytest.mark.parametrize("body", OPTIMIZERS, ids=label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_torchs_optimizer_with_the_specs_keys(body: dict[str, Any], dtype: torch.dtype) -> None:
    """The same steps as torch's class in its plain implementation, to a few roundings."""
    keys = {key: tuple(value) if isinstance(value, list) else value for key, value in body.items() if key != "type"}
    kind = getattr(torch.optim, CLASSES[body["type"]].__name__)
    reference = parameters(dtype)
    optimizer = kind(reference, foreach=False, **keys)
    for step in range(STEPS):
        descend(reference, step)
        optimizer.step()
    start, found = parameters(dtype), run(body, dtype=dtype)
    for first, x, y in zip(start, found, reference, strict=True):
        assert x.dtype == dtype
        assert not torch.equal(x, first)
        torch.testing.assert_close(x, y, rtol=0, atol=5e-6 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("body", OPTIMIZERS, ids=label)
@pytest.mark.parametrize("save", [copy.deepcopy, through_a_file])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ten_and_ten_steps_are_twenty(body: dict[str, Any], save: Callable[[Any], Any], dtype: torch.dtype) -> None:
    straight = run(body, dtype=dtype)
    values = parameters(dtype)
    optimizer = Optimizer.make(body).build(values)
    for step in range(10):
        descend(values, step)
        optimizer.step()
    state, weights = save(optimizer.state_dict()), [value.detach().clone() for value in values]
    descend(values, 10)
    optimizer.step()  # what goes on after the save does not reach it

    resumed = [nn.Parameter(weight) for weight in weights]
    optimizer = Optimizer.make(body).build(resumed)
    optimizer.load_state_dict(state)
    for step in range(10, STEPS):
        descend(resumed, step)
        optimizer.step()
    assert same(resumed, straight)


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in ("rprop", "asgd")])
def test_a_fresh_state_would_have_been_noticed(name: str) -> None:
    """The test above has teeth: without the state (plain SGD has none) ten more steps end elsewhere."""
    body = {"type": name} | ({"momentum": 0.9} if name == "sgd" else {})
    values = parameters()
    for part in (range(10), range(10, STEPS)):
        optimizer = Optimizer.make(body).build(values)
        for step in part:
            descend(values, step)
            optimizer.step()
    assert not same(values, run(body))


@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad", "sgd"])
def test_one_kernel_a_step_and_the_same_bits_each_time(name: str) -> None:
    assert Optimizer.make(name).build(parameters()).param_groups[0]["fused"] is True
    assert same(run({"type": name}), run({"type": name}))


def test_parameters_that_the_kernel_does_not_take() -> None:
    elsewhere = [nn.Parameter(torch.zeros(3, device="meta"))]
    assert Optimizer.make("adam").build(elsewhere).param_groups[0]["fused"] is None


WRONG: list[dict[str, Any]] = [
    *({"type": name, "lr": -0.1} for name in CLASSES),
    *({"type": name, "eps": -1e-9} for name in CLASSES if name not in ("adafactor", "asgd", "rprop", "sgd")),
    *({"type": name, "weight_decay": -1e-9} for name in CLASSES if name != "rprop"),
    *({"type": name, "betas": [1.0, 0.9]} for name in ("adam", "adamax", "adamw", "nadam", "radam")),
    *({"type": name, "betas": [0.9, -0.1]} for name in ("adam", "adamax", "adamw", "nadam", "radam")),
    {"type": "adadelta", "rho": 1.1},
    {"type": "adafactor", "beta2_decay": 0.1},
    {"type": "adafactor", "eps": [-1e-3, 1e-3]},
    {"type": "adafactor", "eps": [None, -1e-3]},
    {"type": "adafactor", "d": 0.9},
    {"type": "adagrad", "lr_decay": -0.1},
    {"type": "adagrad", "initial_accumulator_value": -0.1},
    {"type": "nadam", "momentum_decay": -0.1},
    {"type": "rmsprop", "momentum": -0.1},
    {"type": "rmsprop", "alpha": -0.1},
    {"type": "rprop", "etas": [1.0, 1.2]},
    {"type": "rprop", "etas": [0.5, 1.0]},
    {"type": "rprop", "etas": [0.0, 1.2]},
    {"type": "sgd", "momentum": -0.1},
    {"type": "sgd", "nesterov": True},
    {"type": "sgd", "nesterov": True, "momentum": 0.9, "dampening": 0.1},
]  # fmt: skip


@pytest.mark.parametrize("body", WRONG, ids=label)
def test_what_torch_refuses_the_spec_refuses(body: dict[str, Any]) -> None:
    keys = {key: value for key, value in body.items() if key != "type"}
    with pytest.raises(ValueError, match=r".+"):
        getattr(torch.optim, CLASSES[body["type"]].__name__)(parameters(), **keys)
    with pytest.raises(ValidationError) as caught:
        Optimizer.make(body)
    assert caught.value.error_count() == 1


def test_what_only_the_spec_refuses() -> None:
    with pytest.raises(ValidationError, match=r"step_sizes are \[smallest, largest\], not \[1.0, 0.1\]"):
        Optimizer.make({"type": "rprop", "step_sizes": [1.0, 0.1]})
    with pytest.raises(ValidationError, match="fused\n  Extra inputs are not permitted"):
        Optimizer.make({"type": "adam", "fused": True})
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Optimizer.make({"type": "rmsprop", "alpha": 1.5})


# ---------------------------------------------------------------------------------------------------------- schedules


def start(body: dict[str, Any], optimizer: str = "adam", steps: int = STEPS) -> tuple[Any, Any]:
    built = Optimizer.make({"type": optimizer, "lr": BASE}).build(parameters())
    return built, Schedule.make(body).build(built, steps)


def follow(optimizer: Any, schedule: Any, steps: int = STEPS) -> list[tuple[Any, ...]]:
    """(lr, β1 or momentum) of each step, and lr after the last."""
    rates = []
    for step in range(steps):
        group = optimizer.param_groups[0]
        rates.append((float(group["lr"]), group.get("betas", (group.get("momentum"),))[0]))
        descend(group["params"], step)
        optimizer.step()
        schedule.step()
    return [*rates, (float(optimizer.param_groups[0]["lr"]),)]


def rates(body: dict[str, Any], steps: int = STEPS) -> list[float]:
    return [rate[0] for rate in follow(*start(body, steps=steps), steps)]


def torchs(body: dict[str, Any], optimizer: Any, steps: int) -> Any:
    """torch's scheduler of the same name, over `steps` where it asks for a number of them."""
    keys = {key: value for key, value in body.items() if key != "type"}
    if body["type"] in ("linear", "polynomial"):
        keys.setdefault("total_iters", steps)
    if body["type"] == "linear":
        keys = {"start_factor": 1.0, "end_factor": 0.0} | keys
    return {
        "constant": lambda: lr_scheduler.ConstantLR(optimizer, factor=1.0),
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps, **keys),
        "linear": lambda: lr_scheduler.LinearLR(optimizer, **keys),
        "step": lambda: lr_scheduler.StepLR(optimizer, **keys),
        "multi_step": lambda: lr_scheduler.MultiStepLR(optimizer, **keys),
        "exponential": lambda: lr_scheduler.ExponentialLR(optimizer, **keys),
        "polynomial": lambda: lr_scheduler.PolynomialLR(optimizer, **keys),
        "one_cycle": lambda: lr_scheduler.OneCycleLR(optimizer, **({"max_lr": BASE} | keys), total_steps=steps),
    }[body["type"]]()


@pytest.mark.parametrize("body", SCHEDULES, ids=label)
def test_the_closed_form_is_torchs_recursion(body: dict[str, Any]) -> None:
    optimizer = torch.optim.Adam(parameters(), lr=BASE)
    reference = [rate[0] for rate in follow(optimizer, torchs(body, optimizer, STEPS))]
    assert rates(body) == pytest.approx(reference, rel=1e-12, abs=1e-16)


@pytest.mark.parametrize("body", SCHEDULES, ids=label)
def test_warmup_is_a_ramp_before_the_schedule(body: dict[str, Any]) -> None:
    found, plain = rates(body | {"warmup": 4}), rates(body, STEPS - 4)
    assert found[:4] == pytest.approx([plain[0] * k / 5 for k in (1, 2, 3, 4)], rel=1e-15)
    assert found[4:] == plain


def test_warmup_is_torchs_sequential() -> None:
    """LinearLR from 1/(warmup + 1), then the main schedule: torch's own way to put two in sequence."""
    body = {"type": "cosine", "eta_min": 0.02}
    optimizer = torch.optim.Adam(parameters(), lr=BASE)
    warmup = lr_scheduler.LinearLR(optimizer, start_factor=1 / 5, total_iters=4)
    main = torchs(body, optimizer, STEPS - 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # before torch 2.8 it warns about its own step(0)
        reference = follow(optimizer, lr_scheduler.SequentialLR(optimizer, [warmup, main], milestones=[4]))
    assert rates(body | {"warmup": 4}) == pytest.approx([rate[0] for rate in reference], rel=1e-12)


def test_rates_worked_out_by_hand() -> None:
    assert rates({"type": "constant", "warmup": 3}, 5) == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    half = BASE * math.cos(math.pi / 8) ** 2
    assert rates({"type": "cosine"}, 4) == pytest.approx([BASE, half, BASE / 2, BASE - half, 0], abs=1e-17)
    assert rates({"type": "linear", "end_factor": 0.5, "total_iters": 2}, 4) == pytest.approx([0.1, 0.075] + [0.05] * 3)
    assert rates({"type": "step", "step_size": 2}, 5) == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3])
    assert rates({"type": "multi_step", "milestones": [1, 1, 3]}, 4) == pytest.approx([0.1, 1e-3, 1e-3, 1e-4, 1e-4])
    assert rates({"type": "exponential", "gamma": 0.5}, 2) == pytest.approx([0.1, 0.05, 0.025])
    assert rates({"type": "polynomial", "power": 2}, 2) == pytest.approx([0.1, 0.025, 0])


def test_nothing_rises_again_after_the_last_step() -> None:
    optimizer, schedule = start({"type": "cosine", "eta_min": 0.01}, steps=5)
    assert [rate[0] for rate in follow(optimizer, schedule, 9)][5:] == pytest.approx([0.01] * 5)


@pytest.mark.parametrize("body", ONE_CYCLES, ids=label)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_one_cycle_is_torchs_with_the_optimizers_rate_at_the_top(body: dict[str, Any], optimizer: str) -> None:
    built = getattr(torch.optim, {"adam": "Adam", "sgd": "SGD"}[optimizer])(parameters(), lr=BASE)
    reference = follow(built, torchs(body, built, STEPS))
    found = follow(*start(body, optimizer))
    assert found == reference
    top = max(rate[0] for rate in found)
    assert 0.9 * body.get("max_lr", BASE) < top <= body.get("max_lr", BASE)
    assert found[STEPS - 1][0] == pytest.approx(
        body.get("max_lr", BASE) / body.get("div_factor", 25) / body.get("final_div_factor", 1e4), rel=1e-9
    )
    assert (len({rate[1] for rate in found[:-1]}) > 1) == body.get("cycle_momentum", True)


EVERY = [*SCHEDULES, *({**body, "warmup": 6} for body in SCHEDULES), *ONE_CYCLES]


@pytest.mark.parametrize("body", EVERY, ids=label)
@pytest.mark.parametrize("at", [0, 3, 6, 10])
@pytest.mark.parametrize("save", [copy.deepcopy, through_a_file, lambda state: None], ids=["copy", "file", "fresh"])
def test_a_restored_schedule_goes_on(body: dict[str, Any], at: int, save: Callable[[Any], Any]) -> None:
    straight = follow(*start(body))
    optimizer, schedule = start(body)
    first = follow(optimizer, schedule, at)
    saved = save({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()})
    follow(optimizer, schedule, 3)

    optimizer, schedule = start(body)
    if saved is not None:
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
    whole = first[:-1] + follow(optimizer, schedule, STEPS - at)
    assert (whole == straight) == (saved is not None or at == 0 or body == {"type": "constant"})


@pytest.mark.parametrize("body", EVERY, ids=label)
def test_the_state_is_plain(body: dict[str, Any]) -> None:
    state = start(body)[1].state_dict()
    assert json.loads(json.dumps(state)) == state
    assert {"last_epoch", "base_lrs"} <= state.keys()


@pytest.mark.parametrize("name", CLASSES)
def test_every_optimizer_takes_a_schedule(name: str) -> None:
    optimizer, schedule = start({"type": "cosine", "warmup": 4}, name)
    assert [rate[0] for rate in follow(optimizer, schedule)] == rates({"type": "cosine", "warmup": 4})


@pytest.mark.parametrize("name", sorted({body["type"] for body in SCHEDULES}))
def test_a_warmup_that_leaves_nothing_is_refused(name: str) -> None:
    body = next(body for body in SCHEDULES if body["type"] == name)
    assert len(rates(body | {"warmup": 4}, 5)) == 6
    with pytest.raises(ValueError, match=f"schedule '{name}': warmup 5 leaves none of the 5 steps"):
        start(body | {"warmup": 5}, steps=5)


@pytest.mark.parametrize(("pct_start", "steps"), [(0.1, 10), (0.3, 3), (0.49, 2)])
@pytest.mark.parametrize("three_phase", [False, True])
def test_one_cycle_needs_a_step_to_rise_in(pct_start: float, steps: int, three_phase: bool) -> None:
    """torch divides by zero at exactly one step."""
    body = {"type": "one_cycle", "pct_start": pct_start, "three_phase": three_phase}
    with pytest.raises(ValueError, match=f"pct_start {pct_start} of {steps} steps leaves the rise no step"):
        start(body, steps=steps)
    follow(*start(body, steps=math.floor(1 / pct_start) + 1), math.floor(1 / pct_start) + 1)


def test_one_cycle_needs_a_momentum_or_none() -> None:
    with pytest.raises(ValueError, match="optimizer 'adagrad' has no momentum to cycle: write cycle_momentum: false"):
        start({"type": "one_cycle"}, "adagrad")
    follow(*start({"type": "one_cycle", "cycle_momentum": False}, "adagrad"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"type": "constant", "warmup": -1}, "greater than or equal to 0"),
        ({"type": "step"}, "step_size\n  Field required"),
        ({"type": "exponential"}, "gamma\n  Field required"),
        ({"type": "multi_step", "milestones": []}, "at least 1 item"),
        ({"type": "linear", "start_factor": 0}, "greater than 0"),
        ({"type": "linear", "end_factor": 1.1}, "less than or equal to 1"),
        ({"type": "polynomial", "power": 0}, "greater than 0"),
        ({"type": "one_cycle", "warmup": 3}, "warmup\n  Extra inputs are not permitted"),
        ({"type": "one_cycle", "base_momentum": 0.9, "max_momentum": 0.8}, "0.9 is above max_momentum 0.8"),
        ({"type": "one_cycle", "three_phase": True, "pct_start": 0.5}, "takes pct_start of the steps twice"),
    ],
)
def test_what_a_schedule_gets_wrong(body: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Schedule.make(body)
    assert message in str(caught.value)
