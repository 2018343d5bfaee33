"""The adjoint against backpropagation, finite differences and closed forms; torchdiffeq's methods by name and order."""

from __future__ import annotations

import functools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from benchmarks.memory import gradient_step
from problems import MATRICES, Cubic, DrivenSine, Linear, Planar, Problem, Sine, TimeAffine, points, tensor

from driftspec.accuracy import gradients
from driftspec.cli import main
from driftspec.components import Estimator, Solver
from driftspec.errors import SolveFailed
from driftspec.numerics import likelihood, transport
from driftspec_plugins.estimators.exact_trace import ExactTrace

T0, T1 = 0.2, 1.5
FIXED = ("euler", "midpoint", "heun3", "explicit_adams")
PAIRS = ("adaptive_heun", "fehlberg2", "bosh3")
over = pytest.mark.parametrize


def made(name, gradient="backprop", **keys):
    return Solver.make({"type": name, "gradient": gradient, **keys})


def slope(counts, errors):
    return np.polyfit(np.log(counts), np.log([float(e) for e in errors]), 1)[0]


def by_trace(f):
    def rates(t, x):
        value, divergence = ExactTrace().divergence(lambda y: f(t, y), x)
        return value, divergence[:, None]

    return rates


# --------------------------------------------------------------------------------------------------------------- orders


@over("problem", [TimeAffine(), DrivenSine(), Planar()], ids=["time_affine", "driven_sine", "planar"])
@over("name", FIXED)
def test_fixed_steps_converge_with_their_order(name, problem):
    """State and integral, forwards and backwards in time: log error against log N has slope -order ± 0.3."""
    solver, x = made(name), points(20, problem.d, seed=1)
    counts = [32, 64, 128, 256]
    for t0, t1 in ((T0, T1), (T1, T0)):
        paths = [solver.solve(problem.f, x, t0, t1, problem.rates, n) for n in counts]
        state = [(p.state - problem.flow(x, t0, t1)).abs().mean() for p in paths]
        integral = [(p.integrals[:, 0] - problem.log_det(x, t0, t1)).abs().mean() for p in paths]
        for errors in (state, integral):
            assert abs(slope(counts, errors) + solver.order) < 0.3, (t0, errors)
        assert max(state[-1], integral[-1]) < 0.05


@over("name, stages, more", [("euler", 1, 0), ("midpoint", 2, 0), ("heun3", 3, 0), ("explicit_adams", 1, 6)])
def test_evaluations_of_fixed_steps(name, stages, more):
    problem, x = Planar(), points(4, 3)
    assert made(name).solve(problem.f, x, T0, T1, steps=12).evaluations == 12 * stages + more
    with_rates = made(name, steps=12).solve(problem.f, x, T0, T1, problem.rates)
    assert with_rates.evaluations == 12 * stages + more + 1  # one counts the integrands


@over("name", PAIRS)
def test_adaptive_pairs_converge_with_their_order(name):
    """Against evaluations the error falls by the order; and it follows the tolerance."""
    problem, x = Planar(), points(20, 3, seed=2)
    exact = torch.cat([problem.flow(x, 0.0, 3.0), problem.log_det(x, 0.0, 3.0)[:, None]], 1)
    tolerances, errors, counts = [1e-4, 1e-5, 1e-6] if name == "adaptive_heun" else [1e-5, 1e-6, 1e-7], [], []
    for tolerance in tolerances:
        solver = made(name, rtol=tolerance, atol=tolerance)
        path = solver.solve(problem.f, x, 0.0, 3.0, problem.rates).require()
        errors.append(float((torch.cat([path.state, path.integrals], 1) - exact).abs().mean()))
        counts.append(path.evaluations)
    assert abs(slope(counts, errors) + solver.order) < 0.3, (counts, errors)
    assert all(error < 100 * tolerance for error, tolerance in zip(errors, tolerances)), errors


# ------------------------------------------------------------------------------------------------------------ gradients


