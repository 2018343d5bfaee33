"""Laws with a known density: what is drawn, what log p says and the entropy must be one and the same law."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import make_circles, make_moons, make_swiss_roll
from torch import Tensor

from driftspec.components import Data, Distribution
from driftspec.errors import SpecError
from driftspec_plugins.data._symmetric import smallest_eigenvalue

ENTROPY: dict[str, tuple[Any, float]] = {
    "moons": ("moons", 1.0076),
    "moons_narrow": ({"type": "moons", "noise": 0.05}, 0.2892),
    "moons_ffjord": ({"type": "moons", "scaling": "ffjord"}, 2.3939),
    "8gaussians": ("8gaussians", 2.8319),
    "swissroll": ("swissroll", 2.6697),
    "circles": ("circles", 3.2681),
    "rings": ("rings", 2.6232),
    "2spirals": ("2spirals", 2.6454),
    "pinwheel": ("pinwheel", 2.3178),  # published as 2.320 ± 0.003
    "checkerboard": ("checkerboard", 3.4657),
}
OTHERS: dict[str, Any] = {
    "gaussian": {"type": "gaussian", "mean": [1.0, -2.0], "covariance": [[1.0, 0.6], [0.6, 2.0]]},
    "gaussian_std": {"type": "gaussian", "mean": 0.5, "std": [0.3, 2.0]},
    "mixture": {
        "type": "gaussian_mixture",
        "means": [[-2, 0], [1, 1], [0, 2]],
        "std": [0.3, 0.6, 0.4],
        "weights": [0.2, 0.5, 0.3],
    },
    "pinwheel_other": {"type": "pinwheel", "arms": 3, "rate": 0.4, "radial_std": 0.2, "tangential_std": 0.15},
    "2spirals_other": {"type": "2spirals", "noise": 0.2, "jitter": 2.0},
    "circles_other": {"type": "circles", "factor": 0.2, "noise": 0.2},
    "rings_other": {"type": "rings", "rings": 2, "noise": 0.2},
    "checkerboard_other": {"type": "checkerboard", "cells": 6, "edge": 0.5},
}
BODIES = {name: body for name, (body, _) in ENTROPY.items()} | OTHERS
SMOOTH = [name for name in BODIES if not name.startswith("checkerboard")]


def law(name: str) -> Distribution:
    made = Data.make(BODIES[name])
    assert isinstance(made, Distribution)
    return made


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grid(component: Distribution, step: float) -> tuple[Tensor, float]:
    """Midpoints of cells over the samples' box and a margin, edges on whole numbers; a cell's area."""
    x = component.sample(5000, generator(99))
    low, high = (x.amin(0) - 1).floor(), (x.amax(0) + 1).ceil()
    axes = [torch.arange(float(a) + step / 2, float(b), step, dtype=torch.float64) for a, b in zip(low, high)]
    return torch.cartesian_prod(*axes), step**2


def features(x: Tensor) -> Tensor:
    """(n, 9): moments, and waves that see positions on a finer scale."""
    a, b = x.T
    waves = [torch.sin(2 * a + b), torch.cos(a - 3 * b), torch.sin(3 * a), torch.cos(4 * a + 4 * b)]
    return torch.stack([a, b, a * a, b * b, a * b, *waves], 1)


@pytest.mark.parametrize("name", BODIES)
def test_the_density_has_mass_one_and_the_samples_follow_it(name: str) -> None:
    component = law(name)
    points, cell = grid(component, step=1 / 10 if name == "2spirals" else 1 / 20)
    weight = component.log_prob(points).exp() * cell
    assert float(weight.sum()) == pytest.approx(1, abs=1e-4)
    drawn = features(component.sample(40_000, generator(1)))
    z = (drawn.mean(0) - weight @ features(points)) / (drawn.std(0) / math.sqrt(len(drawn)))
    assert z.abs().max() < 4


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (_, value) in ENTROPY.items()])
def test_entropies_of_the_usual_toys(name: str, value: float) -> None:
    assert law(name).entropy() == pytest.approx(value, abs=3e-4)
    assert name != "pinwheel" or abs(value - 2.320) < 0.003


@pytest.mark.parametrize("name", BODIES)
def test_the_mean_of_minus_log_p_over_the_samples_is_the_entropy(name: str) -> None:
    component = law(name)
    entropy = component.entropy()
    surprise = -component.log_prob(component.sample(20_000, generator(3)))
    assert entropy is not None
    bound = 4 * float(surprise.std()) / math.sqrt(len(surprise))
    assert float(surprise.mean()) == pytest.approx(entropy, abs=bound + 1e-9)


def published_8gaussians(n: int, rng: np.random.RandomState) -> np.ndarray:
    angle = rng.randint(8, size=n) * np.pi / 4
    return (4 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.5 * rng.randn(n, 2)) / 1.414


def published_rings(n: int, rng: np.random.RandomState) -> np.ndarray:
    angle = np.arange(n // 4) * 8 * np.pi / n
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.concatenate([3 * radius * circle for radius in (1, 0.75, 0.5, 0.25)]) + 0.08 * rng.randn(n, 2)


def published_2spirals(n: int, rng: np.random.RandomState) -> np.ndarray:
    turn = np.sqrt(rng.rand(n // 2)) * 540 * 2 * np.pi / 360
    arm = np.stack([-np.cos(turn) * turn, np.sin(turn) * turn], 1) + rng.rand(n // 2, 2) * 0.5
    return np.concatenate([arm, -arm]) / 3 + 0.1 * rng.randn(n, 2)


def published_pinwheel(n: int, rng: np.random.RandomState) -> np.ndarray:
    f = rng.randn(n, 2) * [0.3, 0.1] + [1, 0]
    angle = 2 * np.pi / 5 * (np.arange(n) % 5) + 0.25 * np.exp(f[:, 0])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return 2 * np.einsum("ti,ijt->tj", f, rotation)


def published_checkerboard(n: int, rng: np.random.RandomState) -> np.ndarray:
    a = rng.rand(n) * 4 - 2
    b = rng.rand(n) - rng.randint(0, 2, n) * 2 + np.floor(a) % 2
    return np.stack([a, b], 1) * 2


PUBLISHED: dict[str, Callable[[int, np.random.RandomState], np.ndarray]] = {
    "moons": lambda n, rng: make_moons(n, noise=0.1, random_state=rng)[0],
    "moons_narrow": lambda n, rng: make_moons(n, noise=0.05, random_state=rng)[0],
    "moons_ffjord": lambda n, rng: make_moons(n, noise=0.1, random_state=rng)[0] * 2 + [-1, -0.2],
    "8gaussians": published_8gaussians,
    "swissroll": lambda n, rng: make_swiss_roll(n, noise=1.0, random_state=rng)[0][:, [0, 2]] / 5,
    "circles": lambda n, rng: make_circles(n, factor=0.5, noise=0.08, random_state=rng)[0] * 3,
    "rings": published_rings,
    "2spirals": published_2spirals,
    "pinwheel": published_pinwheel,
    "checkerboard": published_checkerboard,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_points_of_the_published_construction_are_points_of_the_law(name: str) -> None:
    """Units, centres, sense of rotation: their mean -log p is the entropy, their features are as drawn here."""
    component = law(name)
    theirs = torch.from_numpy(np.asarray(PUBLISHED[name](20_000, np.random.RandomState(5))))
    surprise = -component.log_prob(theirs)
    bound = 4 * float(surprise.std()) / math.sqrt(len(surprise))
    assert float(surprise.mean()) == pytest.approx(component.entropy(), abs=bound + 1e-9)
    a, b = features(theirs), features(component.sample(20_000, generator(6)))
    z = (a.mean(0) - b.mean(0)) / ((a.var(0) + b.var(0)) / 20_000).sqrt()
    assert z.abs().max() < 4


def brute_force(name: str, x: np.ndarray) -> np.ndarray:
    """log p by 10,000 midpoints in the curve's own parameter, summed plainly."""
    u = (np.arange(10_000) + 0.5) / 10_000
    angle = 2 * np.pi * u
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    half = np.stack([np.cos(angle / 2), np.sin(angle / 2)], 1)
    t = 1.5 * np.pi * (1 + 2 * u)
    n = 3 * np.pi * u  # of density 2u: midpoints in u itself converge slowly where √u is steep
    spiral = np.stack([-n * np.cos(n), n * np.sin(n)], 1) / 3
    curves, std = {
        "moons": ([half, [1, 0.5] - half], 0.1),
        "moons_narrow": ([half, [1, 0.5] - half], 0.05),
        "moons_ffjord": ([2 * half + [-1, -0.2], 2 * ([1, 0.5] - half) + [-1, -0.2]], 0.2),
        "swissroll": ([t[:, None] * np.stack([np.cos(t), np.sin(t)], 1) / 5], 0.2),
        "circles": ([3 * circle, 1.5 * circle], 0.24),
        "rings": ([0.75 * k * circle for k in range(1, 5)], 0.08),
        "2spirals": ([spiral, -spiral], 0.1),
    }[name]
    if name == "2spirals":
        from scipy.special import ndtr

        def kernel(z: np.ndarray) -> np.ndarray:
            return np.prod((ndtr(z / std) - ndtr((z - 0.5 / 3) / std)) / (0.5 / 3), -1)

        return np.log([(u * (kernel(row - spiral) + kernel(-row - spiral))).mean() for row in x])
    norm = 2 * np.pi * std**2
    p = [np.mean([np.exp(-((row - c) ** 2).sum(1) / (2 * std**2)).mean() for c in curves]) / norm for row in x]
    return np.log(p)


