"""The density of an SDE on a grid, beside closed forms and beside particles; and what it asks of a score."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from problems import points
from scipy.integrate import simpson
from scipy.linalg import expm, solve_continuous_lyapunov
from scipy.special import ndtr
from scipy.stats import norm
from torch import Tensor, nn

from driftspec.cli import main
from driftspec.components import Dynamics, Line, Map, Measured, Metric, Model, Sampler, Setting
from driftspec.errors import RunFailed
from driftspec.experiment.evaluate import as_json, evaluation_of, sample
from driftspec.numerics.chains import Noise
from driftspec.numerics.model import BoundModel
from driftspec.report import plots
from driftspec.spec.fits import check
from driftspec.streams import Streams
from driftspec_plugins.metrics import _fokker_planck as fp
from driftspec_plugins.metrics._fokker_planck import Grid
from driftspec_plugins.metrics._fokker_planck_particles import compare
from driftspec_plugins.metrics.score_fokker_planck import residual

SPECS = Path(__file__).parents[2] / "specs"
WELL = (SPECS / "fokker_planck_double_well.yaml").read_text()
OU = (SPECS / "fokker_planck_ou.yaml").read_text()
FEW = "sample.count=3000"


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
    theta, g, errors, cells = 0.7, 1.1, [], [20, 40, 80, 160]
    for n in cells:
        grid = Grid(((-6.0, 6.0),), (n,))
        p = solved(grid, lambda x: -theta * x, g, normal(grid.points(), 1.2, 0.5), [0.6], 1e-7)[0]
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
    for t, p in zip(
        times, solved(grid, lambda x: x @ matrix.T, g, normal(grid.points(), mean, covariance), times, 1e-4)
    ):
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


# ------------------------------------------------------------------------------------------------- samplers with a time


class _Normal(nn.Module):
    """The score of N(α m, (α² v + σ²) I)."""

    def __init__(self, dynamics: Any, mean: float = 0.8, variance: float = 0.7):
        super().__init__()
        self.dynamics, self.mean, self.variance = dynamics, mean, variance
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        alpha, sigma = (v if v.dim() == 0 else v[:, None] for v in self.dynamics.kernel(t))
        return -self.one * (x - alpha * self.mean) / (alpha**2 * self.variance + sigma**2)


def known(body: dict[str, Any], d: int = 1, rows: Tensor | None = None, **keys: float) -> Model:
    dynamics: Any = Dynamics.make({"predicts": "score", **body})
    return BoundModel(dynamics, _Normal(dynamics, **keys), d, rows=None if rows is None else lambda: rows)


OU_BODY = {"type": "ornstein_uhlenbeck", "theta": 0.7, "std": 1.5, "duration": 4.0}
SAMPLERS: list[dict[str, Any]] = [
    {"type": "langevin", "step": 0.2, "steps": 20},
    {"type": "euler_maruyama", "steps": 20},
    {"type": "euler_maruyama", "steps": 20, "direction": "forward"},
]


@pytest.mark.parametrize("body", SAMPLERS, ids=["langevin", "reverse", "forward"])
def test_states_on_the_way_are_those_of_the_draw(body: dict[str, Any]) -> None:
    model, sampler = known(OU_BODY, 2, points(300, 2)), Sampler.make(body)
    states = sampler.states(model, 270, Streams(1), [1, 7, 20])
    assert states.shape == (3, 270, 2)
    torch.testing.assert_close(states[-1], sampler.draw(model, 270, Streams(1)).values[:, 0], rtol=0, atol=0)
    assert torch.equal(states[:, :30], sampler.states(model, 30, Streams(1), [1, 7, 20]))
    if body["type"] == "langevin":
        short = Sampler.make({**body, "steps": 7}).draw(model, 270, Streams(1)).values[:, 0]
        assert torch.equal(states[1], short)
    around = Setting(model.dynamics)
    ours, half = sampler.course(around), sampler.halved().course(around)
    assert (half.duration, half.steps, half.start) == (ours.duration, 40, ours.start)
    assert ours.steps == 20 and ours.duration == (3.999 if "direction" not in body and "step" not in body else 4.0)
    assert "motion" in sampler.offers()


@pytest.mark.parametrize("of", [OU_BODY, {"type": "vp_sde", "beta_max": 3.0}], ids=["constant", "in time"])
def test_a_step_is_the_motions(of: dict[str, Any]) -> None:
    """x' - x is f h + g √h ε: with the noise at 0 and 1 both are read off."""
    model, x = known(of), points(16, 1)
    zero, one = (Noise(torch.full_like(x, value), x[:, 0]) for value in (0.0, 1.0))
    for body in (*SAMPLERS, {"type": "langevin", "step": 0.2, "steps": 20, "temperature": 1.7}):
        sampler: Any = Sampler.make(body)
        f, g = sampler.motion(model)
        h = sampler.course(Setting(model.dynamics)).duration / 20
        elapsed = torch.tensor(5 * h if "langevin" not in body["type"] else 0.0, dtype=torch.float64)
        if "step" in body:
            moved = [sampler.advance(model, x, None, chance, False).x for chance in (zero, one)]
        else:
            times = sampler.grid(model)
            moved = [sampler.advance(model, x, times[5], times[6], iter([chance])) for chance in (zero, one)]
        torch.testing.assert_close(moved[0] - x, h * f(elapsed, x).detach())
        torch.testing.assert_close(moved[1] - moved[0], math.sqrt(h) * g(elapsed).expand_as(x))


