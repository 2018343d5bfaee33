"""The theorem of score matching, the scale of a score and chains without noise, against closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import quadratic
import tiny
import torch
from problems import tensor
from torch import Tensor, nn

from driftspec.components import Line, Measured, Model, Points
from driftspec.errors import RunFailed
from driftspec.experiment.build import Experiment
from driftspec.numerics.chains import ChainSampler, starts
from driftspec.numerics.model import BoundModel
from driftspec_plugins.metrics import score_scale
from driftspec_plugins.metrics.score_scale import ratio

COVARIANCE, MEAN = [[1.5, 0.6], [0.6, 0.8]], [0.5, -0.3]
TEXT = f"""
version: 1
name: scores
data: {{type: gaussian, mean: {MEAN}, covariance: {COVARIANCE}, samples: 20000}}
dynamics: {{type: langevin, network: mlp}}
sampler: {{type: langevin, step: 0.1, steps: 40}}
runtime: {{dtype: float64}}
sample: {{count: 10}}
"""


class _Bent(nn.Module):
    """s(u) = (u₁ u₂ - u₁, sin u₁ - u₂³) (n, 2), whose derivative has the trace u₂ - 1 - 3 u₂²."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, t: Tensor, u: Tensor) -> Tensor:
        first, second = u.unbind(1)
        return self.one * torch.stack([first * second - first, first.sin() - second**3], 1)


BENT: Model = BoundModel(quadratic.model(torch.eye(2)).dynamics, _Bent(), 2)


def made(metric: str, *sets: str) -> Experiment:
    return tiny.experiment(f"evaluate=[{metric}]", *sets, text=TEXT)


def measured(experiment: Experiment, model: Model) -> Measured:
    assert experiment.spec.evaluate is not None
    return experiment.spec.evaluate[0].measure(tiny.evaluation(experiment, model))


def bent(experiment: Experiment) -> tuple[Tensor, Tensor, Tensor]:
    """The score (n, 2), its trace (n,) and the true score (n, 2) at the test rows, data units, worked out by hand."""
    x, matrix = experiment.dataset.test, experiment.transform.matrix
    first, second = ((x - experiment.transform.shift) @ matrix.T).unbind(1)
    s = torch.stack([first * second - first, first.sin() - second**3], 1)
    zero = torch.zeros_like(first)
    slope = torch.stack([second - 1, first, first.cos(), zero - 3 * second**2], 1).reshape(-1, 2, 2)
    trace = torch.stack([torch.trace(matrix.T @ j @ matrix) for j in slope])
    return s @ matrix, trace, -(x - tensor(*MEAN)) @ torch.linalg.inv(tensor(*COVARIANCE))


@pytest.mark.parametrize("standardize", ["none", "whiten"])
def test_both_sides_are_their_definitions_and_differ_by_chance_alone(standardize: str) -> None:
    experiment = made("score_matching_theorem", f"data.standardize={standardize}")
    result, (s, trace, truth) = measured(experiment, BENT), bent(experiment)
    left, constant = (s - truth).square().sum(1) / 2, truth.square().sum(1) / 2
    right = s.square().sum(1) / 2 + trace + constant
    assert result.value == pytest.approx(float((left - right).mean()), rel=1e-9)
    assert result.stderr == pytest.approx(float((left - right).std()) / 2000**0.5, rel=1e-9)
    assert result.value is not None and result.stderr is not None
    assert abs(result.value) < 4 * result.stderr < 0.2 * float(left.mean())
    assert result.terms == pytest.approx({"left": float(left.mean()), "right": float(right.mean())})
    assert result.details["loss"]["value"] == pytest.approx(float((right - constant).mean()))
    assert result.details["constant"]["stderr"] == pytest.approx(float(constant.std()) / 2000**0.5)
    (metric,) = experiment.spec.evaluate or ()
    assert metric.watched(result) == result.terms["left"]


def test_the_left_side_is_the_fisher_divergence() -> None:
    theorem = made("score_matching_theorem", "data.standardize=scale")
    fisher = made("fisher_divergence", "data.standardize=scale")
    value = measured(fisher, BENT).value
    assert value is not None and measured(theorem, BENT).terms["left"] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("kappa", [1.0, 0.5])
def test_the_scale_is_the_minimum_of_the_loss(kappa: float) -> None:
    experiment = made(f"{{type: score_scale, trace_weight: {kappa}}}", "data.standardize=whiten")
    result, (s, trace, _) = measured(experiment, BENT), bent(experiment)
    c = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    loss = (c.square() * s.square().sum(1) / 2 + kappa * c * trace).mean()
    (slope,) = torch.autograd.grad(loss, c)  # a parabola in c: its minimum is -slope/curvature
    assert result.value == pytest.approx(-float(slope) / float(s.square().sum(1).mean()), rel=1e-9)
    assert result.value is not None and abs(result.value - kappa) > 0.2, "a score that is none of the data's"


