"""What chains tell of themselves: effective sizes and R-hat as ArviZ has them, acceptance, moments with errors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_spec
import tiny
import torch
from arviz_stats.base import array_stats
from torch import Tensor

from driftspec.accuracy import convergence
from driftspec.cli import main
from driftspec.components import Distribution, Draws, Dynamics, Evaluation, Measured, Metric, Sampler
from driftspec.errors import RunFailed
from driftspec.numerics.model import build_model
from driftspec.streams import Streams
from driftspec_plugins.metrics.moments import chain_estimates

SPECS = Path(__file__).parents[2] / "specs"


def autoregressive(chains: int, draws: int, phi: float, seed: int = 0, apart: float = 0.0) -> np.ndarray:
    """(chains, draws): x' = φ x + √(1 - φ²) ε from the stationary N(0, 1), each chain about a level of its own."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((chains, draws))
    x = noise.copy()
    for t in range(1, draws):
        x[:, t] = phi * x[:, t - 1] + math.sqrt(1 - phi**2) * noise[:, t]
    return x + apart * rng.standard_normal((chains, 1))


# -------------------------------------------------------------------------------------------------------- ess and r-hat


@pytest.mark.parametrize("phi", [-0.9, -0.4, 0.0, 0.6, 0.98])
@pytest.mark.parametrize("change", [lambda x: x, lambda x: np.sinh(3 * x), np.round], ids=["normal", "heavy", "ties"])
def test_effective_sizes_and_r_hat_are_those_of_arviz(phi: float, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for chains in (1, 2, 5):
        for draws in (4, 5, 6, 7, 9, 10, 33, 200):
            x = change(autoregressive(chains, draws, phi, seed=draws, apart=0.3))
            assert convergence.bulk(x) == pytest.approx(array_stats._ess_bulk(x), rel=1e-8)
            assert convergence.tail(x) == pytest.approx(array_stats._ess_tail(x, (0.05, 0.95)), rel=1e-8)
            assert convergence.size(convergence.split(x)) == pytest.approx(array_stats._ess_mean(x), rel=1e-8)
            if chains > 1 and (r_hat := convergence.split_r_hat(x)) is not None:
                assert r_hat == pytest.approx(array_stats._rhat_rank(x), rel=1e-8)


def test_what_they_say_of_chains_with_a_known_answer() -> None:
    slow = autoregressive(8, 20000, 0.8)
    assert convergence.bulk(slow) == pytest.approx(slow.size * 0.2 / 1.8, rel=0.06)
    assert convergence.split_r_hat(slow) == pytest.approx(1, abs=2e-3)
    apart = autoregressive(200, 400, 0.0, apart=1.0)
    assert convergence.split_r_hat(apart) == pytest.approx(math.sqrt(2), rel=0.1)  # √(V/W), V = 1 + 1
    wider = autoregressive(8, 2000, 0.0) * np.linspace(0.2, 3, 8)[:, None]
    assert convergence.split_r_hat(wider) > 1.1  # the means agree: it is the folded one that sees it
    moving = autoregressive(8, 2000, 0.0) + np.linspace(-1, 1, 2000)
    assert convergence.split_r_hat(moving) > 1.1  # the chains agree: it is their halves that do not
    assert convergence.split_r_hat(np.ones((4, 10)) * np.arange(4)[:, None]) is None


# ---------------------------------------------------------------------------------------------------- through a metric


def evaluation(values: Tensor, target: Any = None, sampler: Any = None, **draws: Any) -> Evaluation:
    """Draws (chains, draws, d) of a run without data."""
    target = target or {"type": "gaussian", "mean": [0.0] * values.shape[-1]}
    dynamics = Dynamics.make({"type": "langevin", "target": target})
    return tiny.scene(Draws(values, **draws), dynamics=dynamics, sampler=sampler and Sampler.make(sampler))


def measured(name: str, scene: Evaluation, **keys: Any) -> Measured:
    result = Metric.make({"type": name, **keys}).measure(scene)
    json.dumps({"value": result.value, **result.details}, allow_nan=False)
    assert result.stderr is not None or result.stderr_reason
    return result


def test_the_worst_of_the_reported_quantities_is_told_with_all_of_them() -> None:
    x = torch.from_numpy(np.stack([autoregressive(6, 300, phi, seed) for seed, phi in enumerate((0.9, 0.2, 0.0))], -1))
    x[0, :, 2] += 3.0
    scene = evaluation(x)
    ess, r_hat = measured("ess", scene), measured("r_hat", scene)
    each = {name: convergence.bulk(x[..., i].numpy()) for i, name in enumerate(("x1", "x2", "x3"))}
    assert {name: one["bulk"] for name, one in ess.details["quantities"].items()} == each
    assert ess.value == min(each.values()) and ess.details["worst"] == min(each, key=each.__getitem__)
    assert ess.n == 1800 and (ess.details["chains"], ess.details["draws"]) == (6, 300)
    assert r_hat.details["worst"] == "x3" and r_hat.value == r_hat.details["quantities"]["x3"] > 1.3
    some = measured("r_hat", scene, of=["x2", "x1"])
    assert list(some.details["quantities"]) == ["x2", "x1"] and some.value < 1.2
    with pytest.raises(RunFailed, match=r"metric 'ess': of: no column 'y'; one of x1, x2, x3"):
        measured("ess", scene, of=["y"])
    x[1, 2, 0] = math.nan
    with pytest.raises(RunFailed, match="1 of 1800 draws are not finite"):
        measured("r_hat", evaluation(x))


def test_quantities_are_the_constrained_ones_of_a_target() -> None:
    x = torch.randn(4, 50, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = measured("ess", evaluation(x, "eight_schools"), of=["tau", "theta_3"])
    assert list(result.details["quantities"]) == ["tau", "theta_3"]
    theta = (x[..., 0] + x[..., 1].exp() * x[..., 4]).numpy()
    assert result.details["quantities"]["theta_3"]["bulk"] == pytest.approx(convergence.bulk(theta))


def test_chains_of_one_draw_count_as_many_and_have_no_r_hat() -> None:
    scene = evaluation(torch.randn(70, 1, 2, dtype=torch.float64))
    assert measured("ess", scene).value == 70
    none = measured("r_hat", scene)
    assert none.value is None
    assert none.stderr_reason == "R-hat compares at least 2 chains of 4 draws, and there are 70 of 1"


@pytest.mark.parametrize("name", ["ess", "r_hat", "moments"])
def test_chains_in_which_nothing_moves_are_refused(name: str) -> None:
    still = torch.arange(6).double()[:, None, None].expand(6, 30, 1)
    moving = torch.from_numpy(autoregressive(6, 30, 0.0))[..., None]
    for values, named in ((still, "x1"), (torch.cat([moving, still], -1), "x2")):
        refused = measured(name, evaluation(values))
        assert refused.value is None and refused.stderr_reason == f"nothing moves within the chains: {named}"
    assert measured(name, evaluation(torch.cat([moving, still], -1)), of=["x1"]).value is not None


@pytest.mark.parametrize("draws", [2, 4, 8, 19])
def test_chains_too_short_for_an_effective_size_say_so(draws: int) -> None:
    """Of 8 draws each it was N log10 N, 5,127 of 1,600, whatever they were."""
    x = torch.from_numpy(autoregressive(200, draws, 0.95))[..., None]
    ess, moments = measured("ess", evaluation(x)), measured("moments", evaluation(x))
    assert ess.value is None and ess.stderr_reason is not None
    assert ess.stderr_reason.startswith(f"chains of {draws} draws are too short for an effective sample size")
    assert moments.details["moments"]["mean x1"]["stderr"] == pytest.approx(float(x.mean(1).std()) / 200**0.5, rel=0.01)
    if draws >= 4:
        alone = measured("moments", evaluation(x[:1]))
        assert alone.value is None and f"one chain of {draws} draws is too short" in (alone.stderr_reason or "")


def test_acceptance_is_the_mean_over_chains() -> None:
    rates = torch.tensor([0.5, 0.7, 0.6, 0.9])
    stats = {"proposed": 400.0, "non_finite_proposals": 3.0}
    values = torch.zeros(4, 5, 1).double()
    result = measured("acceptance", evaluation(values, each={"acceptance": rates, "step": rates}, stats=stats))
    assert result.value == pytest.approx(0.675) and result.n == 400
    assert result.stderr == pytest.approx(float(rates.std()) / 2)
    assert result.details["non_finite_proposals"] == 3 and result.details["lowest"] == pytest.approx(0.5)
    one = measured("acceptance", evaluation(values[:1], each={"acceptance": rates[:1]}, stats=stats))
    assert one.value == pytest.approx(0.5) and "one chain" in (one.stderr_reason or "")
    assert measured("acceptance", evaluation(values)).value is None


# -------------------------------------------------------------------------------------------------------------- moments


def test_z_scores_of_correlated_chains_have_spread_one() -> None:
    """By the effective size: as if independent, the means' would be 3 times and the variances' 2 times too far out."""
    z = []
    for seed in range(150):
        x = torch.from_numpy(autoregressive(4, 250, 0.8, seed))[..., None]
        values, errors = chain_estimates(x)
        z.append((values - torch.tensor([0.0, 1.0])) / errors)
    spread = torch.stack(z).square().mean(0).sqrt()
    assert ((spread - 1).abs() < 4 / math.sqrt(2 * 150)).all()


def test_moments_are_compared_with_the_targets_own() -> None:
    target = {"type": "gaussian", "mean": [1.0, -1.0], "covariance": [[2.0, 0.5], [0.5, 1.0]]}
    x = Distribution.make(target).sample(4000, torch.Generator().manual_seed(1))[:, None]
    result = measured("moments", evaluation(x, target))
    assert result.value is not None and result.value < 4 and result.n == 4000
    assert result.details["against"] == "exact moments of data 'gaussian'" and 0 < result.details["floor"] < 4
    assert result.details["moments"]["covariance x1 x2"]["reference"] == 0.5
    assert result.details["moments"]["mean x2"]["reference"] == -1
    assert result.line is not None and result.details["worst"] in result.line
    shifted = measured("moments", evaluation(x + torch.tensor([0.0, 0.3]), target), of=["x2"])
    assert shifted.details["worst"] == "mean x2" and shifted.value is not None and shifted.value > 10
    assert list(shifted.details["moments"]) == ["mean x2", "variance x2"]
    few = measured("moments", evaluation(x, target), samples=100)
    assert few.n == 100 and few.details["moments"]["mean x1"]["value"] == pytest.approx(float(x[:100, 0, 0].mean()))
    rows = Distribution.make("8gaussians").sample(500, torch.Generator().manual_seed(1))[:, None]
    assert measured("moments", evaluation(rows, "8gaussians")).value is not None


def test_draws_are_read_in_whole_chains() -> None:
    x = torch.from_numpy(np.stack([autoregressive(6, 40, 0.5, seed) for seed in range(2)], -1))
    for samples, rows in ((100, x[:2]), (25, x[:1, :25]), (None, x)):
        result = measured("moments", evaluation(x), samples=samples)
        assert result.n == rows[..., 0].numel()
        assert result.details["moments"]["mean x1"]["value"] == pytest.approx(float(rows[..., 0].mean()))


def test_a_biased_sampler_is_measured_by_its_own_prediction() -> None:
    target, sampler = {"type": "gaussian", "mean": [0.0], "std": 1.0}, {"type": "langevin", "step": 0.5, "steps": 400}
    law = {"type": "gaussian", "mean": [0.0], "std": math.sqrt(1 / (1 - 0.5 / 4))}
    x = Distribution.make(law).sample(20000, torch.Generator().manual_seed(2))[:, None]
    scene = evaluation(x, target, sampler)
    predicted, plain = measured("moments", scene, predicted=True), measured("moments", scene)
    assert predicted.value is not None and predicted.value < 4 < 10 < (plain.value or 0)
    assert predicted.details["moments"]["variance x1"]["reference"] == pytest.approx(8 / 7)
    assert predicted.details["against"] == "predicted by sampler 'langevin'"


@pytest.mark.parametrize("start", [None, {"type": "gaussian", "std": 0.5}])
def test_predicted_moments_are_those_of_the_start_that_is_meant(start: Any) -> None:
    """Of an open start, N(0, I), and of one whose numbers fit any dimension: |z| was 112 against the balance."""
    target = {"type": "gaussian", "mean": [2.0, -1.0], "covariance": [[1.0, 0.0], [0.0, 4.0]]}
    sampler = {"type": "langevin", "step": 0.5, "steps": 3, "start": start}
    model = build_model(Dynamics.make({"type": "langevin", "target": target}), 2, 0, torch.float64, torch.device("cpu"))
    drawn = Sampler.make(sampler).draw(model, 4000, Streams(0)).values
    found = measured("moments", evaluation(drawn, target, sampler), predicted=True)
    assert found.value is not None and found.value < 4


# ------------------------------------------------------------------------------------------------------------ in a spec


SPEC = """\
version: 1
name: a
dynamics: {type: langevin, target: {type: gaussian, mean: [0, 0]}}
sampler: {type: mala, step: 1.0, chains: 10, burn_in: 5}
evaluate: [ess, r_hat, acceptance, moments]
sample: {count: 100}
"""


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            ["sample.count=30"],
            "R-hat compares at least 2 chains of 4 draws, and there are 10 of 3: a sampler",
        ),
        (["sampler={type: langevin, step: 0.1}"], "there are 100 of 1: a sampler with 'chains'"),
        (["sampler={type: langevin, step: 0.1, chains: 10}"], "metric 'acceptance' needs an acceptance"),
        (
            ["evaluate=[{type: moments, predicted: true}]", "sampler=ode"],
            "sampler 'ode' does not predict",
        ),
        (
            ["evaluate=[{type: moments, predicted: true}]", "dynamics.target=banana", "sampler.type=langevin"],
            "sampler 'langevin' does not predict the moments of its draws from data 'banana'",
        ),
    ],
)
def test_what_cannot_be_measured_is_said_at_validation(changes: list[str], text: str) -> None:
    found = small_spec.said(SPEC, *changes)
    assert any(text in problem for problem in found), found


