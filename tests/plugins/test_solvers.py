"""ODE solvers against closed forms: values, orders, gradients, and a named end for every solve."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from problems import MATRICES, BlowUp, Cubic, Linear, Planar, Sine, TimeAffine, points, regular, tensor
from pydantic import ValidationError

from driftspec.errors import SolveFailed
from driftspec_plugins.estimators.exact_trace import ExactTrace
from driftspec_plugins.estimators.hutchinson import Hutchinson
from driftspec_plugins.solvers.lobatto import Lobatto, gauss_lobatto
from driftspec_plugins.solvers.rk4 import RK4
from driftspec_plugins.solvers.torchdiffeq_adaptive import Dopri5, Dopri8

T0, T1 = 0.2, 1.5
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
PROBLEMS = regular()
EVERY = {
    "lobatto": Lobatto(steps=64),
    "rk4": RK4(steps=64),
    "dopri5": Dopri5(**TIGHT),
    "dopri8": Dopri8(**TIGHT),
    "dopri5_adjoint": Dopri5(gradient="adjoint", **TIGHT),
    "dopri8_adjoint": Dopri8(gradient="adjoint", **TIGHT),
}
ADAPTIVE = {name: solver for name, solver in EVERY.items() if name.startswith("dopri")}
ADJOINT = {name: solver for name, solver in EVERY.items() if name.endswith("adjoint")}
over = pytest.mark.parametrize


def by_trace(f):
    """Rates with the divergence of f by the exact trace."""

    def rates(t, x):
        value, divergence = ExactTrace().divergence(lambda y: f(t, y), x)
        return value, divergence[:, None]

    return rates


def log_p(solver, problem, x, t_prior, t_data, steps=None, params=(), f=None):
    """As a likelihood computes it: from x at t_data to t_prior, the divergence by autograd."""
    f = f or problem.f
    path = solver.solve(f, x, t_data, t_prior, by_trace(f), steps, params).require()
    d = x.shape[1]
    return -(path.state.square().sum(1) + d * math.log(2 * math.pi)) / 2 + path.integrals[:, 0]


class Recorder:
    """A field that writes down the times it is asked for."""

    def __init__(self, f):
        self.f, self.times = f, []

    def __call__(self, t, x):
        self.times.append(t.detach().clone())
        return self.f(t, x)


# ---------------------------------------------------------------------------------------------- the problems themselves


@over("name", [*PROBLEMS, "blow_up"])
def test_closed_forms_agree_with_each_other(name):
    """flow' = f, divergence = tr ∂f/∂x, log_det = log |det ∂ flow/∂x|, and flow is the identity at T = 0."""
    problem = PROBLEMS.get(name, BlowUp())
    x = points(7, problem.d).clamp(-1, 1) / 2
    t = tensor(T1)[0]
    moved, velocity = problem.flow(x, T0, t), torch.func.jacrev(lambda t: problem.flow(x, T0, t))(t)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda y: problem.flow(y[None], T0, t)[0]))(x)
    of_f = torch.func.vmap(torch.func.jacrev(lambda y: problem.f(t, y[None])[0]))(x)
    torch.testing.assert_close(velocity, problem.f(t, moved), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(of_f.diagonal(dim1=1, dim2=2).sum(1), problem.divergence(t, x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], problem.log_det(x, T0, t), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(problem.flow(x, T0, T0), x, rtol=1e-13, atol=1e-13)
    at_rows = problem.f(torch.full((7,), T0, dtype=x.dtype), x)
    torch.testing.assert_close(at_rows, problem.f(tensor(T0)[0], x), rtol=1e-14, atol=1e-14)


# --------------------------------------------------------------------------------------------------------------- values


@over("t_prior, t_data", [(T0, T1), (T1, T0)], ids=["forwards", "backwards"])
@over("solver", [Dopri5(**TIGHT), Dopri8(**TIGHT)], ids=["dopri5", "dopri8"])
@over("name", PROBLEMS)
def test_log_density_of_adaptive_solvers(name, solver, t_prior, t_data):
    problem = PROBLEMS[name]
    z = points(20, problem.d).clamp(-1, 1) * 0.55
    x = problem.flow(z, t_prior, t_data)
    path = solver.solve(problem.f, x, t_data, t_prior, by_trace(problem.f))
    assert path.status == "ok"
    assert (path.state - z).abs().max() < 1e-8
    assert (log_p(solver, problem, x, t_prior, t_data) - problem.log_p(x, t_prior, t_data)).abs().max() < 1e-8


@over("name", ["linear_1", "linear_2", "linear_5", "time_affine", "sine", "driven_sine", "planar"])
@over("solver", [Lobatto(), RK4()], ids=["lobatto", "rk4"])
def test_fixed_steps_converge_with_order_4(name, solver):
    """State, integral and log p: the slope of log error in log N is -4 ± 0.3."""
    problem = PROBLEMS[name]
    x = points(20, problem.d, seed=1)
    counts = [16, 32, 64, 128]
    paths = [solver.solve(problem.f, x, T0, T1, problem.rates, n) for n in counts]
    errors = {"state": [(p.state - problem.flow(x, T0, T1)).abs().mean() for p in paths]}
    if name in ("sine", "driven_sine", "planar"):  # elsewhere the divergence does not depend on the state
        errors["integral"] = [(p.integrals[:, 0] - problem.log_det(x, T0, T1)).abs().mean() for p in paths]
        exact = problem.log_p(x, T1, T0)
        errors["log_p"] = [(log_p(solver, problem, x, T1, T0, n) - exact).abs().mean() for n in counts]
    for what, found in errors.items():
        slope = np.polyfit(np.log(counts), np.log([float(e) for e in found]), 1)[0]
        assert abs(slope + solver.order) < 0.3, (what, slope, found)


def test_rk4_integrates_the_rates_with_order_4():
    """A divergence that depends on time alone leaves the quadrature's own error: Simpson's."""
    problem, x = TimeAffine(), points(4, 2)
    counts = [8, 16, 32, 64]
    integrals = [RK4().solve(problem.f, x, T0, T1, problem.rates, n).integrals[:, 0] for n in counts]
    errors = [float((found - problem.log_det(x, T0, T1)).abs().mean()) for found in integrals]
    assert abs(np.polyfit(np.log(counts), np.log(errors), 1)[0] + 4) < 0.3


def test_lobatto_quadrature_of_time_alone_is_spectral():
    problem, x = TimeAffine(), points(4, 2)
    found = Lobatto().solve(problem.f, x, T0, T1, problem.rates, 12).integrals[:, 0]
    assert (found - problem.log_det(x, T0, T1)).abs().max() < 1e-12


@over("solver", [Dopri5, Dopri8], ids=["dopri5", "dopri8"])
def test_adaptive_error_follows_the_tolerance(solver):
    problem = Planar()
    x = points(20, 3, seed=2)
    exact = problem.log_p(x, T0, T1)
    tolerances = [1e-5, 1e-6, 1e-7, 1e-8, 1e-9]
    errors = [float((log_p(solver(rtol=tol, atol=tol), problem, x, T0, T1) - exact).abs().max()) for tol in tolerances]
    assert all(error < 20 * tol for error, tol in zip(errors, tolerances)), errors
    assert abs(np.polyfit(np.log(tolerances), np.log(errors), 1)[0] - 1) < 0.4, errors


@over("solver", EVERY.values(), ids=EVERY)
def test_several_integrands(solver):
    """Each column is its own integral, with the sign of dt."""
    problem, x = Planar(), points(10, 3)

    def rates(t, y):
        value, divergence = problem.rates(t, y)
        return value, torch.cat([divergence, 3 * divergence, t.expand(len(y))[:, None] ** 2], 1)

    found = solver.solve(problem.f, problem.flow(x, T0, T1), T1, T0, rates).integrals
    back = problem.log_det(problem.flow(x, T0, T1), T1, T0)
    exact = torch.stack([back, 3 * back, torch.full_like(back, (T0**3 - T1**3) / 3)], 1)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6)


@over("solver", EVERY.values(), ids=EVERY)
def test_without_rates_the_state_is_the_same(solver):
    problem, x = TimeAffine(), points(10, 2)
    path = solver.solve(problem.f, x, T0, T1)
    assert path.integrals.shape == (10, 0)
    assert (path.state - problem.flow(x, T0, T1)).abs().max() < 1e-6
    both = solver.solve(problem.f, x, T0, T1, problem.rates)
    assert both.integrals.shape == (10, 1)
    assert (path.state - both.state).abs().max() < 1e-8


@over("dtype", [torch.float32, torch.float64])
@over("solver", EVERY.values(), ids=EVERY)
def test_dtypes_and_times(solver, dtype):
    """Time is kept in float64 and reaches f as a 0-d tensor of x's type; the ends are reached exactly."""
    problem = Planar(tensor(0.9, -0.5, 1.2).to(dtype), tensor(0.8, 1.1, 0.6).to(dtype))
    solver = solver.model_copy(update={"rtol": 1e-5, "atol": 1e-5}) if "dopri" in solver.type else solver
    f, x = Recorder(problem.f), points(5, 3).to(dtype)
    t0, t1 = 0.1, 1000.1
    path = solver.solve(f, x, t0, t1)
    assert path.state.dtype == dtype and path.status == "ok"
    assert all(t.shape == () and t.dtype == dtype for t in f.times)
    assert f.times[0] == torch.tensor(t0, dtype=dtype)
    assert 0 <= torch.tensor(t1, dtype=dtype) - max(f.times) <= 1100 * torch.finfo(dtype).eps
    if solver.type == "rk4":
        exact = torch.tensor([t0 + (t1 - t0) * i / 64 for i in range(64)], dtype=torch.float64)
        torch.testing.assert_close(torch.stack(f.times[::4]), exact.to(dtype), rtol=1e-7, atol=0)


@over("solver", EVERY.values(), ids=EVERY)
def test_no_time_at_all(solver):
    """t0 == t1: x and zeros, and the gradient in t1 is the velocity."""
    problem, x = TimeAffine(), points(6, 2)
    t1 = tensor(T1)[0].requires_grad_()
    path = solver.solve(problem.f, x, T1, t1, problem.rates)
    assert path.status == "ok" and torch.equal(path.state, x)
    assert torch.equal(path.integrals, torch.zeros(6, 1, dtype=x.dtype))
    (gradient,) = torch.autograd.grad(path.state[2, 0] + path.integrals[2, 0], t1)
    value, divergence = problem.rates(t1.detach(), x)
    torch.testing.assert_close(gradient, value[2, 0] + divergence[2, 0])


@over("solver", EVERY.values(), ids=EVERY)
def test_an_empty_batch(solver):
    path = solver.solve(Planar().f, points(0, 3), T0, T1, Planar().rates)
    assert path.status == "ok" and path.state.shape == (0, 3) and path.integrals.shape == (0, 1)


# -------------------------------------------------------------------------------------------------------------- lobatto


@over("n", [1, 2, 3, 4, 5, 10, 19, 64, 257, 1024])
def test_gauss_lobatto_nodes_and_weights(n):
    nodes, weights = gauss_lobatto(n)
    assert len(nodes) == len(weights) == n + 1
    assert nodes[0] == -1 and nodes[-1] == 1 and (np.diff(nodes) > 0).all()
    assert (nodes == -nodes[::-1]).all() and (weights == weights[::-1]).all()
    assert abs(weights.sum() - 2) < 1e-13
    for k in {0, min(2, 2 * n - 2), n - n % 2, 2 * n - 2}:  # exact up to degree 2n - 1, and no further
        assert abs(weights @ nodes**k - 2 / (k + 1)) < 1e-13, k
    assert weights @ nodes ** (2 * n) - 2 / (2 * n + 1) > 1e-7 or n > 10
    if n <= 19:
        inner = np.polynomial.legendre.Legendre.basis(n).deriv().roots()
        assert abs(np.sort(inner.real) - nodes[1:-1]).max(initial=0) < 1e-12


def test_lobatto_asks_for_the_rates_at_nodes_in_few_calls(monkeypatch):
    problem, x = TimeAffine(), points(100, 2)
    calls = []

    def rates(t, y):
        calls.append((t, y))
        return problem.rates(t, y)

    f = Recorder(problem.f)
    monkeypatch.setattr(Lobatto, "ROWS", 500)
    path = Lobatto().solve(f, x, T0, T1, rates, 18)
    assert path.evaluations == 4 * 18 + 19 and len(f.times) == 4 * 18
    assert len(calls) == 4 and all(t.shape == (len(y),) and len(y) % 100 == 0 for t, y in calls)
    times = torch.cat([t for t, _ in calls]).view(19, 100)
    expected = T0 + (1 + torch.tensor(gauss_lobatto(18)[0])) / 2 * (T1 - T0)
    torch.testing.assert_close(times, expected[:, None].expand(19, 100))
    states = torch.cat([y for _, y in calls]).view(19, 100, 2)
    assert torch.equal(states[0], x) and torch.equal(states[-1], path.state)
    torch.testing.assert_close(states[7], problem.flow(x, T0, expected[7]), rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(Lobatto, "ROWS", 10**6)
    torch.testing.assert_close(Lobatto().solve(f, x, T0, T1, rates, 18).integrals, path.integrals, rtol=1e-13, atol=0)
    assert len(calls) == 5


def test_a_row_does_not_depend_on_its_batch():
    problem, x = Planar(), points(64, 3)
    for solver in (Lobatto(steps=7), RK4(steps=7)):
        whole = solver.solve(problem.f, x, T0, T1, problem.rates)
        part = solver.solve(problem.f, x[:16], T0, T1, problem.rates)
        torch.testing.assert_close(part.state, whole.state[:16], rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(part.integrals, whole.integrals[:16], rtol=1e-14, atol=1e-14)


def test_evaluations():
    problem, x = Planar(), points(4, 3)
    assert RK4().solve(problem.f, x, T0, T1, problem.rates, 5).evaluations == 20
    assert RK4().solve(problem.f, x, T0, T1).evaluations == 40
    assert Lobatto().solve(problem.f, x, T0, T1).evaluations == 40
    for solver in (Dopri5(), Dopri8()):
        f = Recorder(problem.f)
        assert solver.solve(f, x, T0, T1).evaluations == len(f.times)
        f = Recorder(problem.rates)
        assert solver.solve(problem.f, x, T0, T1, f).evaluations == len(f.times)


# ------------------------------------------------------------------------------------------------------------ gradients


def differentiable():
    """name -> (tensors, problem made of them)."""
    return {
        "linear_2": ([MATRICES[2].clone()], lambda a: Linear(a)),
        "linear_5": ([MATRICES[5].clone()], lambda a: Linear(a)),
        "time_affine": ([MATRICES[2].clone()], lambda a: TimeAffine(a)),
        "planar": ([tensor(0.9, -0.5, 1.2), tensor(0.8, 1.1, 0.6)], lambda u, w: Planar(u, w)),
    }


@over("solver", EVERY.values(), ids=EVERY)
@over("name", differentiable())
def test_gradients_in_x_parameters_and_both_ends_of_time(name, solver):
    tensors, make = differentiable()[name]
    steps = 100 if solver.type in ("rk4", "lobatto") else None
    solver = solver.model_copy(update={"rtol": 1e-9, "atol": 1e-9}) if steps is None else solver
    d = make(*tensors).d
    weights, x = torch.linspace(-1, 2, 8, dtype=torch.float64), points(8, d, seed=3)
    leaves = [v.requires_grad_() for v in (x, tensor(T0)[0], tensor(T1)[0], *tensors)]
    x, t_prior, t_data, *params = leaves
    problem = make(*params)
    found = torch.autograd.grad(weights @ log_p(solver, problem, x, t_prior, t_data, steps, params), leaves)
    exact = torch.autograd.grad(weights @ problem.log_p(x, t_prior, t_data), leaves)
    for mine, closed in zip(found, exact):
        assert closed.abs().max() > 1e-2
        torch.testing.assert_close(mine, closed, rtol=1e-6, atol=1e-6)


@over("solver", EVERY.values(), ids=EVERY)
def test_field_that_closes_over_the_end_of_time(solver):
    """dx/dt = A x / t1 from 0 to t1 ends in e^A x: the two ways t1 enters cancel."""
    a, t1 = MATRICES[2].clone().requires_grad_(), tensor(1.7)[0].requires_grad_()
    x = points(5, 2)
    path = solver.solve(lambda t, y: y @ a.T / t1, x, 0.0, t1, params=(a,))
    in_a, in_t1 = torch.autograd.grad(path.state.square().sum(), (a, t1))
    (closed,) = torch.autograd.grad((x @ torch.linalg.matrix_exp(a).T).square().sum(), a)
    torch.testing.assert_close(in_a, closed, rtol=1e-6, atol=1e-6)
    assert abs(in_t1) < 1e-6


@over("solver", ADJOINT.values(), ids=ADJOINT)
def test_adjoint_reaches_closed_over_tensors_that_params_name(solver):
    """A context that the field closes over, an intermediate result among them, one twice, one without a gradient."""
    log_a, shift = (MATRICES[2] / 2).requires_grad_(), tensor(0.3, -0.2).requires_grad_()
    a = 2 * log_a
    x = points(5, 2)

    def f(t, y):
        return (y - shift) @ a.T

    path = solver.solve(f, x, T0, T1, by_trace(f), params=(a, shift, shift, points(1, 2)))
    value = (path.state.square().sum(1) + path.integrals[:, 0]).sum()
    in_a, in_shift = torch.autograd.grad(value, (log_a, shift), retain_graph=True)
    exact = shift + (x - shift) @ torch.linalg.matrix_exp(a * (T1 - T0)).T
    closed = torch.autograd.grad(exact.square().sum() + 5 * (T1 - T0) * a.trace(), (log_a, shift))
    torch.testing.assert_close(in_a, closed[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(in_shift, closed[1], rtol=1e-6, atol=1e-6)


@over("solver", ADJOINT.values(), ids=ADJOINT)
def test_adjoint_without_parameters(solver):
    problem, x = Planar(), points(5, 3).requires_grad_()
    path = solver.solve(problem.f, x, T0, T1, problem.rates)
    (found,) = torch.autograd.grad(path.integrals.sum() + path.state.sum(), x)
    (closed,) = torch.autograd.grad(problem.log_det(x, T0, T1).sum() + problem.flow(x, T0, T1).sum(), x)
    torch.testing.assert_close(found, closed, rtol=1e-7, atol=1e-7)
    constant = solver.solve(lambda t, y: torch.ones_like(y), x, T0, T1)
    assert torch.equal(torch.autograd.grad(constant.state.sum(), x)[0], torch.ones_like(x))


def network(d=2, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        layers = [torch.nn.Linear(d + 1, 16), torch.nn.Tanh(), torch.nn.Linear(16, d)]
    net = torch.nn.Sequential(*layers).to(dtype)
    return net, lambda t, x: 3 * net(torch.cat([x, t.expand(len(x))[:, None]], 1))


@over("family", [Dopri5, Dopri8])
def test_adjoint_agrees_with_backpropagation(family):
    net, f = network()
    params, x = tuple(net.parameters()), points(30, 2)

    def gradient(solver):
        path = solver.solve(f, x, T0, T1, by_trace(f), params=params)
        value = (path.state.square().sum(1) + path.integrals[:, 0]).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, params)])

    backprop, adjoint = gradient(family(**TIGHT)), gradient(family(gradient="adjoint", **TIGHT))
    assert (backprop - adjoint).abs().max() < 1e-8 * backprop.abs().max()
    loose = gradient(family(gradient="adjoint", adjoint_rtol=1e-3, adjoint_atol=1e-3, **TIGHT))
    assert 1e-8 < (backprop - loose).abs().max() < 1e-2 * backprop.abs().max()


def test_float32_gradients():
    net, f = network(dtype=torch.float32)
    params, x = tuple(net.parameters()), points(30, 2).float()
    found = []
    for solver in (Lobatto(steps=30), RK4(steps=30), Dopri5(), Dopri5(gradient="adjoint"), Dopri8()):
        t1 = torch.tensor(T1, requires_grad=True)
        path = solver.solve(f, x, T0, t1, by_trace(f), params=params).require()
        value = (path.state.square().sum(1) + path.integrals[:, 0]).mean()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, (*params, t1))]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=2e-4, atol=2e-4)