def planar_gradient(solver, steps=None):
    """∂/∂(x, t0, t1, u, w) of a weighted log p, and its closed form."""
    weights = torch.linspace(-1, 2, 8, dtype=torch.float64)
    leaves = [v.requires_grad_() for v in (points(8, 3, seed=3), tensor(T0)[0], tensor(T1)[0])]
    leaves += [tensor(0.9, -0.5, 1.2).requires_grad_(), tensor(0.8, 1.1, 0.6).requires_grad_()]
    x, t_prior, t_data, u, w = leaves
    problem = Planar(u, w)
    path = solver.solve(problem.f, x, t_data, t_prior, by_trace(problem.f), steps, (u, w)).require()
    log_p = -(path.state.square().sum(1) + 3 * math.log(2 * math.pi)) / 2 + path.integrals[:, 0]
    exact = weights @ problem.log_p(x, t_prior, t_data)
    found, closed = torch.autograd.grad(weights @ log_p, leaves), torch.autograd.grad(exact, leaves)
    return torch.cat([g.flatten() for g in found]), torch.cat([g.flatten() for g in closed])


@functools.cache
def fixed_gradient(name, gradient, n):
    """The same by N fixed steps, computed once for several tests."""
    return planar_gradient(made(name, gradient), n)


@over("gradient", ["backprop", "adjoint"])
@over("name", FIXED)
def test_gradients_of_fixed_steps_converge_with_their_order(name, gradient):
    """In x, both ends of time and every parameter the field closes over."""
    counts = [32, 64, 128]
    both = [fixed_gradient(name, gradient, n) for n in counts]
    errors = [(found - closed).abs().max() for found, closed in both]
    assert abs(slope(counts, errors) + made(name).order) < 0.3, errors
    assert both[0][1].abs().min() > 1e-3


@over("gradient", ["backprop", "adjoint"])
@over("name", PAIRS)
def test_gradients_of_adaptive_pairs(name, gradient):
    tolerance = 1e-5 if name == "adaptive_heun" else 1e-6
    found, closed = planar_gradient(made(name, gradient, rtol=tolerance, atol=tolerance))
    assert (found - closed).abs().max() < 1e-3 < 1e-3 * closed.abs().max()


@over("name", FIXED)
def test_the_adjoint_less_backpropagation_falls_at_the_solvers_order(name):
    """The first is the ODE's gradient in N steps back, the second that of N steps forwards."""
    counts = [32, 64, 128]
    differences = []
    for n in counts:
        adjoint, backprop = (fixed_gradient(name, g, n)[0] for g in ("adjoint", "backprop"))
        differences.append((adjoint - backprop).abs().max())
    assert abs(slope(counts, differences) + made(name).order) < 0.3, differences


@over("name, falls", [("euler", 1), ("midpoint", 3), ("heun3", 3)])
def test_the_state_solved_back_drifts_at_the_solvers_order(name, falls):
    """A step back of even order undoes the leading error of the step forwards: there it is one order better."""
    model, x, counts = tiny.known(Planar(), (T0, T1)), points(20, 3), [16, 32, 64, 128]
    drifts = [transport.return_error(model, x, made(name, steps=n)).mean() for n in counts]
    assert abs(slope(counts, drifts) + falls) < 0.3, drifts


def test_the_adjoint_may_have_steps_of_its_own():
    same, finer = (planar_gradient(made("heun3", "adjoint", adjoint_steps=n), 16)[0] for n in (16, 64))
    own, closed = planar_gradient(made("heun3", "adjoint"), 16)
    assert torch.equal(same, own)
    assert 0 < (finer - closed).norm() < (own - closed).norm()


def test_the_adjoint_itself_at_an_interior_time():
    """a_z(t) = ∂L/∂z(t), by central differences of L in z(t) and by a closed form: e^{Aᵀ(T - t)} a_z(T)."""
    solver, t = made("dopri8", "adjoint", rtol=1e-10, atol=1e-10), 0.7
    linear = Linear(MATRICES[5])
    for problem in (DrivenSine(), Planar(), TimeAffine(), linear):
        z = problem.flow(points(4, problem.d, seed=5), T0, t).requires_grad_()
        weights = points(4, problem.d, seed=6)

        def loss(z, problem=problem, weights=weights):
            end = solver.solve(problem.f, z, t, T1).require().state
            return (weights * end + end**3 / 3).sum()

        (a,) = torch.autograd.grad(loss(z), z)
        for i in range(problem.d):
            step = 1e-4 * torch.eye(problem.d, dtype=z.dtype)[i]
            for row in (0, 3):
                shift = torch.zeros_like(z)
                shift[row] = step
                difference = (loss(z.detach() + shift) - loss(z.detach() - shift)) / 2e-4
                assert abs(difference - a[row, i]) < 2e-6 * a.abs().max()
    end = linear.flow(z.detach(), t, T1)
    closed = (weights + end**2) @ torch.linalg.matrix_exp(linear.a * (T1 - t))
    torch.testing.assert_close(a, closed, rtol=1e-7, atol=1e-7)


