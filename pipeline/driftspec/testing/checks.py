"""What checks are made of: a verdict in one sentence, chance that is watched, rows alone and among others, z-scores."""

from __future__ import annotations

import contextlib
import pickle
import random
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor

CHANCE = 2 * NormalDist().cdf(-4)
"""Of a right component failing one statistical check: that of |z| > 4. Seeds are fixed, so it fails always or never."""


def expect(holds: object, said: str) -> None:
    """A check's verdict; `said` is what the author of the component reads."""
    __tracebackhide__ = True
    if not holds:
        pytest.fail(said, pytrace=False)


def unfit(said: str) -> NoReturn:
    """The check does not apply: `said` names what the component does not offer."""
    __tracebackhide__ = True
    pytest.skip(said)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 7, scale: float = 1.0) -> Tensor:
    """Standard normal numbers, float64, always the same."""
    return scale * torch.randn(shape, generator=generator(seed), dtype=torch.float64)


@contextlib.contextmanager
def own_chance(label: str) -> Iterator[None]:
    """What happens inside draws from no global generator."""
    before = _states()
    yield
    touched = [name for name, state in _states().items() if state != before[name]]
    expect(not touched, f"{label} draws from the global generator of {' and '.join(touched)}: use the one it is given")


def _states() -> dict[str, bytes]:
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": pickle.dumps(np.random.get_state()),
        "random": pickle.dumps(random.getstate()),
    }


def same(a: Any, b: Any) -> bool:
    """Whether two trees of tensors and plain values are equal, bit by bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b or (a != a and b != b))


def apart(a: Tensor, b: Tensor) -> float:
    """max |a - b| / (1 + |b|); inf where either is not finite and they differ."""
    if a.shape != b.shape:
        return float("inf")
    a, b = a.detach(), b.detach()
    difference = ((a - b).abs() / (1 + b.abs())).masked_fill(a == b, 0).nan_to_num(nan=torch.inf)
    return float(difference.max()) if difference.numel() else 0.0


def rows_alone(function: Callable[..., Tensor], *given: Tensor, what: str, tolerance: float = 1e-9) -> None:
    """Row i of function(rows) is function(row i): no row depends on its company. `given` have one row each a sample."""
    whole, count = function(*given), len(given[0])
    expect(len(whole) == count, f"{what} gives {len(whole)} rows for {count}")
    for i in sorted({0, count // 2, count - 1}):
        one = function(*(rows[i : i + 1] for rows in given))
        expect(len(one) == 1, f"{what} gives {len(one)} rows for a batch of one")
        error = apart(one[0], whole[i])
        expect(error <= tolerance, f"{what}: row {i} of {count} depends on the others, alone it differs by {error:.1e}")


def limit(count: int) -> float:
    """The |z| that the largest of `count` standard normal numbers exceeds as rarely as a single one exceeds 4."""
    return -NormalDist().inv_cdf(CHANCE / 2 / max(1, count))


def unbiased(values: Tensor, expected: Tensor | float, what: str, rounding: float = 1e-9) -> None:
    """The mean of independent rows (n, ...) is `expected`, each entry within its standard error."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    off = values.mean(0) - expected
    error = values.std(0) / len(values) ** 0.5
    bound = limit(off.numel()) * error + rounding * (1 + expected.abs())
    if bool((off.abs() > bound).any()):
        at = int((off.abs() / bound).argmax())
        mean, true, z = (float(v.flatten()[at]) for v in (values.mean(0), expected.expand_as(off), off / error))
        expect(False, f"{what}: mean {mean:.6g} over {len(values)} where {true:.6g} is right (z = {z:+.3g})")


def slope(function: Callable[[Tensor], Tensor], x: Tensor, h: float = 1e-5) -> Tensor:
    """∇h (B, d) of h: (B, d) -> (B,) by central differences."""
    columns = []
    for i in range(x.shape[1]):
        step = torch.zeros_like(x)
        step[:, i] = h
        columns.append((function(x + step) - function(x - step)) / (2 * h))
    return torch.stack(columns, 1)