def test_lobatto_gradient_is_exact_for_its_own_scheme():
    """Finite differences of the discrete result, far from converged, in a parameter and in t1."""
    problem, x = Planar(), points(6, 3)

    def value(u, t1):
        made = Planar(u, problem.w)
        path = Lobatto().solve(made.f, x, T0, t1, by_trace(made.f), 3)
        return path.state.square().sum() + path.integrals.sum()

    leaves = (problem.u.clone().requires_grad_(), tensor(2.5)[0].requires_grad_())
    assert torch.autograd.gradcheck(value, leaves)


# ---------------------------------------------------------------------------------------------------- adaptive stepping


@over("solver", [Dopri5(), Dopri8()], ids=["dopri5", "dopri8"])
def test_a_hard_sample_is_not_hidden_by_its_batch(solver):
    """One point in 4,000 needs steps a thousand times shorter: a batch-wide norm gives it 60 times the tolerance."""
    problem = Cubic()
    x = torch.cat([points(4000, 1, scale=0.01), tensor([40.0])])
    path = solver.solve(problem.f, x, T0, T1, problem.rates)
    alone = solver.solve(problem.f, x[-1:], T0, T1, problem.rates)
    exact = problem.log_det(x, T0, T1)
    assert (path.integrals[:, 0] - exact).abs().max() < 4e-5
    assert (path.state[-1] - alone.state[0]).abs() < 1e-5
    assert (path.integrals[-1] - alone.integrals[0]).abs() < 1e-5
    assert path.evaluations > 0.7 * alone.evaluations