def test_backwards_the_density_goes_from_the_prior_to_the_data() -> None:
    model = known({**OU_BODY, "t_data": 0.0})
    sampler = Sampler.make({"type": "euler_maruyama", "steps": 20})
    f, g = sampler.motion(model)
    grid = Grid(((-8.0, 8.0),), (160,))

    def drift(t: float, x: Any) -> Any:
        return f(torch.tensor(t, dtype=torch.float64), torch.from_numpy(x)).detach().numpy()

    rate = fp.Rate(grid, drift, lambda t: float(g(torch.tensor(t, dtype=torch.float64))))
    alpha, sigma = (float(v) for v in model.dynamics.kernel(torch.tensor(4.0, dtype=torch.float64)))
    start = normal(grid.points(), 0.8 * alpha, alpha**2 * 0.7 + sigma**2)
    mean, covariance = grid.moments(fp.evolve(rate, grid.volume, start, [4.0], 1e-5).densities[-1])
    assert mean[0] == pytest.approx(0.8, rel=5e-3) and covariance[0, 0] == pytest.approx(0.7, rel=5e-3)


# ----------------------------------------------------------------------------------------------------------- the metric


def measured(*sets: str, text: str = WELL) -> Measured:
    made = tiny.experiment(*sets, text=text)
    (metric,) = made.spec.evaluate or ()
    streams = made.streams.under("evaluate").under(metric.key())
    return metric.measure(evaluation_of(made, made.model, streams, lambda: sample(made, made.model)))


def said(*sets: str, text: str = WELL) -> list[str]:
    return [problem.message for problem in check(tiny.loaded(*sets, text=text))]


def test_the_double_wells_particles_follow_its_density() -> None:
    result = measured(FEW)
    details: Any = json.loads(json.dumps(as_json(result)))["details"]
    tables = details["times"]
    name = "P(x1 > 0)"
    assert [tables[t][name]["density"] for t in tables] == pytest.approx([0.03750, 0.17084, 0.33354], abs=2e-4)
    assert list(tables) == ["0.5", "2", "5"]
    for table in tables.values():
        one = table[name]
        p = one["density"]
        assert one["stderr"] == pytest.approx(math.sqrt(p * (1 - p) / 3000), rel=1e-6)
        assert one["z"] == pytest.approx((one["particles"] - p) / one["stderr"])
        assert abs(one["z"]) < 4 and one["value"] == one["particles"]
        bins = [entry["density"] for key, entry in table.items() if key.startswith("bin")]
        assert bins == pytest.approx([1 / 16] * 16, rel=1e-3)
    assert result.value is not None and result.value < 4.5
    assert result.value == pytest.approx(max(abs(e["z"]) for table in tables.values() for e in table.values()))
    assert 2.0 < details["floor"] < 3.0 and details["floor"] < details["floor_95"] < 4.0
    assert details["compared"] == 57 and result.n == 3000
    assert details["solver"]["relaxation_rate"] == pytest.approx(0.22729, abs=1e-5)
    assert details["solver"]["grid_error"] < 1e-4 and details["solver"]["time_error"] < 1e-6
    assert abs(details["step_bias"]["bias"]) < 4.5 * details["step_bias"]["stderr"]
    assert "0.0375) at t = 0.5" in str(result.line)
    for curve in details["curves"]:
        assert np.dot(curve["histogram"], np.diff(curve["edges"])) == pytest.approx(1, abs=1e-2)
        assert simpson(curve["density"], x=curve["x"]) == pytest.approx(1, abs=1e-3)


