"""Laws known as targets: log p, draws, entropy and moments are one and the same law, each against something else."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.integrate import quad
from scipy.linalg import eigvalsh_tridiagonal
from scipy.special import ive
from torch import Tensor
from torch.distributions import HalfCauchy, Independent, MultivariateNormal, Normal

from driftspec.components import Data, Distribution

BODIES: dict[str, Any] = {
    "banana": "banana",
    "banana_other": {"type": "banana", "width": 0.7, "bend": -1.3},
    "funnel": "funnel",
    "funnel_other": {"type": "funnel", "dimensions": 3, "std": 0.8},
    "double_well": "double_well",
    "double_well_flat": {"type": "double_well", "steepness": 0.3, "well": 1.2},
    "double_well_apart": {"type": "double_well", "steepness": 3.0, "well": 3.0},
    "eight_schools": "eight_schools",
    "three_schools": {
        "type": "eight_schools",
        "y": [9.0, -14.0, 3.0],
        "sigma": [2.0, 3.0, 1.5],
        "mu_std": 8.0,
        "tau_scale": 2.5,
    },
}
KNOWN = [name for name in BODIES if not name.endswith("schools")]
BANANAS, FUNNELS, WELLS = (
    [name for name in KNOWN if name.startswith(start)] for start in ("banana", "funnel", "double_well")
)
SCHOOLS = [name for name in BODIES if name.endswith("schools")]


def law(name: str) -> Any:
    made = Data.make(BODIES[name])
    assert isinstance(made, Distribution)
    return made


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


def near(name: str, n: int = 40) -> Tensor:
    """(n, d) where the law is, and its surroundings."""
    component = law(name)
    if name in SCHOOLS:
        return normal(n, component.dim(), 1) * torch.tensor([5.0, 1.0] + [1.0] * len(component.y)).double() + 0.5
    x = component.sample(n, generator(1))
    x[n // 2 :] += 0.1 * normal(n - n // 2, component.dim(), 2)
    return x


def gauss(mean: Tensor | float, std: Tensor | float) -> Normal:
    """torch's normal law, in float64 where numbers alone are given."""
    return Normal(torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(std, dtype=torch.float64))


def assert_moments(drawn: Tensor, mean: Tensor, covariance: Tensor, weight: Tensor | None = None) -> None:
    """All means and covariances of rows (n, m), weighted or not, within four standard errors."""
    w = torch.full((len(drawn),), 1 / len(drawn), dtype=torch.float64) if weight is None else weight / weight.sum()
    off = drawn - mean
    for error in (off, (off[:, :, None] * off[:, None, :] - covariance).flatten(1)):
        z = (w @ error) / (w.square() @ error.square()).sqrt()
        assert z.abs().max() < 4


def test_a_law_is_its_body_with_named_coordinates() -> None:
    schools = tuple(f"z_{i}" for i in range(1, 9))
    columns = {
        "banana": ("x1", "x2"),
        "funnel": ("v", *(f"x{i}" for i in range(1, 10))),
        "double_well": ("x1",),
        "eight_schools": ("mu", "log_tau", *schools),
        "three_schools": ("mu", "log_tau", *schools[:3]),
    }
    for name in BODIES:
        component = law(name)
        assert Data.make(component.body()) == component
        assert all(field.description for field in type(component).model_fields.values())
        assert len(component.columns()) == component.dim()
        assert component.columns() == columns.get(name, component.columns())
        known = name in KNOWN
        assert component.offers() == ({"samples", "log_prob"} if known else {"energy"})
        x = near(name)
        assert component.log_prob(x).shape == (40,)
        assert component.log_prob(x[:0]).shape == (0,)
        torch.testing.assert_close(component.log_prob(x[7:8]), component.log_prob(x)[7:8], rtol=1e-12, atol=1e-12)
        single = component.log_prob(x.float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), component.log_prob(x.float().double()), rtol=1e-5, atol=1e-4)
        reported, names = component.reported(x)
        mean, covariance = component.moments()
        assert mean.dtype == covariance.dtype == torch.float64
        assert mean.shape == (len(names),)
        assert covariance.shape == (len(names), len(names))
        assert torch.equal(reported, x) == known