def test_what_can_be_measured_passes() -> None:
    assert small_spec.said(SPEC) == []
    assert small_spec.said(SPEC, "dynamics.target=eight_schools", "evaluate=[ess, moments]") == []
    few = SPEC.replace("sample: {count: 100}\n", "").replace(", acceptance", "")
    (said,) = small_spec.said(few)
    assert "[X302] metric 'ess' reads the run's samples" in said
    assert said.endswith("; the same for metric 'r_hat', metric 'moments'")


def run(tmp_path: Path, spec: str, *changes: str) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    out = tmp_path / spec
    sets = [word for change in changes for word in ("--set", change)]
    assert main([str(SPECS / f"{spec}.yaml"), "--out", str(out), "--quiet", *sets]) == 0
    info, metrics = (json.loads((out / name).read_text()) for name in ("run.json", "metrics.json"))
    assert (out / "report.html").exists()
    return info, metrics, np.load(out / "samples.npy")


def test_a_run_without_data_leaves_everything_behind(tmp_path: Path) -> None:
    info, metrics, samples = run(tmp_path, "langevin_gaussian", "sample.count=3000")
    assert samples.shape == (3000, 2) and samples.dtype == np.float32
    assert info["columns"] == ["x1", "x2"]
    assert (info["samples"]["chains"], info["samples"]["draws"]) == (3000, 1)
    assert metrics["moments"]["value"] < 4 and metrics["ess"]["value"] == 3000
    pictures = sorted(file.name for file in (tmp_path / "langevin_gaussian" / "plots").iterdir())
    assert pictures == ["marginals.png", "samples.png"]
    assert abs(samples[:, 0].var() / (8 / 7) - 1) < 4 * math.sqrt(2 / 3000)
    info, metrics, samples = run(tmp_path, "mala_gaussian", "sample.count=5000", "sampler.thin=20")
    assert (info["samples"]["chains"], info["samples"]["draws"]) == (100, 50)
    assert metrics["moments"]["value"] < 4 and metrics["r_hat"]["value"] < 1.05
    assert abs(metrics["acceptance"]["value"] - 0.852) < 4 * metrics["acceptance"]["stderr"] + 0.001