def test_a_hard_sample_is_not_hidden_in_the_adjoint():
    """The same backwards: the fast rotation of one sample among 2,000 at rest."""
    speed = torch.zeros(2001, 1, dtype=torch.float64)
    speed[-1] = 30.0
    theta = tensor(1.0)[0].requires_grad_()

    def f(t, x):
        return theta * speed * torch.stack([-x[:, 1], x[:, 0]], 1)

    x = points(2001, 2).requires_grad_()
    state = Dopri5(gradient="adjoint").solve(f, x, 0.0, 1.0, params=(theta,)).state
    in_x, in_theta = torch.autograd.grad(state[:, 0].sum(), (x, theta))
    cos, sin = math.cos(30), math.sin(30)
    assert (in_x[-1] - tensor(cos, -sin)).abs().max() < 2e-5
    last = x[-1].detach()
    assert abs(in_theta - 30 * (-sin * last[0] - cos * last[1])) < 3e-3


@over("t0, t1", [(0.0, 1.0), (1.0, 0.0), (0.3, 0.31)])
@over("solver", ADAPTIVE.values(), ids=ADAPTIVE)
def test_the_field_is_never_asked_outside_of_the_interval(solver, t0, t1):
    for strength in (1e-4, 1.0):  # a weak field invites a long first step
        a = (strength * MATRICES[2]).requires_grad_()
        f = Recorder(Linear(a).f)
        ends = [tensor(t)[0].requires_grad_() for t in (t0, t1)]
        state = solver.solve(f, points(5, 2), *ends, params=(a,)).state
        torch.autograd.grad(state.sum(), (a, *ends))
        low, high = min(t0, t1), max(t0, t1)
        assert all(low <= float(t) <= high for t in f.times)
        assert min(map(float, f.times)) < low + 1e-12 and max(map(float, f.times)) > high - 1e-12


