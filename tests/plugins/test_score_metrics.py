"""Metrics of scores, energies and classifiers against closed forms; what chance enters has |z| < 4."""

from __future__ import annotations

import math
from collections.abc import Callable

import problems
import pytest
import quadratic
import small_spec
import tiny
import torch
from problems import tensor
from torch import Tensor

from driftspec.build import Experiment
from driftspec.components import Measured
from driftspec.errors import RunFailed
from driftspec.model import Model, gradient
from driftspec_plugins.metrics import ksd

COVARIANCE = [[1.5, 0.6], [0.6, 0.8]]
MEAN = [0.5, -0.3]
MIXTURE = "{type: gaussian_mixture, means: [[-2, 0], [1, 1.5]], std: [0.5, 0.8], weights: [0.3, 0.7], samples: 4000}"
SAMPLER = "sampler: {type: langevin, step: 0.1}"
K = tensor([1.2, 0.5], [0.1, 0.9])  # not symmetric: a score -Kx that is no gradient


def made(*sets: str, metric: str, data: str = f"{{type: gaussian, mean: {MEAN}, covariance: {COVARIANCE}}}") -> Experiment:
    text = f"data: {data}\ndynamics: {{type: langevin, network: mlp}}\nevaluate: [{metric}]\n"
    text = f"version: 1\nname: a\nestimator: score_matching\ntrain: {{steps: 1}}\nsample: {{count: 20000}}\n{SAMPLER}\n{text}"
    return tiny.experiment("runtime.dtype=float64", *sets, text=text)


def measured(experiment: Experiment, model: Model, draws: Tensor | None = None) -> Measured:
    assert experiment.spec.evaluate is not None
    return experiment.spec.evaluate[0].measure(tiny.evaluation(experiment, model, draws))


class Scores(torch.nn.Module):
    """A score in closed form as a module; the parameter says dtype and device."""

    def __init__(self, score: Callable[[Tensor], Tensor]):
        super().__init__()
        self.score, self.unit = score, torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.unit * self.score(x)


def scores(score: Callable[[Tensor], Tensor], d: int = 2, predicts: str = "score", **dynamics: object) -> Model:
    return Model(quadratic.model(torch.eye(d), predicts, **dynamics).dynamics, Scores(score), d)


# Fisher divergence ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardize", ["none", "scale", "whiten"])
def test_the_fisher_divergence_of_a_linear_score(standardize: str) -> None:
    """½ tr(B Σ Bᵀ) + ½ ‖B m‖² in either units, B the difference of the two linear scores."""
    experiment = made(f"data.standardize={standardize}", "data.samples=20000", metric="fisher_divergence")
    matrix, shift = experiment.transform.matrix, experiment.transform.shift
    covariance, mean = matrix @ tensor(*COVARIANCE) @ matrix.T, matrix @ (tensor(*MEAN) - shift)
    precision = torch.linalg.inv(covariance)
    result = measured(experiment, quadratic.model(K))
    b, constant = precision - K, -precision @ mean  # s - ∇log p = B u + c

    def half_square(weight: Tensor) -> float:
        centre = weight @ (b @ mean + constant)
        return float(torch.trace(weight @ b @ covariance @ b.T @ weight.T) + centre @ centre) / 2

    assert result.stderr is not None and result.value is not None
    assert abs(result.value - half_square(matrix.T)) < 4 * result.stderr < 0.2 * result.value
    inner, error = result.details["model_units"], result.details["model_units_stderr"]
    assert abs(inner - half_square(torch.eye(2, dtype=torch.float64))) < 4 * error


@pytest.mark.parametrize("data", ["moons", "circles", "rings", "8gaussians", "swissroll", "2spirals", "pinwheel", "banana"])
def test_the_score_of_the_data_itself_is_at_distance_0(data: str) -> None:
    experiment = made(data=f"{{type: {data}, samples: 500, standardize: whiten}}", metric="fisher_divergence")
    law, transform = experiment.spec.data, experiment.transform

    def log_p(u: Tensor) -> Tensor:
        return law.log_prob(u @ torch.linalg.inv(transform.matrix).T + transform.shift)  # type: ignore[union-attr]

    result = measured(experiment, scores(lambda u: gradient(log_p, u)[1]))
    assert result.value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("standardize", ["none", "whiten"])
def test_the_noised_score_of_a_mixture(standardize: str) -> None:
    """That of the noised law's log p, written down again: its divergence is 0; from the clean score it is not."""
    noised = "{type: fisher_divergence, of: noised, sigma: 0.6}"
    experiment = made(f"data.standardize={standardize}", data=MIXTURE, metric=noised)
    matrix, shift = experiment.transform.matrix, experiment.transform.shift
    means = (tensor([-2, 0], [1, 1.5]) - shift) @ matrix.T
    laws = [
        torch.distributions.MultivariateNormal(m, s**2 * matrix @ matrix.T + 0.36 * torch.eye(2, dtype=torch.float64))
        for m, s in zip(means, (0.5, 0.8))
    ]
    weights = tensor(0.3, 0.7).log()

    def log_p(u: Tensor) -> Tensor:
        return torch.logsumexp(torch.stack([w + law.log_prob(u) for w, law in zip(weights, laws)]), 0)

    model = scores(lambda u: gradient(log_p, u)[1])
    result = measured(experiment, model)
    assert result.value == pytest.approx(0, abs=1e-12) and result.details["sigma"] == 0.6
    clean = measured(made(f"data.standardize={standardize}", data=MIXTURE, metric="fisher_divergence"), model)
    assert clean.value is not None and clean.stderr is not None and clean.value > 10 * clean.stderr


