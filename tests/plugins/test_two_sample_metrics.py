"""The metrics between draws and data: closed forms, brute force, invariances, and error bars against repetition."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from pydantic import ValidationError
from scipy.stats import wasserstein_distance
from torch import Tensor

from driftspec.components import Data, Draws, Evaluation, Measured, Metric
from driftspec.components.dataset import Dataset, Transform
from driftspec.errors import RunFailed
from driftspec_plugins.metrics import sliced_wasserstein as sliced_module
from driftspec_plugins.metrics import wasserstein as wasserstein_module
from driftspec_plugins.metrics.mmd import median_distance, mmd
from driftspec_plugins.metrics.moments import estimates, largest, moments
from driftspec_plugins.metrics.sliced_wasserstein import random_directions, sliced_wasserstein
from driftspec_plugins.metrics.wasserstein import wasserstein

NAMES = ["mmd", "sliced_wasserstein", "wasserstein", "moments"]
ROOT = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)  # of a covariance with unequal entries
OTHER = torch.tensor([[0.7, 0.0], [-0.4, 1.3]], dtype=torch.float64)
SHIFT = torch.tensor([0.5, -0.2], dtype=torch.float64)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(n: int, d: int, g: torch.Generator) -> Tensor:
    return torch.randn(n, d, generator=g, dtype=torch.float64)


def repeated(one: Callable[[torch.Generator], tuple[float, float]], times: int, seed: int) -> tuple[Tensor, Tensor]:
    """Values and standard errors of independent repetitions from one stream."""
    g = generator(seed)
    values, errors = zip(*(one(g) for _ in range(times)))
    return torch.tensor(values, dtype=torch.float64), torch.tensor(errors, dtype=torch.float64)


def too_large(values: Tensor, errors: Tensor) -> tuple[float, float]:
    """log(root mean square standard error / spread of the values), and the error of that logarithm."""
    ratio = float(errors.square().mean().sqrt() / values.std())
    return math.log(ratio), math.sqrt(
        1 / (2 * len(values)) + float(errors.square().std() / errors.square().mean()) ** 2 / (4 * len(values))
    )


def agrees(values: Tensor, errors: Tensor) -> bool:
    """The standard errors are the spread: within 30 % and within four errors of their own."""
    excess, error = too_large(values, errors)
    return abs(excess) < min(4 * error, math.log(1.3))


def safe(values: Tensor, errors: Tensor, at_most: float) -> bool:
    """The standard errors are no smaller than the spread, and larger by no more than a factor."""
    excess, error = too_large(values, errors)
    return -4 * error < excess < math.log(at_most) + 4 * error


def rotation(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------------- mmd


def gaussian_mmd(first: Tensor, second: Tensor, shift: Tensor, bandwidth: float) -> float:
    """MMD² of N(0, S) and N(m, S'): E k = |I + C/h²|^(-1/2) exp(-m' (C + h² I)^-1 m / 2), C the covariance of x - y."""

    def mean_kernel(c: Tensor, m: Tensor) -> float:
        eye = torch.eye(len(m), dtype=torch.float64)
        quadratic = m @ torch.linalg.solve(c + bandwidth**2 * eye, m)
        return float(torch.linalg.det(eye + c / bandwidth**2) ** -0.5 * torch.exp(-quadratic / 2))

    zero = torch.zeros_like(shift)
    return mean_kernel(2 * first, zero) + mean_kernel(2 * second, zero) - 2 * mean_kernel(first + second, shift)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 3.0)])
def test_mmd_of_gaussians_is_its_closed_form(scales: tuple[float, ...]) -> None:
    truth = sum(gaussian_mmd(ROOT @ ROOT.T, OTHER @ OTHER.T, SHIFT, 0.8 * s) for s in scales) / len(scales)

    def one(g: torch.Generator) -> tuple[float, float]:
        return mmd(normal(150, 2, g) @ ROOT.T, normal(200, 2, g) @ OTHER.T + SHIFT, 0.8, scales)[:2]

    values, errors = repeated(one, 100, 1)
    assert abs(values.mean() - truth) < 4 * values.std() / 10
    assert values.std() / 10 < 0.05 * truth  # sharp enough to tell
    assert agrees(values, errors)


def test_mmd_at_the_null_is_zero_on_average_and_its_error_bar_is_safe() -> None:
    found = [mmd(normal(100, 2, g), normal(150, 2, g), 1.0) for g in map(generator, range(200))]
    values, errors, chances = torch.tensor(found, dtype=torch.float64).unbind(1)
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(200)
    assert values.min() < 0 < values.max()
    assert agrees(values, chances)
    assert safe(values, errors, 2.2)  # no less than √3 times the spread at P = Q
    assert bool((errors >= math.sqrt(3) * chances * (1 - 1e-9)).all())


@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_mmd_by_brute_force(shift: float) -> None:
    g = generator(3)
    x, y = normal(6, 3, g), normal(5, 3, g) + shift

    def k(a: Tensor, b: Tensor) -> float:
        return sum(math.exp(-float((a - b).square().sum()) / (2 * (0.9 * s) ** 2)) for s in (1.0, 2.0)) / 2

    def plain(x: list[Tensor], y: list[Tensor]) -> float:
        n, m = len(x), len(y)
        within_x = sum(k(a, b) for a, b in itertools.permutations(x, 2)) / (n * (n - 1))
        within_y = sum(k(a, b) for a, b in itertools.permutations(y, 2)) / (m * (m - 1))
        return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)

    value, stderr, chance = mmd(x, y, 0.9, (1.0, 2.0))
    assert value == pytest.approx(plain(list(x), list(y)), rel=1e-12)

    def second_order(rows: Tensor, columns: Tensor, same: bool) -> float:
        """Mean square over pairs of the kernel less its row's and column's means plus the mean of all."""
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(columns)) if not (same and i == j)]
        table = {(i, j): k(rows[i], columns[j]) for i, j in pairs}
        row = {i: sum(v for (a, _), v in table.items() if a == i) / (len(columns) - same) for i in range(len(rows))}
        column = {j: sum(v for (_, b), v in table.items() if b == j) / (len(rows) - same) for j in range(len(columns))}
        mean = sum(table.values()) / len(table)
        return sum((v - row[i] - column[j] + mean) ** 2 for (i, j), v in table.items()) / len(table)

    jackknife = 0.0
    for left_out in (
        [plain([*x[:i], *x[i + 1 :]], list(y)) for i in range(6)],
        [plain(list(x), [*y[:i], *y[i + 1 :]]) for i in range(5)],
    ):
        n, mean = len(left_out), sum(left_out) / len(left_out)
        jackknife += (n - 1) / n * sum((v - mean) ** 2 for v in left_out)
    second = 2 * second_order(x, x, True) / 30 + 2 * second_order(y, y, True) / 20 + 4 * second_order(x, y, False) / 30
    assert chance == pytest.approx(math.sqrt(second), rel=1e-10)
    assert stderr == pytest.approx(math.sqrt(max(jackknife, 3 * second)), rel=1e-10)
    assert (jackknife > 3 * second) == (shift > 1)  # either is seen


def test_mmd_moves_with_the_data_and_scales_with_the_bandwidth() -> None:
    g = generator(4)
    x, y = normal(80, 2, g), normal(70, 2, g) * 1.5
    value, stderr, chance = mmd(x, y, 0.7)
    for other in (
        mmd(y, x, 0.7),
        mmd(x @ rotation(0.4), y @ rotation(0.4), 0.7),
        mmd(x + 1e6, y + 1e6, 0.7),
        mmd(x * 1e-8, y * 1e-8, 0.7e-8),
        mmd(x * 1e-8, y * 1e-8, 0.35e-8, (2.0,)),
        mmd(x.flip(0), y.flip(0), 0.7),
    ):
        assert other == pytest.approx((value, stderr, chance), rel=1e-7)
    assert mmd(x, y, 1.4)[0] != pytest.approx(value, rel=0.1)


def test_the_median_distance() -> None:
    assert median_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]], dtype=torch.float64)) == pytest.approx(
        math.sqrt(18)
    )


# -------------------------------------------------------------------------------------------------- sliced wasserstein


def test_sliced_wasserstein_of_a_shift_is_its_closed_form() -> None:
    g = generator(10)
    for d in (2, 5):
        x, shift = normal(400, d, g), torch.arange(1, d + 1, dtype=torch.float64)
        theta = random_directions(2000, d, g)
        sliced = sliced_wasserstein(x, x + shift, theta, 2)
        assert sliced.value**2 == pytest.approx(float((theta @ shift).square().mean()), rel=1e-12)
        assert (
            abs(sliced.value - math.sqrt(float(shift @ shift) / d)) < 4 * sliced.stderr_directions < 0.1 * sliced.value
        )
        assert sliced_wasserstein(x, x + shift, theta, 1).value == pytest.approx(
            float((theta @ shift).abs().mean()), rel=1e-12
        )


def test_sliced_wasserstein_of_gaussians_is_its_closed_form() -> None:
    g = generator(11)
    theta = random_directions(100, 2, g)
    x, y = normal(20000, 2, g) @ ROOT.T, normal(20000, 2, g) @ OTHER.T + SHIFT
    sliced = sliced_wasserstein(x, y, theta, 2)
    spread, other_spread = (torch.linalg.vector_norm(theta @ root, dim=1) for root in (ROOT, OTHER))
    truth = float(((theta @ SHIFT).square() + (spread - other_spread).square()).mean().sqrt())
    assert abs(sliced.value - truth) < 4 * sliced.stderr_points < 0.1 * truth


@pytest.mark.parametrize("p", [1, 2])
def test_sliced_wasserstein_is_the_exact_distance_on_each_line(p: int) -> None:
    g = generator(12)
    x, y, theta = normal(40, 3, g), 2 * normal(40, 3, g) + 1, random_directions(4, 3, g)
    each = [wasserstein((x @ t)[:, None], (y @ t)[:, None], p)[0] ** p for t in theta]
    assert sliced_wasserstein(x, y, theta, p).value == pytest.approx((sum(each) / 4) ** (1 / p), rel=1e-10)
    if p == 1:
        assert sum(each) == pytest.approx(
            sum(wasserstein_distance((x @ t).numpy(), (y @ t).numpy()) for t in theta), rel=1e-10
        )


@pytest.mark.parametrize("p", [1, 2])
def test_the_potential_is_dual_to_the_plan(p: int) -> None:
    g = generator(13)
    u, v = (normal(3, 30, g) * scale for scale in (1.0, 1.7))
    u, v = u.sort(dim=1).values, v.sort(dim=1).values
    cost = (u - v).abs() ** p
    f = sliced_module._potential(u, v, cost, p)
    slack = (u[:, :, None] - v[:, None, :]).abs() ** p - f[:, :, None] - (cost - f)[:, None, :]
    assert slack.min() > -1e-12  # f_i + g_j <= |u_i - v_j|^p
    steps = torch.minimum(slack.diagonal(1, 1, 2), slack.diagonal(-1, 1, 2))
    assert torch.allclose(
        slack.diagonal(1, 1, 2), slack.diagonal(-1, 1, 2), atol=1e-12
    )  # the middle of what is allowed
    assert steps.max() > 0.01


@pytest.mark.parametrize("p", [1, 2])
def test_the_error_bar_of_sliced_wasserstein_is_its_spread(p: int) -> None:
    def one(g: torch.Generator) -> tuple[float, float]:
        x, y = 1.5 * normal(150, 2, g) @ ROOT.T + SHIFT, normal(150, 2, g)
        sliced = sliced_wasserstein(x, y, random_directions(6, 2, g), p)
        return sliced.value, math.hypot(sliced.stderr_points, sliced.stderr_directions)

    assert agrees(*repeated(one, 200, 14))


def test_the_two_parts_of_the_sliced_error_bar() -> None:
    fixed = random_directions(20, 2, generator(15))

    def points(g: torch.Generator) -> tuple[float, float]:
        sliced = sliced_wasserstein(2 * normal(150, 2, g) + 1, normal(150, 2, g), fixed, 2)
        return sliced.value, sliced.stderr_points

    x, y = 2 * normal(150, 2, generator(16)) + 1, normal(150, 2, generator(17))

    def directions(g: torch.Generator) -> tuple[float, float]:
        sliced = sliced_wasserstein(x, y, random_directions(20, 2, g), 2)
        return sliced.value, sliced.stderr_directions

    assert agrees(*repeated(points, 150, 18))
    assert agrees(*repeated(directions, 150, 19))


@pytest.mark.parametrize("p", [1, 2])
def test_the_sliced_error_bar_is_safe_at_the_floor(p: int) -> None:
    def one(g: torch.Generator) -> tuple[float, float]:
        sliced = sliced_wasserstein(normal(100, 2, g), normal(100, 2, g), random_directions(20, 2, g), p)
        return sliced.value, math.hypot(sliced.stderr_points, sliced.stderr_directions)

    assert safe(*repeated(one, 150, 20), at_most=1.5)


def test_sliced_wasserstein_moves_and_scales_with_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    g = generator(21)
    x, y, theta = normal(50, 2, g), 1.5 * normal(50, 2, g) + 0.3, random_directions(30, 2, g)
    for p in (1, 2):
        first = sliced_wasserstein(x, y, theta, p)
        numbers = (first.value, first.stderr_points, first.stderr_directions)
        turned = rotation(0.7)
        same = [
            (sliced_wasserstein(y, x, theta, p), 1),
            (sliced_wasserstein(x + 5, y + 5, theta, p), 1),
            (sliced_wasserstein(x @ turned.T, y @ turned.T, theta @ turned.T, p), 1),
            (sliced_wasserstein(1e6 * x, 1e6 * y, theta, p), 1e6),
            (sliced_wasserstein(x.flip(0), y[torch.randperm(50, generator=g)], theta, p), 1),
        ]
        monkeypatch.setattr(sliced_module, "CHUNK", 350)
        same.append((sliced_wasserstein(x, y, theta, p), 1))
        monkeypatch.undo()
        for other, factor in same:
            expected = [factor * number for number in numbers]
            assert [other.value, other.stderr_points, other.stderr_directions] == pytest.approx(expected, rel=1e-9)
    again = sliced_wasserstein(x, x.clone(), theta, 2)
    assert (again.value, again.stderr_points, again.stderr_directions) == (0, 0, 0)
    assert sliced_wasserstein(x, x.flip(0), theta, 2).value == pytest.approx(0, abs=1e-12)


def test_directions_are_uniform_on_the_sphere() -> None:
    theta = random_directions(20000, 3, generator(22))
    assert torch.allclose(theta.norm(dim=1), torch.ones(20000, dtype=torch.float64))
    second = theta.T @ theta / 20000
    assert (second.diagonal() - 1 / 3).abs().max() < 4 * math.sqrt(4 / 45 / 20000)
    assert (theta.pow(4).mean(0) - 1 / 5).abs().max() < 4 * math.sqrt((1 / 9 - 1 / 25) / 20000)
    assert random_directions(50, 1, generator(0)).tolist() == [[1.0]]


# --------------------------------------------------------------------------------------------------------- wasserstein


def test_wasserstein_of_gaussians_on_a_line_is_its_closed_form() -> None:
    g = generator(30)
    value, stderr = wasserstein(2 * normal(1000, 1, g) + 1, normal(1000, 1, g) - 0.5, 2)
    assert abs(value - math.sqrt(1.5**2 + 1)) < 4 * stderr < 0.2 * value
    value, stderr = wasserstein(normal(800, 1, g) + 2, normal(800, 1, g), 1)
    assert abs(value - 2) < 4 * stderr < 0.3 * value


def test_the_gradient_of_a_convex_function_is_optimal() -> None:
    x = normal(300, 2, generator(31))
    stretch = torch.tensor([[2.0, 0.4], [0.4, 0.5]], dtype=torch.float64)  # symmetric, positive definite
    expected = math.sqrt(float((x - x @ stretch).square().sum(1).mean()))
    order = torch.randperm(300, generator=generator(32))
    assert wasserstein(x, (x @ stretch)[order], 2)[0] == pytest.approx(expected, rel=1e-12)
    turn = rotation(2.0)  # not the gradient of one
    assert wasserstein(x, x @ turn, 2)[0] < 0.9 * math.sqrt(float((x - x @ turn).square().sum(1).mean()))


@pytest.mark.parametrize("p", [1, 2])
def test_wasserstein_by_brute_force(p: int) -> None:
    g = generator(33)
    x, y = normal(6, 3, g), normal(6, 3, g) + 0.5
    cost = torch.cdist(x, y) ** p
    best = min(sum(float(cost[i, j]) for i, j in enumerate(order)) / 6 for order in itertools.permutations(range(6)))
    assert wasserstein(x, y, p)[0] == pytest.approx(best ** (1 / p), rel=1e-10)
    z = normal(3, 3, g)
    assert wasserstein(x, z, p)[0] == pytest.approx(wasserstein(x, z.repeat(2, 1), p)[0], rel=1e-10)


@pytest.mark.parametrize("d, p", [(1, 2), (2, 1), (2, 2)])
def test_the_error_bar_of_wasserstein_is_its_spread(d: int, p: int) -> None:
    def one(g: torch.Generator) -> tuple[float, float]:
        return wasserstein(1.7 * normal(100, d, g) + 0.8, normal(100, d, g), p)

    assert agrees(*repeated(one, 200, 34))


def test_the_error_bar_of_wasserstein_between_unequal_numbers_of_rows() -> None:
    assert agrees(*repeated(lambda g: wasserstein(0.5 * normal(60, 1, g) + 1.5, normal(200, 1, g), 2), 200, 35))


def test_the_error_bar_of_wasserstein_is_safe_at_the_floor() -> None:
    assert safe(*repeated(lambda g: wasserstein(normal(60, 2, g), normal(60, 2, g), 2), 100, 36), at_most=1.5)


def test_wasserstein_moves_and_scales_with_the_data() -> None:
    g = generator(37)
    x, y = normal(120, 2, g), 1.5 * normal(120, 2, g) + 0.3
    for p in (1, 2):
        value, stderr = wasserstein(x, y, p)
        turn = rotation(1.0)
        for (a, b), factor in (
            ((y, x), 1), ((x + 1e6, y + 1e6), 1), ((x @ turn, y @ turn), 1),
            ((x * 1e-9, y * 1e-9), 1e-9), ((x * 1e9, y * 1e9), 1e9), ((x.flip(0), y), 1),
        ):  # fmt: skip
            # which of several optimal duals is found depends on rounding: the error bar is compared loosely
            other, other_error = wasserstein(a, b, p)
            assert other == pytest.approx(factor * value, rel=1e-6, abs=0)
            assert other_error == pytest.approx(factor * stderr, rel=0.2, abs=0)
        exact = wasserstein(x * 2.0**-30, y * 2.0**-30, p)
        assert exact == pytest.approx((value * 2.0**-30, stderr * 2.0**-30), rel=1e-9, abs=0)
    assert wasserstein(x, x.flip(0), 2) == (0.0, 0.0)


def test_a_transport_that_is_not_found_is_a_failure_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    x, y = normal(200, 2, generator(38)), normal(200, 2, generator(39))
    monkeypatch.setattr(wasserstein_module, "MOST_PIVOTS", 3)
    with pytest.raises(RunFailed, match="take fewer samples"):
        wasserstein(x, y, 2)
    assert not recwarn.list


def test_without_pot_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(RunFailed, match=r"pip install 'driftspec\[ot\]'"):
        wasserstein(torch.zeros(4, 1), torch.ones(4, 1), 2)


# ------------------------------------------------------------------------------------------------------------- moments


def test_moments_are_the_sample_moments_and_their_errors_the_gaussian_ones() -> None:
    g = generator(40)
    x, y = normal(40000, 2, g) @ ROOT.T + 3, normal(30000, 2, g) @ OTHER.T
    compared = moments(x, y, ("a", "b"))
    assert list(compared) == ["mean a", "mean b", "variance a", "covariance a b", "variance b"]
    for rows, which, root in ((x, "value", ROOT), (y, "reference", OTHER)):
        covariance = torch.cov(rows.T)
        expected = [*rows.mean(0), covariance[0, 0], covariance[0, 1], covariance[1, 1]]
        assert [getattr(moment, which) for moment in compared.values()] == pytest.approx([float(e) for e in expected])
        true = root @ root.T
        pairs = [(0, 0), (0, 1), (1, 1)]
        errors = [float(true[i, i]) for i in (0, 1)] + [
            float(true[i, i] * true[j, j] + true[i, j] ** 2) for i, j in pairs
        ]
        assert estimates(rows)[1].square().mul(len(rows)).tolist() == pytest.approx(errors, rel=0.05)
    for moment in compared.values():
        assert moment.z == pytest.approx((moment.value - moment.reference) / moment.stderr)
    combined = (estimates(x)[1].square() + estimates(y)[1].square()).sqrt()
    assert [moment.stderr for moment in compared.values()] == pytest.approx(combined.tolist())
    assert largest(compared) == max(abs(moment.z) for moment in compared.values())


def test_z_scores_at_the_null_have_mean_zero_and_variance_one() -> None:
    g, z = generator(41), []
    for _ in range(300):
        compared = moments(normal(300, 3, g) + 1, normal(200, 3, g) + 1, ("a", "b", "c"))
        z.append([moment.z for moment in compared.values()])
    scores = torch.tensor(z, dtype=torch.float64)
    assert scores.shape == (300, 9)
    assert scores.mean(0).abs().max() < 4 / math.sqrt(300)
    assert (scores.var(0) - 1).abs().max() < 4 * math.sqrt(2 / 300)


def test_one_wrong_moment_stands_out() -> None:
    g = generator(42)
    x, y = normal(2000, 2, g), normal(2000, 2, g)
    for change, name in (
        (x + torch.tensor([0.0, 0.2]), "mean b"),
        (x @ ROOT.T, "covariance a b"),
        (x * torch.tensor([1.2, 1.0]), "variance a"),
    ):
        compared = moments(change, y, ("a", "b"))
        assert max(compared, key=lambda key: abs(compared[key].z)) == name
        assert abs(compared[name].z) > 5
    assert largest(moments(x, y, ("a", "b"))) < 4


def test_z_scores_do_not_move_or_scale_with_the_data() -> None:
    g = generator(43)
    x, y = normal(100, 2, g), normal(120, 2, g)
    z = [moment.z for moment in moments(x, y, "ab").values()]
    for change in (lambda rows: rows + 1e5, lambda rows: rows * 1e-7, lambda rows: rows.flip(0)):
        assert [moment.z for moment in moments(change(x), change(y), "ab").values()] == pytest.approx(z, rel=1e-6)


def test_a_column_that_is_constant_on_both_sides_has_finite_scores() -> None:
    g = generator(44)
    for constant in (0.0, 0.1, 1e6):
        x, y = (torch.cat((normal(n, 1, g), torch.full((n, 1), constant, dtype=torch.float64)), 1) for n in (100, 130))
        assert largest(moments(x, y, "ab")) < 50
        assert math.isfinite(largest(moments(x, y + torch.tensor([0.0, 1.0]), "ab")))
        assert largest(moments(x, y + torch.tensor([0.0, 1.0]), "ab")) > 1e6


# -------------------------------------------------------------------------------------------------- through a metric


def evaluation(
    drawn: Tensor, *, known: bool = True, rows: Tensor | None = None, test: int = 400, stream: str = "metric"
) -> Evaluation:
    """An evaluation of these draws against N(0, I), drawn from (`known`) or in rows as a table has them."""
    d = drawn.shape[1]
    data = Data.make({"type": "gaussian", "mean": [0.0] * d, "samples": 2000})
    rows = normal(2000, d, generator(50)) if rows is None else rows
    dataset = Dataset(rows[test:], rows[:0], rows[:test], tuple(f"x{i + 1}" for i in range(d)), Transform.identity(d))
    return tiny.scene(Draws(drawn[:, None, :]), dataset, stream, data=data if known else SimpleNamespace())


def metric(name: str, **keys: Any) -> Metric:
    return Metric.make({"type": name, **keys})


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_tells_its_floor_and_stays_near_it_for_a_perfect_model(name: str) -> None:
    one = metric(name, samples=500)
    result = one.measure(evaluation(normal(800, 2, generator(51))))
    assert isinstance(result, Measured) and result.n == 500
    assert result.details["against"] == 500 and bool(result.unit) is (name != "mmd")
    assert math.isfinite(result.value) and result.details["floor"] is not None
    json.dumps(dict(result.details), allow_nan=False)
    shifted = one.measure(evaluation(normal(800, 2, generator(51)) + 0.6))
    if result.stderr is None:
        assert name == "moments" and result.stderr_reason and result.value < 4 < shifted.value
    else:
        assert abs(result.value - result.details["floor"]) < 4 * math.sqrt(2) * result.stderr
        assert shifted.stderr is not None and shifted.value - result.value > 4 * shifted.stderr
    assert shifted.details["floor"] == result.details["floor"]  # the draws have no part in it
    assert [need.kind for need in one.needs()] == ["data"]
    assert one.draws_wanted == "samples"


@pytest.mark.parametrize("name", NAMES)
def test_only_the_first_draws_are_read_and_the_answer_repeats(name: str) -> None:
    drawn = normal(300, 2, generator(52))
    changed = torch.cat((drawn[:100], drawn[100:] + 9))
    one = metric(name, samples=100)
    assert one.measure(evaluation(drawn)) == one.measure(evaluation(changed))
    assert one.measure(evaluation(drawn)) != one.measure(evaluation(drawn, stream="other"))


@pytest.mark.parametrize("name", NAMES)
def test_against_a_table_with_few_test_rows(name: str) -> None:
    result = metric(name, samples=100).measure(evaluation(normal(100, 2, generator(53)), known=False, test=60))
    assert result.details["against"] == 60 and result.details["floor"] is not None
    assert result.n == (
        60 if "wasserstein" in name else 100
    )  # value and floor of one size where the bias depends on it


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_compared_is_a_failure(name: str) -> None:
    drawn = normal(100, 2, generator(54))
    with pytest.raises(RunFailed, match=f"metric '{name}' compares at least 4 rows, and there are 3 data rows"):
        metric(name, samples=50).measure(evaluation(drawn, known=False, test=3))
    drawn[5, 0], drawn[6, 1], drawn[7] = math.inf, math.nan, math.nan
    with pytest.raises(RunFailed, match=f"metric '{name}': 3 of 50 draws are not finite"):
        metric(name, samples=50).measure(evaluation(drawn))
    line = normal(100, 1, generator(54))
    line[9] = -math.inf
    with pytest.raises(RunFailed, match="1 of 50 draws are not finite"):
        metric(name, samples=50).measure(evaluation(line))


def test_the_bandwidth_is_given_or_the_median_distance_of_training_rows() -> None:
    scene = evaluation(normal(100, 2, generator(55)))
    found = metric("mmd", samples=100).measure(scene)
    expected = median_distance(scene.dataset.train[:1000])
    assert found.details["bandwidth"] == expected and "1000 training rows" in found.details["bandwidth_from"]
    given = metric("mmd", samples=100, bandwidth=expected).measure(scene)
    assert (given.value, given.stderr) == (found.value, found.stderr)
    assert metric("mmd", samples=100, bandwidth=0.3).measure(scene).value != found.value
    mixture = metric("mmd", samples=100, bandwidth=0.3, scales=[1.0, 4.0]).measure(scene)
    alone = [metric("mmd", samples=100, bandwidth=h).measure(scene) for h in (0.3, 1.2)]
    assert mixture.value == pytest.approx(sum(one.value for one in alone) / 2)
    assert mixture.details["floor"] == pytest.approx(sum(one.details["floor"] for one in alone) / 2)
    with pytest.raises(RunFailed, match="give a bandwidth"):
        metric("mmd", samples=100).measure(evaluation(normal(100, 1, generator(0)), rows=torch.zeros(2000, 1).double()))


def test_sliced_wasserstein_takes_one_direction_where_there_is_one() -> None:
    scene = evaluation(2 * normal(300, 1, generator(56)))
    sliced, exact = (
        metric("sliced_wasserstein", samples=300).measure(scene),
        metric("wasserstein", samples=300).measure(scene),
    )
    assert sliced.details["directions"] == 1 and sliced.details["stderr_directions"] == 0
    assert sliced.value == pytest.approx(exact.value, rel=1e-9)
    assert sliced.details["floor"] == pytest.approx(exact.details["floor"], rel=1e-9)
    assert sliced.stderr == pytest.approx(exact.stderr, rel=0.1)
    plane = metric("sliced_wasserstein", samples=300, directions=70).measure(evaluation(normal(300, 2, generator(57))))
    assert plane.details["directions"] == 70
    parts = plane.details["stderr_points"], plane.details["stderr_directions"]
    assert min(parts) > 0 and plane.stderr == pytest.approx(math.hypot(*parts))


@pytest.mark.parametrize("name", ["sliced_wasserstein", "wasserstein"])
def test_the_power_is_a_key(name: str) -> None:
    scene = evaluation(
        torch.cat((normal(200, 2, generator(58)), normal(200, 2, generator(59)) * 3))[torch.randperm(400)]
    )
    first, second = (metric(name, samples=100, p=p).measure(scene) for p in (1, 2))
    assert first.value < second.value and first.details["floor"] < second.details["floor"]  # Jensen
    with pytest.raises(ValidationError):
        metric(name, p=3)


def test_moments_of_named_columns() -> None:
    drawn = normal(400, 3, generator(60)) + torch.tensor([0.0, 2.0, 0.0])
    result = metric("moments", samples=400, of=["x3", "x1"]).measure(evaluation(drawn))
    assert list(result.details["moments"]) == ["mean x3", "mean x1", "variance x3", "covariance x3 x1", "variance x1"]
    assert result.details["moments"]["mean x3"]["value"] == pytest.approx(float(drawn[:, 2].mean()))
    assert result.value < 4
    everything = metric("moments", samples=400).measure(evaluation(drawn))
    assert everything.details["worst"] == "mean x2" and len(everything.details["moments"]) == 9
    assert everything.value == abs(everything.details["moments"]["mean x2"]["z"]) > 20
    with pytest.raises(RunFailed, match=r"no column 'X2'; one of x1, x2, x3 \(did you mean 'x2'\?\)"):
        metric("moments", samples=400, of=["X2"]).measure(evaluation(drawn))


@pytest.mark.parametrize(
    "keys",
    [
        {"type": "mmd", "bandwidth": 0},
        {"type": "mmd", "scales": []},
        {"type": "mmd", "scales": [1.0, -1.0]},
        {"type": "sliced_wasserstein", "directions": 1},
        {"type": "moments", "of": []},
        {"type": "wasserstein", "samples": 5},
    ],
)
def test_a_key_out_of_range_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Metric.make(keys)


def test_every_key_is_described_and_reading_a_spec_imports_neither_torch_nor_pot() -> None:
    for name in NAMES:
        assert all(field.description for field in type(metric(name)).model_fields.values())
    code = (
        "import sys; from driftspec.components import Metric\n"
        f"for name in {NAMES}: Metric.make(name)\n"
        "assert not {'torch', 'ot', 'numpy', 'scipy'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_cost_matrix_above_2_gb_is_refused_and_another_metric_named() -> None:
    around: Any = None
    for samples, refused in ((15_811, False), (15_812, True)):
        found = list(wasserstein_module.Wasserstein(samples=samples).problems(around))
        assert [key for key, _ in found] == ["samples"] * refused
    assert "2 GB (15811 samples): sliced_wasserstein" in found[0][1]