@pytest.mark.parametrize("name", ["moons", "moons_narrow", "moons_ffjord", "swissroll", "circles", "rings", "2spirals"])
def test_log_p_is_the_integral_over_the_curve(name: str) -> None:
    component = law(name)
    x = component.sample(30, generator(7))
    x[15:] += 0.3 * torch.randn(15, 2, generator=generator(8), dtype=torch.float64)
    exact = torch.from_numpy(brute_force(name, x.numpy()))
    assert exact.min() < -4
    torch.testing.assert_close(component.log_prob(x), exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", BODIES)
def test_draws_come_from_the_generator_alone(name: str) -> None:
    component = law(name)
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = (component.sample(100, generator(seed)) for seed in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (100, 2)
    assert first.dtype == torch.float64
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], legacy)


@pytest.mark.parametrize("name", BODIES)
def test_points_are_independent(name: str) -> None:
    """Evenly spaced parameters or equal counts would make the mean of a set vary too little: z² sums to chi-square."""
    component = law(name)
    sets = torch.stack([features(component.sample(200, generator(seed))) for seed in range(100)])
    ratio = sets.mean(1).var(0) * 200 / sets.flatten(0, 1).var(0)
    assert ((ratio - 1).abs() < 4 * math.sqrt(2 / 99)).all()