@over("body", [("dopri5", {"rtol": 1e-9, "atol": 1e-9}), ("heun3", {"steps": 400})], ids=["dopri5", "heun3"])
@over("gradient", ["backprop", "adjoint"])
def test_a_trajectorys_gradient_reaches_a_condition_and_learnable_times(gradient, body):
    """dz/dt = s A (z - c): z(t_k) = c + e^{s A t_k} (z - c), its gradients in A, the context c, z and every t_k."""
    solver = made(body[0], gradient, **body[1])
    a, c = MATRICES[2], tensor(0.3, -0.2).requires_grad_()
    times, z = tensor(0.1, 0.4, 1.1, 1.3).requires_grad_(), points(6, 2).requires_grad_()
    model = tiny.flow_of(lambda t, y: (y - c) @ a.T, 2)
    (scale,) = model.parameters()
    weights = points(24, 2, seed=1).view(4, 6, 2)
    states, paths = transport.states_at(model, z, times, solver, params=(c,))
    exact = torch.stack([c + (z - c) @ torch.linalg.matrix_exp(scale * a * (t - times[0])).T for t in times])
    torch.testing.assert_close(states, exact, rtol=1e-6, atol=1e-6)
    leaves = (scale, c, times, z)
    found = torch.autograd.grad((weights * states.square()).sum(), leaves)
    closed = torch.autograd.grad((weights * exact.square()).sum(), leaves)
    for mine, theirs in zip(found, closed):
        assert theirs.abs().min() > 1e-3
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    back = gradients.stats(paths)["evaluations_backward"]
    assert back > 3 * 400 if gradient == "adjoint" and body[0] == "heun3" else (back > 0) == (gradient == "adjoint")


def test_a_gradient_that_a_context_would_lose_without_params():
    c = tensor(0.3, -0.2).requires_grad_()
    model = tiny.flow_of(lambda t, y: y - c, 2)
    states, _ = transport.states_at(model, points(3, 2), tensor(0.0, 1.0), made("dopri5", "adjoint"))
    assert torch.autograd.grad(states.sum(), c, allow_unused=True) == (None,)


@over("name", [*FIXED, *PAIRS, "dopri5", "dopri8"])
def test_the_ends_of_time_cost_one_evaluation_each_and_choose_no_step(name):
    """∂L/∂t1 = H(t1) and ∂L/∂t0 = -H(t0): nothing is integrated for them, and no error norm counts them."""
    problem, x, counts = DrivenSine(), points(5, 1).requires_grad_(), []
    keys = {} if name in FIXED else {"rtol": 1e-3, "atol": 1e-3}
    for learnable in (False, True):
        ends = [tensor(t)[0].requires_grad_(learnable) for t in (T0, T1)]
        path = made(name, "adjoint", **keys).solve(problem.f, x, *ends, steps=8)
        path.state.square().sum().backward()
        counts.append(path.stats["evaluations_backward"])
    assert counts[1] - counts[0] == 2
    assert all(end.grad is not None and abs(end.grad) > 1e-2 for end in ends)


class Forgetful:
    """A field -x that is 0 in the backward pass: the state solved back stays where the solve ended."""

    def __init__(self):
        self.speed = -1.0

    def __call__(self, t, x):
        return self.speed * x


UNITS = {
    "equal": ({"rtol": 1e-4, "atol": 1e-6}, 1e-4, 1e-6),
    "looser back": ({"rtol": 1e-4, "atol": 1e-6, "adjoint_rtol": 1e-3, "adjoint_atol": 1e-5}, 1e-3, 1e-5),
    "tighter back": ({"rtol": 1e-4, "atol": 1e-6, "adjoint_rtol": 1e-5, "adjoint_atol": 1e-7}, 1e-4, 1e-6),
}