@pytest.mark.parametrize("name", KNOWN)
def test_draws_come_from_the_generator_alone(name: str) -> None:
    component, before = law(name), torch.get_rng_state()
    first, again, other = (component.sample(100, generator(seed)) for seed in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (100, component.dim())
    assert first.dtype == torch.float64
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", BODIES)
def test_the_score_and_its_slope_match_finite_differences(name: str) -> None:
    component, x = law(name), near(name)

    def score(x: Tensor, graph: bool = False) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        return x, torch.autograd.grad(component.log_prob(x).sum(), x, create_graph=graph)[0]

    direction = normal(1, component.dim(), 3)[0]
    h = 1e-5 * direction
    slope = (component.log_prob(x + h) - component.log_prob(x - h)) / 2e-5
    leaf, s = score(x, graph=True)
    torch.testing.assert_close(s.detach() @ direction, slope, rtol=1e-6, atol=1e-5)
    (second,) = torch.autograd.grad((s @ direction).sum(), leaf)
    torch.testing.assert_close(second, (score(x + h)[1] - score(x - h)[1]) / 2e-5, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("name", KNOWN)
def test_the_mean_of_minus_log_p_over_the_samples_is_the_entropy(name: str) -> None:
    component = law(name)
    surprise = -component.log_prob(component.sample(100_000, generator(5)))
    bound = 4 * float(surprise.std()) / math.sqrt(len(surprise))
    assert bound < 0.2
    assert float(surprise.mean()) == pytest.approx(component.entropy(), abs=bound)


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "funnel"])  # whose x⁴ no draws can average
def test_draws_have_the_moments(name: str) -> None:
    component = law(name)
    mean, covariance = component.moments()
    assert_moments(component.sample(100_000, generator(6)), mean, covariance)


# --------------------------------------------------------------------------------------------------- banana and funnel


@pytest.mark.parametrize("name", BANANAS)
def test_banana_against_its_conditional_laws(name: str) -> None:
    component, x = law(name), near(name)
    s, b = component.width, component.bend
    exact = gauss(0.0, s).log_prob(x[:, 0]) + gauss(b * (x[:, 0] ** 2 - s**2), 1.0).log_prob(x[:, 1])
    torch.testing.assert_close(component.log_prob(x), exact, rtol=1e-12, atol=1e-11)
    drawn = component.sample(100_000, generator(7))
    straight = torch.stack([drawn[:, 0] / s, drawn[:, 1] - b * (drawn[:, 0] ** 2 - s**2)], 1)
    assert_standard_normal(straight)


