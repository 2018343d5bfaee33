"""The density of an SDE on a grid, beside closed forms and beside particles; and what it asks of a score."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.integrate import simpson
from scipy.linalg import expm, solve_continuous_lyapunov

from driftspec.errors import RunFailed
from driftspec_plugins.metrics import _fokker_planck as fp
from driftspec_plugins.metrics._fokker_planck import Grid


def normal(x: Any, mean: Any, covariance: Any) -> Any:
    """Density (n,) at x (n, d)."""
    covariance = np.atleast_2d(covariance)
    off = x - np.atleast_1d(mean)
    power = (off @ np.linalg.inv(covariance) * off).sum(1) / 2
    return np.exp(-power) / math.sqrt(np.linalg.det(2 * math.pi * covariance))


def pull(x: Any) -> Any:
    """-½ U' of U = 2 (x² - 1)²."""
    return -4 * x * (x * x - 1)


def solved(grid: Grid, drift: Any, g: float, start: Any, times: list[float], tolerance: float = 1e-6) -> Any:
    rate = fp.Rate(grid, lambda t, x: drift(x), lambda t: g)
    return fp.evolve(rate, grid.volume, start, times, tolerance).densities


# --------------------------------------------------------------------------------------------------------- the solver


def test_ornstein_uhlenbeck_has_its_moments_and_conserves_mass() -> None:
    theta, std, mean, variance = 0.8, 1.3, 1.5, 0.3
    grid, g = Grid(((-7.0, 7.0),), (280,)), math.sqrt(2 * theta) * std
    start = normal(grid.points(), mean, variance)
    times = [0.2, 0.7, 3.0]
    for t, p in zip(times, solved(grid, lambda x: -theta * x, g, start, times)):
        m, v = grid.moments(p)
        decay = math.exp(-theta * t)
        assert m[0] == pytest.approx(decay * mean, rel=1e-3)
        assert v[0, 0] == pytest.approx(decay**2 * variance + std**2 * (1 - decay**2), rel=1e-3)
        assert abs(grid.mass(p) - grid.mass(start)) < 1e-10
        exact = normal(grid.points(), decay * mean, decay**2 * variance + std**2 * (1 - decay**2))
        assert np.abs(p - exact).sum() * grid.volume < 2e-3


def test_the_order_in_the_grid_is_two() -> None:
    theta, g, errors, cells = 0.7, 1.1, [], [24, 48, 96, 192]
    for n in cells:
        grid = Grid(((-6.0, 6.0),), (n,))
        p = solved(grid, lambda x: -theta * x, g, normal(grid.points(), 1.2, 0.5), [0.6], 1e-8)[0]
        decay = math.exp(-theta * 0.6)
        exact = normal(grid.points(), 1.2 * decay, decay**2 * 0.5 + g * g / (2 * theta) * (1 - decay**2))
        errors.append(np.abs(p - exact).sum() * grid.volume)
    assert abs(-np.polyfit(np.log(cells), np.log(errors), 1)[0] - 2) < 0.3
    assert errors[-1] < 1e-3


def test_the_order_in_time_is_two_also_where_the_sde_depends_on_time() -> None:
    """dx = -a(t) x dt + g(t) dw: against the same grid at 2,048 steps, so that the grid's own error is out."""
    grid = Grid(((-5.0, 5.0),), (80,))
    start, steps = normal(grid.points(), 1.0, 0.4), [8, 16, 32, 64]

    def rate() -> fp.Rate:
        return fp.Rate(grid, lambda t, x: -(0.4 + t * t) * x, lambda t: 0.6 + t)

    fine = fp.march(rate(), start, 0.0, 1.0, 2048)
    errors = [np.abs(fp.march(rate(), start, 0.0, 1.0, n) - fine).sum() * grid.volume for n in steps]
    assert abs(-np.polyfit(np.log(steps), np.log(errors), 1)[0] - 2) < 0.3
    # and the moments: m' = -a m, v' = -2 a v + g²
    total, clock = lambda t: 0.4 * t + t**3 / 3, np.linspace(0, 1, 4001)
    variance = math.exp(-2 * total(1)) * 0.4
    variance += simpson(np.exp(-2 * (total(1) - total(clock))) * (0.6 + clock) ** 2, x=clock)
    mean, covariance = grid.moments(fine)
    assert mean[0] == pytest.approx(math.exp(-total(1)), rel=5e-3)
    assert covariance[0, 0] == pytest.approx(variance, rel=5e-3)


