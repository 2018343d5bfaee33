"""Denoising score matching: minimisers and values in closed form, the law of t, weights, and the control variate."""

from __future__ import annotations

import math

import pytest
import quadratic
import small_spec
import tiny
import torch
from torch import Tensor

from driftspec.components import Dynamics, Estimator, Setting
from driftspec.errors import SpecError
from driftspec.numerics.model import BoundModel
from driftspec.streams import Streams
from driftspec_plugins.estimators.denoising import Denoising

VP = {"type": "vp_sde", "t_data": 0.01, "network": "mlp"}
VE = {"type": "ve_sde", "sigma_min": 0.1, "sigma_max": 5.0, "network": "mlp"}
SCHEDULES = [
    {"weight": weight, "times": times} for weight in ("one", "sigma2", "g2") for times in ("uniform", "importance")
]


def denoising(**keys: object) -> Denoising:
    made = Estimator.make({"type": "denoising", **keys})
    assert isinstance(made, Denoising)
    return made


@pytest.fixture
def sigma_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """ε: ±√d e_i in turn, exact for a quadratic when each row comes 2d times."""

    def noise(self: Denoising, like: Tensor, generator: torch.Generator) -> Tensor:
        points = quadratic.sigma_points(like.shape[1])
        return points.repeat(len(like) // len(points), 1)

    monkeypatch.setattr(Denoising, "noise", noise)


def repeated(x: Tensor) -> Tensor:
    """Each row once for each sigma point."""
    return x.repeat_interleave(2 * x.shape[1], 0)


def expected(k: Tensor, moments: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """½ tr K (α² M̂ + σ² I) Kᵀ - tr K + d/(2σ²), for s = -Kx, and each α and σ."""
    d = len(k)
    square = alpha**2 * (k @ moments @ k.T).trace() + sigma**2 * k.square().sum()
    return square / 2 - k.trace() + d / (2 * sigma**2)


# ---------------------------------------------------------------------------------------------------- one σ


@pytest.mark.usefixtures("sigma_points")
@pytest.mark.parametrize("control_variate", [False, True])
@pytest.mark.parametrize("predicts", ["score", "energy"])
@pytest.mark.parametrize("d", [1, 4])
def test_the_minimiser_is_the_inverse_of_the_noised_second_moments_and_the_value_its_closed_form(
    d: int, predicts: str, control_variate: bool
) -> None:
    sigma, (x, moments), k = 0.6, quadratic.data(d), quadratic.symmetric(d)
    made = denoising(sigma=sigma, control_variate=control_variate)
    noised = moments + sigma**2 * torch.eye(d)
    found = quadratic.fitted(made, repeated(x), k, predicts)
    assert (found - noised.inverse()).abs().max() < 1e-6
    closed = expected(k, moments, torch.tensor(1.0), torch.tensor(sigma))
    value = quadratic.value(made, quadratic.model(k, predicts), repeated(x))
    assert value.item() == pytest.approx(closed.item(), rel=1e-6)
    least = quadratic.value(made, quadratic.model(found, predicts), repeated(x))
    assert least.item() == pytest.approx(d / (2 * sigma**2) - noised.inverse().trace().item() / 2, rel=1e-6)
    weighted = denoising(sigma=sigma, control_variate=control_variate, weight="sigma2")
    value = quadratic.value(weighted, quadratic.model(k, predicts), repeated(x))
    assert value.item() == pytest.approx(sigma**2 * closed.item(), rel=1e-6)


def each_step(made: Denoising, model: object, x: Tensor, n: int) -> Tensor:
    return torch.stack([quadratic.value(made, model, x, Streams(7).at(step)) for step in range(1, n + 1)])


def gradients(made: Denoising, k: Tensor, x: Tensor, n: int) -> Tensor:
    """∂L/∂K (n, d²) of n draws of the noise."""
    rows = []
    for step in range(1, n + 1):
        at = k.clone().requires_grad_()
        loss = quadratic.value(made, quadratic.model(at), x, Streams(7).at(step))
        rows.append(torch.autograd.grad(loss, at)[0].flatten())
    return torch.stack(rows)


@pytest.mark.parametrize("d", [1, 4])
def test_with_drawn_noise_value_and_gradient_are_right_within_four_standard_errors(d: int) -> None:
    sigma, (x, moments), k = 0.6, quadratic.data(d), quadratic.symmetric(d)
    values = each_step(denoising(sigma=sigma), quadratic.model(k), x, 500)
    closed = expected(k, moments, torch.tensor(1.0), torch.tensor(sigma)).item()
    assert abs(tiny.z_score(values, closed)) < 4
    best = (moments + sigma**2 * torch.eye(d)).inverse()
    for column in gradients(denoising(sigma=sigma), best, x, 500).T:
        assert abs(tiny.z_score(column)) < 4


@pytest.mark.parametrize("sigma", [0.1, 0.02])
def test_the_control_variate_changes_no_expectation_and_takes_the_variance_of_small_sigma_out(sigma: float) -> None:
    (x, moments), k = quadratic.data(4), quadratic.symmetric(4)
    plain, reduced = denoising(sigma=sigma), denoising(sigma=sigma, control_variate=True)
    closed = expected(k, moments, torch.tensor(1.0), torch.tensor(sigma)).item()
    values = [each_step(made, quadratic.model(k), x, 300) for made in (plain, reduced)]
    slopes = [gradients(made, k, x, 300) for made in (plain, reduced)]
    for one in values:
        assert abs(tiny.z_score(one, closed)) < 4
    for first, second in zip(slopes[0].T, slopes[1].T, strict=True):
        assert abs(tiny.z_score(second - first)) < 4
    assert values[1].var() < sigma**2 * values[0].var()
    assert slopes[1].var(0).sum() < 20 * sigma**2 * slopes[0].var(0).sum()


# ---------------------------------------------------------------------------------------------------- schedules


def law(made: Denoising, dynamics: dict[str, object], n: int = 4096) -> tuple[Dynamics, Tensor, Tensor]:
    """(dynamics, t, weight over density) of a batch."""
    model = quadratic.model(torch.eye(1).double(), "score", **dynamics)
    t, _, _, weight = made.levels(model, torch.zeros(n, 1).double(), torch.Generator().manual_seed(3))
    return model.dynamics, t, weight


@pytest.mark.usefixtures("sigma_points")
@pytest.mark.parametrize("keys", SCHEDULES, ids=lambda keys: "-".join(keys.values()))
@pytest.mark.parametrize("dynamics", [VP, VE], ids=["vp", "ve"])
def test_the_value_of_a_schedule_is_the_closed_form_at_its_times(keys: dict[str, str], dynamics: dict) -> None:
    """Each row in a batch of its own times: 2d rows share a time by hand, the weights are the closed forms."""
    d, k = 2, quadratic.symmetric(2)
    made, (x, _) = denoising(**keys), quadratic.data(d, 1)
    model = quadratic.model(k, "score", **dynamics)
    t = torch.tensor([0.02, 0.3, 0.8], dtype=torch.float64)
    alpha, sigma = model.dynamics.kernel(t)
    square = {"one": torch.ones(3), "sigma2": sigma**2, "g2": model.dynamics.diffusion(t) ** 2}[keys["weight"]]
    moments = x.T @ x
    total = torch.zeros(())
    for i in range(3):
        one = denoising(**keys)
        level = (t[i].expand(4), *(v[i].expand(4, 1) for v in (alpha, sigma)), square[i].expand(4))
        object.__setattr__(one, "levels", lambda *_, level=level: level)
        total = total + quadratic.value(one, model, repeated(x))
    closed = (square * expected(k, moments, alpha, sigma)).sum()
    assert total.item() == pytest.approx(closed.item(), rel=1e-10)
    _, times, weight = law(made, dynamics)
    alpha, sigma = model.dynamics.kernel(times)
    of = {"one": torch.ones_like(times), "sigma2": sigma**2, "g2": model.dynamics.diffusion(times) ** 2}[keys["weight"]]
    if keys["times"] == "uniform":
        assert torch.allclose(weight, of, rtol=1e-12)
    else:  # w over a density proportional to w/σ² is σ² times one constant
        assert torch.allclose(weight / sigma**2, (weight / sigma**2)[0].expand(4096), rtol=5e-3)


def test_the_weights_of_vp_and_ve_are_their_closed_forms() -> None:
    _, t, sigma2 = law(denoising(), VP)
    total = 0.1 * t + 19.9 * t * t / 2
    assert torch.allclose(sigma2, 1 - torch.exp(-total))  # the default of a schedule
    assert torch.allclose(law(denoising(weight="g2"), VP)[2], 0.1 + 19.9 * t)
    _, t, sigma2 = law(denoising(), VE)
    assert torch.allclose(sigma2, 0.01 * 50 ** (2 * t))
    assert torch.allclose(law(denoising(weight="g2"), VE)[2], 0.01 * 50 ** (2 * t) * 2 * math.log(50))


def distribution(t: Tensor, weight: str) -> Tensor:
    """∫ w/σ² dt of the VP SDE: log(e^B - 1) for g², as g² = B' and σ² = 1 - e^{-B}; t for σ²."""
    return torch.expm1(0.1 * t + 19.9 * t * t / 2).log() if weight == "g2" else t


@pytest.mark.parametrize("weight", ["g2", "sigma2"])
def test_times_follow_their_law_one_in_each_stratum(weight: str) -> None:
    """F(t) of a batch is one number in each [i/n, (i + 1)/n), in random order."""
    n = 512
    _, t, factor = law(denoising(weight=weight, times="importance"), VP, n)
    ends = distribution(torch.tensor([0.01, 1.0], dtype=torch.float64), weight)
    share = (distribution(t, weight) - ends[0]) / (ends[1] - ends[0])
    middles = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    assert (share.sort().values - middles).abs().max() < 0.51 / n
    assert abs(tiny.z_score(share[:-1] * share[1:], 0.25)) < 4  # neighbours are no neighbours in time
    constant = (ends[1] - ends[0]) / 0.99  # ∫ w/σ² over the length of time
    sigma2 = 1 - torch.exp(-(0.1 * t + 19.9 * t * t / 2))
    assert torch.allclose(factor, sigma2 * constant, rtol=2e-3)
    _, uniform, _ = law(denoising(weight=weight), VP, n)
    assert ((uniform.sort().values - 0.01) / 0.99 - middles).abs().max() < 0.51 / n


def test_importance_changes_no_expectation_and_takes_variance_out() -> None:
    """The value of a wrong model's loss, over 300 batches of 64."""
    (x, _), k = quadratic.data(2, 64), quadratic.symmetric(2)
    model = quadratic.model(k, **{**VP, "t_data": 1e-3})
    uniform, importance = (
        each_step(denoising(weight="g2", times=how), model, x, 300) for how in ("uniform", "importance")
    )
    z = (uniform.mean() - importance.mean()) / ((uniform.var() + importance.var()) / 300).sqrt()
    assert abs(z) < 4
    assert importance.var() < 0.2 * uniform.var()


@pytest.mark.parametrize(("keys", "power"), [({}, 0), ({"weight": "one", "times": "importance"}, -2)])
def test_a_ladder_is_climbed_rung_by_rung(keys: dict[str, str], power: int) -> None:
    """Every rung in its share of the batch, its weight over its density as on the whole schedule."""
    dynamics, t, weight = law(denoising(**keys), {**VE, "sigma_max": 0.8, "levels": 4}, 1360)
    rungs, counts = t.unique(return_counts=True)
    assert torch.allclose(rungs, torch.linspace(0, 1, 4).double())
    share = 0.1**power * 2.0 ** (power * torch.arange(4).double())
    share = share / share.sum()
    assert (counts / 1360 - share).abs().max() < 2 / 1360
    sigma = dynamics.kernel(t)[1]
    relative = {
        0: sigma**2,
        -2: 1 / (4 * (sigma.pow(power) / (0.1**power * sum(2.0 ** (power * i) for i in range(4))))),
    }
    assert torch.allclose(weight, relative[power], rtol=1e-10)


def test_an_optimum_over_a_schedule_has_the_score_of_the_noised_density() -> None:
    """With s the true score of Gaussian data at every t, the gradient of the loss is zero within four errors."""
    x = torch.randn(256, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.5
    dynamics = Dynamics.make({**VP, "predicts": "score"})
    moments = (x.square().sum() / x.numel()).item()

    class Exact(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            alpha, sigma = dynamics.kernel(t)
            return -self.scale * y / (alpha**2 * moments + sigma**2)[:, None]

    model = BoundModel(dynamics, Exact(), 2)
    made, slopes = denoising(weight="g2", times="importance"), []
    for step in range(1, 301):
        loss = quadratic.value(made, model, x, Streams(11).at(step))
        slopes.append(torch.autograd.grad(loss, model.module.scale)[0])
    assert abs(tiny.z_score(torch.stack(slopes))) < 4


# ---------------------------------------------------------------------------------------------------- what is refused


def test_a_loss_without_a_minimum_or_a_level_without_a_use_is_refused() -> None:
    x = torch.zeros(8, 2).double()
    model = quadratic.model(torch.eye(2).double(), **{**VP, "t_data": 0.0})
    for keys in ({"weight": "g2"}, {"weight": "one", "times": "importance"}):
        with pytest.raises(SpecError, match=r"infinite loss where σ = 0, at t = 0.0 of dynamics 'vp_sde'"):
            quadratic.value(denoising(**keys), model, x)
    assert quadratic.value(denoising(), model, x).isfinite()
    ((key, text),) = denoising(sigma=0.1).problems(Setting(model.dynamics))
    assert (key, text) == ("sigma", "'sigma' is one level, and dynamics 'vp_sde' has a time: leave it out")
    with pytest.raises(ValueError, match="belong to a schedule"):
        denoising(sigma=0.1, weight="g2")
    with pytest.raises(ValueError, match="belong to a schedule"):
        denoising(sigma=0.1, times="importance")
    with pytest.raises(ValueError, match="control_variate belongs to one level: give sigma"):
        denoising(control_variate=True)


def test_a_schedule_needs_a_noise_kernel_and_one_level_none() -> None:
    spec = small_spec.edited(
        ("{type: hutchinson, noise: rademacher}", "{type: denoising, weight: sigma2}"),
        ("evaluate: [nll]", "evaluate: []"),
    )
    (text,) = small_spec.said(spec)
    assert "estimator 'denoising' needs a noise_kernel (for α(t) and σ(t)); dynamics 'neural_ode' offers" in text
    langevin = [
        "dynamics={type: langevin, network: {type: mlp, activation: relu}}",
        "sampler={type: langevin, step: 0.1}",
    ]
    assert small_spec.said(spec, *langevin, "estimator.sigma=0.1") == []
