"""Metrics against closed forms: the value, its standard error, and the line a run ends with."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable

import pytest
import tiny
import torch
from problems import Linear, Problem, points, tensor
from torch import Tensor

from driftspec.components import Data, Measured, Metric, Model, Sampler, Table
from driftspec.errors import RunFailed
from driftspec.experiment.build import Experiment
from driftspec.experiment.evaluate import as_json, evaluate
from driftspec.numerics import likelihood
from driftspec.registry import Registry, discover
from driftspec.source.files import Files
from driftspec_plugins.metrics import energy_distance as energy
from driftspec_plugins.metrics._likelihood import short as _short

A = tensor([0.4, 1.3], [-0.6, 0.2])
COVARIANCE = [[1.5, 0.6], [0.6, 0.8]]
GAUSSIAN = f"data={{type: gaussian, mean: [0.5, -0.3], covariance: {COVARIANCE}, samples: 12000}}"
FLOAT64 = "runtime.dtype=float64"


def measured(made: Experiment, model: Model, draws: Tensor | None = None) -> Measured:
    """The one metric of the experiment's spec."""
    assert made.spec.evaluate is not None
    return made.spec.evaluate[0].measure(tiny.evaluation(made, model, draws))


def linear_kl(a: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """KL(N(mean, covariance) ‖ N(0, e^A e^Aᵀ)), the law of x = e^A z."""
    root = torch.linalg.matrix_exp(a)
    inverse = torch.linalg.inv(root @ root.T)
    d = len(a)
    log_dets = 2 * a.trace() - torch.linalg.slogdet(covariance).logabsdet
    return float(((inverse @ covariance).trace() + mean @ inverse @ mean - d + log_dets) / 2)


# Negative log-likelihood -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardize", ["none", "scale", "whiten"])
def test_nll_is_entropy_plus_kl_of_a_flow_known_exactly(standardize: str) -> None:
    made = tiny.experiment(GAUSSIAN, FLOAT64, f"data.standardize={standardize}", "evaluate=[nll]")
    result = measured(made, tiny.known(Linear(A)))
    mean, covariance = tensor(0.5, -0.3), tensor(*COVARIANCE)
    matrix, shift = made.transform.matrix, made.transform.shift
    kl = linear_kl(A, matrix @ (mean - shift), matrix @ covariance @ matrix.T)  # no unit changes a KL
    details = result.details
    assert result.n == 1200 and kl > 0.1
    assert abs(details["kl"] - kl) < 4 * details["kl_stderr"]
    entropy = math.log(2 * math.pi * math.e) + 0.5 * float(torch.linalg.slogdet(covariance).logabsdet)
    assert details["entropy"] == pytest.approx(entropy)
    assert result.value == pytest.approx(details["entropy"] + details["kl"] + details["sampling"], abs=1e-12)
    assert result.stderr is not None and abs(result.value - entropy - kl) < 4 * result.stderr
    assert details["kl_stderr"] < result.stderr
    assert details["not_converged"] == 0 and details["confirmed"]["difference"] < 1e-4


def test_the_standard_errors_are_the_spread_over_repetitions() -> None:
    """60 test sets: the z of the gap to its closed form has the mean 0 and the variance 1."""
    gaps, model = [], tiny.known(Linear(A))
    kl = linear_kl(A, tensor(0.5, -0.3), tensor(*COVARIANCE))
    for seed in range(60):
        text = "evaluate=[{type: nll, points: 100}]"
        made = tiny.experiment(GAUSSIAN.replace("12000", "1000"), FLOAT64, text, f"seed={seed}")
        details = measured(made, model).details
        gaps.append((details["kl"] - kl) / details["kl_stderr"])
    z = torch.tensor(gaps, dtype=torch.float64)
    assert abs(tiny.z_score(z)) < 4
    assert abs(float(z.var()) - 1) < 4 * math.sqrt(2 / 60)


def test_probes_give_the_exact_value_within_what_they_state() -> None:
    exact, random = (
        measured(tiny.experiment(f"evaluate=[{{type: nll, trace: {trace}}}]", FLOAT64), model)
        for trace in ("exact_trace", "{type: hutchinson, probes: 6}")
        for model in [tiny.random_flow([16, 16], 2, torch.float64, gain=3.0)]
    )
    stated = random.details["probe_stderr"]
    assert abs(random.value - exact.value) < 4 * stated
    assert stated < 0.2 * float(exact.stderr or 0) and "probe_stderr" not in exact.details
    assert random.details["confirmed"] == {"points": 0, "difference": None, "status": "random trace"}
    assert f"; probes ± {_short(stated)}; solver error" in str(random.line)
    one = measured(
        tiny.experiment("evaluate=[{type: nll, trace: hutchinson}]", FLOAT64), tiny.random_flow([8], 2, torch.float64)
    )
    assert "probe_stderr" not in one.details and "probes" not in str(one.line)


NUMBER = r"\d(?:e-?\d+)?"
LINE = (
    r"NLL -?\d+\.\d{3} ± \d+\.\d{3} nats = entropy -?\d+\.\d{3} \+ KL -?\d+\.\d{3} ± \d+\.\d{3} "
    rf"\(\+ sampling -?\d+\.\d{{3}}\); solver error {NUMBER} \(max {NUMBER}, dopri8 agrees\); round trip {NUMBER}"
)


def test_the_truth_line() -> None:
    result = measured(tiny.experiment("evaluate=[nll]"), tiny.random_flow([16], 2))
    assert re.fullmatch(LINE, str(result.line)), result.line
    example = "NLL 0.331 ± 0.011 nats = entropy 0.289 + KL 0.034 ± 0.003 (+ sampling 0.008); solver error 4e-6 "
    assert re.fullmatch(LINE, example + "(max 4e-5, dopri8 agrees); round trip 2e-6")
    assert [_short(value) for value in (4e-6, 4.4e-12, 0.0, 31.0, 1.0)] == ["4e-6", "4e-12", "0", "3e1", "1e0"]


def test_the_hardest_points_are_confirmed_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, torch.dtype, str]] = []
    rows, errors = [], []
    plain = likelihood.log_prob

    def spied(model: Model, x: Tensor, solver: Data, *rest: object, **keys: bool) -> likelihood.LogProb:
        asked.append((len(x), x.dtype, solver.type))
        scored = plain(model, x, solver, *rest, **keys)  # type: ignore[arg-type]
        rows.append(x.double())
        errors.append(scored.error + scored.rounding)
        return scored

    monkeypatch.setattr(likelihood, "log_prob", spied)
    made, model = tiny.experiment("evaluate=[nll]"), tiny.random_flow([16], 2, gain=3.0)
    result = measured(made, model)
    assert asked == [(200, torch.float32, "lobatto"), (2, torch.float64, "dopri8")]
    # The rows are those of the data: that the model reads them in float32 is a part of its error.
    hardest = errors[0].topk(2).indices
    assert torch.equal(rows[1], made.transform.to_model(made.dataset.test)[hardest])
    assert not torch.equal(rows[1], rows[0][hardest])
    assert 0 < result.details["confirmed"]["difference"] < 1e-3


