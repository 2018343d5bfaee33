"""A state that went through bytes is the state: bit for bit, type for type, in every process."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import subprocess
import sys
from collections import Counter, OrderedDict, namedtuple
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as schedules

from driftspec.errors import DriftspecError
from driftspec.runs.checkpoint import DTYPES, decode, encode, flatten, unflatten


def same(a: Any, b: Any) -> bool:
    """Equal in type, order and bits (nan equals nan, 0.0 does not equal -0.0)."""
    if isinstance(a, torch.Tensor):
        bits = [x.detach().contiguous().reshape(-1).view(torch.uint8).tolist() for x in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and bits[0] == bits[1]
    if isinstance(a, dict):
        kinds = {OrderedDict: dict}
        return (
            kinds.get(type(a), type(a)) is type(b)
            and [(type(k), k) for k in a] == [(type(k), k) for k in b]
            and all(same(a[k], b[k]) for k in a)
        )
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


def through(tree: Any) -> Any:
    return decode(*encode(tree))


PLAIN = {
    "empty": [{}, [], (), "", None, True, False],
    "numbers": [0, -1, 2**70, 0.0, -0.0, 0.1, 5e-324, 1e308, float("inf"), -float("inf"), float("nan")],
    "tuples": ((1, (2.0, [3, (None,)])), ()),
    "integer keys": {0: "a", -3: {7: ("x",)}, 2**40: []},
    "mixed keys": {1: "integer", "1": "text"},
    "keys like marks": {"$tensor": "x", "$tuple": [1], "$dict": {"$float": "inf"}, "$": {"$$": 1}, "": 2, "a/b": 3},
    "values like marks": ["$tensor", {"x": "$tuple"}],
    "text": ["é ∑ 🜁", "nul\0", 'quote " \\ \n'],
    "counter": Counter([3, 3, 5]),
    "ordered": OrderedDict([("z", 1), ("a", 2)]),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_values_come_back_with_their_types_and_order(name: str) -> None:
    assert same(PLAIN[name], through(PLAIN[name]))


@pytest.mark.parametrize("value", [1, 0.5, None, "text", torch.arange(3)])
def test_a_tree_may_be_a_single_leaf(value: Any) -> None:
    assert same(value, through(value))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,), (3, 5)])
def test_tensors_of_every_dtype_and_shape_are_bit_exact(dtype: str, shape: tuple[int, ...]) -> None:
    size = getattr(torch, dtype).itemsize
    count = size * int(np.prod(shape))
    bits = torch.randint(0, 2 if dtype == "bool" else 256, (count,), generator=torch.Generator().manual_seed(1))
    tensor = bits.to(torch.uint8).view(getattr(torch, dtype)).reshape(shape)  # nan payloads and infinities included
    back = through({"x": tensor, "y": [tensor]})
    assert same(tensor, back["x"])
    assert same(tensor, back["y"][0])


def test_views_shared_tensors_and_parameters_are_saved_by_value() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    parameter = torch.nn.Parameter(base[1])
    tree = {
        "transposed": base.T,
        "strided": base[:, ::2],
        "expanded": base[0, :1].expand(5),
        "shared": [base, base, base[1:]],
        "parameter": parameter,
        "lazy minus": torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
    }
    back = through(tree)
    assert back["transposed"].tolist() == base.T.tolist()
    assert back["strided"].tolist() == [[0, 2], [4, 6], [8, 10]]
    assert back["expanded"].tolist() == [0] * 5
    assert [x.tolist() for x in back["shared"]] == [base.tolist(), base.tolist(), base[1:].tolist()]
    assert back["parameter"].tolist() == parameter.tolist()
    assert not back["parameter"].requires_grad
    assert back["lazy minus"].tolist() == [-2, 4]
    back["shared"][0].zero_()
    assert back["shared"][1].tolist() == base.tolist(), "a loaded tensor is its own and can be written to"


def test_flatten_copies_so_that_training_may_go_on() -> None:
    weight = torch.zeros(2)
    tensors, skeleton = flatten({"w": weight})
    weight += 1
    assert unflatten(skeleton, tensors)["w"].tolist() == [0, 0]


def test_paths_that_read_alike_stay_apart() -> None:
    a, b, c, d = (torch.tensor(float(i)) for i in range(4))
    tree = {"m": {1: a, "1": b}, "a/b": c, "a": {"b": d}, "__metadata__": torch.tensor(9)}
    tensors, skeleton = flatten(tree)
    assert sorted(tensors) == ["/__metadata__", "/a/b", "/a/b'", "/m/1", "/m/1'"]
    assert json.loads(json.dumps(skeleton)) == skeleton
    assert same(tree, unflatten(skeleton, tensors))
    assert same(tree, through(tree))


class Colour(IntEnum):
    RED = 1


class Shade(StrEnum):
    DARK = "dark"


Point = namedtuple("Point", "x y")
loop: list[Any] = []
loop.append(loop)


@pytest.mark.parametrize(
    ("tree", "path", "what"),
    [
        ({"a": [0, {"b": np.float64(1)}]}, "/a/1/b", "numpy.float64"),
        ({"a": np.int64(1)}, "/a", "numpy.int64"),
        ({"a": np.zeros(2)}, "/a", "numpy.ndarray"),
        ({"a": {1, 2}}, "/a", "builtins.set"),
        ({"a": Colour.RED}, "/a", "Colour"),
        ({"a": Shade.DARK}, "/a", "Shade"),
        ({"a": Point(1, 2)}, "/a", "Point"),
        ({"a": lambda: 0}, "/a", "function"),
        ({"a": torch.float32}, "/a", "torch.dtype"),
        ({"a": torch.Generator()}, "/a", "Generator"),
        ({"a": {(1, 2): 0}}, "/a", "(1, 2)"),
        ({"a": {True: 0}}, "/a", "True"),
        ({"a": "\udc80"}, "/a", "Unicode"),
        ({"a": {"\udc80": 0}}, "/a", "Unicode"),
        ({"a": torch.eye(2).to_sparse()}, "/a", "sparse"),
        ({"a": torch.empty(2, device="meta")}, "/a", "meta"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "/a", "complex64"),
        ({"a": loop}, "/a/0/0", "100 levels"),
    ],
)
def test_what_cannot_be_saved_is_refused_with_its_path(tree: Any, path: str, what: str) -> None:
    with pytest.raises(DriftspecError) as caught:
        encode(tree)
    assert path in str(caught.value)
    assert what in str(caught.value)


def test_the_deepest_tree_allowed_goes_through() -> None:
    tree: Any = torch.ones(1)
    for depth in range(100):
        tree = {depth: tree} if depth % 2 else (tree,)
    assert same(tree, through(tree))


DAMAGE = {
    "tensors cut short": lambda data, note: (data[:-1], note),
    "one bit of a tensor": lambda data, note: (data[:-1] + bytes([data[-1] ^ 1]), note),
    "tensors gone": lambda data, note: (b"", note),
    "note cut short": lambda data, note: (data, note[: len(note) // 2]),
    "note is a list": lambda data, note: (data, b"[]"),
    "note without a tree": lambda data, note: (data, note.replace(b'"tree"', b'"wood"')),
    "note of the future": lambda data, note: (data, note.replace(b'"format":1', b'"format":2')),
    "unknown mark": lambda data, note: (data, note.replace(b"$tensor", b"$pickle")),
    "unknown tensor": lambda data, note: (data, note.replace(b'"/w"', b'"/v"')),
    "mark of nonsense": lambda data, note: (data, note.replace(b'{"$tensor":"/w"}', b'{"$tuple":3}')),
    "tensors are no safetensors": lambda _, note: (b"junk", renewed(b"junk", note)),
}


def renewed(data: bytes, note: bytes) -> bytes:
    """A note whose digest fits `data`: only the reading of the tensors can notice."""
    content = json.loads(note)
    return json.dumps(content | {"sha256": hashlib.sha256(data).hexdigest()}).encode()


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_a_message_not_a_traceback(name: str) -> None:
    data, note = encode({"w": torch.arange(4)})
    assert same({"w": torch.arange(4)}, decode(data, note))
    with pytest.raises(DriftspecError):
        decode(*DAMAGE[name](data, note))


def test_the_same_tree_is_the_same_bytes_in_every_process() -> None:
    script = """