@pytest.mark.parametrize("name", BANANAS)
def test_banana_by_quadrature(name: str) -> None:
    component = law(name)
    low, high = (6 * component.width, component.bend * 40 * component.width**2)
    x1 = torch.linspace(-low, low, 401, dtype=torch.float64)
    x2 = torch.linspace(min(high, 0.0) - 12, max(high, 0.0) + 12, 801, dtype=torch.float64)
    points = torch.cartesian_prod(x1, x2)
    log_p = component.log_prob(points)
    weight = log_p.exp() * (x1[1] - x1[0]) * (x2[1] - x2[0])
    mean, covariance = component.moments()
    assert float(weight.sum()) == pytest.approx(1, abs=1e-7)
    torch.testing.assert_close(weight @ points, mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(points.T @ (weight[:, None] * points), covariance, rtol=0, atol=1e-5)
    assert -float(weight @ log_p) == pytest.approx(component.entropy(), abs=1e-6)


@pytest.mark.parametrize("name", FUNNELS)
def test_funnel_against_its_conditional_laws(name: str) -> None:
    component, x = law(name), near(name)
    scale = torch.exp(x[:, :1] / 2)
    exact = gauss(0.0, component.std).log_prob(x[:, 0]) + gauss(0.0, scale).log_prob(x[:, 1:]).sum(1)
    torch.testing.assert_close(component.log_prob(x), exact, rtol=1e-12, atol=1e-11)
    drawn = component.sample(100_000, generator(8))
    straight = torch.cat([drawn[:, :1] / component.std, drawn[:, 1:] * torch.exp(-drawn[:, :1] / 2)], 1)
    assert_standard_normal(straight)


@pytest.mark.parametrize("name", FUNNELS)
def test_funnel_by_quadrature(name: str) -> None:
    """Entropy and moments as integrals over v of those given v."""
    component = law(name)
    d, std = component.dim(), component.std

    def expected(of: Any) -> float:
        value, _ = quad(lambda v: of(v) * math.exp(-((v / std) ** 2) / 2), -12 * std, 12 * std, limit=200, epsrel=1e-10)
        return value / (math.sqrt(2 * math.pi) * std)

    given_v = expected(lambda v: (d - 1) / 2 * (math.log(2 * math.pi) + 1 + v))
    assert component.entropy() == pytest.approx(given_v + math.log(2 * math.pi * math.e * std**2) / 2, rel=1e-8)
    mean, covariance = component.moments()
    variances = [expected(lambda v: v * v), *[expected(math.exp)] * (d - 1)]
    torch.testing.assert_close(covariance, torch.tensor(variances, dtype=torch.float64).diag(), rtol=1e-8, atol=0)
    assert not mean.any()
    assert name != "funnel" or (d, std) == (10, 3.0)  # Neal's own


def assert_standard_normal(z: Tensor) -> None:
    """Moments to the fourth, and positions on a finer scale, of rows N(0, I)."""
    d = z.shape[1]
    assert_moments(z, torch.zeros(d).double(), torch.eye(d).double())
    fourth, wave = z**4 - 3, torch.cos(3 * z) - math.exp(-4.5)
    for error in (z**3, fourth, wave):
        assert (error.mean(0) / (error.std(0) / math.sqrt(len(z)))).abs().max() < 4


@pytest.mark.parametrize("name", FUNNELS)
def test_funnel_is_finite_far_out(name: str) -> None:
    x = torch.zeros(4, law(name).dim(), dtype=torch.float64)
    x[:, 0] = torch.tensor([-1400.0, 1400.0, -600.0, 600.0])
    x[2:, 1] = 10.0
    x.requires_grad_()
    log_p = law(name).log_prob(x)
    (score,) = torch.autograd.grad(log_p.sum(), x)
    assert log_p.isfinite().all()
    assert score.isfinite().all()


# --------------------------------------------------------------------------------------------------------- double well


def by_quad(component: Any, of: Any) -> float:
    """∫ of(x) exp(-a (x² - b²)²) dx, adaptively."""
    a, b = component.steepness, component.well
    reach = math.sqrt(b * b + math.sqrt(60 / a))
    f = lambda x: of(x) * math.exp(-a * (x * x - b * b) ** 2)  # noqa: E731
    return quad(f, -reach, reach, points=[-b, 0, b], limit=400, epsabs=1e-13, epsrel=1e-12)[0]


@pytest.mark.parametrize("name", WELLS)
def test_double_well_against_bessel_functions_and_adaptive_quadrature(name: str) -> None:
    """Z = (πb/2) e^{-c} (I_{-1/4}(c) + I_{1/4}(c)), c = a b⁴/2."""
    component = law(name)
    a, b = component.steepness, component.well
    c = a * b**4 / 2
    z = math.pi * b / 2 * float(ive(-0.25, c) + ive(0.25, c))
    assert z == pytest.approx(by_quad(component, lambda x: 1.0), rel=1e-10)
    x = near(name)
    exact = -a * (x[:, 0] ** 2 - b**2) ** 2 - math.log(z)
    torch.testing.assert_close(component.log_prob(x), exact, rtol=1e-11, atol=1e-11)
    mean, covariance = component.moments()
    assert mean.tolist() == [0.0]
    assert float(covariance) == pytest.approx(by_quad(component, lambda x: x * x) / z, rel=1e-10)
    energy = by_quad(component, lambda x: a * (x * x - b * b) ** 2) / z
    assert component.entropy() == pytest.approx(energy + math.log(z), abs=1e-10)


@pytest.mark.parametrize("name", WELLS)
def test_double_well_inverts_its_distribution_function(name: str) -> None:
    component = law(name)
    total = by_quad(component, lambda x: 1.0) / 2
    u = torch.tensor([1e-12, 1e-6, 0.01, 0.2, 0.5, 0.77, 0.99, 1 - 1e-6], dtype=torch.float64)
    density = lambda x: math.exp(-component.steepness * (x * x - component.well**2) ** 2)  # noqa: E731
    for want, distance in zip(u.tolist(), component._quantile(u).tolist()):
        middle = min(distance, component.well)
        got = sum(quad(density, *ends, epsabs=1e-14, limit=200)[0] for ends in ((0, middle), (middle, distance)))
        assert got / total == pytest.approx(want, abs=1e-7)
    assert component._quantile(torch.ones(1).double()).isfinite().all()


@pytest.mark.parametrize("name", WELLS)
def test_double_well_draws_follow_the_density(name: str) -> None:
    """Kolmogorov's distance on the whole line, and the mean of waves."""
    component = law(name)
    drawn = component.sample(50_000, generator(9))[:, 0]
    x = np.linspace(-5, 5, 200_001)
    p = component.log_prob(torch.from_numpy(x)[:, None]).exp().numpy()
    cdf = np.concatenate([[0], np.cumsum((p[1:] + p[:-1]) / 2)]) * (x[1] - x[0])
    assert cdf[-1] == pytest.approx(1, abs=1e-9)
    below = np.interp(np.sort(drawn.numpy()), x, cdf)
    distance = np.abs(below - (np.arange(50_000) + 0.5) / 50_000).max()
    assert distance * math.sqrt(50_000) < 2.0  # exceeded once in 1500
    z = torch.corrcoef(torch.stack([drawn[1:], drawn[:-1]]))[0, 1] * math.sqrt(50_000)
    assert abs(z) < 4


def test_double_well_relaxes_at_the_lectures_rate() -> None:
    """dx = ½ s dt + dw, s = ∇log p, is the Schrödinger operator -½ d²/dx² + s²/8 + s'/4: eigenvalues 0, 0.22727."""
    h = 0.005
    x = torch.arange(-3, 3 + h / 2, h, dtype=torch.float64)[:, None].requires_grad_()
    (s,) = torch.autograd.grad(law("double_well").log_prob(x).sum(), x, create_graph=True)
    (slope,) = torch.autograd.grad(s.sum(), x)
    potential = (s.square() / 8 + slope / 4).detach()[:, 0].numpy()
    off = np.full(len(potential) - 1, -0.5 / h**2)
    lowest = eigvalsh_tridiagonal(potential + 1 / h**2, off, select="i", select_range=(0, 2))
    assert lowest[:2] == pytest.approx([0, 0.22727], abs=1e-4)
    assert lowest[2] > 1


# ------------------------------------------------------------------------------------------------------- eight schools


def log_hyperprior(component: Any, mu: Tensor, tau: Tensor) -> Tensor:
    """log p(μ, log τ): the last term is the Jacobian of exp."""
    return (
        gauss(0.0, component.mu_std).log_prob(mu)
        + HalfCauchy(torch.as_tensor(component.tau_scale, dtype=torch.float64)).log_prob(tau)
        + tau.log()
    )


def prior_draws(component: Any, n: int) -> tuple[Tensor, Tensor]:
    """Unconstrained x (n, J + 2) drawn from the prior, with its log density there up to a constant."""
    g = generator(10)
    mu = component.mu_std * torch.randn(n, generator=g, dtype=torch.float64)
    tau = component.tau_scale * torch.tan(math.pi / 2 * torch.rand(n, generator=g, dtype=torch.float64))
    z = torch.randn(n, len(component.y), generator=g, dtype=torch.float64)
    log_p = log_hyperprior(component, mu, tau) + gauss(0.0, 1.0).log_prob(z).sum(1)
    return torch.cat([mu[:, None], tau.log()[:, None], z], 1), log_p


@pytest.mark.parametrize("name", SCHOOLS)
def test_eight_schools_is_prior_times_likelihood_times_jacobian(name: str) -> None:
    component = law(name)
    x, log_prior = prior_draws(component, 200)
    effects = x[:, :1] + x[:, 1:2].exp() * x[:, 2:]
    y, sigma = torch.tensor(component.y).double(), torch.tensor(component.sigma).double()
    exact = log_prior + Independent(gauss(effects, sigma), 1).log_prob(y)
    rest = component.log_prob(x) - exact
    torch.testing.assert_close(rest, rest.mean().expand(200), rtol=0, atol=1e-7)


def test_eight_schools_has_the_published_data_and_moments() -> None:
    component = law("eight_schools")
    assert component.y == (28, 8, -3, 7, -1, 1, 18, 12)
    assert component.sigma == (15, 10, 16, 11, 9, 11, 10, 18)
    mean, covariance = component.moments()
    assert mean[:2].tolist() == pytest.approx([4.397, 3.598], abs=5e-4)
    assert covariance.diagonal()[:2].sqrt().tolist() == pytest.approx([3.318, 3.220], abs=5e-4)


@pytest.mark.parametrize("name", SCHOOLS)
def test_eight_schools_moments_by_a_grid_over_mu_and_tau(name: str) -> None:
    """θ given μ, τ, y is normal with precision 1/τ² + 1/σ²; μ is left to the grid."""
    component = law(name)
    y, sigma = torch.tensor(component.y).double(), torch.tensor(component.sigma).double()
    mu, log_tau = torch.cartesian_prod(
        torch.linspace(-8 * component.mu_std, 8 * component.mu_std, 241, dtype=torch.float64),
        torch.linspace(-24, 14, 761, dtype=torch.float64),
    ).T[:, :, None]
    tau = log_tau.exp()
    likelihood = gauss(mu, (sigma**2 + tau**2).sqrt()).log_prob(y).sum(1, keepdim=True)
    weight = torch.softmax((likelihood + log_hyperprior(component, mu, tau))[:, 0], 0)
    precision = 1 / tau**2 + 1 / sigma**2
    rows = torch.cat([mu, tau, (mu / tau**2 + y / sigma**2) / precision], 1)
    mean = weight @ rows
    covariance = (rows - mean).T @ (weight[:, None] * (rows - mean))
    covariance.diagonal()[2:] += weight @ (1 / precision)
    found_mean, found_covariance = component.moments()
    torch.testing.assert_close(found_mean, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found_covariance, covariance, rtol=1e-5, atol=1e-5)


def test_eight_schools_moments_by_weighing_draws_of_the_prior() -> None:
    """log_prob, the reported quantities and their moments are one law."""
    component = law("eight_schools")
    x, log_prior = prior_draws(component, 200_000)
    weight = torch.softmax(component.log_prob(x) - log_prior, 0)
    assert 1 / weight.square().sum() > 40_000  # effective number of draws
    reported, names = component.reported(x)
    assert names == ("mu", "tau", *(f"theta_{i}" for i in range(1, 9)))
    mean, covariance = component.moments()
    assert_moments(reported, mean, covariance, weight)


# ----------------------------------------------------------------------------------------------- moments of other laws

OTHERS: dict[str, tuple[Any, float]] = {  # and the step of the grid
    "gaussian": ({"type": "gaussian", "mean": [1.0, -2.0], "covariance": [[1.0, 0.6], [0.6, 2.0]]}, 0.2),
    "gaussian_std": ({"type": "gaussian", "mean": 0.5, "std": [0.7, 2.0]}, 0.2),
    "mixture": (
        {
            "type": "gaussian_mixture",
            "means": [[-2, 0], [1, 1], [0, 2]],
            "std": [0.3, 0.6, 0.4],
            "weights": [0.2, 0.5, 0.3],
        },
        0.1,
    ),
    "mixture_equal": ({"type": "gaussian_mixture", "means": [[-2, 0], [1, 1], [0, 2]], "std": 0.5}, 0.1),
    "8gaussians": ({"type": "8gaussians", "radius": 2.0, "std": 0.6}, 0.1),
    "moons": ({"type": "moons", "noise": 0.2}, 0.1),
    "moons_ffjord": ({"type": "moons", "noise": 0.2, "scaling": "ffjord"}, 0.1),
    "swissroll": ({"type": "swissroll", "noise": 2.0}, 0.2),
    "circles": ({"type": "circles", "factor": 0.3}, 0.05),
    "rings": ({"type": "rings", "rings": 3, "noise": 0.3}, 0.1),
    "2spirals": ({"type": "2spirals", "noise": 0.3, "jitter": 2.0}, 0.15),
    "pinwheel": ({"type": "pinwheel", "arms": 3, "radial_std": 0.3, "tangential_std": 0.25, "rate": 0.1}, 0.05),
    "checkerboard": ({"type": "checkerboard", "cells": 4, "edge": 2.0}, 0.02),
    "checkerboard_odd_half": ({"type": "checkerboard", "cells": 6, "edge": 0.5}, 0.005),
}


@pytest.mark.parametrize("name", OTHERS)
def test_moments_by_a_grid(name: str) -> None:
    body, step = OTHERS[name]
    component = Data.make(body)
    assert isinstance(component, Distribution)
    x = component.sample(5000, generator(11))
    edge = 0.0 if name.startswith("checkerboard") else 3.0
    low, high = (x.amin(0) - edge).floor(), (x.amax(0) + edge).ceil()
    axes = [torch.arange(float(a) + step / 2, float(b), step, dtype=torch.float64) for a, b in zip(low, high)]
    points = torch.cartesian_prod(*axes)
    weight = component.log_prob(points).exp() * step**2
    found = component.moments()
    assert found is not None
    mean, covariance = found
    centred = points - mean
    assert float(weight.sum()) == pytest.approx(1, abs=2e-5)
    torch.testing.assert_close(weight @ points, mean, rtol=0, atol=2e-4)
    torch.testing.assert_close(centred.T @ (weight[:, None] * centred), covariance, rtol=0, atol=1e-3)
    assert mean.dtype == covariance.dtype == torch.float64


def test_moments_in_other_dimensions() -> None:
    covariance = torch.tensor([[2.0, 0.3, 0.1], [0.3, 1.0, -0.4], [0.1, -0.4, 3.0]]).double()
    body = {"type": "gaussian", "mean": [1.0, 2.0, 3.0], "covariance": covariance.tolist()}
    mean, found = moments_of(body)
    exact = MultivariateNormal(torch.tensor([1.0, 2.0, 3.0]).double(), covariance)
    torch.testing.assert_close(mean, exact.mean)
    torch.testing.assert_close(found, exact.covariance_matrix)
    mean, found = moments_of({"type": "gaussian_mixture", "means": [[0.0], [3.0]], "std": [1.0, 2.0]})
    assert (mean.tolist(), found.tolist()) == ([1.5], [[1.5**2 + 2.5]])
    for unknown in ("gaussian", {"type": "pinwheel", "arms": 2}):
        assert Data.make(unknown).moments() is None  # type: ignore[attr-defined]


def moments_of(body: Any) -> tuple[Tensor, Tensor]:
    made = Data.make(body)
    assert isinstance(made, Distribution)
    found = made.moments()
    assert found is not None
    return found


# ----------------------------------------------------------------------------------------------------------------- keys

REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "no width": ({"type": "banana", "width": 0}, ("width",), "greater than 0"),
    "one dimension": ({"type": "funnel", "dimensions": 1}, ("dimensions",), "greater than or equal to 2"),
    "wide funnel": ({"type": "funnel", "std": 40}, ("std",), "less than or equal to 30"),
    "steepness": ({"type": "double_well", "steepness": -1}, ("steepness",), "greater than 0"),
    "one well": ({"type": "double_well", "well": 0}, ("well",), "greater than 0"),
    "one school": ({"type": "eight_schools", "y": [1.0], "sigma": [1.0]}, ("y",), "at least 2"),
    "other y": ({"type": "eight_schools", "y": [1.0, 2.0]}, ("sigma",), "sigma has 8 numbers, y has 2"),
    "sigma 0": ({"type": "eight_schools", "y": [1, 2], "sigma": [0, 1]}, ("sigma",), "0 is not more than 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_keys_are_refused_at_the_key(case: str) -> None:
    body, location, text = REFUSED[case]
    with pytest.raises(ValidationError) as caught:
        Data.make(body)
    (error,) = caught.value.errors()
    assert error["loc"] == location
    assert text in error["msg"]


def test_checking_never_imports_torch() -> None:
    code = f"import sys; from driftspec.components import Data; [Data.make(b) for b in {list(BODIES.values())!r}]"
    code += "; print([name for name in ('torch', 'scipy', 'sklearn') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
