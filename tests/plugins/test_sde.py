"""Noising SDEs and the samplers that step their time, on normal laws, whose score and moments are closed forms.

With such a score a step is affine in the state and in its noise, x' = c x + b + Σ_k w_k ε_k: read off from rows of
zeros and ones, it gives the mean and the variance that a sampler makes, without chance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from problems import MATRICES, points
from pydantic import ValidationError
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from driftspec.components import Draws, Dynamics, Model, Sampler
from driftspec.errors import RunFailed
from driftspec.numerics.chains import Noise, noise, starts
from driftspec.numerics.model import BoundModel
from driftspec.numerics.sde import noised, simulated
from driftspec.streams import Streams

BODIES: dict[str, dict[str, Any]] = {
    "vp": {"type": "vp_sde"},
    "vp_slow": {"type": "vp_sde", "beta_min": 0.5, "beta_max": 6.0},
    "sub_vp": {"type": "sub_vp_sde", "beta_min": 0.3, "beta_max": 12.0},
    "ve": {"type": "ve_sde"},
    "ve_ladder": {"type": "ve_sde", "sigma_min": 0.05, "sigma_max": 8.0, "levels": 12},
    "ou": {"type": "ornstein_uhlenbeck", "theta": 0.7, "std": 1.5, "duration": 4.0},
}
MEAN, VARIANCE = 0.8, 0.7  # of the data


class _Normal(nn.Module):
    """The score of N(α m, (α² v + σ²) I), said as a network says it."""

    def __init__(self, dynamics: Any, dtype: torch.dtype):
        super().__init__()
        self.dynamics = dynamics
        self.one = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        alpha, sigma = (v if v.dim() == 0 else v[:, None] for v in self.dynamics.kernel(t))
        off, variance = self.one * x - alpha * MEAN, alpha**2 * VARIANCE + sigma**2
        if self.dynamics.predicts == "energy":
            return (off.square() / variance).sum(1, keepdim=True) / 2
        return -off / variance if self.dynamics.predicts == "score" else sigma * off / variance


def model_of(name: str, d: int = 1, dtype: torch.dtype = torch.float64, **keys: Any) -> Model:
    dynamics: Any = Dynamics.make({"predicts": "score", **BODIES[name], **keys})
    return BoundModel(dynamics, _Normal(dynamics, dtype), d)


def true(model: Model, t: Any) -> tuple[Tensor, Tensor]:
    """Mean and variance at time t."""
    alpha, sigma = model.dynamics.kernel(torch.as_tensor(t, dtype=torch.float64))
    return alpha * MEAN, alpha**2 * VARIANCE + sigma**2


def affine(sampler: Any, model: Model, t: Tensor, after: Tensor, noises: int = 1) -> tuple[float, float, float]:
    """(c, b, Σ w_k²) of a step."""

    def chance() -> Iterator[Noise]:
        for k in range(noises):
            ones = torch.zeros(noises + 2, 1, dtype=torch.float64)
            ones[2 + k] = 1
            yield Noise(ones, torch.zeros(noises + 2))

    x = torch.zeros(noises + 2, 1, dtype=torch.float64)
    x[1] = 1
    with torch.no_grad():
        moved = sampler.advance(model, x, t, after, chance())[:, 0]
    return float(moved[1] - moved[0]), float(moved[0]), float((moved[2:] - moved[0]).square().sum())


def moments(sampler: Any, model: Model, start: tuple[float, float], noises: int = 1) -> list[tuple[float, float]]:
    """(mean, variance) at every time of the grid, and after the end's own touch."""
    (m, v), made = start, [start]
    times = sampler.grid(model)
    for t, after in itertools.pairwise(times):
        c, b, w = affine(sampler, model, t, after, noises)
        m, v = c * m + b, c * c * v + w
        made.append((m, v))
    with torch.no_grad():
        ends = sampler.finish(model, torch.tensor([[0.0], [1.0]], dtype=torch.float64), times[-1])[:, 0]
    c, b = float(ends[1] - ends[0]), float(ends[0])
    return [*made, (c * m + b, c * c * v)]