@over("name, keys, rtol, atol", [
    *((name, {"steps": 4, "tolerance": 0.01}, 0.0, 0.01) for name in FIXED),
    *((name, *unit) for name in (*PAIRS, "dopri5", "dopri8") for unit in UNITS.values()),
])  # fmt: skip
def test_the_missed_start_is_in_tolerances_row_by_row(name, keys, rtol, atol):
    """max_i |x_back - x|_i / (atol + rtol |x|_i), by the looser of both tolerances; integrals do not count."""
    x, field = tensor([1.0, -3.0], [0.0, 1e-3], [0.0, 0.0]).requires_grad_(), Forgetful()
    rates = lambda t, y: (field(t, y), torch.ones_like(y[:, :1]))  # noqa: E731
    path = made(name, "adjoint", **keys).solve(field, x, T0, T1, rates).require()
    assert path.missed_start() is None
    field.speed = 0.0
    (path.state.sum() + path.integrals.sum()).backward(retain_graph=True)
    expected = ((path.state - x).abs() / (atol + rtol * x.abs())).detach().amax(1)
    torch.testing.assert_close(path.missed_start(), expected)
    field.speed = -1.0  # a second pass that comes back: the worst one counts
    path.state.sum().backward()
    torch.testing.assert_close(path.missed_start(), expected)


@over("speed, missed", [(-1e300, [math.inf, 0.0]), (math.nan, [math.inf, math.inf])])
def test_a_way_back_that_leads_nowhere_misses_by_infinitely_many_tolerances(speed, missed):
    x, field = tensor([1.0], [0.0]).requires_grad_(), Forgetful()
    path = made("euler", "adjoint", steps=50).solve(field, x, 0.0, 1.0)
    field.speed = speed
    with pytest.raises(SolveFailed, match="non_finite"):
        path.state.sum().backward()
    assert path.missed_start().tolist() == missed


# -------------------------------------------------------------------------------------------- contraction, and verdicts

SPIRAL = """\
version: 1
name: contraction
data: {type: spiral_trajectories, samples: 100, times: 2, duration: 1.0}
dynamics: {type: neural_ode, network: {type: mlp, hidden: [], time: none}}
estimator: {type: trajectory, solver: {type: dopri5, rtol: 1e-6, atol: 1e-8, gradient: adjoint}}
train: {steps: 2, batch_size: 50}
evaluate: []
"""
FLOW = """\
version: 1
name: contraction
data: {type: gaussian, mean: [0.0, 0.0], samples: 100}
dynamics: {type: neural_ode, time: [1.0, 0.0], network: {type: mlp, hidden: [], time: none}}
estimator: {type: ESTIMATOR, solver: {type: dopri5, rtol: 1e-6, atol: 1e-8, gradient: adjoint}}
train: {steps: 2, batch_size: 50}
"""
FAST = [
    pytest.param(SPIRAL, 10, (), id="trajectory-10"),
    pytest.param(SPIRAL, 20, ("warning",), id="trajectory-20"),
    pytest.param(SPIRAL, 30, None, id="trajectory-30"),
    pytest.param(FLOW.replace("ESTIMATOR", "exact_trace"), 24, ("warning",), id="exact_trace-24"),
    pytest.param(FLOW.replace("ESTIMATOR", "hutchinson"), 30, None, id="hutchinson-30", marks=pytest.mark.slow),
]
"""The gradient is right at λ = 10, off by 1e-3 and more at 20 (a likelihood's at 24), by any factor at 30."""


def contracting(speed: float, text: str):
    """The loss of 64 rows along dz/dt = diag(-λ, -1/5) z for a time of 1, λ = speed, in float32; its model and rows."""
    made = tiny.experiment(text=text)
    with torch.no_grad():
        made.model.module.weight_0.copy_(torch.diag(torch.tensor([-speed, -0.2])))
        made.model.module.bias_0.zero_()
    x = points(64, 2).float()
    rows = x if "gaussian" in text else torch.stack([x, torch.zeros_like(x)], 1)
    estimator = made.spec.estimator
    state = estimator.start(made.model, made.streams)
    return estimator.loss(made.model, rows, state, made.streams.at(1)), made, rows


def by_backprop(made, rows):
    """∂L/∂θ, by backpropagation, of the same loss."""
    estimator = made.spec.estimator
    steps = estimator.model_copy(update={"solver": estimator.solver.model_copy(update={"gradient": "backprop"})})
    loss = steps.loss(made.model, rows, steps.start(made.model, made.streams), made.streams.at(1))
    return gradients.flat(loss.value, made.model)


