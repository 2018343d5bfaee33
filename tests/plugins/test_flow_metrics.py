"""Metrics that show the adjoint, the limit of a determinant, and a trace's cost and spread, against closed forms."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from problems import MATRICES, Linear, Planar, points
from small_spec import edited, said

from driftspec.components import Line, Measured, Model, Solver
from driftspec.errors import SolveFailed
from driftspec_plugins.metrics.adjoint_path import _At
from driftspec_plugins.metrics.determinant_limit import jacobian, layer_weights
from driftspec_plugins.metrics.trace_cost import operations
from driftspec_plugins.metrics.trace_spread import formula, ratio

FINE = Solver.make({"type": "dopri8", "rtol": 1e-10, "atol": 1e-10})
A5 = MATRICES[5]
over = pytest.mark.parametrize


def measured(metric: str, model: Model, *sets: str) -> Measured:
    """The metric on a model with as many dimensions as the rows, which are normal."""
    mean = [0.1 * i for i in range(model.dim)]
    data = f"data={{type: gaussian, mean: {mean}, samples: 400, standardize: none}}"
    made = tiny.experiment(data, f"evaluate=[{metric}]", "runtime.dtype=float64", *sets)
    return made.spec.evaluate[0].measure(tiny.evaluation(made, model))  # type: ignore[index]


# --------------------------------------------------------------------------------------------------------- the adjoint


def test_the_adjoint_on_a_path_is_the_closed_form() -> None:
    """For f = A z and L = ½ ‖z(T)‖²: a(t) = e^{Aᵀ(T - t)} z(T); and central differences have it to order δ²."""
    z, t, end = points(4, 5), 0.3, 1.2
    at = _At(tiny.known(Linear(A5)), FINE, z, t, end)
    flow = torch.linalg.matrix_exp(A5 * (end - t))
    torch.testing.assert_close(at.adjoint(), z @ flow.T @ flow, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(at.differences(1e-2), z @ flow.T @ flow, rtol=1e-6, atol=1e-6)
    curved = _At(tiny.known(Planar()), FINE, points(4, 3), t, end)
    exact = curved.adjoint()
    coarse, fine = ((curved.differences(step) - exact).norm() for step in (0.05, 0.025))
    torch.testing.assert_close(at.moved(0.2).z, z @ torch.linalg.matrix_exp(0.2 * A5).T, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(at.right_side(z), -z @ A5)
    assert float(coarse / fine) == pytest.approx(4, rel=0.05)


def test_the_metric_of_a_path() -> None:
    body = "{type: adjoint_path, solver: {type: dopri8, rtol: 1e-10, atol: 1e-10}, times: 3}"
    result = measured(body, tiny.known(Planar()))
    details = result.details
    assert result.value is not None and result.value < 1e-6 and details["finite_differences"] < 1e-6
    assert 0 < details["largest_difference"] <= result.value * 3**0.5 * details["largest"]
    assert 0 < details["solved_back"]["max"] < 1e-8
    assert 0 < details["ode_residual"] < 1e-4
    assert result.n == 4 and result.stderr is None
    constant = measured("{type: adjoint_path, times: 2}", tiny.flow_of(lambda t, x: torch.ones_like(x), 2))
    assert constant.details["ode_residual"] < 1e-9
    counts = {"adjoint": [4, 4, 3, 3], "rate": [2] * 4, "solved_back": [4] * 4}
    for name, picture in result.pictures.items():
        assert [len(mark.x) for mark in picture.panels[0].marks] == counts[name]  # type: ignore[union-attr]


def test_a_wrong_adjoint_and_a_state_that_is_lost_are_seen() -> None:
    """Euler's steps back are not those forward: for f = a z the state returns as (1 - a² h²)^N of itself."""
    keys = "times: 2, points: 2, solver: {type: euler, steps: 4}"
    assert (measured(f"{{type: adjoint_path, {keys}}}", tiny.known(Planar())).value or 0) > 0.02
    slow = tiny.flow_of(lambda t, x: 0.8 * x, 1)
    lost = measured(f"{{type: adjoint_path, {keys}}}", slow).details["solved_back"]["max"]
    made = tiny.experiment(
        "data={type: gaussian, mean: [0.0], samples: 400, standardize: none}", "evaluate=[round_trip]"
    )
    assert lost == pytest.approx(float(made.dataset.test[:2].abs().max()) * (1 - (1 - 0.8**2 / 64) ** 8))