def prior(model: Model) -> tuple[float, float]:
    return 0.0, model.dynamics.prior_std() ** 2


def draw(model: Model, count: int, seed: int = 0, **body: Any) -> Draws:
    return Sampler.make(body).draw(model, count, Streams(seed))


def z_normal(x: Tensor, mean: float, variance: float) -> Tensor:
    """z-scores of mean and variance of a normal law (n,)."""
    n, off = len(x), x - mean
    errors = (variance / n) ** 0.5, variance * (2 / n) ** 0.5
    return torch.stack([off.mean() / errors[0], (off.square().mean() - variance) / errors[1]])


def slope(steps: list[int], errors: list[float]) -> float:
    """The order of convergence: of a straight line through the logarithms."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


# ----------------------------------------------------------------------------------------------------------- dynamics


@pytest.mark.parametrize("name", BODIES)
def test_kernel_drift_and_diffusion_are_one_sde(name: str) -> None:
    dynamics: Any = model_of(name).dynamics
    end, step = dynamics.times()[0], 1e-5
    t = torch.linspace(0.02, 0.98, 25, dtype=torch.float64) * end
    (alpha, sigma), (up, down) = dynamics.kernel(t), (dynamics.kernel(t + h) for h in (step, -step))
    a, g = dynamics.drift_coefficient(t), dynamics.diffusion(t)
    torch.testing.assert_close((up[0] - down[0]) / (2 * step), a * alpha, rtol=1e-6, atol=1e-8)
    slope_of_variance = (up[1].square() - down[1].square()) / (2 * step)
    torch.testing.assert_close(slope_of_variance, 2 * a * sigma.square() + g.square(), rtol=1e-6, atol=1e-7)
    assert g.min() > 0
    x = points(25, 3)
    torch.testing.assert_close(dynamics.drift(nn.Module(), t, x), a[:, None] * x)
    torch.testing.assert_close(dynamics.drift(nn.Module(), t[3], x), a[3] * x)
    zero = torch.zeros((), dtype=torch.float64)
    alpha, sigma = dynamics.kernel(zero)
    assert alpha == 1 and sigma == getattr(dynamics, "sigma_min", 0.0)
    alpha, sigma = dynamics.kernel(torch.tensor(end, dtype=torch.float64))
    assert abs(float(sigma) / dynamics.prior_std() - 1) < 0.05
    assert dynamics.kernel(t.float())[1].dtype == torch.float32


@pytest.mark.parametrize("name", BODIES)
def test_moments_obey_kolmogorov_fokker_and_planck(name: str) -> None:
    """m' = a m and V' = 2 a V + g², solved from the law at a first time to the last."""
    model = model_of(name)
    dynamics: Any = model.dynamics

    def rates(t: float, y: Any) -> Any:
        time = torch.tensor(t, dtype=torch.float64)
        a, g = float(dynamics.drift_coefficient(time)), float(dynamics.diffusion(time))
        return [a * y[0], 2 * a * y[1] + g * g]

    first, last = 0.1, dynamics.times()[0]
    begin = [float(v) for v in true(model, first)]
    solved = solve_ivp(rates, (first, last), begin, rtol=1e-10, atol=1e-12, t_eval=[0.5 * last, last])
    for t, m, v in zip(solved.t, *solved.y):
        assert (m, v) == pytest.approx([float(one) for one in true(model, t)], rel=1e-7)


@pytest.mark.parametrize("name", BODIES)
def test_a_network_predicts_score_noise_or_energy(name: str) -> None:
    x, t = points(6, 2), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    scores = [model_of(name, 2, predicts=what).score(t, x) for what in ("score", "noise", "energy")]
    mean, variance = true(model_of(name), t)
    for score in scores:
        torch.testing.assert_close(score, -(x - mean[:, None]) / variance[:, None])
    one = model_of(name, 2, predicts="noise").score(t[2], x)
    torch.testing.assert_close(one[2], scores[1][2])
    assert "noise_kernel" in model_of(name).dynamics.offers()


@pytest.mark.parametrize(
    "body",
    [
        {"type": "ornstein_uhlenbeck", "duration": 0.5, "t_data": 0.6},
        {"type": "vp_sde", "beta_min": 2.0, "beta_max": 1.0},
        {"type": "ve_sde", "sigma_min": 2.0, "sigma_max": 1.0},
        {"type": "ve_sde", "levels": 1},
        {"type": "vp_sde", "t_data": 1.0},
    ],
)
def test_an_sde_without_sense_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Dynamics.make(body)


# ----------------------------------------------------------------------------------------------------- euler, maruyama


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("name", ["ou", "vp_slow"])
def test_euler_maruyama_has_the_moments_of_the_sde_at_every_time_to_first_order(name: str, direction: str) -> None:
    model, steps, errors = model_of(name), [100, 200, 400, 800], []
    for count in steps:
        sampler: Any = Sampler.make({"type": "euler_maruyama", "steps": count, "direction": direction})
        times = sampler.grid(model)
        made = moments(sampler, model, tuple(float(v) for v in true(model, times[0])))[:-1]
        off = [(m - float(true(model, t)[0]), v - float(true(model, t)[1])) for t, (m, v) in zip(times, made)]
        errors.append(max(max(abs(m), abs(v)) for m, v in off))
    assert errors[0] < 0.1
    assert abs(slope(steps, errors) - 1) < 0.3
    ends = (0.0, model.dynamics.times()[0]) if direction == "forward" else model.dynamics.times()
    assert (float(times[0]), float(times[-1])) == pytest.approx(ends)


@pytest.mark.parametrize("name", ["ou", "vp"])
def test_euler_maruyama_draws_what_its_moments_say_and_reaches_the_data(name: str) -> None:
    model, body = model_of(name), {"type": "euler_maruyama", "steps": 200}
    mean, variance = moments(Sampler.make(body), model, prior(model))[-1]
    x = draw(model, 20000, **body).values[:, 0, 0]
    assert z_normal(x, mean, variance).abs().max() < 4
    assert abs(mean - MEAN) < 0.02 and abs(variance / VARIANCE - 1) < 0.05

    rows = math.sqrt(VARIANCE) * points(5000, 1, 3) + MEAN
    forward = {**body, "direction": "forward"}
    filled = BoundModel(model.dynamics, model.module, 1, rows=lambda: rows)
    x = draw(filled, 20000, **forward).values[:, 0, 0]
    own = float(rows.mean()), float(rows.var(correction=0))
    mean, variance = moments(Sampler.make(forward), model, own)[-1]
    assert z_normal(x, mean, variance).abs().max() < 4
    assert abs(variance / prior(model)[1] - 1) < 0.05


def test_increments_are_those_of_a_wiener_process() -> None:
    """Without drift x(t) - x(s) = ∫ g dw has variance ∫ g², whatever went before."""
    model, sampler = model_of("ve"), Sampler.make({"type": "euler_maruyama", "direction": "forward", "steps": 7})
    dynamics, times = model.dynamics, sampler.grid(model)
    chance = noise(Streams(1), 30000, torch.zeros(30000, 1).double())
    x = [torch.full((30000, 1), 2.0, dtype=torch.float64)]
    for t, after in itertools.pairwise(times):
        x.append(sampler.advance(model, x[-1], t, after, chance))
    steps = torch.cat([b - a for a, b in itertools.pairwise(x)], 1)  # (n, 7)
    g, h = dynamics.diffusion(times[:-1]), times.diff()
    normal = steps / (g * h.sqrt())
    products = (normal[:, :, None] * normal[:, None, :] - torch.eye(7)).flatten(1)
    for rows in (normal, products):
        assert (rows.mean(0) / (rows.std(0) / len(rows) ** 0.5)).abs().max() < 4


def test_without_noise_euler_maruyama_is_eulers_path_of_the_ode() -> None:
    matrix = MATRICES[2]

    class Still:
        """dx = A x dt, g = 0."""

        label = "still"

        def offers(self) -> frozenset[str]:
            return frozenset({"drift", "score"})

        def times(self) -> tuple[float, float]:
            return 1.5, 0.0

        def drift(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
            return (1 + t) * x @ matrix.T

        def score(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
            return 100 * x

        def diffusion(self, t: Tensor) -> Tensor:
            return torch.zeros_like(t)

    dynamics: Any = Still()
    rows = points(40, 2)
    model = BoundModel(dynamics, nn.Module(), 2, rows=lambda: rows)
    body, h = {"type": "euler_maruyama", "steps": 30}, 0.05
    forward = draw(model, 16, direction="forward", **body).values[:, 0]
    x = starts(model, "data", 16, Streams(0))[:16]
    path = x
    for k in range(30):
        path = path + h * (1 + k * h) * path @ matrix.T
    torch.testing.assert_close(forward, path, rtol=1e-12, atol=1e-12)
    sampler: Any = Sampler.make(body)
    back, chance = x, noise(Streams(0), 16, x)
    for t, after in itertools.pairwise(sampler.grid(model)):
        back = sampler.advance(model, back, t, after, chance)
    path = x
    for k in range(30):
        path = path - h * (1 + 1.5 - k * h) * path @ matrix.T
    torch.testing.assert_close(back, path, rtol=1e-12, atol=1e-12)


def test_noise_in_the_last_step_can_be_left_out() -> None:
    model = model_of("vp")
    with_noise, without = (
        moments(Sampler.make({"type": "euler_maruyama", "steps": 10, "last_noise": on}), model, prior(model))[-1]
        for on in (True, False)
    )
    grid = Sampler.make({"type": "euler_maruyama", "steps": 10}).grid(model)
    g, h = float(model.dynamics.diffusion(grid[-2])), float(grid[-2] - grid[-1])
    assert with_noise[1] - without[1] == pytest.approx(g * g * h)


# ------------------------------------------------------------------------------------------------------ other samplers

DEFAULTS: dict[str, dict[str, Any]] = {
    "euler_maruyama": {"type": "euler_maruyama"},
    "predictor_corrector": {"type": "predictor_corrector"},
    "heun": {"type": "heun"},
    "annealed_langevin": {"type": "annealed_langevin", "step": 4e-5, "steps_per_level": 60},
}
NOISES = {"euler_maruyama": 1, "predictor_corrector": 2, "heun": 1, "annealed_langevin": 60}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("sampler_name", ["euler_maruyama", "predictor_corrector", "heun"])
def test_the_last_step_moves_no_variance_by_more_than_a_hundredth(sampler_name: str, name: str) -> None:
    model, sampler = model_of(name), Sampler.make(DEFAULTS[sampler_name])
    *_, t, after = sampler.grid(model)
    c, _, w = affine(sampler, model, t, after, NOISES[sampler_name])
    assert abs((c * c * float(true(model, t)[1]) + w) / VARIANCE - 1) < 0.01
    *_, (_, last), (_, finished) = moments(sampler, model, prior(model), NOISES[sampler_name])
    assert finished == last
    assert abs(finished / VARIANCE - 1) < 0.03  # and all steps together, at the default number of them


def test_the_last_step_of_annealed_langevin_takes_the_last_noise_away() -> None:
    for name in ("ve", "ve_ladder"):
        model = model_of(name)
        low = getattr(model.dynamics, "sigma_min")  # noqa: B009
        sampler = Sampler.make({"type": "annealed_langevin", "step": 0.4 * low**2, "steps_per_level": 60})
        *_, (_, last), (mean, finished) = moments(sampler, model, prior(model), 60)
        assert abs(finished / last - 1) < 0.01
        assert abs(mean - MEAN) < 0.3 and abs(finished / VARIANCE - 1) < 0.1


def test_annealed_langevin_is_its_own_recursion_level_by_level() -> None:
    model = model_of("ve_ladder")
    dynamics: Any = model.dynamics
    sampler: Any = Sampler.make({"type": "annealed_langevin", "step": 1e-3, "steps_per_level": 60})
    made = moments(sampler, model, prior(model), 60)
    sigmas = dynamics.sigma_min * (dynamics.sigma_max / dynamics.sigma_min) ** np.linspace(1, 0, 12)
    m, v = prior(model)
    for level, sigma in enumerate(sigmas):
        eta, variance = 1e-3 * (sigma / sigmas[-1]) ** 2, VARIANCE + sigma**2
        a = 1 - eta / (2 * variance)
        settled = variance / (1 - eta / (4 * variance))
        m, v = MEAN + a**60 * (m - MEAN), a**120 * v + (1 - a**120) * settled
        assert made[level + 1] == pytest.approx((m, v), rel=1e-9)
    shrink = VARIANCE / (VARIANCE + sigmas[-1] ** 2)
    assert made[-1][1] == pytest.approx(shrink**2 * v)
    kept = Sampler.make({"type": "annealed_langevin", "step": 1e-3, "steps_per_level": 60, "denoise": False})
    assert moments(kept, model, prior(model), 60)[-1][1] == pytest.approx(v)
    with pytest.raises(RunFailed, match=r"'step' is 0.0101, past stability, 4 σ_L² = 0.01") as caught:
        draw(model, 16, type="annealed_langevin", step=0.0101)
    assert caught.value.status == "unstable"


@pytest.mark.parametrize("name", ["vp_slow", "ve", "ou"])
def test_a_corrector_step_depends_on_time_alone(name: str) -> None:
    model, snr = model_of(name), 0.3
    sampler: Any = Sampler.make({"type": "predictor_corrector", "steps": 20, "snr": snr, "corrector_steps": 2})
    grid = sampler.grid(model)
    for t, after in ((grid[3], grid[4]), (grid[15], grid[16])):
        h, g, a = (float(v) for v in (t - after, model.dynamics.diffusion(t), model.dynamics.drift_coefficient(t)))
        eta = 4 * (snr * float(model.dynamics.kernel(after)[1])) ** 2
        predictor = 1 - h * (a + g * g / float(true(model, t)[1]))
        corrector = 1 - eta / (2 * float(true(model, after)[1]))
        c, _, w = affine(sampler, model, t, after, 3)
        assert c == pytest.approx(predictor * corrector**2)
        assert w == pytest.approx(g * g * h * corrector**4 + eta * corrector**2 + eta)
    quiet: Any = Sampler.make({"type": "predictor_corrector", "steps": 20, "snr": snr, "last_noise": False})
    c, _, w = affine(quiet, model, grid[-2], grid[-1], 2)
    t = grid[-2]
    h, g, a = (float(f) for f in (t - grid[-1], model.dynamics.diffusion(t), model.dynamics.drift_coefficient(t)))
    assert (c, w) == (pytest.approx(1 - h * (a + g * g / float(true(model, grid[-2])[1]))), 0)


@pytest.mark.parametrize("name", ["vp", "sub_vp", "ve_ladder", "ou"])
def test_heun_is_of_second_order(name: str) -> None:
    """The probability flow of a normal law keeps (x - m(t))/√V(t)."""
    model, steps, errors = model_of(name), [24, 48, 96, 192], []
    for count in steps:
        sampler: Any = Sampler.make({"type": "heun", "steps": count})
        times = sampler.grid(model)
        (m0, v0), (m1, v1) = (tuple(float(v) for v in true(model, t)) for t in (times[0], times[-1]))
        (mean, variance) = moments(sampler, model, (m0, v0))[-1]
        errors.append(math.hypot(mean - m1, variance**0.5 - v1**0.5))
    assert abs(slope(steps, errors) - 2) < 0.3
    assert errors[-1] < 1e-3


def test_the_variance_exploding_sde_begins_at_data_with_its_least_noise() -> None:
    """Run forward from x + σ_min ε it ends with the kernel's variance σ(1)²; from x itself with σ_min² less."""
    dynamics = {"type": "ve_sde", "sigma_min": 0.6, "sigma_max": 2.0, "t_data": 0.0}
    model = BoundModel(Dynamics.make(dynamics), torch.nn.Module(), 1)
    x, t = torch.zeros(20000, 1, dtype=torch.float64), torch.ones(20000, dtype=torch.float64)
    begun, least = torch.Generator().manual_seed(0), 0.6**2
    for start, variance in ((x, 4.0 - least), (noised(model, x, 0 * t, begun), 4.0)):
        end, _ = simulated(model, start, t, 100, torch.Generator().manual_seed(1))
        z = (float(end.square().mean()) - variance) / (variance * math.sqrt(2 / len(x)))
        assert abs(z) < 4