def test_chains_that_did_not_move_are_told_first_and_fail_under_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(SPECS / "mala_gaussian.yaml"), "--stage", "evaluate", "--set", "sampler.step=1e6", "--quiet"]
    words += ["--set", "sample.count=2000", "--set", "sampler.burn_in=20", "--set", "sampler.thin=1"]
    assert main([*words, "--out", str(tmp_path / "run"), "--strict"]) == 1
    shown = capsys.readouterr()
    told = "chains not converged: no proposal was accepted, of 1900"
    assert shown.out.startswith(told) and f"bad: sample: {told}" in shown.err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [metrics[name]["value"] for name in ("moments", "ess", "r_hat", "acceptance")] == [None, None, None, 0.0]
    assert metrics["moments"]["details"]["convergence"]["outcome"] == "not_converged"


def check_eight_schools(metrics: dict[str, Any], of_means: float, of_deviations: float) -> None:
    law = Distribution.make("eight_schools").moments()
    assert law is not None
    for index, name in enumerate(("mu", "tau")):
        mean, deviation = float(law[0][index]), float(law[1][index, index]) ** 0.5
        found = metrics["moments"]["details"]["moments"]
        assert abs(found[f"mean {name}"]["value"] - mean) < of_means * deviation
        assert abs(found[f"variance {name}"]["value"] ** 0.5 / deviation - 1) < of_deviations


def test_eight_schools_in_short(tmp_path: Path) -> None:
    changes = "sampler.burn_in=600", "sampler.thin=4", "sample.count=16000"
    info, metrics, samples = run(tmp_path, "eight_schools", *changes)
    assert info["columns"][:3] == ["mu", "log_tau", "z_1"] and samples.shape == (16000, 10)
    check_eight_schools(metrics, 0.25, 0.25)
    assert list(metrics["ess"]["details"]["quantities"])[:3] == ["mu", "tau", "theta_1"]
    assert abs(metrics["acceptance"]["value"] - 0.7) < 0.05
    assert metrics["r_hat"]["value"] < 1.2


@pytest.mark.slow
def test_eight_schools(tmp_path: Path) -> None:
    _, metrics, _ = run(tmp_path, "eight_schools")
    check_eight_schools(metrics, 0.1, 0.1)
    assert metrics["r_hat"]["value"] < 1.01
