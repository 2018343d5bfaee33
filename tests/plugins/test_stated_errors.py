"""Stated errors against errors made: neither ten times too small, nor a mean in place of the largest."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from problems import points
from scipy.special import ndtr
from tiny import flow_of
from torch import Tensor

from driftspec.accuracy import refinement
from driftspec.components import Solver, Trace
from driftspec.numerics import likelihood, transport
from driftspec.registry import installed
from driftspec.streams import Streams
from driftspec_plugins.metrics import _fokker_planck as fp
from driftspec_plugins.metrics import _fokker_planck_of_run as of_run
from driftspec_plugins.metrics import _fokker_planck_particles as particles
from driftspec_plugins.metrics import _log_z

STREAMS = Streams(0).under("test")
EXACT = Trace.make("exact_trace")

# Solvers -------------------------------------------------------------------------------------------------------------


def one_hard(t: Tensor, x: Tensor) -> Tensor:
    """sin 6 x in the third coordinate of five, and nothing in the others."""
    return torch.cat([0 * x[:, :2], torch.sin(6 * x[:, 2:3]), 0 * x[:, 3:]], 1)


def coarse(name: str) -> Solver:
    """A solver whose error is far above rounding."""
    found = Solver.make(name)
    keys = {"steps": 4, "tolerance": 1e9, "max_steps": 64} if found.start_steps() else {"rtol": 1e-2, "atol": 1e-2}
    return Solver.make({"type": name, **keys})


def differences(solver: Solver, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The states as first solved, their difference to the finer solve, and that of half the steps where N are taken."""
    velocity, steps = flow_of(one_hard, 5).velocity, solver.start_steps()
    other = solver if steps else solver.finer()
    assert other is not None
    with torch.no_grad():
        half, first, second = (
            using.solve(velocity, x, 0.0, 1.0, steps=None if steps is None else n).state
            for using, n in ((solver, (steps or 0) // 2), (solver, steps), (other, 2 * (steps or 0)))
        )
    return first, (second - first).abs(), (first - half).abs()


@pytest.mark.parametrize("name", installed().names("solver"))
def test_the_error_of_a_solve_is_that_of_its_worst_coordinate(name: str) -> None:
    """The whole difference from the finer solve, in the one coordinate that has any; or 1/64 of the one before it."""
    solver, x = coarse(name), points(refinement.BLOCK, 5)
    first, apart, before = differences(solver, x)
    assert float(apart[:, 2].max()) > 1e-7 and not bool(apart[:, [0, 1, 3, 4]].any())
    solved = transport.transport(flow_of(one_hard, 5), x, 0.0, 1.0, solver)
    expected = apart[:, 2].maximum(before[:, 2] / 64)
    torch.testing.assert_close(solved.error, expected, rtol=1e-6, atol=1e-12)
    if solver.start_steps() is None:
        truth = Solver.make({"type": "dopri8", "rtol": 1e-11, "atol": 1e-11})
        exact = truth.solve(flow_of(one_hard, 5).velocity, x, 0.0, 1.0).state.detach()
        made = (first - exact).abs().amax(1)
        assert float(solved.error.max()) > 0.5 * float(made.max())  # a tenth of the tolerance leaves a tenth of it


@pytest.mark.parametrize("name", ["lobatto", "rk4", "midpoint"])
def test_the_error_of_log_p_is_no_less_than_that_of_its_latent(name: str) -> None:
    solver, x = coarse(name), points(refinement.BLOCK, 5)
    scored = likelihood.log_prob(flow_of(one_hard, 5, (1.0, 0.0)), x, solver, EXACT, STREAMS)
    again = transport.transport(flow_of(one_hard, 5), x, 0.0, 1.0, solver)
    assert bool((scored.error >= again.error - 1e-9).all())


# The grid ------------------------------------------------------------------------------------------------------------


def ornstein_uhlenbeck(cells: int, d: int = 1, theta: float = 0.8) -> tuple[Any, dict[str, Any], fp.Grid]:
    """Densities and known errors at t = 0.7 of dx = -θ x dt + dw from N(1.2, 0.3 I), as the metric has them."""
    grid = fp.Grid(((-4.0, 4.5),) * d, (cells,) * d)

    def law(x: Any) -> Any:
        return np.exp(-((x - 1.2) ** 2).sum(1) / 0.6) / (0.6 * math.pi) ** (d / 2)

    equation = of_run.Equation("a metric", lambda t, x: -theta * x, lambda t: 1.0, law)
    densities, known, _ = of_run.solve(equation, grid, [0.7])
    return densities[0], known, grid


@pytest.mark.parametrize(("cells", "d"), [(24, 1), (20, 2)])
def test_the_error_of_the_grid_is_the_one_it_makes(cells: int, d: int) -> None:
    """In the distribution function along an axis, against the closed form: stated within a factor of 2."""
    p, known, grid = ornstein_uhlenbeck(cells, d)
    decay = math.exp(-0.8 * 0.7)
    deviation = math.sqrt(decay**2 * 0.3 + (1 - decay**2) / 1.6)
    at = grid.coarser().edges(0)
    made = float(np.abs(grid.below(p, 0, at) - ndtr((at - 1.2 * decay) / deviation)).max())
    assert 0.5 < known["grid_error"] / made < 2
    assert known["time_error"] < 1e-5


def test_the_error_of_times_steps_is_the_one_they_make() -> None:
    """As a total variation distance, against many more steps: stated within a factor of 2."""
    grid = fp.Grid(((-4.0, 4.5),), (40,))
    rate = fp.Rate(grid, lambda t, x: -(0.4 + t) * x, lambda t: 1.0)
    start = np.exp(-((grid.points()[:, 0] - 1.2) ** 2) / 0.6) / math.sqrt(0.6 * math.pi)
    found = fp.evolve(rate, grid.volume, start, [0.5, 1.0], tolerance=3e-4, steps=2)
    fine = [fp.march(rate, start, 0.0, t, 100) for t in (0.5, 1.0)]
    made = max(float(np.abs(p - q).sum()) * grid.volume / 2 for p, q in zip(found.densities, fine))
    assert 1e-6 < made < 3e-4
    assert 0.5 < found.error / made < 2


def test_the_bias_of_a_step_has_the_error_of_two_runs() -> None:
    """2 (a - b) of independent a and b, each with the standard error s: 2 √2 s."""
    entry = particles.entry((0.5, 0.4, 0.03), (0.45, 0.4, 0.03))
    assert entry["step_bias"] == pytest.approx(0.1) and entry["z"] == pytest.approx(0.1 / 0.03)
    assert entry["step_bias_stderr"] == pytest.approx(2 * math.hypot(0.03, 0.03))


# Quadrature ----------------------------------------------------------------------------------------------------------


def test_the_error_of_quadrature_is_what_the_last_halving_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after one halving: Σ |halves - whole| over the cells, each by a rule of 8 points, in shares of Z."""
    monkeypatch.setattr(_log_z, "MOST", 0)

    def log_f(x: Tensor) -> Tensor:
        return -(x[:, 0] * 7).square() / 2 + torch.cos(40 * x[:, 0])

    found = _log_z.quadrature(log_f, 1, torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
    (low, high), nodes = found.details["box"][0], np.polynomial.legendre.leggauss(8)

    def cells(n: int) -> Any:
        edges = np.linspace(low, high, n + 1)
        half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
        x = torch.from_numpy(middle[:, None] + half[:, None] * nodes[0])
        return (half[:, None] * nodes[1] * log_f(x.reshape(-1, 1)).exp().numpy().reshape(n, 8)).sum(1)

    halves = cells(32).reshape(16, 2).sum(1)
    assert found.value == pytest.approx(math.log(halves.sum()), abs=1e-12)
    expected = float(np.abs(halves - cells(16)).sum() / halves.sum())
    assert found.details["error"] == pytest.approx(expected, rel=1e-6) and expected > 1e-4