def test_the_end_is_a_step_and_not_an_interpolation():
    """dopri8 at 1e-8: its fourth-order interpolant would be wrong by 1e-6 and more."""
    problem, x = Sine(), points(50, 1, scale=2)
    path = Dopri8(rtol=1e-8, atol=1e-8).solve(problem.f, x, 0.0, 1.0, problem.rates)
    assert (path.state - problem.flow(x, 0.0, 1.0)).abs().max() < 1e-8
    assert (path.integrals[:, 0] - problem.log_det(x, 0.0, 1.0)).abs().max() < 1e-8


@over("t0, t1", [(0.0, 1.3), (1.5, 0.2), (-0.5, 0.8), (0.8, -0.5)])
def test_the_adjoint_ends_in_a_step_too(t0, t1):
    """Its end is t0, in both directions of time; an interpolant gave 5e-4 here."""
    a, x = MATRICES[5].clone().requires_grad_(), points(8, 5, seed=3).requires_grad_()
    problem = Linear(a)
    path = Dopri8(gradient="adjoint", rtol=1e-8, atol=1e-8).solve(problem.f, x, t0, t1, params=(a,))
    found = torch.autograd.grad(path.state.square().sum(), (x, a))
    closed = torch.autograd.grad(problem.flow(x, t0, t1).square().sum(), (x, a))
    assert max((mine - theirs).abs().max() for mine, theirs in zip(found, closed)) < 2e-6