def test_density_and_particles_are_drawn(tmp_path: Path) -> None:
    """One picture, a panel a time."""
    made = tiny.experiment(FEW, text=WELL)
    histogram = {"edges": [0.0, 1.0, 2.0], "histogram": [0.2, 0.8], "x": [0.5, 1.5], "density": [0.3, 0.7]}
    two = [{"title": f"t = {k}", "axis": "x1", **histogram} for k in range(2)]
    known = {name: Measured(0.0, None, "1", 2, details) for name, details in {"a": {"curves": two}, "b": {}}.items()}
    (picture,) = plots.draw(made, made.model, ("evaluate",), (), None, known)
    assert picture[0] == "a_curves" and picture[1].startswith(b"\x89PNG")
    for axes in plots._curves(two).axes:
        np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0.5, 0.3], [1.5, 0.7]])
        assert list(axes.patches[0].get_data().values) == [0.2, 0.8]
    few = ["--set", "sample.count=300", "--set", "evaluate.0.half_step=false", "--quiet"]
    assert main([str(SPECS / "fokker_planck_ou.yaml"), "--out", str(tmp_path / "run"), *few]) == 0
    assert (tmp_path / "run" / "plots" / "fokker_planck_curves.png").exists()


def test_the_last_particles_are_the_runs_own_draws() -> None:
    made = tiny.experiment(FEW, "evaluate.0.half_step=false", text=WELL)
    own = sample(made, made.model).flat().double()
    result = measured(FEW, "evaluate.0.half_step=false")
    last = result.details["times"]["5"]
    assert last["mean x1"]["particles"] == pytest.approx(float(own.mean()), rel=1e-12)
    assert last["P(x1 > 0)"]["particles"] == float((own > 0).double().mean())
    assert result.details["step_bias"] is None and "half_step" not in last["mean x1"]
    (panel,) = result.pictures["evolution"].panels
    ground, *lines = panel.marks
    assert isinstance(ground, Map) and (ground.x[0], ground.x[-1]) == (0, pytest.approx(5))
    for line, end in zip(lines, own[:8, 0].tolist(), strict=True):
        assert isinstance(line, Line) and line.faint and line.x[-1] == pytest.approx(5) and line.y[-1] == end
    curve = result.details["curves"][-1]
    peak = max(map(max, ground.values))
    assert ground.label == f"p(x, t), cut off at {peak:g}" and 1 < peak < 1.9
    assert -2.5 < ground.y[0] < min(min(line.y) for line in lines if isinstance(line, Line)) and ground.y[-1] > 1
    first, after = (np.array(ground.values)[:, k] for k in (0, -1))
    exact = normal(np.array(ground.y)[:, None], np.array([-1.0]), np.array([[0.04]]))
    np.testing.assert_allclose(first, exact.clip(max=max(first)), atol=0.01)
    np.testing.assert_allclose(after, np.interp(ground.y, curve["x"], curve["density"]), atol=0.01)


def test_chains_that_begin_at_the_target_do_not_move_its_density() -> None:
    result = measured(
        FEW, "evaluate.0.half_step=false", "sampler.steps=100", "sampler.start=double_well", "evaluate.0.times=[0.5]"
    )
    assert result.details["moved"] < 1e-12
    assert abs(result.details["times"]["0.5"]["P(x1 > 0)"]["density"] - 0.5) < 1e-9


def test_a_sampler_that_runs_twice_as_fast_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """dx = -U' dt + √2 dw, the other convention."""
    from driftspec_plugins.samplers.langevin import Langevin

    plain = Langevin.advance
    monkeypatch.setattr(Langevin, "advance", lambda self, *rest, **keys: plain(_doubled(self), *rest, **keys))

    def _doubled(sampler: Any) -> Any:
        return sampler.model_copy(update={"step": 2 * sampler.step})

    result = measured(FEW, "evaluate.0.half_step=false")
    assert result.value is not None and result.value > 6
    assert result.details["times"]["0.5"]["P(x1 > 0)"]["particles"] == pytest.approx(0.0869, abs=0.02)


