"""Score matching, exact and sliced: minimisers, values and variances in closed form, times, what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import quadratic
import small_spec
import tiny
import torch
from torch import Tensor

from driftspec.cli import main
from driftspec.components import Dynamics, Estimator, Model
from driftspec.numerics.model import BoundModel
from driftspec.spec import fits
from driftspec.streams import Streams
from driftspec_plugins.estimators.hutchinson import Hutchinson

FORMS = ["exact", "variance_reduced", "sliced"]
SPEC = small_spec.edited(
    (
        "type: neural_ode\n  network: {type: mlp, hidden: [8, 8], activation: tanh}",
        "{type: langevin, network: {type: mlp, hidden: [8], activation: silu}}",
    ),
    ("dynamics:\n  ", "dynamics: "),
    ("estimator: {type: hutchinson, noise: rademacher}", "estimator: {type: score_matching}"),
    ("evaluate: [nll]", "sampler: {type: langevin, step: 0.01}"),
)


def estimator(form: str, **keys: object) -> Estimator:
    kinds = {"trace": "exact_trace"} if form == "exact" else {"trace": "hutchinson", "form": form}
    return Estimator.make({"type": "score_matching", **kinds, **keys})


@pytest.fixture
def all_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hutchinson's probes: every sign vector for every row, which leaves no chance."""

    def probe(self: Hutchinson, x: Tensor, generator: torch.Generator) -> Tensor:
        return quadratic.signs(x.shape[1])[:, None].expand(-1, *x.shape)

    monkeypatch.setattr(Hutchinson, "probe", probe)