@pytest.mark.parametrize("name", ["vp", "sub_vp", "ve", "ou"])
def test_heuns_times_are_at_the_levels_of_edm(name: str) -> None:
    model = model_of(name)
    for rho in (1.0, 7.0):
        sampler: Any = Sampler.make({"type": "heun", "steps": 18, "rho": rho})
        times = sampler.grid(model)
        alpha, sigma = model.dynamics.kernel(times)
        levels = (sigma / alpha) ** (1 / rho)
        expected = torch.linspace(float(levels[0]), float(levels[-1]), 19, dtype=torch.float64)
        torch.testing.assert_close(levels, expected, rtol=1e-3, atol=1e-3)
        assert bool((times.diff() < 0).all())
        assert (float(times[0]), float(times[-1])) == model.dynamics.times()


@pytest.mark.parametrize("sampler_name", DEFAULTS)
def test_draws_have_the_moments_that_the_steps_say(sampler_name: str) -> None:
    body = {**DEFAULTS[sampler_name], **({"steps": 60} if sampler_name != "annealed_langevin" else {})}
    model = model_of("ve" if sampler_name == "annealed_langevin" else "vp_slow")
    mean, variance = moments(Sampler.make(body), model, prior(model), NOISES[sampler_name])[-1]
    made = draw(model, 20000, **body)
    assert z_normal(made.values[:, 0, 0], mean, variance).abs().max() < 4
    assert made.values.shape == (20000, 1, 1) and made.stats["steps"] == len(Sampler.make(body).grid(model)) - 1