def test_a_solver_that_is_wrong_is_not_confirmed() -> None:
    """One step and no refinement: the error is stated, and dopri8 does not agree."""
    coarse = "{type: lobatto, steps: 1, tolerance: 1e6, max_steps: 2}"
    wrong = measured(
        tiny.experiment(f"evaluate=[{{type: nll, solver: {coarse}}}]"), tiny.random_flow([16], 2, gain=4.0)
    )
    difference = wrong.details["confirmed"]["difference"]
    assert difference > 1e-3 and f"dopri8 differs by {_short(difference)})" in str(wrong.line)
    limited = "{type: lobatto, max_steps: 20, tolerance: 1e-9}"
    few = measured(tiny.experiment(f"evaluate=[{{type: nll, solver: {limited}}}]"), tiny.random_flow([16], 2, gain=4.0))
    assert few.details["not_converged"] > 0 and f"{few.details['not_converged']} points not converged" in str(few.line)
    budget = "{type: dopri8, max_evaluations: 20}"
    ended = measured(tiny.experiment(f"evaluate=[{{type: nll, confirm: {budget}}}]"), tiny.random_flow([16], 2))
    assert ended.details["confirmed"]["status"] == "budget" and "dopri8 ended with budget" in str(ended.line)


class Unknown(Data):
    """Rows of N([5, 0], [[4, 1], [1, 1]]), of which nothing else is known."""

    type = "unknown"
    repeat: int = 1

    def dim(self) -> int:
        return 2

    def read(self, files: Files, generator: torch.Generator) -> Table:
        root = torch.linalg.cholesky(tensor([4.0, 1.0], [1.0, 1.0]))
        rows = torch.randn(2000, 2, generator=generator, dtype=torch.float64) @ root.T + tensor(5.0, 0.0)
        return Table(rows[: 2000 // self.repeat].repeat(self.repeat, 1), ("a", "b"))


@pytest.fixture(scope="module")
def unknown() -> Registry:
    found = discover()
    found.add_component(Unknown)
    return found


def test_where_the_truth_is_unknown_there_are_baselines(unknown: Registry) -> None:
    """For Gaussian data a Gaussian is the best; the NLLs of all three are near its entropy, in the data's units."""
    made = tiny.experiment("data={type: unknown, standardize: scale}", "evaluate=[nll]", registry=unknown)
    result = measured(made, tiny.random_flow([8], 2))
    entropy = math.log(2 * math.pi * math.e) + 0.5 * math.log(3.0)
    baselines = result.details["baselines"]
    assert list(baselines) == ["gaussian", "gaussian_mixture", "kde"]
    for name, one in baselines.items():
        assert -4 * one["stderr"] < one["value"] - entropy < 4 * one["stderr"] + (0.1 if name == "kde" else 0.02)
        assert one["fitted_on"] == 1600 and f"{name} {one['value']:.3f}" in str(result.line)
    assert "kl" not in result.details and "entropy" not in str(result.line)
    assert "test_rows_in_training" not in result.details
    asked = "evaluate=[{type: nll, baselines: [gaussian]}]"
    known = measured(tiny.experiment(GAUSSIAN, asked), tiny.random_flow([8], 2))
    assert list(known.details["baselines"]) == ["gaussian"] and "kl" in known.details


def test_rows_in_both_training_and_test_are_told(unknown: Registry) -> None:
    sets = ("data={type: unknown, repeat: 4}", "evaluate=[{type: nll, baselines: []}]")
    made = tiny.experiment(*sets, registry=unknown)
    result = measured(made, tiny.random_flow([8], 2))
    assert result.details["test_rows_in_training"] > 150 and "baselines" not in result.details


def test_metrics_are_strict_json_and_names_are_keys(registry: Registry) -> None:
    sets = "evaluate=[nll, {type: nll, name: few, points: 20}, round_trip, {type: energy_distance, samples: 30}]"
    made = tiny.experiment(sets)
    drawn = tiny.evaluation(made, made.model, points(60, 2).float()).drawn
    results = dict(evaluate(made, made.model, drawn))
    assert list(results) == ["nll", "few", "round_trip", "energy_distance"]
    text = json.dumps({name: as_json(one) for name, one in results.items()}, allow_nan=False)
    assert {"value", "stderr", "unit", "n", "details"} <= set(json.loads(text)["few"])
    assert results["few"].n == 20 and results["energy_distance"].n == 30
    bare = as_json(Measured(1.0, None, "nats", 3, stderr_reason="of one sort"))
    assert bare["stderr"] is None and bare["stderr_reason"] == "of one sort"


def test_a_metric_more_changes_no_other() -> None:
    alone = tiny.experiment("evaluate=[{type: energy_distance, samples: 50}]")
    more = tiny.experiment("evaluate=[nll, {type: energy_distance, samples: 50}]")
    draws = points(50, 2).float()
    results = [
        dict(evaluate(made, made.model, tiny.evaluation(made, made.model, draws).drawn))["energy_distance"]
        for made in (alone, more)
    ]
    assert results[0] == results[1]


def test_each_metric_has_streams_of_its_own() -> None:
    """Under two names the same distance is taken to other data."""
    one, other = "{type: energy_distance, samples: 50}", "{type: energy_distance, samples: 50, name: other}"
    made = tiny.experiment(f"evaluate=[{one}, {other}]")
    drawn = tiny.evaluation(made, made.model, points(50, 2).float()).drawn
    results = dict(evaluate(made, made.model, drawn))
    assert results["energy_distance"].value != results["other"].value


def test_test_rows_are_wanted_before_they_are_missing() -> None:
    made = tiny.experiment("data.split=[1.0, 0.0, 0.0]", "evaluate=[nll]")
    with pytest.raises(RunFailed, match=r"at least 2: 'split' in data leaves 0"):
        measured(made, made.model)


# Round trip --------------------------------------------------------------------------------------------------------


def trip(model: Model, *sets: str) -> Measured:
    return measured(tiny.experiment(GAUSSIAN, "evaluate=[round_trip]", *sets), model)


def test_a_gentle_flow_is_inverted() -> None:
    result = trip(tiny.random_flow([16], 2, gain=3.0))
    assert result.details["reliable"] and result.line is None and result.value < 1e-4 and not result.verdicts
    assert result.n == 1000 and result.value <= result.details["max"]


@pytest.mark.parametrize(
    "f",
    [lambda t, x: -20 * x, lambda t, x: 20 * (x - 1), lambda t, x: -20 * (x - 1)],
    ids=["contracting", "expanding", "contracting to 1"],
)
def test_a_strongly_contracting_flow_is_said_to_be_unreliable(f: Callable[[Tensor, Tensor], Tensor]) -> None:
    result = trip(tiny.flow_of(f, 2, dtype=torch.float32))
    assert not result.details["reliable"] and "the inverse is unreliable" in str(result.line)
    (one,) = result.verdicts
    assert (one.subject, one.outcome, one.severity, one.reason) == ("inverse", "unreliable", "bad", result.line)
    assert result.details["not_converged"] > 0 or result.details["max"] > 1e-2


def test_a_round_trip_is_one_quantity() -> None:
    """The number in nll's line and the metric's: the same rows, the same solver, the same way there and back."""
    made, model = tiny.experiment("evaluate=[nll, round_trip]"), tiny.random_flow([16], 2, gain=3.0)
    nll, trip = (metric.measure(tiny.evaluation(made, model)) for metric in made.spec.evaluate or ())
    assert nll.details["round_trip"] == {"mean": trip.value, "max": trip.details["max"]}


def test_the_round_trip_is_measured_in_the_datas_units() -> None:
    """A solver that is coarse on purpose: the error scales with the data."""
    coarse = "evaluate=[{type: round_trip, solver: {type: rk4, steps: 1, tolerance: 1e6, max_steps: 2}}]"
    results = []
    for std in (1.0, 1000.0):
        data = f"data={{type: gaussian, mean: [0.0, 0.0], std: {std}, samples: 1000, standardize: scale}}"
        results.append(
            measured(tiny.experiment(data, coarse, FLOAT64), tiny.random_flow([16], 2, torch.float64, gain=4.0))
        )
    assert results[1].value == pytest.approx(1000 * results[0].value, rel=1e-6)


# Energy distance ---------------------------------------------------------------------------------------------------


def expected_distance(shift: float, s: float, t: float) -> float:
    """D²(N(0, s²), N(shift, t²)) in 1-D, from E|N(m, v)| = √(2v/π) e^{-m²/2v} + m erf(m/√(2v))."""

    def folded(m: float, v: float) -> float:
        return math.sqrt(2 * v / math.pi) * math.exp(-m * m / (2 * v)) + m * math.erf(m / math.sqrt(2 * v))

    return 2 * folded(shift, s * s + t * t) - folded(0, 2 * s * s) - folded(0, 2 * t * t)


def test_the_distance_of_two_normals_is_the_closed_form() -> None:
    x, y = points(4000, 1, seed=1), 0.7 + 1.5 * points(3000, 1, seed=2)
    value, stderr, _ = energy.energy_distance(x, y)
    assert abs(value - expected_distance(0.7, 1.0, 1.5)) < 4 * stderr < 0.5 * value


def test_the_estimate_and_its_jackknife_are_the_definitions() -> None:
    x, y = points(14, 3, seed=1), points(11, 3, seed=2) + 2

    def by_hand(x: Tensor, y: Tensor) -> float:
        across = sum(float((a - b).norm()) for a in x for b in y) / (len(x) * len(y))
        within = [sum(float((a - b).norm()) for a in z for b in z) / (len(z) * (len(z) - 1)) for z in (x, y)]
        return 2 * across - sum(within)

    def jackknife(values: list[float]) -> float:
        mean, n = sum(values) / len(values), len(values)
        return (n - 1) / n * sum((value - mean) ** 2 for value in values)

    value, stderr, chance = energy.energy_distance(x, y)
    assert value == pytest.approx(by_hand(x, y), abs=1e-9)
    without_x = [by_hand(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(len(x))]
    without_y = [by_hand(x, torch.cat([y[:i], y[i + 1 :]])) for i in range(len(y))]
    assert stderr == pytest.approx(math.sqrt(jackknife(without_x) + jackknife(without_y)), rel=1e-6)
    assert stderr > math.sqrt(3) * chance > 0  # the floor is not in it


@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_the_distance_is_unbiased_and_its_error_is_its_spread(shift: float) -> None:
    """400 repetitions. At a distance of 0 the estimate is degenerate: unbiased, with too large an error stated."""
    pairs = [
        energy.energy_distance(points(60, 2, seed=2 * i), points(50, 2, seed=2 * i + 1) + shift) for i in range(400)
    ]
    values, stderrs, chances = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs))
    if shift == 0:
        assert abs(tiny.z_score(values)) < 4
        assert bool((values < 0).any())
        assert abs(math.log(float(chances.mean() / values.std()))) < 4 / math.sqrt(2 * 400) + 0.05
        assert bool((stderrs >= math.sqrt(3) * chances * (1 - 1e-9)).all())
    else:
        ratio = float(stderrs.square().mean() / values.var())
        assert abs(ratio - 1) < 4 * math.sqrt(2 / 400) + 0.1  # and the jackknife's own bias, of order 1/n


def test_rows_far_from_the_origin_have_the_same_distance() -> None:
    x, y = points(100, 2, seed=1), points(100, 2, seed=2)
    near, far = energy.energy_distance(x, y), energy.energy_distance(x + 1e7, y + 1e7)
    assert far == pytest.approx(near, abs=1e-6)


def test_a_runs_first_draws_are_compared_with_data_and_the_floor() -> None:
    metric = "evaluate=[{type: energy_distance, samples: 400}]"
    made = tiny.experiment(GAUSSIAN, metric, "sample.count=900", "data.standardize=scale", "data.mean=[5.0, -0.3]")
    truth = made.spec.data
    assert truth is not None
    rows = made.transform.to_model(points(900, 2) @ torch.linalg.cholesky(tensor(*COVARIANCE)).T + tensor(5.0, -0.3))
    result = measured(made, made.model, rows)
    assert result.n == 400 and result.details["against"] == 400
    assert result.stderr is not None and abs(result.value) < 4 * result.stderr
    assert abs(result.details["floor"]) < 4 * result.stderr
    changed = rows.clone()
    changed[400:] += 100
    assert measured(made, made.model, changed) == result
    assert measured(made, made.model, rows + 1).value > 10 * result.stderr


def test_the_floor_is_the_distance_of_two_fresh_sets() -> None:
    """Over 30 seeds its mean is the distance of equal laws, 0; one set taken twice would be below."""
    floors = []
    for seed in range(30):
        made = tiny.experiment("evaluate=[{type: energy_distance, samples: 60}]", f"seed={seed}", "data.samples=100")
        floors.append(measured(made, made.model, points(60, 2).float()).details["floor"])
    assert abs(tiny.z_score(torch.tensor(floors, dtype=torch.float64))) < 4


def test_a_trained_samplers_draws_have_the_flows_law() -> None:
    """Draws of x = e^A z against N(0, e^A e^Aᵀ), by the sampler a run uses."""
    problem: Problem = Linear(A)
    drawn = Sampler.make("ode").draw(tiny.known(problem), 3000, tiny.experiment().streams).flat()
    white = torch.linalg.solve(torch.linalg.matrix_exp(A), drawn.T).T
    assert max(abs(tiny.z_score(white[:, i] * white[:, j], float(i == j))) for i in (0, 1) for j in (0, 1)) < 4
    assert max(abs(tiny.z_score(white[:, i])) for i in (0, 1)) < 4
    assert isinstance(Metric.make("energy_distance"), energy.EnergyDistance)