def test_stats_are_filled_in_as_things_happen():
    net, f = network()
    x = points(30, 2).requires_grad_()
    path = Dopri5(gradient="adjoint").solve(f, x, T0, T1, by_trace(f), params=tuple(net.parameters()))
    assert path.stats["evaluations_backward"] == 0
    path.state.sum().backward(retain_graph=True)
    once = path.stats["evaluations_backward"]
    assert once > 6
    path.state.sum().backward()
    assert path.stats["evaluations_backward"] == 2 * once
    steep = Dopri5().solve(lambda t, y: torch.tanh(200 * (t - 0.7)) - y, x.detach(), T0, T1)
    assert steep.stats["rejected"] > 3 and steep.stats["evaluations_backward"] == 0
    assert steep.stats.keys() == path.stats.keys()


# ------------------------------------------------------------------------------------------------------------- statuses


@over("solver", EVERY.values(), ids=EVERY)
@over("dtype", [torch.float32, torch.float64])
@over("with_rates", [False, True])
def test_blow_up_in_finite_time_has_a_named_end(solver, dtype, with_rates):
    """x' = x² from 1 has no solution at t = 2: no solver hangs, raises, or calls it good."""
    problem = BlowUp()
    x = tensor([0.3], [1.0]).to(dtype)
    steps = 256 if solver.type in ("lobatto", "rk4") else None
    if steps is None:
        solver = solver.model_copy(update={"rtol": 1e-6, "atol": 1e-6})
    path = solver.solve(problem.f, x, 0.0, 2.0, problem.rates if with_rates else None, steps)
    assert path.status in ("non_finite", "budget", "step_underflow")
    assert not path.state[1].isfinite()
    assert path.state.shape == (2, 1) and path.integrals.shape == (2, int(with_rates))
    assert path.evaluations <= 10_000
    with pytest.raises(SolveFailed, match=path.status) as caught:
        path.require()
    assert caught.value.status == path.status