@pytest.mark.parametrize("name", SMOOTH)
def test_the_score_and_its_slope_match_finite_differences(name: str) -> None:
    component = law(name)
    x = component.sample(40, generator(9))
    x[20:] += 0.1 * torch.randn(20, 2, generator=generator(10), dtype=torch.float64)

    def score(x: Tensor, graph: bool = False) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        return x, torch.autograd.grad(component.log_prob(x).sum(), x, create_graph=graph)[0]

    direction = torch.tensor([0.6, -0.8], dtype=torch.float64)
    h = 1e-5 * direction
    slope = (component.log_prob(x + h) - component.log_prob(x - h)) / 2e-5
    leaf, s = score(x, graph=True)
    torch.testing.assert_close(s.detach() @ direction, slope, rtol=1e-6, atol=1e-5)
    (second,) = torch.autograd.grad((s @ direction).sum(), leaf)
    torch.testing.assert_close(second, (score(x + h)[1] - score(x - h)[1]) / 2e-5, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("name", SMOOTH)
def test_far_tails_are_finite_and_point_home(name: str) -> None:
    component = law(name)
    angle = torch.linspace(0, 6, 25, dtype=torch.float64)
    for radius in (0.0, 8.0, 30.0, 1000.0):
        x = radius * torch.stack([angle.cos(), angle.sin()], 1)
        x.requires_grad_()
        log_p = component.log_prob(x)
        (score,) = torch.autograd.grad(log_p.sum(), x)
        assert log_p.isfinite().all()
        assert score.isfinite().all()
        if radius >= 30 and not name.startswith("pinwheel"):  # whose arms wind ever more tightly
            assert ((score * x).sum(1) < 0).all()
            assert (log_p < -radius).all()


def test_2spirals_in_logarithms_continue_the_plain_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    from driftspec_plugins.data import two_spirals

    component = law("2spirals")
    x = torch.stack([torch.linspace(0, 6, 50, dtype=torch.float64), torch.zeros(50, dtype=torch.float64)], 1)
    plain = component.log_prob(x)
    monkeypatch.setattr(two_spirals, "TINY", math.inf)
    torch.testing.assert_close(component.log_prob(x), plain, rtol=1e-12, atol=1e-12)


def test_pinwheel_counts_every_preimage_and_stretch() -> None:
    """Density of an arm's Gaussian over the stretch at f, plus the other preimages, found here by a plain scan."""
    component = law("pinwheel_other")
    x = component.sample(20, generator(18))
    r = torch.linspace(-1, 3, 400_001, dtype=torch.float64)
    for point, log_p in zip(x, component.log_prob(x)):
        p = 0.0
        for arm in range(3):
            angle = 2 * math.pi / 3 * arm + 0.4 * r.exp()
            y = point / 2
            residual = r - (y[0] * angle.cos() - y[1] * angle.sin())
            s = y[0] * angle.sin() + y[1] * angle.cos()
            density = torch.exp(-(((r - 1) / 0.2) ** 2) / 2 - ((s / 0.15) ** 2) / 2) / (2 * math.pi * 0.2 * 0.15)
            root = residual[:-1].sign() != residual[1:].sign()
            p += float((density / (4 * 3 * (1 + 0.4 * r.exp() * s).abs()))[:-1][root].sum())
        assert float(log_p) == pytest.approx(math.log(p), abs=2e-3)


@pytest.mark.parametrize("name", ["pinwheel", "pinwheel_other"])
def test_pinwheel_keeps_the_mass_of_every_circle(name: str) -> None:
    """Rotations keep |f| = |x|/2: the mean of p over a circle is a quarter of the Gaussian's mean over half of it."""
    component: Any = law(name)
    turn = torch.arange(4096, dtype=torch.float64) * (2 * math.pi / 4096)
    unit = torch.stack([turn.cos(), turn.sin()], 1)
    std = torch.tensor([component.radial_std, component.tangential_std], dtype=torch.float64)
    for radius, tolerance in ((0.25, 1e-9), (0.6, 1e-9), (1.0, 1e-9), (1.3, 1e-5), (3.0, 0.3), (7.0, 0.3), (10.0, 0.3)):
        z = (radius * unit - torch.tensor([1.0, 0.0])) / std
        gauss = torch.logsumexp(-z.square().sum(1) / 2, 0) - (2 * math.pi * std.prod()).log() - math.log(4)
        mean = torch.logsumexp(component.log_prob(2 * radius * unit), 0)
        assert float(mean) == pytest.approx(float(gauss), abs=tolerance)


@pytest.mark.parametrize("name", BODIES)
def test_a_row_depends_on_no_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from driftspec_plugins.data import _mixture

    component = law(name)
    x = component.sample(50, generator(19))
    whole = component.log_prob(x)
    monkeypatch.setattr(_mixture, "CHUNK", 5000)
    torch.testing.assert_close(component.log_prob(x), whole, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(component.log_prob(x[7:8]), whole[7:8], rtol=1e-13, atol=1e-13)
    assert component.log_prob(x[:0]).shape == (0,)


def test_checkerboard_has_hard_edges() -> None:
    component = law("checkerboard")
    x = torch.tensor([[0.5, 0.5], [0.5, -0.5], [-3.9, -3.9], [4.1, 4.1], [2.5, -1.5]], dtype=torch.float64)
    x.requires_grad_()
    log_p = component.log_prob(x)
    inside = -math.log(32)
    assert log_p.tolist() == pytest.approx([inside, -math.inf, inside, -math.inf, inside])
    assert torch.equal(torch.autograd.grad(log_p[0], x)[0], torch.zeros_like(x))
    assert component.hard_edges
    assert not law("moons").hard_edges


@pytest.mark.parametrize("d", [1, 3])
def test_gaussian_against_torch(d: int) -> None:
    from torch.distributions import MultivariateNormal, Normal

    root = torch.randn(d, d, generator=generator(11), dtype=torch.float64).tril() + 2 * torch.eye(d).double()
    covariance, mean = root @ root.T, torch.arange(1.0, d + 1).double()
    x = 3 * torch.randn(50, d, generator=generator(12), dtype=torch.float64)
    full = Data.make({"type": "gaussian", "mean": mean.tolist(), "covariance": covariance.tolist()})
    exact = MultivariateNormal(mean, covariance)
    assert isinstance(full, Distribution)
    torch.testing.assert_close(full.log_prob(x), exact.log_prob(x), rtol=1e-12, atol=1e-12)
    assert full.entropy() == pytest.approx(float(exact.entropy()), rel=1e-12)
    drawn = full.sample(40_000, generator(13))
    z = (drawn.mean(0) - mean) / (covariance.diag() / 40_000).sqrt()
    spread = (covariance**2 + covariance.diag() * covariance.diag()[:, None]) / 40_000
    assert z.abs().max() < 4
    assert ((torch.atleast_2d(torch.cov(drawn.T)) - covariance).abs() < 4 * spread.sqrt()).all()

    plain = Data.make({"type": "gaussian", "mean": 0.5, "std": 2})
    assert isinstance(plain, Distribution)
    assert plain.dim() is None
    assert plain.entropy() is None
    exact_plain = Normal(*torch.tensor([0.5, 2.0]).double()).log_prob(x).sum(1)
    torch.testing.assert_close(plain.log_prob(x), exact_plain, rtol=1e-12, atol=1e-12)
    assert plain.sample(3, generator(), dim=d).shape == (3, d)
    with pytest.raises(SpecError, match="any dimension"):
        plain.sample(3, generator())

    listed = Data.make({"type": "gaussian", "std": [0.5 + i for i in range(d)]})
    assert isinstance(listed, Distribution)
    std = torch.tensor([0.5 + i for i in range(d)]).double()
    torch.testing.assert_close(listed.log_prob(x), Normal(0.0 * std, std).log_prob(x).sum(1), rtol=1e-12, atol=1e-12)
    assert listed.entropy() == pytest.approx(float(Normal(0.0 * std, std).entropy().sum()), rel=1e-12)
    assert Data.make("gaussian").log_prob(x.float()).dtype == torch.float32  # type: ignore[attr-defined]


@pytest.mark.parametrize("d", [1, 2, 3])
def test_mixture_against_torch(d: int) -> None:
    from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

    means = 2 * torch.randn(3, d, generator=generator(14), dtype=torch.float64)
    weights, std = torch.tensor([0.1, 0.6, 0.3]).double(), torch.tensor([0.5, 1.0, 0.7]).double()
    body = {"type": "gaussian_mixture", "means": means.tolist(), "std": [0.5, 1.0, 0.7], "weights": [0.1, 0.6, 0.3]}
    component = Data.make(body)
    assert isinstance(component, Distribution)
    parts = Independent(Normal(means, std[:, None].expand(3, d)), 1)
    exact = MixtureSameFamily(Categorical(weights), parts)
    x = 3 * torch.randn(200, d, generator=generator(15), dtype=torch.float64)
    torch.testing.assert_close(component.log_prob(x), exact.log_prob(x), rtol=1e-7, atol=1e-7)
    drawn = component.sample(40_000, generator(16))
    z = (drawn.mean(0) - weights @ means) / (drawn.std(0) / 200)
    assert z.abs().max() < 4
    entropy, surprise = component.entropy(), -component.log_prob(drawn)
    assert (entropy is None) == (d == 3)
    if entropy is not None:
        assert float(surprise.mean()) == pytest.approx(entropy, abs=4 * float(surprise.std()) / 200)
    equal = Data.make({**body, "weights": None})
    third = Data.make({**body, "weights": [1 / 3, 1 / 3, 1 / 3]})
    assert torch.equal(equal.log_prob(x), third.log_prob(x))  # type: ignore[attr-defined]


def test_an_entropy_beyond_the_budget_is_unknown() -> None:
    narrow = Data.make({"type": "gaussian_mixture", "means": [[0, 0], [100, 100]], "std": [1e-4, 1.0]})
    assert isinstance(narrow, Distribution)
    assert narrow.entropy() is None


@pytest.mark.parametrize("d", [1, 2, 3, 12])
def test_the_smallest_eigenvalue_is_that_of_lapack(d: int) -> None:
    random = np.random.default_rng(d)
    for _ in range(20):
        root = random.normal(size=(d, d)) * 10.0 ** random.integers(-4, 4, d)
        for matrix in (root @ root.T, root + root.T, np.diag(root[0]), np.ones((d, d))):
            exact = np.linalg.eigvalsh(matrix)[0]
            assert smallest_eigenvalue(matrix.tolist()) == pytest.approx(
                exact, rel=0, abs=1e-13 * abs(matrix).max() * d
            )


MEANS = [[0, 0], [1, 1]]
REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "std is 0": ({"type": "gaussian", "std": 0}, ("std",), "0 is not more than 0"),
    "std has a negative": ({"type": "gaussian", "std": [1, -2.5]}, ("std",), "-2.5 is not more than 0"),
    "std is text": ({"type": "gaussian", "std": "1"}, ("std",), "a number or a list of numbers, not '1'"),
    "std is true": ({"type": "gaussian", "std": True}, ("std",), "a number or a list of numbers, not true"),
    "mean is empty": ({"type": "gaussian", "mean": []}, ("mean",), "empty"),
    "lengths": ({"type": "gaussian", "mean": [0, 0], "std": [1, 1, 1]}, ("std",), "3 coordinates, mean has 2"),
    "one is no number": ({"type": "gaussian", "mean": [0, 0], "std": [1]}, ("std",), "1 coordinates, mean has 2"),
    "not square": ({"type": "gaussian", "covariance": [[1, 0]]}, ("covariance",), "square"),
    "no rows": ({"type": "gaussian", "covariance": []}, ("covariance",), "square"),
    "not symmetric": ({"type": "gaussian", "covariance": [[1, 0.5], [0.4, 1]]}, ("covariance",), "symmetric"),
    "not definite": ({"type": "gaussian", "covariance": [[1, 2], [2, 1]]}, ("covariance",), "eigenvalue -1"),
    "singular": ({"type": "gaussian", "covariance": [[1, 1], [1, 1]]}, ("covariance",), "positive definite"),
    "too wide": ({"type": "gaussian", "mean": [0], "covariance": [[1, 0], [0, 1]]}, ("covariance",), "mean has 1"),
    "both": ({"type": "gaussian", "std": 1, "covariance": [[1]]}, ("covariance",), "exclude each other"),
    "no means": ({"type": "gaussian_mixture"}, ("means",), "required"),
    "means is empty": ({"type": "gaussian_mixture", "means": []}, ("means",), "one length"),
    "ragged": ({"type": "gaussian_mixture", "means": [[0, 0], [1]]}, ("means",), "1 and 2"),
    "mixture std": ({"type": "gaussian_mixture", "means": MEANS, "std": [1, 0]}, ("std",), "not more than 0"),
    "mixture stds": ({"type": "gaussian_mixture", "means": MEANS, "std": [1]}, ("std",), "1 numbers, means has 2"),
    "weights sum": ({"type": "gaussian_mixture", "means": MEANS, "weights": [0.5, 0.4]}, ("weights",), "these to 0.9"),
    "weights sign": ({"type": "gaussian_mixture", "means": MEANS, "weights": [1.5, -0.5]}, ("weights",), "-0.5"),
    "weights count": ({"type": "gaussian_mixture", "means": MEANS, "weights": [1.0]}, ("weights",), "1 numbers"),
    "noise": ({"type": "moons", "noise": 0}, ("noise",), "greater than or equal to 0.001"),
    "scaling": ({"type": "moons", "scaling": "ffjrd"}, ("scaling",), "'ffjord'"),
    "odd board": ({"type": "checkerboard", "cells": 3}, ("cells",), "multiple of 2"),
    "fold": ({"type": "pinwheel", "rate": 1.0}, ("tangential_std",), "with rate 1 and radial_std 0.3 the arms fold"),
    "factor": ({"type": "circles", "factor": 1.0}, ("factor",), "less than 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_keys_are_refused_at_the_key(case: str) -> None:
    body, location, text = REFUSED[case]
    with pytest.raises(ValidationError) as caught:
        Data.make(body)
    (error,) = caught.value.errors()
    assert error["loc"] == location
    assert text in error["msg"]


@pytest.mark.parametrize("name", BODIES)
def test_a_law_is_its_body(name: str) -> None:
    component = law(name)
    body = component.body()
    assert Data.make(body) == component
    assert component.dim() == 2
    assert component.columns() == ("x1", "x2")
    assert component.offers() == {"samples", "log_prob"}
    assert all(field.description for field in type(component).model_fields.values())
    assert set(type(component).model_json_schema()["properties"]) == set(body) - {"type"}
    x = component.sample(50, generator(17))
    single = component.log_prob(x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), component.log_prob(x.float().double()), rtol=1e-5, atol=1e-5)


def test_checking_never_imports_torch() -> None:
    code = f"import sys; from driftspec.components import Data; [Data.make(b) for b in {list(BODIES.values())!r}]"
    code += "; print([name for name in ('torch', 'scipy', 'sklearn') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