def test_a_trajectorys_path_leads_from_its_first_observation_to_its_last() -> None:
    data = "data={type: spiral_trajectories, samples: 20, times: 4, duration: 3.0}"
    made = tiny.experiment(
        data, "evaluate=[{type: adjoint_path, times: 3}]", "estimator=trajectory", "train.batch_size=8"
    )
    result = made.spec.evaluate[0].measure(tiny.evaluation(made, made.model))  # type: ignore[index]
    states = result.pictures["solved_back"].panels[0].marks[0]
    assert isinstance(states, Line) and list(states.x) == [0, 1, 2, 3]
    torch.testing.assert_close(states.y[0], float(made.rows(made.dataset.test[0, 0])[0]))


@over("solver, order", [("euler", 1), ("midpoint", 2), ("heun3", 3)])
def test_the_two_gradients_meet_at_the_solvers_order(solver: str, order: int) -> None:
    metric = f"{{type: gradient_order, solver: {solver}, steps: [8, 16, 32], points: 5}}"
    result = measured(metric, tiny.random_flow([8], 2, torch.float64, gain=3.0), "estimator.solver=dopri5")
    assert result.value == pytest.approx(order, abs=0.3) and result.details["order"] == order
    first, *_, last = result.details["differences"]
    assert 0 < last < first < 1


# -------------------------------------------------------------------------------------------- determinants and traces


def test_the_determinants_limit_of_a_linear_field() -> None:
    result = measured("determinant_limit", tiny.known(Linear(A5)))
    steps, differences = result.details["steps"], result.details["differences"]
    exact = [abs(float(torch.linalg.slogdet(torch.eye(5) + h * A5).logabsdet / h - A5.trace())) for h in steps]
    assert differences == pytest.approx(exact, rel=1e-6)
    assert steps[0] == pytest.approx(0.1 / float(A5.norm())) and steps[0] / steps[-1] == 2**8
    assert result.value == pytest.approx(1, abs=0.02)
    assert result.details["constant"] == pytest.approx(abs(float((A5 @ A5).trace())) / 2)
    assert result.details["constant_ratio"] == pytest.approx(1, abs=0.01)
    assert "normalisation" not in result.details
    still = measured("determinant_limit", tiny.flow_of(lambda t, x: torch.ones_like(x) + 0 * x, 2))
    assert still.value is None and still.stderr_reason


