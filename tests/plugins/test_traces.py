"""Divergences against dense Jacobians, and Hutchinson's estimate against its own mean and variance."""

from __future__ import annotations

import itertools

import pytest
import torch
from problems import MATRICES, Linear, Planar, TimeAffine, points, tensor
from pydantic import ValidationError

from driftspec.components import VelocityAt
from driftspec_plugins.estimators.exact_trace import ExactTrace
from driftspec_plugins.estimators.hutchinson import Hutchinson

over = pytest.mark.parametrize


class Net(torch.nn.Module):
    """y -> a network's value at a time a row, three layers deep and far from linear."""

    def __init__(self, d, dtype=torch.float64):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(d)
            self.inner, self.middle = torch.nn.Linear(d + 1, 24), torch.nn.Linear(24, 24)
            self.outer = torch.nn.Linear(24, d)
        self.to(dtype)

    def forward(self, x):
        t = torch.linspace(0, 1, len(x), dtype=x.dtype)[:, None]
        return 2 * self.outer(torch.tanh(2 * self.middle(torch.tanh(2 * self.inner(torch.cat([x, t], 1))))))


def dense(f, x):
    """∂f/∂x (B, d, d), each row's by itself, in its place in the batch."""
    jacobian = torch.autograd.functional.jacobian(f, x, create_graph=True)
    return torch.stack([jacobian[i, :, i] for i in range(len(x))])


def signs(d):
    """Every vector of signs, (2^d, d): its mean is the exact expectation over Rademacher probes."""
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=d)), dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------------- exact