@over("solver", EVERY.values(), ids=EVERY)
@over("bad", [math.nan, math.inf])
@over("since", [0.0, 0.9])
def test_a_field_that_is_not_finite(solver, bad, since):
    """From the first evaluation on, or from the middle of the interval."""
    path = solver.solve(lambda t, x: torch.where(t >= since, bad, -x), points(4, 2), 0.0, 1.5)
    assert path.status == "non_finite" and not path.state.isfinite().any()


@over("solver", EVERY.values(), ids=EVERY)
def test_an_integrand_that_is_not_finite(solver):
    """The state alone is fine, log p is not."""

    def rates(t, x):
        return -x, torch.where(x > 1, math.inf, x)

    path = solver.solve(lambda t, x: -x, tensor([0.5], [3.0]), 0.0, 1.5, rates)
    assert path.status == "non_finite" and path.integrals.shape == (2, 1)


@over("solver", EVERY.values(), ids=EVERY)
def test_a_state_that_is_not_finite(solver):
    """At the start, with a bounded field; at the end alone; and without any time."""
    for bad in (math.nan, math.inf):
        path = solver.solve(lambda t, x: torch.tanh(x), tensor([1.0], [bad]), 0.0, 1.5)
        assert path.status == "non_finite" and not path.state[1].isfinite()
        still = solver.solve(lambda t, x, bad=bad: bad * x, tensor([1.0]), 0.7, 0.7)
        assert still.status == "non_finite"
    overflow = solver.solve(lambda t, x: torch.full_like(x, 1e38), torch.zeros(1, 1), 0.0, 10.0)
    assert overflow.status in ("non_finite", "step_underflow")  # no step is short enough to stay below it


