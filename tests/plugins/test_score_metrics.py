"""Metrics of scores, energies and classifiers against closed forms; what chance enters has |z| < 4."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import problems
import pytest
import quadratic
import small_spec
import tiny
import torch
from problems import tensor
from torch import Tensor

from driftspec.autodiff import gradient
from driftspec.components import Measured, Model
from driftspec.errors import RunFailed
from driftspec.experiment.build import Experiment
from driftspec.numerics.model import BoundModel
from driftspec.source.files import Files
from driftspec_plugins.metrics import _log_z, c2st, ksd

COVARIANCE = [[1.5, 0.6], [0.6, 0.8]]
MEAN = [0.5, -0.3]
GAUSSIAN = f"{{type: gaussian, mean: {MEAN}, covariance: {COVARIANCE}}}"
MIXTURE = "{type: gaussian_mixture, means: [[-2, 0], [1, 1.5]], std: [0.5, 0.8], weights: [0.3, 0.7], samples: 4000}"
SAMPLER = "sampler: {type: langevin, step: 0.1}"
K = tensor([1.2, 0.5], [0.1, 0.9])  # not symmetric: a score -Kx that is no gradient


def made(*sets: str, metric: str, data: str = GAUSSIAN) -> Experiment:
    text = f"version: 1\nname: a\ndata: {data}\ndynamics: {{type: langevin, network: mlp}}\n{SAMPLER}\n"
    text += f"estimator: score_matching\ntrain: {{steps: 1}}\nsample: {{count: 20000}}\nevaluate: [{metric}]\n"
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
    return BoundModel(quadratic.model(torch.eye(d), predicts, **dynamics).dynamics, Scores(score), d)


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


@pytest.mark.parametrize(
    "data", ["moons", "circles", "rings", "8gaussians", "swissroll", "2spirals", "pinwheel", "banana"]
)
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
    sets = (
        "estimator={type: denoising}",
        "dynamics={type: vp_sde, predicts: score, t_data: 0.2}",
        "sampler=euler_maruyama",
    )
    experiment = made(*sets, metric="{type: fisher_divergence, of: noised}")
    alpha, sigma = (float(v) for v in experiment.spec.dynamics.kernel(torch.tensor(0.2, dtype=torch.float64)))
    assert alpha < 0.99 and sigma > 0.1
    precision = torch.linalg.inv(alpha**2 * tensor(*COVARIANCE) + sigma**2 * torch.eye(2, dtype=torch.float64))
    model = scores(lambda u: (alpha * tensor(*MEAN) - u) @ precision, type="vp_sde", t_data=0.2)
    assert measured(experiment, model).value == pytest.approx(0, abs=1e-20)


LANGEVIN = ["dynamics={type: langevin, network: mlp}", "sampler={type: langevin, step: 0.1}"]
NOISED = "evaluate=[{type: fisher_divergence, of: noised}]"
DENOISING = "estimator={type: denoising, sigma: 0.1}"


@pytest.mark.parametrize(
    ("sets", "text"),
    [
        ([NOISED, DENOISING], "'moons' with noise has no closed form"),
        ([NOISED, "estimator=score_matching", "data={type: gaussian, mean: [0, 0]}"], "give sigma"),
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
        stated = errors.square().mean().sqrt() if m is shift else chances.mean()
        assert abs(float(values.std() / stated) - 1) < 4 / math.sqrt(2 * 100)
        if m is not shift:  # twice the spread, so that bars do not collapse where the value is small
            assert abs(float(errors.mean() / chances.mean()) - 2) < 0.3


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


# log Z and the likelihood of energies --------------------------------------------------------------------------------


def energies(k: Tensor, confine: float = 50.0) -> tuple[Model, Tensor]:
    """A quadratic energy with a confining term, and the matrix of both."""
    model = quadratic.model(k, "energy", type="langevin", network="mlp", confine=confine)
    return model, k + torch.eye(len(k), dtype=torch.float64) / confine**2


def log_z_of(k: Tensor) -> float:
    return len(k) / 2 * math.log(2 * math.pi) - float(torch.linalg.slogdet(k).logabsdet) / 2


ENERGY = "dynamics={type: langevin, network: mlp, predicts: energy}"


@pytest.mark.parametrize("k", [tensor([0.7]), tensor([40.0]), quadratic.symmetric(2), 30 * quadratic.symmetric(2)])
def test_log_z_of_a_quadratic_energy_by_quadrature(k: Tensor) -> None:
    """Also where the data are far wider than the model."""
    d = len(k)
    experiment = made(ENERGY, metric="log_z", data=f"{{type: gaussian, mean: {[0.5] * d}}}")
    model, whole = energies(k)
    result = measured(experiment, replace(model, rows=experiment.model.rows))
    assert result.value == pytest.approx(log_z_of(whole), abs=1e-8)
    assert result.details["error"] < 1e-8 and result.stderr is None and result.stderr_reason
    assert measured(experiment, model).value == pytest.approx(log_z_of(whole), abs=1e-8)  # no rows to begin from


def test_quadrature_finds_narrow_ridges() -> None:
    """Rings of width 0.04, in a box that the confining term makes wide, against the integral over the radius."""
    r = torch.linspace(0, 40, 400_001, dtype=torch.float64)

    def log_f(r: Tensor) -> Tensor:
        rings = torch.stack([-((r - 0.5) / 0.04).square() / 2, -((r - 2.0) / 0.04).square() / 2 - 1])
        return torch.logaddexp(torch.logsumexp(rings, 0), -r.square() / 18 - 12)

    expected = math.log(float(torch.trapezoid(2 * math.pi * r * log_f(r).exp(), r)))
    found = _log_z.quadrature(lambda x: log_f(torch.linalg.vector_norm(x, dim=1)), 2, problems.points(500, 2))
    assert found.value == pytest.approx(expected, abs=1e-6)
    assert abs(found.value - expected) <= found.details["error"] + 1e-9 < 1e-5


def test_quadrature_looks_closely_where_the_data_are() -> None:
    """A spike in a wide box, which no node of its first cells comes near."""
    at, wide, narrow = tensor(0.31, 0.17), 5.0, 0.006

    def log_f(x: Tensor) -> Tensor:
        spike = -((x - at) / narrow).square().sum(1) / 2 + math.log(3 / narrow**2)
        return torch.logaddexp(spike, -(x / wide).square().sum(1) / 2 - 2 * math.log(wide))

    found = _log_z.quadrature(log_f, 2, problems.points(500, 2))
    assert found.value == pytest.approx(math.log(4 * 2 * math.pi), abs=1e-7)


def test_quadrature_sees_what_lies_beyond_a_gap() -> None:
    """A ring far outside the data, where a box around them has dead edges."""

    def log_f(x: Tensor) -> Tensor:
        r = torch.linalg.vector_norm(x, dim=1)
        return torch.logaddexp(-(r / 0.3).square() / 2, -(r - 20).square() / 2 - 5)

    found = _log_z.quadrature(log_f, 2, 0.3 * problems.points(500, 2))
    ring = (2 * math.pi) ** 1.5 * 20 * math.exp(-5)  # ∫ 2πr exp(-(r - R)²/2) dr
    assert found.value == pytest.approx(math.log(2 * math.pi * 0.09 + ring), abs=1e-7)


def test_an_energy_without_end_is_told() -> None:
    with pytest.raises(RunFailed, match="Z may be infinite"):
        _log_z.quadrature(lambda x: -x[:, 0].tanh(), 1)


@pytest.mark.parametrize("base", ["data", "confine"])
def test_log_z_of_a_quadratic_energy_by_annealing(base: str) -> None:
    """Over independent repetitions: Z without bias, the standard error their spread; d = 5, far from the base."""
    k = quadratic.symmetric(5)
    metric = f"{{type: log_z, method: ais, temperatures: 60, chains: 200, base: {base}}}"
    model, whole = energies(k, confine=2.0)
    found, ratios = [], []
    for seed in range(20):
        experiment = made(
            ENERGY, f"seed={seed}", metric=metric, data="{type: gaussian, mean: [1, 0, 0, -1, 0], std: 1.5}"
        )
        result = measured(experiment, replace(model, rows=experiment.model.rows))
        assert result.value is not None and result.stderr is not None
        found.append((result.value - log_z_of(whole)) / result.stderr)
        ratios.append(math.exp(result.value - log_z_of(whole)))
    z = torch.tensor(found, dtype=torch.float64)
    assert abs(tiny.z_score(torch.tensor(ratios, dtype=torch.float64), 1.0)) < 4
    assert abs(float(z.std()) - 1) < 4 / math.sqrt(2 * 20)
    assert result.stderr < 0.1 and 20 < result.details["ess"] < 200 and 0.4 < result.details["acceptance"] < 0.75


def test_weights_that_cannot_be_trusted_show_in_the_likelihood_too() -> None:
    """A base far wider than the law and two temperatures: a handful of 300 weights count."""
    keys = "method: ais, temperatures: 2, chains: 300, base: confine"
    bits = "type: bits_per_dim, levels: 9, range: [-99, 99]"
    for metric in (f"{{type: log_z, {keys}}}", f"{{type: nll, log_z: {{{keys}}}}}", f"{{{bits}, log_z: {{{keys}}}}}"):
        model, _ = energies(40 * quadratic.symmetric(2))
        verdicts = measured(made(ENERGY, metric=metric), model).verdicts
        assert [one.severity for one in verdicts if one.subject == "weights"] == ["bad"]


@pytest.mark.parametrize(
    ("standardize", "method"), [("none", "quadrature"), ("whiten", "quadrature"), ("scale", "ais")]
)
def test_the_nll_of_an_energy_model_is_entropy_plus_kl(standardize: str, method: str) -> None:
    metric = f"{{type: nll, log_z: {{method: {method}, temperatures: 30, chains: 200}}}}"
    experiment = made(ENERGY, f"data.standardize={standardize}", "data.samples=20000", metric=metric)
    model, whole = energies(quadratic.symmetric(2))
    model = replace(model, rows=experiment.model.rows)
    result = measured(experiment, model)
    matrix, shift = experiment.transform.matrix, experiment.transform.shift
    mean, covariance = matrix @ (tensor(*MEAN) - shift), matrix @ tensor(*COVARIANCE) @ matrix.T
    kl = torch.trace(whole @ covariance) + mean @ whole @ mean - 2
    kl = float(kl - torch.linalg.slogdet(whole @ covariance).logabsdet) / 2
    details = result.details
    assert abs(details["kl"] - kl) < 4 * details["kl_stderr"] < 0.9 * kl
    assert result.value == pytest.approx(details["entropy"] + details["kl"] + details["sampling"], abs=1e-12)
    if method == "ais":
        x = experiment.dataset.test
        gap = experiment.spec.data.log_prob(x) + (((u := experiment.transform.to_model(x)) @ whole) * u).sum(1) / 2
        assert details["kl_stderr"] == pytest.approx(
            math.hypot(float(gap.std()) / 2000**0.5, details["log_z"]["stderr"])
        )
    assert result.line is not None and "= entropy" in result.line and f"by {method}" in result.line


@pytest.mark.parametrize(
    ("sets", "text"),
    [
        (["evaluate=[log_z]", "dynamics.confine=none"], "Z may be infinite with confine: none"),
        (["evaluate=[nll]", "dynamics.confine=none"], "metric 'nll': Z may be infinite with confine: none"),
        (["evaluate=[{type: log_z, method: quadrature}]", "data={type: gaussian, mean: [0, 0, 0]}"], "there are 3"),
        (["evaluate=[log_z]", "dynamics={type: langevin, network: mlp}"], "metric 'log_z' needs an energy"),
        (["evaluate=[nll]", "dynamics={type: langevin, network: mlp}"], "metric 'nll' needs a log_prob or an energy"),
    ],
)  # fmt: skip
def test_an_energy_whose_z_cannot_be_had_is_refused(sets: list[str], text: str) -> None:
    said = small_spec.said(small_spec.TEXT, *LANGEVIN, ENERGY, DENOISING, *sets)
    assert any(text in one for one in said), said


def test_the_likelihood_of_an_energy_asks_for_no_smoothness() -> None:
    """log p holds no derivative of it."""
    relu = "dynamics={type: langevin, network: {type: mlp, activation: relu}, predicts: energy}"
    assert small_spec.said(small_spec.TEXT, *LANGEVIN, relu, DENOISING, "evaluate=[nll, log_z]") == []


# Modes, classifiers, asymmetry, bits ---------------------------------------------------------------------------------


MODES = {"8gaussians": 8, "rings": 4, "checkerboard": 8, MIXTURE[1:-1].removeprefix("type: "): 2}


@pytest.mark.parametrize("data", MODES, ids=lambda text: text.split(",")[0])
def test_data_cover_their_own_modes(data: str) -> None:
    experiment = made("estimator={type: denoising, sigma: 0.1}", metric="mode_coverage", data=f"{{type: {data}}}")
    law = experiment.spec.data
    draws = law.sample(2000, torch.Generator().manual_seed(8))  # type: ignore[union-attr]
    result, details = measured(experiment, quadratic.model(K), draws), {}
    details = result.details
    assert details["modes"] == details["covered"] == MODES[data]
    assert sum(details["expected"]) == pytest.approx(1 - details["near_none_expected"])
    assert details["near_none_expected"] < 0.02
    assert result.value is not None and result.stderr is not None and 0.5 < details["floor"] < 1.01
    chi = [(r - 1) / math.sqrt((1 - e) / e / 2000) for r, e in zip(details["ratios"], details["expected"])]
    assert max(map(abs, chi)) < 4 and 0.4 < result.stderr / math.sqrt(details["modes"] / 2000) < 1.6


def test_a_lost_mode_and_a_thin_one_are_told() -> None:
    experiment = made(metric="mode_coverage", data=MIXTURE)
    first, second = tensor([-2, 0]), tensor([1, 1.5])
    draws = torch.cat([first + 0.5 * problems.points(100, 2), second + 0.8 * problems.points(1900, 2, seed=1)])
    result = measured(experiment, quadratic.model(K), draws)
    assert result.details["worst"] == 0 and result.details["covered"] == 1
    assert result.value == pytest.approx(0.05 / 0.3, abs=4 * (result.stderr or 0)) and (result.stderr or 0) < 0.03
    lost = measured(experiment, quadratic.model(K), second + 0.3 * problems.points(2000, 2))
    assert lost.value == 0 and lost.line is not None and lost.line.startswith("1 of 2 modes covered")
    far = measured(experiment, quadratic.model(K), 50 + problems.points(2000, 2))
    assert far.details["near_none"] == 1 and far.details["covered"] == 0


@pytest.mark.parametrize("classifier", ["mlp", "knn"])
def test_a_classifier_tells_two_laws_apart_as_well_as_they_can_be(classifier: str) -> None:
    """N(0, I) and N(δ, I): at best Φ(‖δ‖/2); of one law with itself ½."""
    for delta, seed in ((0.0, 0), (1.5, 1)):
        x = problems.points(800, 2, seed=2)
        y = problems.points(800, 2, seed=3) * tensor(10, 1) + tensor(10 * delta, 0)  # its scale makes no difference
        value, stderr = c2st.accuracy(x * tensor(10, 1), y, classifier, 5, seed)
        best = 0.5 + 0.5 * math.erf(delta / 2 / math.sqrt(2))
        assert best - 0.03 - 4 * stderr < value < best + 4 * stderr
        assert stderr == pytest.approx(math.sqrt(2 * value * (1 - value) / 1600))
    experiment = made(metric=f"{{type: c2st, samples: 300, classifier: {classifier}}}")
    result = measured(experiment, quadratic.model(K), problems.points(500, 2) + 5)
    assert result.value is not None and result.value > 0.95 and result.details["z"] > 10 and result.n == 300


def test_the_asymmetry_of_a_linear_score() -> None:
    """‖K - Kᵀ‖/‖K‖; of an energy, which sees the symmetric part alone, 0; of a rotation 2."""
    experiment = made(metric="asymmetry", data="{type: gaussian, mean: [0, 0], samples: 1000}")
    expected = 0.4 * math.sqrt(2) / float(torch.linalg.matrix_norm(K))
    assert measured(experiment, quadratic.model(K)).value == pytest.approx(expected)
    assert measured(experiment, quadratic.model(K, "energy")).value == pytest.approx(0, abs=1e-14)
    assert measured(experiment, quadratic.model(tensor([0, 1], [-1, 0]))).value == pytest.approx(2)
    # s = (x₁ x₂, 0): J = ((x₂, x₁), (0, 0)), asymmetry √2 |x₁|/‖x‖ of mean √2 · 2/π, variance 2 (½ - 4/π²)
    result = measured(experiment, scores(lambda x: torch.stack([x[:, 0] * x[:, 1], 0 * x[:, 0]], 1)))
    spread = math.sqrt(2 * (0.5 - 4 / math.pi**2) / result.n)
    assert result.stderr == pytest.approx(spread, rel=0.3)
    assert abs((result.value or 0) - math.sqrt(2) * 2 / math.pi) < 4 * spread


def table(tmp_path: Path, rows: Tensor) -> Callable[..., Experiment]:
    """An experiment with these rows as its data, and a normal law as its energy."""
    np.save(tmp_path / "rows.npy", rows.numpy())

    def build(metric: str, *sets: str) -> Experiment:
        text = f"version: 1\nname: a\ndata: {{type: table, path: rows.npy}}\n{ENERGY.replace('=', ': ')}\n"
        text += f"sample: {{count: 10}}\n{SAMPLER}\nevaluate: [{metric}]\n"
        return tiny.build.build(
            tiny.loaded("runtime.dtype=float64", *sets, text=text).spec, Files(tmp_path, allow_outside=True)
        )

    return build


@pytest.mark.parametrize("standardize", ["none", "scale", "whiten"])
def test_bits_per_dim_of_a_normal_law_at_8_levels(tmp_path: Path, standardize: str) -> None:
    """Of data in [0, 4]²: cross entropy in bits, less log₂ of the bin ½, whatever the units of the model."""
    rows = (2 + 0.6 * problems.points(4000, 2)).clamp(0, 4)
    made = table(tmp_path, rows)("{type: bits_per_dim, levels: 8, range: [0, 4]}", f"data.standardize={standardize}")
    model, whole = energies(quadratic.symmetric(2))
    result = measured(made, replace(model, rows=made.model.rows))
    u = made.transform.to_model(made.dataset.test)
    log_p = -((u @ whole) * u).sum(1) / 2 - log_z_of(whole) + made.transform.log_det()
    bits = -log_p / (2 * math.log(2)) + 1
    assert result.value == pytest.approx(float(bits.mean()), abs=1e-8) and result.unit == "bits/dim"
    assert result.stderr == pytest.approx(float(bits.std()) / 20)


def test_bits_per_dim_of_what_has_none(tmp_path: Path) -> None:
    said = small_spec.said(small_spec.TEXT, "evaluate=[{type: bits_per_dim, levels: 256}]")
    assert any("data 'moons' is continuous, it never had levels: take nll" in one for one in said), said
    levels = torch.randint(0, 8, (400, 2), generator=torch.Generator().manual_seed(1)) / 8
    build = table(tmp_path, levels.double())
    for keys, text in (
        ("levels: 8", "100% of the values lie on the edges"),
        ("levels: 8, range: [0.2, 1]", "outside range"),
    ):
        made = build(f"{{type: bits_per_dim, {keys}}}")
        with pytest.raises(RunFailed, match=text):
            measured(made, energies(quadratic.symmetric(2))[0])