@over("d", [1, 2, 5])
@over("dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 2e-5)])
@over("graph", [True, False], ids=["grad", "no_grad"])
def test_exact_trace_is_the_dense_jacobians(d, dtype, tolerance, graph):
    f, x = Net(d, dtype), points(9, d).to(dtype)
    expected = dense(f, x).detach()
    with torch.set_grad_enabled(graph):
        value, trace = ExactTrace().divergence(f, x)
    assert value.shape == (9, d) and trace.shape == (9,)
    assert value.dtype == trace.dtype == dtype and value.requires_grad == trace.requires_grad == graph
    torch.testing.assert_close(value, f(x), rtol=0, atol=0)
    torch.testing.assert_close(trace, expected.diagonal(dim1=1, dim2=2).sum(1), rtol=tolerance, atol=tolerance)
    assert d == 1 or (trace - expected.flatten(1)[:, ::d].sum(1)).abs().max() > 0.1  # stride d in place of d + 1


@over("d", [1, 2, 5])
@over("leaf", [True, False])
def test_gradients_of_value_and_trace(d, leaf):
    """To x, itself perhaps the result of something, and to the parameters the field closes over."""
    f, start = Net(d), points(9, d).requires_grad_()
    x = start if leaf else torch.sin(start)
    weights = torch.linspace(-1, 1, 9, dtype=torch.float64)
    wanted = (start, *f.parameters())
    value, trace = ExactTrace().divergence(f, x)
    found = torch.autograd.grad(weights @ trace + value.square().sum(), wanted, retain_graph=True)
    expected = weights @ dense(f, x).diagonal(dim1=1, dim2=2).sum(1) + f(x).square().sum()
    for mine, theirs in zip(found, torch.autograd.grad(expected, wanted)):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_nothing_asks_for_a_gradient_nothing_carries_one():
    problem, x = Planar(), points(9, 3)
    for estimator, probe in ((ExactTrace(), None), (Hutchinson(), points(9, 3)[None])):
        value, trace = estimator.divergence(lambda y: problem.f(None, y), x, probe)
        assert not value.requires_grad and not trace.requires_grad
        x_graph = x.clone().requires_grad_()
        value, trace = estimator.divergence(lambda y: problem.f(None, y), x_graph, probe)
        assert value.requires_grad and trace.requires_grad


def test_eval_mode_changes_nothing():
    f, x = Net(2), points(9, 2)
    gradients = []
    for mode in (True, False):
        trace = ExactTrace().divergence(f.train(mode), x)[1]
        found = torch.autograd.grad(trace.sum(), f.parameters(), materialize_grads=True)
        gradients.append(torch.cat([g.flatten() for g in found]))
    assert torch.equal(*gradients)


@over("problem", [Linear(MATRICES[5]), Planar(), TimeAffine()], ids=["linear", "planar", "time_affine"])
def test_closed_forms(problem):
    t, x = tensor(0.7)[0], points(9, problem.d)
    trace = ExactTrace().divergence(lambda y: problem.f(t, y), x)[1]
    torch.testing.assert_close(trace, problem.divergence(t, x), rtol=1e-13, atol=1e-13)


@over("constant", [lambda x: torch.ones_like(x), lambda x: x.detach() * 2], ids=["ones", "detached"])
def test_a_field_without_a_derivative_has_divergence_zero(constant):
    x = points(9, 2)
    shift = tensor(0.3, 0.4).requires_grad_()
    for f in (constant, lambda x: constant(x) + shift):
        for estimator, probe in ((ExactTrace(), None), (Hutchinson(), points(9, 2)[None])):
            for given in (x, x.clone().requires_grad_()):
                value, trace = estimator.divergence(f, given, probe)
                assert torch.equal(value, f(x)) and torch.equal(trace, torch.zeros(9, dtype=x.dtype))


@over("graph", [True, False], ids=["grad", "no_grad"])
def test_a_field_that_is_itself_a_gradient(graph):
    """The score of an energy, by autograd or by torch.func: the divergence is minus the Laplacian."""
    matrix = MATRICES[2]

    def energy(x):
        return torch.cosh(x @ matrix).sum(-1)

    def by_autograd(x):
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            return -torch.autograd.grad(energy(x).sum(), x, create_graph=True)[0]

    def by_func(x):
        return -torch.func.grad(lambda y: energy(y).sum())(x)

    x = points(9, 2)
    laplacian = torch.cosh(x @ matrix) @ matrix.square().sum(0)
    with torch.set_grad_enabled(graph):
        for f in (by_autograd, by_func):
            torch.testing.assert_close(ExactTrace().divergence(f, x)[1].detach(), -laplacian, rtol=1e-12, atol=1e-12)
            mean = Hutchinson(probes=4).divergence(f, x, signs(2)[:, None].expand(4, 9, 2))[1]
            torch.testing.assert_close(mean.detach(), -laplacian, rtol=1e-12, atol=1e-12)


def test_a_fields_own_divergence_is_taken():
    def velocity(t, x):
        raise AssertionError("asked for the value alone")

    own = VelocityAt(velocity, torch.tensor(0.0), lambda x: (2 * x, torch.full((len(x),), 4.0)))
    value, trace = ExactTrace().divergence(own, points(3, 2))
    assert torch.equal(value, 2 * points(3, 2)) and trace.tolist() == [4.0, 4.0, 4.0]


def test_which_traces_are_exact():
    assert ExactTrace().exact() and not Hutchinson().exact()
    assert ExactTrace().probe(points(3, 2), torch.Generator()) is None


# ----------------------------------------------------------------------------------------------------------- hutchinson


@over("d", [1, 2, 5])
@over("graph", [True, False], ids=["grad", "no_grad"])
def test_the_mean_over_all_signs_is_the_trace(d, graph):
    f, x = Net(d), points(9, d)
    probe = signs(d)[:, None].expand(2**d, 9, d)
    with torch.set_grad_enabled(graph):
        value, estimate = Hutchinson(probes=2**d).divergence(f, x, probe)
    exact = ExactTrace().divergence(f, x)[1]
    torch.testing.assert_close(value, f(x), rtol=0, atol=0)
    torch.testing.assert_close(estimate.detach(), exact.detach(), rtol=1e-12, atol=1e-12)
    assert estimate.requires_grad == graph


def test_each_probe_belongs_to_its_row():
    f, x, v = Net(5), points(9, 5), points(3 * 9, 5, seed=4).view(3, 9, 5)
    estimate = Hutchinson(probes=3).divergence(f, x, v)[1]
    torch.testing.assert_close(estimate, torch.einsum("kbi,bij,kbj->b", v, dense(f, x), v) / 3, rtol=1e-12, atol=1e-12)


def test_gradients_of_the_estimate():
    f, x, v = Net(5), points(9, 5).requires_grad_(), points(9, 5, seed=4)[None]
    wanted = (x, *f.parameters())
    found = torch.autograd.grad(Hutchinson().divergence(f, x, v)[1].sum(), wanted, allow_unused=True)
    expected = torch.autograd.grad(torch.einsum("bi,bij,bj->", v[0], dense(f, x), v[0]), wanted, allow_unused=True)
    for mine, theirs in zip(found[:-1], expected[:-1]):  # the last bias shifts the value alone
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@over("noise", ["rademacher", "gaussian"])
@over("probes", [1, 3])
def test_mean_and_variance_of_the_estimate(noise, probes):
    """E = tr A; Var = 2 ‖S‖²_F / K (Gaussian), 2 (‖S‖²_F - Σ S_ii²) / K (Rademacher), S the symmetric part of A."""
    a, n = MATRICES[5], 40_000
    estimator = Hutchinson(probes=probes, noise=noise)
    x = torch.zeros(n, 5, dtype=torch.float64)
    v = estimator.probe(x, torch.Generator().manual_seed(7))
    sample = estimator.divergence(lambda y: Linear(a).f(None, y), x, v)[1]
    s = (a + a.T) / 2
    variance = 2 * (s.square().sum() - (s.diagonal().square().sum() if noise == "rademacher" else 0)) / probes
    centred = sample - sample.mean()
    assert abs(sample.mean() - a.trace()) < 4 * (variance / n).sqrt()
    stderr = ((centred**4).mean() - variance**2).sqrt() / n**0.5
    assert abs(sample.var() - variance) < 4 * stderr
    wrong = 2 * (s.square().sum() - (0 if noise == "rademacher" else s.diagonal().square().sum())) / probes
    assert abs(sample.var() - wrong) > 4 * stderr  # the other law's variance


@over("noise", ["rademacher", "gaussian"])
@over("dtype", [torch.float32, torch.float64])
def test_probes_come_from_the_generator_alone(noise, dtype):
    estimator, x = Hutchinson(probes=3, noise=noise), points(500, 4).to(dtype)
    before = torch.get_rng_state()
    v = estimator.probe(x, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert v.shape == (3, 500, 4) and v.dtype == dtype and not v.requires_grad
    assert torch.equal(v, estimator.probe(x, torch.Generator().manual_seed(1)))
    assert not torch.equal(v, estimator.probe(x, torch.Generator().manual_seed(2)))
    second = (v.double().flatten(0, 1).T @ v.double().flatten(0, 1)) / 1500
    assert (second - torch.eye(4)).abs().max() < 4 * (2 / 1500) ** 0.5
    assert (v.abs() == 1).all() == (noise == "rademacher")
    assert abs(v.double().mean()) < 4 / 6000**0.5


def test_an_estimate_is_the_same_each_time_and_draws_nothing():
    estimator, f, x = Hutchinson(), Net(2), points(9, 2)
    v = estimator.probe(x, torch.Generator().manual_seed(1))
    before = torch.get_rng_state()
    assert torch.equal(estimator.divergence(f, x, v)[1], estimator.divergence(f, x, v)[1])
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="estimator 'hutchinson' needs the vectors"):
        estimator.divergence(f, x)


def test_keys_are_checked():
    for wrong in ({"probes": 0}, {"noise": "uniform"}, {"probe": 3}):
        with pytest.raises(ValidationError):
            Hutchinson(**wrong)
    with pytest.raises(ValidationError):
        ExactTrace(probes=1)
