"""Losses along a path: the value and its noise in closed form, both gradients, and what the metrics say of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import tiny
import torch
from problems import Sine, points, tensor
from small_spec import edited, said

from driftspec.components import Model, Solver
from driftspec.experiment.evaluate import evaluate
from driftspec.experiment.train import Training, train
from driftspec.numerics import transport

TEXT = """\
version: 1
name: spiral
seed: 3
data: {type: spiral_trajectories, samples: 500, times: 6, duration: 3.0, noise: 0.1, damping: 0.2, frequency: 1.7}
dynamics: {type: neural_ode, network: {type: mlp, hidden: [], time: none}}
estimator: {type: trajectory, solver: {type: dopri5, rtol: 1e-8, atol: 1e-8, gradient: adjoint}}
train: {steps: 4, batch_size: 50, optimizer: {type: adam, lr: 1e-2}}
evaluate: [trajectory_error]
runtime: {dtype: float64}
"""
FIELD = tensor([-0.2, 1.7], [-1.7, -0.2])
SIGMA, DAMPING = 0.1, 0.2
over = pytest.mark.parametrize


def spiral(*sets: str):
    """The experiment, its network set to the true field."""
    made = tiny.experiment(*sets, text=TEXT)
    with torch.no_grad():
        made.model.module.weight_0.copy_(FIELD)
        made.model.module.bias_0.zero_()
    return made


def loss_of(made, rows, **keys):
    estimator = made.spec.estimator.model_copy(update=keys)
    return estimator.loss(made.model, rows, {}, made.streams)


def gradient(loss, model: Model):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss.value, model.parameters())])


# ----------------------------------------------------------------------------------------------------------------- data


def test_the_datas_field_is_the_spirals():
    """flow' = A flow, from the identity on; the noise has the stated deviation."""
    data = spiral().spec.data
    z, t = points(3, 2), tensor(0.0, 0.7, 3.0)
    moved = data.flow(z, t)
    for k in range(3):
        torch.testing.assert_close(moved[:, k], z @ torch.linalg.matrix_exp(FIELD * t[k]).T)
    made = tiny.experiment("data.samples=2000", text=TEXT)
    first = made.dataset.train[:, 0].norm(dim=1)
    assert first.min() > 1 - 5 * SIGMA and first.max() < 2 + 5 * SIGMA
    assert abs(tiny.z_score(first.square(), 7 / 3 + 2 * SIGMA**2)) < 4  # E r² of U(1, 2), and the noise
    torch.testing.assert_close(made.model.observed_at(), tensor(0.0, 0.6, 1.2, 1.8, 2.4, 3.0))


# ----------------------------------------------------------------------------------------------------------- the losses


def test_the_loss_of_the_true_field_is_the_noise_of_both_ends():
    """E = d σ² (1 + mean e^{-2δ t_k}), k > 0: the start's noise is carried along; at the end, the last term alone."""
    made = spiral("data.samples=4000")
    rows = made.rows(made.dataset.train)
    times, fast = made.model.observed_at(), Solver.make({"type": "rk4", "steps": 10})
    for at, left in (("all", times[1:]), ("end", times[-1:])):
        expected = 2 * SIGMA**2 * (1 + float(torch.exp(-2 * DAMPING * left).mean()))
        with torch.no_grad():
            each = torch.stack([loss_of(made, part, at=at, solver=fast).value for part in rows.split(80)])
        assert abs(tiny.z_score(each, expected)) < 4 and each.std() / math.sqrt(len(each)) < 0.03 * expected
        if at == "all":
            assert made.spec.data.noise_floor() == pytest.approx(expected)