@over("family", [Dopri5, Dopri8])
def test_budget(family):
    f = Recorder(lambda t, x: torch.sin(50 * t) * x)
    path = family(max_evaluations=50, **TIGHT).solve(f, points(4, 2), T0, T1)
    assert path.status == "budget" and path.evaluations == len(f.times) == 50
    assert path.state.isnan().all()
    stiff = family(max_evaluations=1000).solve(lambda t, x: -1e6 * (x - torch.cos(t)), points(4, 2), T0, T1)
    assert stiff.status == "budget" and stiff.evaluations == 1000


@over("family", [Dopri5, Dopri8])
def test_step_underflow(family):
    """A pole of order one at t = 0.7."""
    path = family().solve(lambda t, x: 1 / (0.7 - t).abs() * torch.ones_like(x), points(4, 2), T0, T1)
    assert path.status == "step_underflow"


@over("family", [Dopri5, Dopri8])
@over("bad", [math.nan, math.inf])
def test_a_trial_step_that_fails_is_tried_again_shorter(family, bad):
    """x' = -√x ends in 0 at t = 2√x0: up to shortly before, only a step too long meets the root of a negative."""

    def f(t, x):
        return torch.where(x < 0, bad, -x.abs().sqrt()) * (1 + 5 * torch.tanh(200 * (t - 0.5)))

    path = family().solve(f, tensor([1.0], [9.0]), 0.0, 0.5 + 1.9 / 6)
    assert path.status == "ok" and path.state.isfinite().all() and path.stats["rejected"] > 0