import hashlib, torch
from driftspec.runs.checkpoint import encode
tree = {name: {i: torch.full((i, 2), 0.5, dtype=d) for i, d in enumerate((torch.bfloat16, torch.float64, torch.bool))}
        for name in ("weights", "ema", "a", "zeta")}
data, note = encode({**tree, "betas": (0.9, float("inf"))})
print(hashlib.sha256(data).hexdigest(), hashlib.sha256(note).hexdigest(), b"__metadata__" in data)
"""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    first, second = (process.communicate()[0] for process in running)
    assert first == second
    assert first.split()[2] == "False"


# Optimisers and schedules ----------------------------------------------------------------------------------------


def trained(optimizer: torch.optim.Optimizer, model: torch.nn.Module, schedule: Any, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 2, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step(*[loss.item()] * isinstance(schedule, schedules.ReduceLROnPlateau))


def made(optimizer: Any, schedule: Any = None) -> tuple[torch.nn.Module, torch.optim.Optimizer, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    built = optimizer(model.parameters())
    return model, built, schedule(built) if schedule else None


def state(model: torch.nn.Module, optimizer: torch.optim.Optimizer, schedule: Any) -> dict[str, Any]:
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule and schedule.state_dict(),
    }


def check_resume(optimizer: Any, schedule: Any = None) -> None:
    """20 steps are 10 steps, a checkpoint and 10 steps: the bytes of the last state are equal."""
    straight = made(optimizer, schedule)
    trained(straight[1], straight[0], straight[2], range(20))
    before = made(optimizer, schedule)
    trained(before[1], before[0], before[2], range(10))
    saved = state(*before)
    data, note = encode(saved)
    tree = decode(data, note)
    assert same(saved, tree)
    model, built, rate = made(optimizer, schedule)
    model.load_state_dict(tree["model"])
    built.load_state_dict(tree["optimizer"])
    if rate is not None:
        rate.load_state_dict(tree["schedule"])
    assert encode(state(model, built, rate)) == (data, note)
    trained(built, model, rate, range(10, 20))
    assert encode(state(model, built, rate)) == encode(state(*straight))
    assert encode(state(*straight))[0] != data, "ten more steps must have moved the weights"


UNSUPPORTED = {"Optimizer", "Muon", "SparseAdam", "LBFGS"}
OPTIMIZERS = {
    name: found
    for name, found in vars(torch.optim).items()
    if inspect.isclass(found) and issubclass(found, torch.optim.Optimizer) and name not in UNSUPPORTED
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_resumes_bit_for_bit(name: str) -> None:
    check_resume(lambda p: OPTIMIZERS[name](p, lr=1e-2))


def test_optimisers_with_every_kind_of_state_resume_too() -> None:
    check_resume(lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-2), amsgrad=True, weight_decay=0.1))
    check_resume(
        lambda p: torch.optim.SGD([{"params": [q], "lr": 0.1 / (i + 1)} for i, q in enumerate(p)], momentum=0.9)
    )


SCHEDULES = {
    "linear": lambda o: schedules.LinearLR(o, 0.1, total_iters=15),
    "constant": lambda o: schedules.ConstantLR(o, 0.5, total_iters=12),
    "polynomial": lambda o: schedules.PolynomialLR(o, 18),
    "cosine": lambda o: schedules.CosineAnnealingLR(o, 20),
    "restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 3, 2),
    "exponential": lambda o: schedules.ExponentialLR(o, 0.9),
    "step": lambda o: schedules.StepLR(o, 4),
    "multistep": lambda o: schedules.MultiStepLR(o, [5, 12, 12]),
    "lambda": lambda o: schedules.LambdaLR(o, lambda step: 1 / (1 + step)),
    "multiplicative": lambda o: schedules.MultiplicativeLR(o, lambda step: 0.9),
    "one cycle": lambda o: schedules.OneCycleLR(o, 0.1, total_steps=25),
    "cyclic": lambda o: schedules.CyclicLR(o, 0.01, 0.1, 3, mode="exp_range", gamma=0.9, cycle_momentum=False),
    "plateau": lambda o: schedules.ReduceLROnPlateau(o, patience=0, threshold=0.5, min_lr=1e-4),
    "warm-up, then cosine": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.1, total_iters=6), schedules.CosineAnnealingLR(o, 14)], [6]
    ),
    "cosine after the checkpoint": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.1, total_iters=13), schedules.MultiStepLR(o, [3])], [13]
    ),
    "chained": lambda o: schedules.ChainedScheduler(
        [schedules.LinearLR(o, 0.1, total_iters=15), schedules.ExponentialLR(o, 0.9)], o
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_resumes_bit_for_bit(name: str) -> None:
    check_resume(lambda p: torch.optim.Adam(p, lr=1e-2), SCHEDULES[name])