@pytest.mark.parametrize("kappa", [1.0, 0.5])
def test_the_slip_of_the_proof_halves_the_score(kappa: float) -> None:
    """The true score has c = κ: with ½ (s² + ∇s) in place of ½ s² + ∇s the best one is half as large."""
    experiment = made(
        f"{{type: score_scale, trace_weight: {kappa}}}", "data={type: gaussian, mean: [0.0], std: 1.7, samples: 20000}"
    )
    result = measured(experiment, quadratic.model(tensor([1 / 1.7**2])))
    assert result.value is not None and result.stderr is not None
    assert abs(result.value - kappa) < 4 * result.stderr
    assert result.stderr == pytest.approx(kappa * math.sqrt(2 / 2000), rel=0.15)  # of κ n/Σ z², z normal


def test_the_error_of_a_ratio_covers_95_of_100() -> None:
    """a = 2 + 3 e, b = (1 + e)² of a normal e, correlated: E a / E b = 1."""
    e = torch.randn(800, 150, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = [ratio(2 + 3 * row, (1 + row).square()) for row in e]
    reached = [abs(c - 1) < 1.96 * stderr for c, stderr in found]
    assert abs(sum(reached) / len(reached) - 0.95) < 0.03


def test_a_score_of_0_has_no_scale() -> None:
    with pytest.raises(RunFailed, match="the score is 0 at all 2000 rows"):
        measured(made("score_scale"), quadratic.model(torch.zeros(2, 2, dtype=torch.float64)))


# Without noise -------------------------------------------------------------------------------------------------------


def test_chains_without_noise_follow_their_recursion() -> None:
    """On ½ uᵀKu they are (I - (η/2) K)ⁿ u₀, with ∇log p = -Wᵀ K u in data units, not yet 0 after 40 steps."""
    k = tensor([1.2, 0.5], [0.5, 0.9])
    begin = "{type: gaussian, mean: [2.0, -1.0]}"
    experiment = made("{type: ascent, chains: 30}", "data.standardize=whiten", f"sampler.start={begin}")
    model = quadratic.model(k)
    result, sampler = measured(experiment, model), experiment.spec.sampler
    assert isinstance(sampler, ChainSampler)
    start = starts(model, sampler.start, 30, experiment.streams.under("sample"))[:30]
    power = torch.linalg.matrix_power(torch.eye(2).double() - 0.05 * k, 40)
    slope = start @ power.T @ k.T @ experiment.transform.matrix
    assert result.value == pytest.approx(float(slope.norm(dim=1).max()), rel=1e-9)
    assert result.value is not None and result.value > 0.1


def double_well() -> Measured:
    text = "version: 1\nname: a\ndynamics: {type: langevin, target: double_well}\nsample: {count: 10}\n"
    text += "sampler: {type: langevin, step: 0.05, steps: 300}\nevaluate: [{type: ascent, chains: 40}]\n"
    experiment = tiny.experiment(text=text)
    return measured(experiment, experiment.model)


def test_chains_without_noise_end_at_modes_and_those_with_noise_do_not() -> None:
    result = double_well()
    assert result.value is not None and result.value < 1e-12
    modes = {round(mode["at"][0], 9): mode["share"] for mode in result.details["modes"]}
    assert set(modes) == {-1.0, 1.0} and sum(modes.values()) == pytest.approx(1)
    assert 0.2 < modes[1.0] < 0.8
    assert result.details["with_noise"]["value"] > 4 * result.details["with_noise"]["stderr"] > 0.1


def test_both_kinds_of_paths_are_drawn_from_the_same_starts() -> None:
    result = double_well()
    calm, noisy = result.pictures["paths"].panels
    assert [mark.y[0] for mark in calm.marks] == [mark.y[0] for mark in noisy.marks]  # type: ignore[union-attr]
    assert {round(mark.y[-1], 6) for mark in calm.marks} <= {-1.0, 1.0}  # type: ignore[union-attr]
    plane = tiny.experiment(
        "dynamics.target={type: gaussian, mean: [1.0, 2.0]}", "sampler.steps=300", "sampler.step=0.2",
        text=TEXT.replace("data:", "# data:").replace("network: mlp", "target: double_well") + "evaluate: [ascent]\n",
    )  # fmt: skip
    panel, _ = measured(plane, plane.model).pictures["paths"].panels
    ground, path, end, start = panel.marks
    assert isinstance(path, Line) and isinstance(end, Points) and isinstance(start, Points)
    assert list(end.x) == pytest.approx([1.0] * len(end.x)) and list(end.y) == pytest.approx([2.0] * len(end.x))
    assert len(path.x) == len(end.x) * 102 and sum(map(math.isnan, path.x)) == len(end.x)
    lowest = min((value, x, y) for y, row in zip(ground.y, ground.values) for x, value in zip(ground.x, row))  # type: ignore[union-attr]
    assert lowest[0] == 0 and abs(lowest[1] - 1) < 0.1 and abs(lowest[2] - 2) < 0.1


def test_a_sampler_that_does_not_climb_is_refused() -> None:
    def said(sampler: dict[str, Any]) -> str:
        from driftspec.spec.fits import check

        loaded = tiny.loaded("evaluate=[ascent]", f"sampler={sampler}", text=TEXT)
        return " ".join(problem.message for problem in check(loaded))

    assert "chains that climb log p" in said({"type": "mala", "step": 0.1})
    assert "chains that climb log p" in said({"type": "langevin", "step": 0.1, "chains": 2})
    assert "climb" not in said({"type": "langevin", "step": 0.1})


def test_the_picture_has_the_least_loss_of_each_form() -> None:
    """E‖s‖² = 4 and E tr(∇s) = -3: the loss 2c² - 3κc is least at c = 3κ/4, where it is -9κ²/8."""
    (panel,) = score_scale.picture(4.0, -3.0, 0.5).panels
    right, least, slip, half = panel.marks
    assert (least.x, least.y) == ([0.75], [-1.125]) and (half.x, half.y) == ([0.375], [-0.28125])
    for line, (kappa, (c,), (value,)) in zip((right, slip), ((1, least.x, least.y), (0.5, half.x, half.y))):
        assert list(line.y) == pytest.approx([2 * at**2 - 3 * kappa * at for at in line.x])
        assert min(line.y) >= value and abs(line.x[list(line.y).index(min(line.y))] - c) < 0.02
    assert len(score_scale.picture(4.0, -3.0, 1.0).panels[0].marks) == 2


def refused(metric: str, *sets: str, text: str = TEXT) -> str:
    from driftspec.spec.fits import check, errors

    found = check(tiny.loaded(f"evaluate=[{metric}]", *sets, text=text))
    return "\n".join(str(problem) for problem in errors(found))


KNOWN = "version: 1\nname: a\ndynamics: {type: langevin, target: double_well}\nsample: {count: 10}\n"
KNOWN += "sampler: {type: langevin, step: 0.05, steps: 30}\n"


@pytest.mark.parametrize(
    "metric",
    ["score_matching_theorem", "score_scale", "fisher_divergence", "{type: ksd, of: data, samples: 10}", "nll"],
)
def test_a_target_has_no_test_rows(metric: str) -> None:
    assert "it reads test rows, and the spec has a target and no data" in refused(metric, text=KNOWN)
    assert "test rows" not in refused(metric)
    assert "test rows" not in refused("ascent", text=KNOWN), "it reads none"


def test_chains_without_noise_or_without_a_step_have_nothing_to_compare() -> None:
    assert "has no noise to leave out: give it a temperature" in refused("ascent", "sampler.temperature=0", text=KNOWN)
    assert "takes no step: raise 'steps'" in refused("ascent", "sampler.steps=0", text=KNOWN)
    assert not refused("ascent", "sampler.temperature=0.1", "sampler.steps=1", text=KNOWN)


FLOW = "dynamics={type: power, exponent: 1.0, rate: 0.5}"


def test_a_flow_that_is_not_smooth_is_not_climbed() -> None:
    assert not refused("ascent", FLOW)
    assert "which is not smooth" in refused("ascent", FLOW.replace("1.0", "0.5"))


@pytest.mark.parametrize("metric", ["score_matching_theorem", "score_scale"])
def test_a_known_flow_needs_no_metric_of_log_p_beside_its_score(metric: str) -> None:
    """log p of the flow has the trace and the solver that `nll` has by default."""

    def found(*others: str) -> Measured:
        experiment = tiny.experiment(f"evaluate={[metric, *others]}", FLOW, "data.samples=100", text=TEXT)
        return measured(experiment, experiment.model)

    assert found() == found("nll") and found().value is not None


def test_a_failed_score_names_the_metric() -> None:
    experiment = tiny.experiment(
        "evaluate=[score_scale]", FLOW.replace("1.0", "3.0").replace("0.5", "-50.0"), "data.samples=100", text=TEXT
    )
    with pytest.raises(RunFailed, match=r"metric 'score_scale': .*non_finite.*a finer 'solver'"):
        measured(experiment, experiment.model)


def test_a_flow_that_is_not_smooth_gets_no_trace() -> None:
    experiment = tiny.experiment(
        "evaluate=[{type: ksd, of: data, samples: 10}]", FLOW.replace("1.0", "0.5"), "data.samples=100", text=TEXT
    )
    with pytest.raises(RunFailed, match=r"log p needs a trace.*add a metric that computes log p"):
        measured(experiment, experiment.model)