def test_the_noise_is_the_estimators_or_the_kernels() -> None:
    sets = ("estimator={type: denoising, sigma: 0.3}",)
    experiment = made(*sets, metric="{type: fisher_divergence, of: noised}")
    precision = torch.linalg.inv(tensor(*COVARIANCE) + 0.09 * torch.eye(2, dtype=torch.float64))
    model = scores(lambda u: (tensor(*MEAN) - u) @ precision)
    assert measured(experiment, model).value == pytest.approx(0, abs=1e-20)
    sets = ("estimator={type: denoising}", "dynamics={type: vp_sde, predicts: score, t_data: 0.2}", "sampler=euler_maruyama")
    experiment = made(*sets, metric="{type: fisher_divergence, of: noised}")
    alpha, sigma = (float(v) for v in experiment.spec.dynamics.kernel(torch.tensor(0.2, dtype=torch.float64)))
    assert alpha < 0.99 and sigma > 0.1
    precision = torch.linalg.inv(alpha**2 * tensor(*COVARIANCE) + sigma**2 * torch.eye(2, dtype=torch.float64))
    model = scores(lambda u: (alpha * tensor(*MEAN) - u) @ precision, type="vp_sde", t_data=0.2)
    assert measured(experiment, model).value == pytest.approx(0, abs=1e-20)


LANGEVIN = ["dynamics={type: langevin, network: mlp}", "sampler={type: langevin, step: 0.1}"]
DENOISING = "estimator={type: denoising, sigma: 0.1}"


@pytest.mark.parametrize(
    ("sets", "text"),
    [
        (["evaluate=[{type: fisher_divergence, of: noised}]", DENOISING], "'moons' with noise has no closed form"),
        (["evaluate=[{type: fisher_divergence, of: noised}]", "estimator=score_matching", "data={type: gaussian, mean: [0, 0]}"], "give sigma"),
        (["evaluate=[{type: fisher_divergence, sigma: 0.1}]", DENOISING], "'sigma' belongs to of: noised"),
        (["evaluate=[fisher_divergence]", "data=checkerboard", DENOISING], "at hard edges ∇log p has no value"),
        (["evaluate=[ksd]", "train.monitor=ksd", DENOISING, "sample.count=4000"], "cannot monitor training"),
        (["evaluate=[ksd]", DENOISING], "reads 2000 samples and sample.count is 100"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused(sets: list[str], text: str) -> None:
    said = small_spec.said(small_spec.TEXT, *LANGEVIN, *sets)
    assert any(text in one for one in said), said


# Kernel Stein discrepancy --------------------------------------------------------------------------------------------


def test_the_stein_kernel_is_its_definition() -> None:
    x, y = problems.points(5, 3, seed=1), problems.points(4, 3, seed=2)
    sx, sy = problems.points(5, 3, seed=3), problems.points(4, 3, seed=4)
    found = ksd.stein(x, sx, y, sy, 0.7)

    def k(a: Tensor, b: Tensor) -> Tensor:
        return (0.49 + (a - b).square().sum()) ** -0.5

    for i in range(5):
        for j in range(4):
            at = (x[i], y[j])
            by_x, by_y = torch.autograd.functional.jacobian(k, at)
            mixed = torch.autograd.functional.hessian(k, at)[0][1].trace()
            expected = sx[i] @ sy[j] * k(*at) + sx[i] @ by_y + sy[j] @ by_x + mixed
            assert float(found[i, j]) == pytest.approx(float(expected), rel=1e-9)


def test_ksd_and_its_standard_error() -> None:
    """N(0, I) scored as N(m, I): KSD² = ‖m‖² E k, as each draw's score is off by m. Under m = 0 it is 0."""
    shift = tensor(0.6, -0.3)
    far = problems.points(100_000, 2, seed=9) - problems.points(100_000, 2, seed=10)
    expected = float(shift.square().sum() * (1 + far.square().sum(1)).rsqrt().mean())
    for m in (shift, 0 * shift):
        results = [ksd.ksd(x, m - x, 1.0) for x in (problems.points(150, 2, seed=s) for s in range(100))]
        values, errors, chances = torch.tensor(results, dtype=torch.float64).unbind(1)
        assert abs(tiny.z_score(values, expected if m is shift else 0.0)) < 4
        spread = float(values.std() / errors.square().mean().sqrt())
        assert abs(spread - 1) < 4 / math.sqrt(2 * 100)
        if m is not shift:
            assert abs(float(values.std() / chances.mean()) - 1) < 4 / math.sqrt(2 * 100)


def test_ksd_of_draws_and_of_data() -> None:
    """Of the run's draws it judges the sampler, of held-out rows the model."""
    precision = torch.linalg.inv(tensor(*COVARIANCE))
    right = scores(lambda u: (tensor(*MEAN) - u) @ precision)
    root = torch.linalg.cholesky(tensor(*COVARIANCE))
    draws = problems.points(2000, 2, seed=3) @ root.T + tensor(*MEAN)
    for metric, rows in (("ksd", draws), ("{type: ksd, of: data}", None)):
        experiment = made(metric=metric)
        result = measured(experiment, right, rows)
        assert result.value is not None and result.stderr is not None
        assert abs(result.value) < 4 * result.details["chance"]
        wrong = measured(experiment, quadratic.model(2 * K), rows)
        assert wrong.value is not None and wrong.stderr is not None and wrong.value > 8 * wrong.stderr
        assert result.n == (2000 if rows is not None else 1000)
    assert made("train.monitor={type: ksd, of: data}", metric="ksd").spec.train is not None