def test_the_loss_is_the_mean_of_distances_by_hand():
    """Against e^{A t} y_0, for both distances, at every observation and at the end, and times of unequal spacing."""
    made = spiral()
    rows = points(7 * 4, 2, seed=4).view(7, 4, 2)
    times = tensor(-0.3, 0.1, 1.2, 1.3)
    made = replace(made, model=replace(made.model, times=times))
    paths = torch.stack([rows[:, 0] @ torch.linalg.matrix_exp(FIELD * (t - times[0])).T for t in times[1:]], 1)
    apart = (paths - rows[:, 1:]).norm(dim=2)
    for at, seen in (("all", apart), ("end", apart[:, -1])):
        assert loss_of(made, rows, at=at).value.item() == pytest.approx(float(seen.square().mean()), rel=1e-6)
        absolute = loss_of(made, rows, at=at, distance="absolute").value.item()
        assert absolute == pytest.approx(float(seen.mean()), rel=1e-6)


@over("at", ["all", "end"])
@over("distance", ["squared", "absolute"])
@over("solver", [("dopri5", {"rtol": 1e-9, "atol": 1e-9}), ("heun3", {"steps": 60})], ids=["dopri5", "heun3"])
def test_both_gradients_are_the_closed_forms(at, distance, solver):
    """∂L/∂A and ∂L/∂b of paths z' = A z + b, through matrix_exp of the augmented matrix."""
    made = spiral()
    rows, times = points(5 * 4, 2, seed=4).view(5, 4, 2), tensor(0.2, 0.5, 1.3, 1.4)
    model = replace(made.model, times=times)
    a, b = FIELD.clone().requires_grad_(), torch.zeros(2, dtype=torch.float64, requires_grad=True)
    whole = torch.cat([torch.cat([a, b[:, None]], 1), torch.zeros(1, 3, dtype=torch.float64)])
    start = torch.cat([rows[:, 0], torch.ones(5, 1, dtype=torch.float64)], 1)
    path = torch.stack([start @ torch.linalg.matrix_exp(whole * (t - 0.2)).T for t in times[1:]], 1)[..., :2]
    apart = (path - rows[:, 1:])[:, slice(None) if at == "all" else slice(-1, None)]
    value = apart.square().sum(-1).mean() if distance == "squared" else apart.norm(dim=-1).mean()
    closed = dict(zip(("weight_0", "bias_0"), torch.autograd.grad(value, (a, b))))
    for by in ("adjoint", "backprop"):
        using = Solver.make({"type": solver[0], "gradient": by, **solver[1]})
        estimator = made.spec.estimator.model_copy(update={"at": at, "distance": distance, "solver": using})
        loss = estimator.loss(model, rows, {}, made.streams)
        names = [name for name, _ in model.module.named_parameters()]
        for name, found in zip(names, torch.autograd.grad(loss.value, model.parameters())):
            torch.testing.assert_close(found, closed[name], rtol=2e-5, atol=2e-5)


def test_a_distance_of_zero_has_a_gradient():
    made = spiral("data.noise=0")
    still = torch.zeros(3, 6, 2, dtype=torch.float64)
    assert bool(gradient(loss_of(made, still, distance="absolute"), made.model).isfinite().all())


def test_the_ode_runs_over_the_datas_times_and_not_over_the_dynamics_own():
    rows = spiral().rows(spiral().dataset.train[:20])
    one, other = (spiral(f"dynamics.time={time}") for time in ("[0.0, 1.0]", "[5.0, -2.0]"))
    assert torch.equal(loss_of(one, rows).value, loss_of(other, rows).value)
    drifts = [transport.return_error(made.model, rows[:, 0], made.spec.estimator.solver) for made in (one, other)]
    assert torch.equal(*drifts)


def test_the_drift_runs_from_where_the_points_are():
    """Without observations it is a likelihood's way: from t_data to t_prior and back. Euler tells them apart."""
    x, euler = points(5, 1), Solver.make({"type": "euler", "steps": 3})
    found = transport.return_error(tiny.known(Sine(), (0.0, 1.0)), x, euler)
    there, back = x, None
    for _ in range(3):
        there = there - torch.sin(there) / 3
    back = there
    for _ in range(3):
        back = back + torch.sin(back) / 3
    torch.testing.assert_close(found, (back - x).abs()[:, 0])