@pytest.mark.parametrize("sampler_name", DEFAULTS)
@pytest.mark.parametrize("name", ["vp_slow", "ve_ladder"])
def test_a_sample_is_the_same_alone_and_among_others(sampler_name: str, name: str) -> None:
    small = {"steps_per_level": 3} if sampler_name == "annealed_langevin" else {"steps": 12}
    model, body = model_of(name, d=3), {**DEFAULTS[sampler_name], "step": 4e-5, **small}
    if sampler_name != "annealed_langevin":
        del body["step"]
    many = draw(model, 600, **body).values
    assert many.unique(dim=0).shape == many.shape
    for count in (1, 17, 256, 300):
        torch.testing.assert_close(draw(model, count, **body).values, many[:count], rtol=1e-12, atol=1e-12)
    single = draw(model_of(name, 3, torch.float32), 20, **body).values
    assert single.dtype == torch.float32 and not single.requires_grad
    torch.testing.assert_close(single.double(), many[:20], rtol=1e-3, atol=1e-3)


def test_samples_that_are_no_numbers_end_the_run_with_the_step() -> None:
    model = model_of("vp", predicts="noise", t_data=0.0)  # ε/σ at σ = 0
    with pytest.raises(RunFailed, match=r"sampler 'heun': samples are no longer finite after step 5, t = 0") as caught:
        draw(model, 20, type="heun", steps=5)
    assert (caught.value.status, caught.value.step) == ("diverged", 5)
    annealed = {"type": "annealed_langevin", "step": 1e-5, "steps_per_level": 1, "denoise": True}
    assert draw(model_of("ve", t_data=0.0), 20, **annealed).values.isfinite().all()