@pytest.mark.parametrize("g", [1.0, 1.7])
def test_a_stationary_density_stands_still(g: float) -> None:
    """exp(-U) for f = -½ g² U', on cells so wide that a central difference would oscillate."""
    grid = Grid(((-2.5, 2.5),), (50,))
    x = grid.points()
    start = np.exp(-2 * (x[:, 0] ** 2 - 1) ** 2)
    start /= grid.mass(start)
    p = solved(grid, lambda x: g * g * pull(x), g, start, [1.0, 10.0])
    assert np.abs(p - start).max() < 1e-10


def test_a_stationary_density_in_the_plane_stands_still() -> None:
    precision = np.array([[2.0, 0.9], [0.9, 1.1]])
    grid = Grid(((-4.0, 4.0), (-5.0, 5.0)), (40, 50))
    start = normal(grid.points(), [0, 0], np.linalg.inv(precision))
    p = solved(grid, lambda x: -x @ precision * 0.605, 1.1, start, [3.0])
    assert np.abs(p - start).max() < 1e-10


def test_the_double_well_relaxes_as_it_should() -> None:
    grid = Grid(((-3.0, 3.0),), (400,))
    start = normal(grid.points(), -1.0, 0.04)
    above = [1 - grid.below(p, 0, 0.0) for p in solved(grid, pull, 1.0, start, [0.5, 2.0, 5.0])]
    assert above == pytest.approx([0.03750, 0.17084, 0.33354], abs=2e-4)
    wide, fine = (fp.gap(fp.generator(Grid(((-3.0, 3.0),), (n,)), pull, 1.0)) for n in (400, 800))
    assert (4 * fine - wide) / 3 == pytest.approx(0.22727, abs=5e-6)


def test_a_plane_with_a_drift_that_turns() -> None:
    """dx = M x dt + g dw, M neither symmetric nor normal: mean e^{Mt} m, covariance by Lyapunov's equation."""
    matrix, g = np.array([[-0.9, 0.8], [-1.1, -0.4]]), 0.9
    grid = Grid(((-5.0, 5.0), (-5.5, 5.5)), (100, 110))
    mean, covariance = np.array([1.0, -0.7]), np.array([[0.5, 0.2], [0.2, 0.4]])
    times = [0.4, 1.5]
    rest = solve_continuous_lyapunov(matrix, -g * g * np.eye(2))
    for t, p in zip(times, solved(grid, lambda x: x @ matrix.T, g, normal(grid.points(), mean, covariance), times, 1e-4)):
        power = expm(matrix * t)
        m, v = grid.moments(p)
        np.testing.assert_allclose(m, power @ mean, atol=5e-3)
        np.testing.assert_allclose(v, power @ (covariance - rest) @ power.T + rest, atol=6e-3)
        assert abs(grid.mass(p) - 1) < 1e-6


def test_columns_sum_to_nothing_and_no_rate_is_negative() -> None:
    grid = Grid(((-2.0, 3.0), (0.0, 1.0)), (7, 5))
    matrix = fp.generator(grid, lambda x: 40 * np.stack([x[:, 1] ** 2, -x[:, 0]], 1), 0.3).toarray()
    assert np.abs(matrix.sum(0)).max() < 1e-9 * np.abs(matrix).max()
    assert (matrix - np.diag(matrix.diagonal())).min() >= 0


def test_bernoulli_is_smooth_at_nothing_and_finite_far_out() -> None:
    v = np.array([0.0, 1e-6, -1e-6, 1e-4, 1.0, -1.0, 800.0, -800.0])
    exact = [1.0, 1 - 5e-7, 1 + 5e-7, 1 - 5e-5 + 1e-8 / 12, 1 / (math.e - 1), math.e / (math.e - 1), 0.0, 800.0]
    np.testing.assert_allclose(fp.bernoulli(v), exact, rtol=1e-11, atol=1e-200)


def test_what_cannot_be_solved_is_said() -> None:
    grid = Grid(((-1.0, 1.0),), (10,))
    with pytest.raises(RunFailed, match="above 0"):
        fp.generator(grid, pull, 0.0)
    with pytest.raises(RunFailed, match="not finite"):
        fp.generator(grid, lambda x: x * np.nan, 1.0)
    with pytest.raises(RunFailed, match="steps leave an error"):
        rate = fp.Rate(grid, lambda t, x: pull(x), lambda t: 1.0)
        fp.evolve(rate, grid.volume, normal(grid.points(), 0.0, 0.1), [1.0], 1e-15, most=64)