def test_the_steps_own_bias_is_stated() -> None:
    """On N(0, 1) steps of η settle at the variance 1/(1 - η/4): 1.1429 for 0.5, 1.0667 for half of it."""
    result = measured(
        "dynamics.target={type: gaussian, mean: [0.0]}", "sampler.step=0.5", "sampler.steps=60", "sample.count=40000",
        "evaluate=[{type: fokker_planck, times: [30.0], box: [[-7, 7]]}]",
    )  # fmt: skip
    one = result.details["times"]["30"]["variance x1"]
    assert one["density"] == pytest.approx(1, abs=1e-3)
    assert one["z"] > 10
    twice = 2 * (1 / (1 - 0.125) - 1 / (1 - 0.0625))
    assert abs(one["step_bias"] - twice) < 4 * one["step_bias_stderr"]
    assert one["step_bias"] == pytest.approx(2 * (one["particles"] - one["half_step"]))


def test_a_mixture_forgets_itself() -> None:
    """Under the Ornstein-Uhlenbeck process a mixture stays one: P(x > 0) = ½ Σ Φ(e^{-t} m_i / s(t))."""
    result = measured(FEW, text=OU)
    for t, table in result.details["times"].items():
        decay = math.exp(-float(t))
        deviation = math.sqrt(decay**2 * 0.16 + 1 - decay**2)
        exact = float(np.mean(ndtr(decay * np.array([-2.0, 1.0]) / deviation)))
        one = table["P(x1 > 0)"]
        assert one["density"] == pytest.approx(exact, abs=2e-4)
        assert one["stderr"] == pytest.approx(math.sqrt(exact * (1 - exact) / 3000 * 1.1), rel=1e-3)
    x = np.linspace(-6, 6, 4001)
    start, end = (
        (norm.pdf(x[:, None], c * np.array([-2.0, 1.0]), math.sqrt(c * c * 0.16 + 1 - c * c))).mean(1)
        for c in (1.0, math.exp(-4.0))
    )
    assert result.details["moved"] == pytest.approx(simpson(abs(end - start), x=x) / 2, rel=1e-3)
    assert result.value is not None and result.value < 4.5
    assert result.details["solver"]["relaxation_rate"] == pytest.approx(1, abs=1e-3)


def test_data_in_other_units_begin_as_they_should() -> None:
    """Standardised, in the plane, with a cross-correlation, under an SDE whose coefficients depend on time."""
    result = measured(
        "data={type: gaussian, mean: [30.0, -4.0], covariance: [[9.0, 1.2], [1.2, 0.25]], samples: 4000,"
        " standardize: scale}",
        "dynamics={type: vp_sde, beta_max: 4.0}", "sampler.steps=200", FEW,
        "evaluate=[{type: fokker_planck, times: [0.3], cells: 48, box: [[-5, 5], [-5, 5]], half_step: false}]", text=OU,
    )  # fmt: skip
    table = result.details["times"]["0.3"]
    total = 0.1 * 0.3 + 0.3**2 * 3.9 / 2
    assert table["covariance x1 x2"]["density"] == pytest.approx(0.8 * math.exp(-total), rel=0.03)
    assert result.value is not None and result.value < 4.5
    assert result.details["solver"]["relaxation_rate"] is None
    assert {curve["axis"] for curve in result.details["curves"]} == {"x1", "x2"}


def test_z_scores_are_z_scores() -> None:
    """Of points from the density itself each has mean 0 and variance 1."""
    grid, rng = Grid(((-6.0, 6.0), (-6.0, 6.0)), (60, 60)), np.random.default_rng(0)
    mean, covariance = np.array([0.4, -0.2]), np.array([[1.0, 0.5], [0.5, 0.8]])
    p = normal(grid.points(), mean, covariance)
    sets = [rng.multivariate_normal(mean, covariance, 400) for _ in range(400)]
    tables = [compare(grid, p, x, 400, above=0.0, bins=4) for x in sets]
    for name in tables[0]:
        z = np.array([(table[name][0] - table[name][1]) / table[name][2] for table in tables])
        assert abs(z.mean()) < 4 / 20, name
        assert abs(z.var() - 1) < 4 * math.sqrt(2.2 / 400), name
    assert set(tables[0]) >= {"P(x1 > 0)", "P(x2 > 0)", "bin 4 of x2", "mean x2", "variance x2", "covariance x1 x2"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("evaluate.0.times=[0.5, 6.0]", "6 is after the sampler's end: it goes to time 5"),
        ("evaluate.0.box=[[-3, 3], [-3, 3]]", "2 intervals for 1 dimensions"),
        ("sampler={type: hmc, step: 0.1}", "needs a motion"),
        ("sampler={type: langevin, step: 0.1, chains: 20}", "needs a motion"),
    ],
)
def test_what_does_not_fit_is_said_before_the_run(change: str, text: str) -> None:
    assert any(re.search(text, message) for message in said(change)), said(change)