# ------------------------------------------------------------------------------------------------------------- training


@over("solver", ["dopri5", "heun3"])
@over("by", ["adjoint", "backprop"])
def test_the_record_counts_evaluations_both_ways(solver, by):
    keys = "rtol: 1e-4, atol: 1e-4" if solver == "dopri5" else "steps: 3"
    made = tiny.experiment(f"estimator.solver={{type: {solver}, gradient: {by}, {keys}}}", text=TEXT)
    lines = [record.line() for record in train(Training(made))]
    for line in lines:
        back = line["evaluations_backward"]
        if solver == "heun3":
            assert line["evaluations"] == 5 * 9 and back == (45 if by == "adjoint" else 0)
        else:
            assert line["evaluations"] >= 5 * 8 and (back >= 5 * 8) == (by == "adjoint")
            assert line["rejected"] >= 0 and line["rejected_backward"] >= 0


def test_a_likelihoods_record_counts_them_too():
    sets = ("estimator.solver={type: dopri5, gradient: adjoint}", "train.steps=2", "train.checkpoint_every=2")
    *_, last = train(Training(tiny.experiment(*sets)))
    assert last.terms["evaluations_backward"] > 6


def test_training_finds_the_field():
    """By the adjoint, from another linear field; the error then is the noise's."""
    solver = "estimator.solver={type: midpoint, steps: 12, gradient: adjoint}"
    made = spiral("train.steps=140", "train.optimizer.lr=5e-2", "train.schedule=cosine", "data.times=3", solver)
    training = Training(made)
    with torch.no_grad():
        made.model.module.weight_0.copy_(tensor([0.3, 1.0], [-1.2, -0.6]))
    for _ in train(training):
        pass
    assert (made.model.module.weight_0 - FIELD).abs().max() < 0.08
    ((_, result),) = evaluate(made, made.model, lambda: None)
    assert abs(result.value - result.details["floor"]) < 4 * result.stderr


# -------------------------------------------------------------------------------------------------------------- metrics


def measured(made, model=None):
    ((_, result),) = evaluate(made, model or made.model, lambda: None)
    return result


@over("units", ["none", "scale", "whiten"])
def test_trajectory_error_of_the_true_field(units):
    """In the data's own units whatever the model's; its standard error is that of a mean over trajectories."""
    made = spiral(f"data.standardize={units}", "data.samples=1000", "data.split=[0.4, 0.1, 0.5]")
    w, shift = made.transform.matrix, made.transform.shift
    with torch.no_grad():
        made.model.module.weight_0.copy_(w @ FIELD @ torch.linalg.inv(w))
        made.model.module.bias_0.copy_(w @ FIELD @ shift)
    result = measured(made)
    assert result.n == 500 and result.unit == "squared data units"
    assert abs(result.value - result.details["floor"]) < 4 * result.stderr
    test = made.dataset.test
    clean = torch.stack([test[:, 0] @ torch.linalg.matrix_exp(FIELD * t).T for t in made.model.observed_at()[1:]], 1)
    squared = (clean - test[:, 1:]).square().sum(-1)
    assert result.value == pytest.approx(float(squared.mean()), rel=1e-4)
    assert result.stderr == pytest.approx(float(squared.mean(1).std()) / math.sqrt(500), rel=1e-3)
    assert result.details["at_end"] == pytest.approx(float(squared[:, -1].mean()), rel=1e-4)