# ---------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.usefixtures("all_signs")
@pytest.mark.parametrize("predicts", ["score", "energy"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("d", [1, 4])
def test_the_minimiser_is_the_inverse_of_the_second_moments_and_the_value_its_closed_form(
    d: int, form: str, predicts: str
) -> None:
    x, moments = quadratic.data(d)
    k = quadratic.symmetric(d)
    found = quadratic.fitted(estimator(form), x, k, predicts)
    assert (found - moments.inverse()).abs().max() < 1e-6
    value = quadratic.value(estimator(form), quadratic.model(k, predicts), x)
    assert value.item() == pytest.approx((k @ moments @ k.T).trace().item() / 2 - k.trace().item(), rel=1e-10)
    least = quadratic.value(estimator(form), quadratic.model(found, predicts), x)
    assert least.item() == pytest.approx(-moments.inverse().trace().item() / 2, rel=1e-6)


def test_of_a_score_that_is_no_gradient_the_trace_and_square_still_count() -> None:
    """K neither symmetric nor normal: tr(KMKᵀ)/2 - tr K, not tr(KMK)."""
    x, moments = quadratic.data(2)
    k = torch.tensor([[0.7, 1.3], [-0.4, 0.9]], dtype=torch.float64)
    value = quadratic.value(estimator("exact"), quadratic.model(k), x)
    assert value.item() == pytest.approx(((k @ moments @ k.T).trace() / 2 - k.trace()).item(), rel=1e-12)


@pytest.mark.parametrize("form", ["variance_reduced", "sliced"])
@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_drawn_probes_give_the_loss_within_four_standard_errors_and_hutchinsons_variance(form: str, noise: str) -> None:
    """One row repeated: all the variance is the probes'. Gaussian: 2‖S‖²; signs: 2(‖S‖² - Σ S_ii²)."""
    d, n = 4, 20000
    x, k = quadratic.data(d, 1)[0], quadratic.symmetric(d) + torch.tensor(0.3).double() * torch.ones(d, d).tril(-1)
    model = quadratic.model(k)
    made = estimator(form, trace={"type": "hutchinson", "noise": noise})
    exact = quadratic.value(estimator("exact"), model, x)
    each = torch.cat([quadratic.value(made, model, x, Streams(s).at(1))[None] for s in range(400)])
    rows = quadratic.value(made, model, x.expand(n, d))
    s = -(k + k.T) / 2
    off = s.square().sum() - s.diagonal().square().sum()
    variance = 2 * off if noise == "rademacher" else 2 * s.square().sum()
    if form == "sliced":  # ½ (vᵀs)² + vᵀ(∇s)v is one quadratic form in v
        s = s + torch.outer(model.score(x[0], x)[0], model.score(x[0], x)[0]) / 2
        off = s.square().sum() - s.diagonal().square().sum()
        variance = 2 * off if noise == "rademacher" else 2 * s.square().sum()
    assert abs((rows - exact).item()) < 4 * math.sqrt(variance / n)
    assert abs(tiny.z_score(each, exact.item())) < 4
    # the sample variance of 400 values: its own relative error is about √(2/400) for near-normal ones, twice that here
    assert each.var().item() == pytest.approx(variance.item(), rel=0.5)


def test_the_variance_reduced_form_has_less_variance_than_the_plain_one() -> None:
    x, k = quadratic.data(4)[0], 2 * quadratic.symmetric(4)

    def spread(form: str) -> float:
        values = [quadratic.value(estimator(form), quadratic.model(k), x, Streams(s).at(1)) for s in range(100)]
        return torch.stack(values).var().item()

    assert spread("variance_reduced") < 0.5 * spread("sliced")


def test_the_optimums_loss_is_minus_half_the_mean_square_of_the_true_score() -> None:
    """On a mixture, with its own log p as the energy; within four standard errors of the paired difference."""
    target = {"type": "gaussian_mixture", "means": [[-2, 0], [2, 0], [0, 2]], "std": 0.5}
    model = BoundModel(Dynamics.make({"type": "langevin", "target": target}), torch.nn.Module(), 2)
    law = model.dynamics.nested()["target"]
    x = law.sample(4000, torch.Generator().manual_seed(0))
    batches = x.view(100, 40, 2)
    made = estimator("exact")
    least = torch.stack([quadratic.value(made, model, rows) for rows in batches])
    square = torch.stack([model.score(torch.tensor(0.0), rows).square().sum(1).mean() for rows in batches])
    assert abs(tiny.z_score(least + square / 2)) < 4
    # and a wrong score does worse: twice the score, a score half as large
    for factor in (0.5, 2.0):
        wrong = factor**2 * square / 2 + factor * (least - square / 2)
        assert tiny.z_score(wrong - least) > 4


# ---------------------------------------------------------------------------------------------------- an SDE's times

OU = {"type": "ornstein_uhlenbeck", "theta": 0.8, "std": 1.5, "duration": 2.0, "t_data": 0.01, "network": "mlp"}


def noised(keys: dict[str, object], x: Tensor, streams: Streams = quadratic.STREAMS) -> tuple[Tensor, Tensor, dict]:
    made = Estimator.make({"type": "score_matching", **keys})
    return made._noised(quadratic.model(torch.eye(x.shape[1]).double(), **OU), x, streams)


def normalised(t: Tensor, x0: Tensor, xt: Tensor) -> Tensor:
    """(x_t - α x_0)/σ with α, σ of the time gone since t_data: standard normal if x_t is right."""
    gone = (t - 0.01)[:, None]
    alpha = torch.exp(-0.8 * gone)
    return (xt - alpha * x0) / (1.5 * (-torch.expm1(-1.6 * gone)).sqrt())


def test_paths_have_the_moments_of_the_process_at_times_uniform_over_it() -> None:
    x = torch.full((20000, 1), 2.0, dtype=torch.float64)
    t, xt, terms = noised({"paths": {"steps": 100}}, x, Streams(3).at(20))
    z = normalised(t, x, xt)[:, 0]
    assert abs(tiny.z_score(z)) < 4
    assert abs(tiny.z_score(z.square(), 1.0)) < 4
    late = t > 1.5
    assert abs(tiny.z_score(z[late])) < 4
    assert abs(tiny.z_score(t, (0.01 + 2.0) / 2)) < 4
    assert t.min() > 0.01
    assert t.max() < 2
    # both paths share their Wiener process: the distance is the order of the step, not of the noise
    assert 0 < terms["path_error"] < 0.02


def test_the_step_error_of_paths_falls_with_the_step_and_is_stated_every_so_often() -> None:
    x = torch.full((2000, 1), 2.0, dtype=torch.float64)
    errors = [noised({"paths": {"steps": n}}, x, Streams(3).at(20))[2]["path_error"] for n in (10, 20, 40, 80)]
    slopes = torch.tensor(errors).log2().diff()
    assert (slopes + 1).abs().max() < 0.3  # the noise is additive: order 1
    assert noised({"paths": {"steps": 10}}, x, Streams(3).at(21))[2] == {}
    often = {"paths": {"steps": 10, "check_every": 7}}
    assert "path_error" in noised(often, x, Streams(3).at(21))[2]


def test_without_paths_the_noise_kernel_leads_to_the_times() -> None:
    x = torch.full((20000, 1), 2.0, dtype=torch.float64)
    t, xt, _ = noised({}, x)
    alpha, sigma = (value[:, None] for value in Dynamics.make(OU).kernel(t))
    z = ((xt - alpha * x) / sigma)[:, 0]
    assert abs(tiny.z_score(z)) < 4
    assert abs(tiny.z_score(z.square(), 1.0)) < 4
    assert abs(tiny.z_score(t, (0.01 + 2.0) / 2)) < 4


def test_a_fit_by_paths_is_the_fit_by_the_kernel() -> None:
    """The minimisers K of s(x, t) = -Kx from paths and from the kernel, in standard errors over 40 batches."""
    x, _ = quadratic.data(1, 200)
    k = torch.ones(1, 1, dtype=torch.float64)

    def model(now: Tensor) -> Model:
        return quadratic.model(now, **OU)

    def fits(keys: dict[str, object]) -> Tensor:
        made = Estimator.make({"type": "score_matching", **keys})
        return torch.stack([
            quadratic.minimiser(lambda now, s=s: quadratic.value(made, model(now), x, Streams(s).at(1)), k)
            for s in range(40)
        ]).flatten()  # fmt: skip

    paths, kernel = fits({"paths": {"steps": 50}}), fits({})
    assert abs(paths.mean() - kernel.mean()) < 4 * math.sqrt((paths.var() + kernel.var()) / 40) + 0.01


# ---------------------------------------------------------------------------------------------------- what is refused


def test_a_dynamics_in_time_needs_a_kernel_or_paths_and_one_without_needs_none() -> None:
    (text,) = small_spec.said(SPEC, "dynamics={type: neural_ode, network: {type: mlp, activation: silu}}")
    assert (
        "error[X303] estimator 'score_matching': it needs a dynamics with a noise kernel or a drift, such as vp_sde or "
        "langevin: dynamics 'neural_ode' has neither" in text
    )
    (text,) = small_spec.said(SPEC, "estimator.paths={steps: 10}")
    assert "a.yaml:5:1: " not in text
    assert "'paths' needs a time, and dynamics 'langevin' has none" in text
    sde = "dynamics={type: vp_sde, network: {type: mlp, activation: silu}}"
    assert small_spec.said(SPEC, sde, "estimator.paths={steps: 10}") == []
    assert small_spec.said(SPEC, sde) == []


def test_the_spec_is_valid_and_what_cannot_work_is_said_before_a_run() -> None:
    assert small_spec.said(SPEC) == []
    assert small_spec.said(SPEC, "dynamics.predicts=energy") == []
    for sets in (["network.activation=relu"], ["network.activation=elu", "predicts=energy"]):
        (text,) = small_spec.said(SPEC, *(f"dynamics.{one}" for one in sets))
        assert "needs a smooth dynamics" in text
        assert "an activation C1 for a score, C2 for an energy" in text
    assert small_spec.said(SPEC, "dynamics.network.activation=elu") == []  # C1, and a score
    (text,) = small_spec.said(SPEC, "estimator.form=sliced")
    assert "needs a trace with probes, and estimator 'exact_trace' has none" in text
    assert "'setps' in estimator.paths" in small_spec.said(SPEC, "estimator.paths={setps: 3}")[0]


def test_hard_edges_are_a_warning_and_not_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edgy = SPEC.replace("{type: moons, samples: 500, noise: 0.05}", "{type: checkerboard, samples: 500}")
    (problem,) = fits.check(small_spec.loaded(edgy))
    assert problem.severity == "warning"
    assert str(problem).startswith(
        "a.yaml:5:12: warning[X301] estimator 'score_matching' wants smooth data (at hard edges"
    )
    assert str(problem).endswith("data 'checkerboard' is not smooth (a.yaml:3:7)")
    assert fits.errors([problem]) == []
    assert small_spec.said(edgy, "estimator={type: denoising, sigma: 0.1}") == []
    path = tmp_path / "edgy.yaml"
    path.write_text(edgy)
    assert main(["validate", str(path)]) == 0
    said = capsys.readouterr()
    assert "valid" in said.out
    assert "warning[X301]" in said.err