def test_the_density_of_a_layer_integrates_to_one() -> None:
    """x' = (1 + h a) x: the mean of N(x'; 0, 1)/p(x') over equally likely x is 1 only with this determinant."""
    x = torch.special.ndtri((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)[:, None]
    assert float(layer_weights(lambda y: 0.8 * y, x, 0.5).mean()) == pytest.approx(1, abs=1e-3)
    exact = (1 + 0.5 * 0.8) * (x[:, 0] ** 2 * (1 - 1.4**2) / 2).exp()
    torch.testing.assert_close(layer_weights(lambda y: 0.8 * y, x, 0.5), exact)
    found = measured("{type: determinant_limit, draws: 4000}", tiny.known(Linear(A5))).details["normalisation"]
    assert abs(found["value"] - 1) < 4 * found["stderr"] < 0.1


def test_where_the_order_of_paths_is_lost_it_is_seen() -> None:
    """Two long Euler steps fold the line; the flow itself keeps the order."""
    flow = tiny.flow_of(lambda t, x: 2 * torch.sin(3 * x), 1)
    assert measured("round_trip", flow).details["crossed"] < 1e-6
    long = "{type: euler, steps: 1, tolerance: 1e6, max_steps: 2}"
    assert measured(f"{{type: round_trip, solver: {long}}}", flow).details["crossed"] > 0.1


def test_the_operations_of_a_network_of_one_hidden_layer() -> None:
    """4 d h for one evaluation, as many for each product, and 2/3 d³ for LU."""
    metric, h = "{type: trace_cost, dimensions: [4, 8, 16]}", 5
    net = f"dynamics.network={{type: mlp, hidden: [{h}], time: none}}"
    result = measured(metric, tiny.random_flow([h], 1), net)
    found, dims = result.details["operations"], (4, 8, 16)
    assert found["hutchinson"] == [8 * d * h for d in dims]
    assert found["exact_trace"] == [4 * d * h * (1 + d) for d in dims]
    assert found["determinant"] == [4 * d * h * (1 + d) + 2 * d**3 // 3 for d in dims]
    assert found["closed_form"] == [4 * d * h for d in dims]
    assert result.value == pytest.approx(math.log2(found["exact_trace"][2] / found["exact_trace"][1]))
    assert result.details["exponents"]["hutchinson"] == pytest.approx(1)
    assert operations(lambda: torch.linalg.slogdet(torch.eye(6).expand(3, 6, 6))) == 3 * 144


def test_the_variance_of_signs_is_that_over_all_of_them() -> None:
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 5)
    estimates = torch.einsum("ki,ij,kj->k", signs, A5, signs)
    assert float(formula(A5[None], "rademacher")) == pytest.approx(float(estimates.var(correction=0)))
    diagonal = 2 * float(A5.diagonal().square().sum())
    assert float(formula(A5[None], "gaussian") - formula(A5[None], "rademacher")) == pytest.approx(diagonal)


@over("noise", ["rademacher", "gaussian"])
def test_the_spread_of_estimates_is_the_formulas(noise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = f"{{type: trace_spread, noise: {noise}, draws: 2000}}"
    result = measured(metric, tiny.known(Linear(A5)))
    assert result.value is not None and result.stderr is not None
    assert abs(result.value - 1) < 4 * result.stderr < 0.2 and abs(result.details["z"]) < 4
    assert result.details["trace"]["mean"] == pytest.approx(float(A5.trace()))
    assert result.details["deviation"]["mean"] == pytest.approx(float(formula(A5[None], noise).sqrt()))
    other = "gaussian" if noise == "rademacher" else "rademacher"
    monkeypatch.setattr("driftspec_plugins.metrics.trace_spread.formula", lambda j, _: formula(j, other))
    wrong = measured(metric, tiny.known(Linear(A5)))
    assert wrong.value is not None and abs(wrong.value - 1) > 4 * (wrong.stderr or 0)


def test_random_signs_have_no_spread_on_a_diagonal() -> None:
    result = measured("trace_spread", tiny.flow_of(lambda t, x: 2 * x, 2))
    assert result.value is None and result.stderr_reason


def test_the_error_bar_of_the_ratio_covers_it() -> None:
    """In 95 % of 500 runs, each of 400 normal probes at three points."""
    j = torch.stack([A5, A5 @ A5, A5 - A5.T @ A5])
    expected, trace = formula(j, "gaussian"), j.diagonal(dim1=1, dim2=2).sum(1)

    def covered(seed: int) -> bool:
        v = torch.randn(400, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        value, stderr = ratio(torch.einsum("kni,nij,knj->kn", v, j, v) - trace, expected)
        return abs(value - 1) < 1.96 * stderr

    share = sum(covered(seed) for seed in range(500)) / 500
    assert abs(share - 0.95) < 4 * (0.95 * 0.05 / 500) ** 0.5


def test_a_jacobian_row_is_the_gradient_of_one_component() -> None:
    field, x = Planar(), points(3, 3)
    found = jacobian(lambda y: field.f(torch.tensor(0.0), y), x)
    dense = torch.func.vmap(torch.func.jacrev(lambda y: field.f(torch.tensor(0.0), y[None])[0]))(x)
    torch.testing.assert_close(found, dense)


# --------------------------------------------------------------------------------------------------------------- specs


@over(
    "metric, message",
    [
        ("{type: adjoint_path, solver: lobatto}", "solver 'lobatto' has no adjoint"),
        ("{type: gradient_order, solver: dopri5}", "solver 'dopri5' is not one with N equal steps"),
        ("{type: gradient_order, solver: rk4}", "solver 'rk4' is not one with N equal steps"),
        ("{type: gradient_order, steps: [8, 8]}", "'steps' has one number twice"),
        ("{type: trace_cost, dimensions: [8, 4]}", "'dimensions' must ascend"),
        ("{type: trace_cost, dimensions: [8, 100000]}", "it must be at most 2048"),
    ],
)
def test_what_a_spec_gets_wrong(metric: str, message: str) -> None:
    found = said(edited(("[nll]", f"[{metric}]"), ("noise: rademacher", "solver: bosh3")))
    assert len(found) == 1 and message in found[0]


@over("metric", ["determinant_limit", "trace_cost", "trace_spread"])
def test_a_derivative_needs_a_smooth_network(metric: str) -> None:
    found = said(
        edited(("[nll]", f"[{metric}]"), ("tanh", "relu"), ("{type: hutchinson, noise: rademacher}", "denoising"))
    )
    assert any(f"metric '{metric}'" in one and "C1" in one for one in found)


STILL = """
version: 1
name: still
data: {type: gaussian, mean: [0.0], samples: 100}
dynamics: {type: langevin, network: {type: mlp, activation: tanh}}
sampler: {type: langevin, step: 0.1}
evaluate: [round_trip]
sample: {count: 10}
"""
KNOWN = STILL.replace("data: {type: gaussian, mean: [0.0], samples: 100}\n", "")
KNOWN = KNOWN.replace("network: {type: mlp, activation: tanh}", "target: double_well")


def errors(text: str, metric: str) -> str:
    return "\n".join(one for one in said(text.replace("[round_trip]", f"[{metric}]")) if "error[" in one)


@over("metric", ["adjoint_path", "determinant_limit", "trace_cost", "trace_spread", "round_trip"])
def test_a_dynamics_without_a_time_has_no_flow(metric: str) -> None:
    assert f"metric '{metric}': dynamics 'langevin' has no time" in errors(STILL, metric)
    flow = STILL.replace("langevin, network", "neural_ode, network").replace("sampler: {type: langevin, step: 0.1}", "")
    assert "no time" not in errors(flow, metric)


@over("metric", ["adjoint_path", "determinant_limit", "trace_spread", "round_trip"])
def test_a_target_has_no_test_rows(metric: str) -> None:
    text = f"metric '{metric}': it reads test rows, and the spec has a target and no data: add a section 'data'"
    assert text in errors(KNOWN, metric) and "test rows" not in errors(STILL, metric)


def test_random_signs_are_refused_in_one_dimension() -> None:
    assert "take noise: gaussian" in errors(STILL, "trace_spread")
    assert "take noise" not in errors(STILL, "{type: trace_spread, noise: gaussian}")
    assert "take noise" not in errors(STILL.replace("[0.0]", "[0.0, 0.0]"), "trace_spread")


@over("metric", ["type: adjoint_path, solver: {type: dopri5", "type: gradient_order, solver: {type: midpoint"])
def test_a_solver_in_float64_is_judged_by_its_epsilon(metric: str) -> None:
    key = "rtol" if "dopri5" in metric else "tolerance"
    fine = edited(("[nll]", f"[{{{metric}, {key}: 1e-9}}}}]"), ("noise: rademacher", "solver: bosh3"))
    assert not said(fine)


def test_a_failed_solve_names_the_metric_and_what_to_change() -> None:
    short = "{type: adjoint_path, solver: {type: dopri5, max_evaluations: 5}}"
    with pytest.raises(SolveFailed, match=r"metric 'adjoint_path'.*status budget.*raise max_evaluations") as failure:
        measured(short, tiny.known(Planar()))
    assert failure.value.status == "budget"
    with pytest.raises(SolveFailed, match=r"metric 'gradient_order'.*non_finite.*raise the numbers in 'steps'"):
        wild = tiny.flow_of(lambda t, x: 1e200 * x**3, 1)
        measured("{type: gradient_order, steps: [2, 4]}", wild, "estimator.solver=dopri5")