@over("most, good", [(1024, True), (2, False)])
def test_trajectory_error_is_refined_path_by_path_and_says_what_is_left(most, good):
    """One step of the midpoint rule from observation to observation would give 0.53 for 0.024."""
    solver = f"{{type: midpoint, steps: 1, tolerance: 1e-3, max_steps: {most}}}"
    made = spiral("data.samples=200", f"evaluate=[{{type: trajectory_error, solver: {solver}}}]")
    result, test = measured(made), made.dataset.test
    clean = torch.stack([test[:, 0] @ torch.linalg.matrix_exp(FIELD * t).T for t in made.model.observed_at()[1:]], 1)
    expected = float((clean - test[:, 1:]).square().sum(-1).mean())
    assert (result.value == pytest.approx(expected, rel=1e-2)) == good
    assert (result.details["solver_error"]["max"] < 1e-3) == good == (not result.details["not_converged"])
    assert [(one.subject, one.severity) for one in result.verdicts] == ([] if good else [("solver", "bad")])


def test_gradient_agreement_is_the_relative_difference():
    """Euler in few steps: the gradients differ by much, and the metric says by how much, either way."""
    both = {}
    for against in ("backprop", "adjoint"):
        metric = f"evaluate=[{{type: gradient_agreement, against: {against}, points: 20}}]"
        made = spiral("estimator.solver={type: euler, steps: 4}", metric)
        rows = made.rows(made.dataset.test[:20])
        by = {}
        for name in ("backprop", "adjoint"):
            solver = made.spec.estimator.solver.model_copy(update={"gradient": name})
            by[name] = gradient(loss_of(made, rows, solver=solver), made.model)
        result = both[against] = measured(made)
        expected = (by["adjoint"] - by["backprop"]).norm() / by[against].norm()
        assert result.value == pytest.approx(float(expected), rel=1e-9) and expected > 1e-3
        assert result.details["gradient_norm"] == pytest.approx(float(by[against].norm()))
        assert result.details["evaluations"]["adjoint"] == {"forward": 20, "evaluations_backward": 20}
        assert result.details["evaluations"]["backprop"] == {"forward": 20, "evaluations_backward": 0}
        assert result.n == 20 and result.stderr is None and result.stderr_reason
        assert result.details["missed_start"] > 100  # of a tolerance of 1e-4, in four steps of Euler's
    drift = transport.return_error(made.model, rows[:, 0], made.spec.estimator.solver)
    assert both["adjoint"].details["drift"] == {"mean": float(drift.mean()), "max": float(drift.max())}
    assert float(drift.mean()) > 0.1


@over("sets", [("estimator=exact_trace",), ("estimator=hutchinson",)], ids=["exact_trace", "hutchinson"])
@over("solver, below", [("dopri5, rtol: 1e-9, atol: 1e-9", 1e-7), ("heun3, steps: 100", 1e-4)], ids=["dopri5", "heun3"])
def test_gradient_agreement_of_a_likelihood(sets, solver, below):
    """The same probes in both, a small difference but for rounding, and no gradient left behind."""
    metric = "evaluate=[{type: gradient_agreement, points: 30}]"
    made = tiny.experiment(*sets, f"estimator.solver={{type: {solver}}}", metric, "runtime.dtype=float64")
    result = measured(made)
    assert 0 < result.value < below and result.details["cosine"] > 1 - 1e-9
    assert result.details["gradient_norm"] > 1e-2 and result.details["drift"]["max"] < 1e-4
    assert 0 < result.details["missed_start"] < 100
    assert all(p.grad is None for p in made.model.parameters())


@over("estimator", ["exact_trace", "{type: hutchinson, solver: rk4}"])
def test_gradient_agreement_is_refused_where_there_is_one_gradient(estimator):
    changed = edited(("[nll]", "[gradient_agreement]"), ("{type: hutchinson, noise: rademacher}", estimator))
    (message,) = said(changed)
    assert "metric 'gradient_agreement' needs a solver_gradient" in message and "such as dopri5" in message
    assert said(edited(("[nll]", "[gradient_agreement]"), ("noise: rademacher", "solver: bosh3"))) == []
    denoising = edited(("{type: hutchinson, noise: rademacher}", "denoising"), ("[nll]", "[gradient_agreement]"))
    assert any("needs a solver_gradient" in one for one in said(denoising)) or said(denoising)
