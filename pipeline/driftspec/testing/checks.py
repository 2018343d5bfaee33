"""Helpers of the checks: fail or skip with a sentence, watch global generators, compare single rows, z-scores."""

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

FALSE_ALARM = 2 * NormalDist().cdf(-4)
"""The probability that a correct component fails one statistical check, P(|z| > 4). Seeds are fixed: it fails always or
never."""


def expect(holds: object, message: str) -> None:
    """Fail the check unless `holds`; the author of the component reads the message."""
    __tracebackhide__ = True
    if not holds:
        pytest.fail(message, pytrace=False)


def unfit(reason: str) -> NoReturn:
    """Skip the check, which does not apply; the reason names what the component does not offer."""
    __tracebackhide__ = True
    pytest.skip(reason)


def generator(seed: int = 1) -> torch.Generator:
    """Return a generator with this seed."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 7, scale: float = 1.0) -> Tensor:
    """Return normal numbers (n, ...) of this shape in float64, with standard deviation `scale` and a fixed seed."""
    return scale * torch.randn(shape, generator=generator(seed), dtype=torch.float64)


@contextlib.contextmanager
def no_global_draws(label: str) -> Iterator[None]:
    """Check that the code inside draws no random numbers from a global generator."""
    before = _states()
    yield
    touched = [name for name, state in _states().items() if state != before[name]]
    expect(not touched, f"{label} draws from the global generator of {' and '.join(touched)}: use the one it is given")


def _states() -> dict[str, bytes]:
    """Return the states of the global generators."""
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
    """Return max |a - b| / (1 + |b|) over the entries of a and b (n, ...); inf for different shapes or a NaN."""
    if a.shape != b.shape:
        return float("inf")
    a, b = a.detach(), b.detach()
    difference = ((a - b).abs() / (1 + b.abs())).masked_fill(a == b, 0).nan_to_num(nan=torch.inf)
    return float(difference.max()) if difference.numel() else 0.0


def rows_alone(function: Callable[..., Tensor], *given: Tensor, what: str, tolerance: float = 1e-9) -> None:
    """Check that row i of function(rows) is function(row i), so no row depends on the others. `given` are (B, ...)."""
    whole, count = function(*given), len(given[0])
    expect(len(whole) == count, f"{what} gives {len(whole)} rows for {count}")
    for i in sorted({0, count // 2, count - 1}):
        one = function(*(rows[i : i + 1] for rows in given))
        expect(len(one) == 1, f"{what} gives {len(one)} rows for a batch of one")
        error = apart(one[0], whole[i])
        expect(error <= tolerance, f"{what}: row {i} of {count} depends on the others: alone it differs by {error:.1e}")


def limit(count: int) -> float:
    """Return the bound on |z| for `count` numbers: the largest exceeds it as rarely as a single one exceeds 4."""
    return -NormalDist().inv_cdf(FALSE_ALARM / 2 / max(1, count))


def unbiased(values: Tensor, expected: Tensor | float, what: str, rounding: float = 1e-9) -> None:
    """Check that the mean of independent rows (n, ...) is `expected`, each entry within its standard error."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    off = values.mean(0) - expected
    error = values.std(0) / len(values) ** 0.5
    bound = limit(off.numel()) * error + rounding * (1 + expected.abs())
    if bool((off.abs() > bound).any()):
        at = int((off.abs() / bound).argmax())
        mean, true, z = (float(v.flatten()[at]) for v in (values.mean(0), expected.expand_as(off), off / error))
        expect(False, f"{what}: the mean of {len(values)} is {mean:.6g}, it should be {true:.6g} (z = {z:+.3g})")


def slope(function: Callable[[Tensor], Tensor], x: Tensor, h: float = 1e-5) -> Tensor:
    """Return the gradient (B, d) of a function (B, d) -> (B,) by central differences with step h."""
    columns = []
    for i in range(x.shape[1]):
        step = torch.zeros_like(x)
        step[:, i] = h
        columns.append((function(x + step) - function(x - step)) / (2 * h))
    return torch.stack(columns, 1)