def test_the_backward_solve_has_a_budget_of_its_own():
    problem, x = TimeAffine(), points(5, 2).requires_grad_()
    solver = Dopri5(gradient="adjoint", adjoint_rtol=1e-12, adjoint_atol=1e-12, max_evaluations=200)
    path = solver.solve(problem.f, x, T0, T1).require()
    for _ in range(2):
        with pytest.raises(SolveFailed, match="adjoint ODE ended with status budget after 200") as caught:
            path.state.sum().backward(retain_graph=True)
        assert caught.value.status == "budget"
    assert path.stats["evaluations_backward"] == 400
    often = Dopri5(gradient="adjoint", max_evaluations=150).solve(problem.f, x, T0, T1).require()
    for _ in range(8):
        often.state.sum().backward(retain_graph=True)
    assert often.stats["evaluations_backward"] > 150


def test_a_backward_solve_that_blows_up_has_a_name():
    """A strong contraction cannot be run backwards: -x³ from 10⁵ has forgotten where it came from."""
    x = tensor([1e5]).requires_grad_()
    path = Dopri5(gradient="adjoint").solve(Cubic().f, x, 0.0, 1.0).require()
    with pytest.raises(SolveFailed, match="adjoint ODE") as caught:
        path.state.sum().backward()
    assert caught.value.status in ("non_finite", "step_underflow", "budget")


def test_a_backward_solve_whose_derivative_is_not_finite_has_a_name():
    """√|x| through 0 has a value there and no derivative."""
    x = tensor([0.0]).requires_grad_()
    path = Dopri5(gradient="adjoint").solve(lambda t, y: y.abs().sqrt(), x, 0.0, 1.0).require()
    with pytest.raises(SolveFailed, match="non_finite"):
        path.state.sum().backward()


def test_second_derivatives_through_the_adjoint_are_refused():
    """torchdiffeq's adjoint would give zeros."""
    x = points(5, 3).requires_grad_()
    path = Dopri5(gradient="adjoint").solve(Planar().f, x, T0, T1)
    with pytest.raises(SolveFailed, match="first derivatives only"):
        torch.autograd.grad(path.state.sum(), x, create_graph=True)
    for solver in (Dopri5(), Lobatto(), RK4()):
        state = solver.solve(Planar().f, x, T0, T1).state
        (first,) = torch.autograd.grad(state.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        assert second.abs().max() > 1e-2


# ----------------------------------------------------------------------------------------------------------------- keys


def test_finer_is_ten_times_as_accurate():
    assert Lobatto().finer() is None and RK4().finer() is None
    fine = Dopri8(rtol=1e-4, atol=1e-5, adjoint_rtol=1e-3, max_evaluations=77).finer()
    assert isinstance(fine, Dopri8)
    assert (fine.rtol, fine.atol, fine.adjoint_rtol, fine.adjoint_atol) == pytest.approx((1e-5, 1e-6, 1e-4, None))
    assert fine.max_evaluations == 77 and fine.gradient == "backprop"
    with pytest.raises(ValidationError):
        Dopri5(rtol=5e-324).finer()


def test_keys_are_checked():
    for wrong in ({"rtol": 0.0}, {"atol": -1e-6}, {"gradient": "symplectic"}, {"max_evaluations": 0}, {"tol": 1e-3}):
        with pytest.raises(ValidationError):
            Dopri5(**wrong)
    for wrong in ({"steps": 0}, {"step": 3}, {"tolerance": 0.0}):
        with pytest.raises(ValidationError):
            Lobatto(**wrong)
    for solver in EVERY.values():
        assert pickle.loads(pickle.dumps(solver)) == solver


def test_hutchinson_is_held_fixed_during_a_solve():
    """The same probe, solved coarsely and finely, gives one answer; and adaptive steps stay long."""
    problem, x = Planar(), points(20, 3)
    estimator = Hutchinson()
    v = estimator.probe(x, torch.Generator().manual_seed(1))

    def rates(t, y):
        value, divergence = estimator.divergence(lambda z: problem.f(t, z), y, v.repeat(1, len(y) // len(x), 1))
        return value, divergence[:, None]

    coarse = Lobatto().solve(problem.f, x, T0, T1, rates, 64)
    fine = Dopri5(**TIGHT).solve(problem.f, x, T0, T1, rates)
    exact = Dopri5(**TIGHT).solve(problem.f, x, T0, T1, problem.rates)
    assert (coarse.integrals - fine.integrals).abs().max() < 1e-6
    assert (exact.integrals - fine.integrals).abs().max() > 0.1
    assert fine.evaluations < 1.5 * exact.evaluations