@over("text, speed, severities", FAST)
def test_a_fast_contraction_is_found_out(text, speed, severities):
    loss, made, rows = contracting(speed, text)
    loss.value.backward()
    grad = torch.cat([p.grad.flatten() for p in made.model.parameters()])
    off, missed = gradients.relative(grad, by_backprop(made, rows)), loss.stats()["missed_start"]
    if severities is None:
        assert off > 1 and missed > 1e8
        with pytest.raises(SolveFailed, match="status adjoint_unreliable: on 16 rows the gradient differs") as raised:
            loss.verdicts()
        assert raised.value.status == "adjoint_unreliable" and "write gradient: backprop" in raised.value.cure
        return
    verdicts = loss.verdicts()
    assert tuple(one.severity for one in verdicts) == severities, (off, missed)
    assert all((one.subject, one.outcome) == ("adjoint", "adjoint_inaccurate") for one in verdicts)
    assert off < (0.1 if severities else 1e-4) and missed < 1e7
    assert not verdicts or float(re.search("by ([0-9.e-]+), relative", verdicts[0].reason)[1]) > 1e-3


STIFF = """
from driftspec.components import Network
from driftspec.registry import hookimpl


class Stiff(Network):
    "diag(-speed, -1/5) x."
    type = "stiff"
    speed: float = 1.0

    def parameters(self, d_in, d_out, generator):
        import torch

        return {"w": torch.diag(torch.tensor([-self.speed, -0.2]))}

    def apply(self, p, t, x, context=None):
        return x @ p["w"].T


@hookimpl
def driftspec_components():
    return {"network": {"stiff": Stiff}}
"""


def test_a_run_with_a_wrong_adjoint_ends(tmp_path, capsys):
    """Exit 1 with the status, before any weight has moved."""
    plugin, spec = tmp_path / "stiff.py", tmp_path / "fast.yaml"
    plugin.write_text(STIFF)
    spec.write_text(SPIRAL.replace("{type: mlp, hidden: [], time: none}", "{type: stiff, speed: 30.0}"))
    assert main([str(spec), "--plugin", str(plugin), "--out", str(tmp_path / "run")]) == 1
    text = capsys.readouterr().err
    assert "step 1: solving the adjoint ODE ended with status adjoint_unreliable" in text and "Traceback" not in text
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (told["status"], told["error"]["status"], told["error"]["step"]) == ("failed", "adjoint_unreliable", 1)


def test_a_score_is_the_gradient_of_its_steps_whatever_trains_the_flow():
    """The adjoint's would be wrong along a fast contraction, with nothing to say so, and lose what the field holds."""

    def f(t, y):
        return torch.stack([-30 * y[:, 0], torch.sin(y[:, 0] + y[:, 1]) - y[:, 1] / 5], 1)

    model, x = tiny.flow_of(f, 2, (1.0, 0.0)), points(4, 2)
    found = []
    for by in ("backprop", "adjoint"):
        solver = made("dopri5", by, rtol=1e-5, atol=1e-5)
        scored = likelihood.log_prob_and_score(model, x, solver, ExactTrace()).value
        value = likelihood.differentiable_log_prob(model, x, ExactTrace(), solver).sum()
        found.append((scored, *torch.autograd.grad(value, model.parameters())))
    assert all(torch.equal(one, other) for one, other in zip(*found))
    assert found[0][1].abs() > 1


def test_trajectories_are_differentiated_through_their_steps_unless_the_spec_says_otherwise():
    assert Estimator.make("trajectory").solver == Solver.make({"type": "dopri5", "rtol": 1e-6, "atol": 1e-8})
    assert Estimator.make("trajectory").solver.gradient == "backprop"
    assert "gradient: adjoint" in (Path(__file__).parents[2] / "specs" / "neural_ode_spiral.yaml").read_text()
    loss, _, _ = contracting(30, SPIRAL.replace(", gradient: adjoint", ""))
    loss.value.backward()
    assert loss.verdicts() == () and "missed_start" not in loss.stats() and loss.next_state() == {}


# ------------------------------------------------------------------------------------------------------------- statuses


@over("gradient", ["backprop", "adjoint"])
@over("name", FIXED)
def test_fixed_steps_name_what_is_not_finite_and_keep_the_other_rows(name, gradient):
    path = made(name, gradient).solve(lambda t, x: x * x, tensor([-0.3], [1e200]), 0.0, 2.0, steps=20)
    assert path.status == "non_finite" and not path.state[1].isfinite()
    assert abs(path.state[0] + 0.3 / 1.6) < 0.02
    with pytest.raises(SolveFailed, match="non_finite"):
        path.require()