def test_laws_that_do_not_fit_are_said_before_the_run() -> None:
    three = "data={type: gaussian, mean: [0.0, 0.0, 0.0], samples: 500}"
    assert any("a grid is for 1 or 2 dimensions, and there are 3" in one for one in said(three, text=OU))
    unknown = f"data={{type: table, path: {SPECS / 'penguins.csv'}}}"
    assert any("log p of data 'table' is not known" in one for one in said(unknown, "evaluate.0.box=null", text=OU))
    assert said() == [] and said(text=OU) == []


def test_a_box_that_loses_the_start_is_refused() -> None:
    with pytest.raises(RunFailed, match="of the start's mass: make it wider"):
        measured("evaluate.0.box=[[-1.2, 3.0]]", FEW)
    with pytest.raises(RunFailed, match="nearer to one another than the sampler's step"):
        measured("evaluate.0.times=[0.5, 0.5001]", FEW)


@pytest.mark.parametrize("keys", [{"times": [0.0, 1.0]}, {"times": [2.0, 1.0]}, {"times": [1.0], "box": [[1.0, 0.0]]}])
def test_times_rise_and_intervals_have_a_length(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Metric.make({"type": "fokker_planck", **keys})


# -------------------------------------------------------------------------------------------------- residual of a score

SDES: list[dict[str, Any]] = [
    OU_BODY,
    {"type": "vp_sde", "beta_min": 0.5, "beta_max": 6.0},
    {"type": "sub_vp_sde", "beta_max": 5.0},
    {"type": "ve_sde", "sigma_max": 5.0},
]


class _Wrapped(nn.Module):
    """What a network would say for the score that `inner` gives, plus a perturbation."""

    def __init__(self, dynamics: Any, inner: nn.Module, more: Any):
        super().__init__()
        self.dynamics, self.inner, self.more = dynamics, inner, more

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.inner(t, x) + self.more(t[:, None], x)


def at_times(model: Model, n: int = 30) -> tuple[Tensor, Tensor]:
    end = model.dynamics.times()[0]
    return torch.linspace(0.1, 1, n, dtype=torch.float64) * end, 1.3 * points(n, model.dim)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("body", SDES, ids=lambda body: body["type"])
def test_the_score_of_the_sdes_own_densities_has_no_residual(body: dict[str, Any], d: int) -> None:
    model = known(body, d)
    r, rate = residual(model, *at_times(model))
    assert r.shape == rate.shape == (30, d)
    assert rate.abs().max() > 0.1
    assert r.abs().max() < 1e-8


def test_a_stationary_score_has_no_residual_where_the_drift_is_not_linear() -> None:
    """f = ½ s and g = 1: ½ (∇·s + ‖s‖²) - f·s - ∇·f = 0, in which no term vanishes."""
    for target, d in (({"type": "double_well"}, 1), ({"type": "banana"}, 2)):
        dynamics = Dynamics.make({"type": "langevin", "target": target})
        model = BoundModel(dynamics, dynamics.build(d, torch.Generator()).double(), d)
        x = 0.7 * points(20, d)
        r, rate = residual(model, torch.full((20,), 0.3, dtype=torch.float64), x)
        assert rate.abs().max() == 0
        assert r.abs().max() < 1e-8 * model.score(torch.zeros(()), x).abs().max() ** 3


@pytest.mark.parametrize("body", SDES[:2], ids=lambda body: body["type"])
def test_a_perturbed_score_has_the_residual_of_its_perturbation(body: dict[str, Any]) -> None:
    """For s + e with e = c(t) x ‖x‖²: r = ∂e/∂t - ∇[½ g² (∇·e + 2 s·e + ‖e‖²) - f·e], all polynomials."""
    plain = known(body, 2)
    model = BoundModel(plain.dynamics, _Wrapped(plain.dynamics, plain.module, lambda t, x: c(t) * x * q(x)), 2)

    def c(t: Tensor) -> Tensor:
        return 0.1 + 0.2 * t * t

    def q(x: Tensor) -> Tensor:
        return x.square().sum(1, keepdim=True)

    t, x = at_times(model)
    r, _ = residual(model, t, x)
    dynamics: Any = model.dynamics
    a, g2 = dynamics.drift_coefficient(t)[:, None], dynamics.diffusion(t)[:, None].square()
    alpha, sigma = (v[:, None] for v in dynamics.kernel(t))
    w, m, k = 1 / (alpha**2 * 0.7 + sigma**2), alpha * 0.8, c(t[:, None])
    along = x.sum(1, keepdim=True)  # s = -w (x - m 1), so s·e = -w k (q² - m q Σx) and ∇·e = k (2 + 2) q
    of_s_e = -w * k * (4 * q(x) * x - m * (2 * x * along + q(x)))
    of_e_e, of_f_e = k**2 * 6 * q(x) ** 2 * x, a * k * 4 * q(x) * x
    exact = 0.4 * t[:, None] * x * q(x) - (g2 / 2 * (8 * k * x + 2 * of_s_e + of_e_e) - of_f_e)
    torch.testing.assert_close(r, exact.detach(), rtol=1e-9, atol=1e-9)


def test_what_the_network_predicts_makes_no_difference() -> None:
    model = known(OU_BODY, 2)
    noise: Any = Dynamics.make({**OU_BODY, "predicts": "noise"})
    energy: Any = Dynamics.make({**OU_BODY, "predicts": "energy"})

    class Noise(_Normal):
        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return -self.dynamics.kernel(t)[1][:, None] * super().forward(t, x) * 1.1

    class Energy(_Normal):
        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            alpha, sigma = (v[:, None] for v in self.dynamics.kernel(t))
            return (
                1.1 * (x - alpha * self.mean).square().sum(1, keepdim=True) / 2 / (alpha**2 * self.variance + sigma**2)
            )

    first = residual(BoundModel(noise, Noise(noise), 2), *at_times(model))[0]
    second = residual(BoundModel(energy, Energy(energy), 2), *at_times(model))[0]
    torch.testing.assert_close(first, second, rtol=1e-8, atol=1e-10)
    assert first.abs().max() > 1e-2


SCORED = """\
version: 1
name: scored
data: {type: gaussian, mean: [0.8, 0.8], std: 0.8366600265340756, samples: 4000}
dynamics: {type: vp_sde, beta_max: 6.0, network: {type: mlp, hidden: [16], activation: silu, time: concat}}
sampler: {type: euler_maruyama}
evaluate: [score_fokker_planck]
sample: {count: 100}
"""


def test_the_metric_is_a_mean_over_rows_and_times() -> None:
    """For s + b with b constant r = -g² ∇(s·b) + ∇(f·b) = (g² w + a) b, w the inverse variance: no x in it."""
    made = tiny.experiment("dynamics.predicts=score", text=SCORED)
    dynamics: Any = made.spec.dynamics
    off = torch.tensor([0.6, -0.8], dtype=torch.float64)
    model = BoundModel(dynamics, _Wrapped(dynamics, _Normal(dynamics), lambda t, x: off.expand_as(x)), 2)
    (metric,) = made.spec.evaluate or ()
    result: Any = metric.measure(tiny.evaluation(made, model))
    t = torch.linspace(1e-3, 1, 100001, dtype=torch.float64)
    (alpha, sigma), a, g2 = dynamics.kernel(t), dynamics.drift_coefficient(t), dynamics.diffusion(t).square()
    exact = (g2 / (alpha**2 * 0.7 + sigma**2) + a).abs()
    assert result.n == 400
    assert result.value == pytest.approx(float(exact.mean()), rel=2e-3)  # one time in each of n intervals
    assert result.stderr == pytest.approx(float(exact.std()) / 20, rel=0.02)
    thirds = [part["value"] for part in result.details["times"]]
    assert thirds == pytest.approx([float(part.mean()) for part in exact.chunk(5)], rel=0.02)
    assert json.loads(json.dumps(as_json(result)))["details"]["mean_rate"] > 0
    exactly: Any = metric.measure(tiny.evaluation(made, BoundModel(dynamics, _Normal(dynamics), 2)))
    assert exactly.value < 1e-8 and "± " in exactly.line


UNTRAINED = (
    "dynamics 'vp_sde' has something to train, and the spec trains nothing: all results come from its initial weights"
)


def test_a_score_that_cannot_be_differentiated_twice_is_refused() -> None:
    assert said(text=SCORED) == [UNTRAINED]
    elu = said("dynamics.network.activation=elu", text=SCORED)
    assert any("1 continuous derivatives, 2 are needed" in one for one in elu)
    assert any("not smooth" in one for one in said("dynamics.network.activation=relu", text=SCORED))