@over("name", ["midpoint", "dopri5"])
def test_an_adjoint_that_is_not_finite_has_a_name(name):
    """√|x| at 0 has no derivative. A loss that is not finite itself is not blamed on the solve."""
    x = tensor([0.0]).requires_grad_()
    path = made(name, "adjoint").solve(lambda t, y: y.abs().sqrt(), x, 0.0, 1.0).require()
    with pytest.raises(SolveFailed, match="adjoint ODE ended with status non_finite"):
        path.state.sum().backward()
    if name == "midpoint":
        path = made(name, "adjoint").solve(lambda t, y: -y, x, 0.0, 1.0).require()
        (path.state.sum() * math.nan).backward()
        assert bool(x.grad.isnan())


@over("name", [*FIXED, *PAIRS])
def test_solvers_of_one_shape(name):
    """No time, no rows, float32, and no second derivative through an adjoint."""
    problem, solver = Planar(), made(name, "adjoint")
    still = solver.solve(problem.f, points(4, 3), T1, T1, problem.rates)
    assert torch.equal(still.state, points(4, 3)) and not still.integrals.any()
    assert solver.solve(problem.f, points(0, 3), T0, T1, problem.rates).integrals.shape == (0, 1)
    short = Planar(problem.u.float(), problem.w.float())
    x = points(4, 3).float()
    path = solver.solve(short.f, x, T0, T1, short.rates, steps=64)
    assert path.state.dtype == path.integrals.dtype == torch.float32
    assert (path.state - problem.flow(points(4, 3), T0, T1)).abs().max() < 0.05
    path = solver.solve(short.f, x.requires_grad_(), T0, T1, steps=4)
    with pytest.raises(SolveFailed, match="first derivatives only"):
        torch.autograd.grad(path.state.sum(), x, create_graph=True)


# ----------------------------------------------------------------------------------------------- limits and memory


@over("problem", [Sine(), DrivenSine(), Planar(), Cubic()], ids=["sine", "driven_sine", "planar", "cubic"])
def test_the_discrete_limit_of_a_determinant_is_a_trace(problem: Problem):
    """Σ log |det(I + h J)| over N residual layers x + h f(x) less Σ h tr J, and less ∫ tr J dt, fall with slope 1."""
    x0, counts = points(20, problem.d, scale=0.8), [32, 64, 128, 256]
    to_traces, to_integral = [], []
    for n in counts:
        x, h = x0, (T1 - T0) / n
        determinants, traces = torch.zeros(20, dtype=x.dtype), torch.zeros(20, dtype=x.dtype)
        for k in range(n):
            t = tensor(T0 + k * h)[0]
            jacobian = torch.func.vmap(torch.func.jacrev(lambda y, t=t: problem.f(t, y[None])[0]))(x)
            determinants += torch.linalg.slogdet(torch.eye(problem.d, dtype=x.dtype) + h * jacobian)[1]
            value, divergence = ExactTrace().divergence(lambda y, t=t: problem.f(t, y), x)
            traces += h * divergence
            x = x + h * value
        to_traces.append((determinants - traces).abs().mean())
        to_integral.append((determinants - problem.log_det(x0, T0, T1)).abs().mean())
    for errors in (to_traces, to_integral):
        assert abs(slope(counts, errors) + 1) < 0.3, errors
        assert errors[0] > 1e-4


def test_the_adjoints_memory_does_not_grow_with_the_steps():
    """The highest moment of what autograd holds, in bytes: exact, and the same anywhere."""

    def peaks(few, many):
        watched = [gradient_step(few, 6, rows=16, width=8), gradient_step(many, 24, rows=16, width=8)]
        assert [saved.now for saved in watched] == [0, 0]
        return [saved.peak for saved in watched]

    for name in FIXED:
        few, many = peaks(made(name, "adjoint"), made(name, "adjoint"))
        assert few == many > 0
        few, many = peaks(made(name), made(name))
        assert many > 2 * few
    rough, fine = {"rtol": 1e-3, "atol": 1e-3}, {"rtol": 1e-8, "atol": 1e-8}
    few, many = peaks(made("dopri5", "adjoint", **rough), made("dopri5", "adjoint", **fine))
    assert few == many > 0
    few, many = peaks(made("dopri5", **rough), made("dopri5", **fine))
    assert many > 2 * few
