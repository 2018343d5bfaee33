"""What a trace's loss may hold beside log p: kinetic energy and the Jacobian's norm along the paths."""

from __future__ import annotations

import pytest
import small_spec
import tiny
import torch
from problems import MATRICES, Linear, Sine, points
from scipy.integrate import quad_vec

from driftspec.components import Estimator, Model, Solver
from driftspec.streams import Streams
from driftspec_plugins.solvers.rk4 import RK4

STREAMS = Streams(3).under("train").at(1)
SOLVERS = {"lobatto": {"type": "lobatto", "steps": 20}, "dopri5": {"type": "dopri5", "rtol": 1e-9, "atol": 1e-9}}


def loss(model: Model, x: torch.Tensor, solver: dict[str, object], trace: str = "exact_trace", **weights: float):
    estimator = Estimator.make({"type": trace, "solver": solver, **weights})
    return estimator.loss(model, x, estimator.start(model, STREAMS), STREAMS)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("time", [(0.2, 1.5), (1.5, 0.2)])
def test_the_kinetic_energy_of_a_linear_flow(solver: str, time: tuple[float, float]) -> None:
    """∫ ‖A e^{A s} x‖² ds over the path, more than nothing whichever way time runs, and counted once."""
    a, x = MATRICES[2], points(40, 2)
    model, t_data = tiny.known(Linear(a), time), time[1]
    plain, both = (loss(model, x, SOLVERS[solver], **kinetic) for kinetic in ({}, {"kinetic": 0.3}))

    def speed(t: float) -> float:
        return float((Linear(a).flow(x, t_data, t) @ a.T).square().sum(1).mean())

    expected = quad_vec(speed, *sorted(time), epsabs=1e-12)[0]
    assert expected > 1
    assert float((both.value - plain.value).detach()) == pytest.approx(0.3 * expected, rel=2e-5)
    assert both.terms["kinetic"] == pytest.approx(expected, rel=2e-5)
    assert both.terms["log_p"] == pytest.approx(-float(plain.value.detach()), rel=1e-5)


@pytest.mark.parametrize("trace", ["exact_trace", "hutchinson"])
@pytest.mark.parametrize("time", [(0.2, 1.5), (1.5, 0.2)])
def test_the_jacobians_norm_of_a_linear_flow(trace: str, time: tuple[float, float]) -> None:
    """(t1 - t0) ‖A‖²_F on average over the probes, within four standard errors: of vᵀA Aᵀv with signs v."""
    a, n = MATRICES[5], 20_000
    found = loss(tiny.known(Linear(a), time), points(n, 5), SOLVERS["lobatto"], trace, jacobian=1.0)
    square, span = a @ a.T, abs(time[1] - time[0])
    stderr = span * float((2 * (square.square().sum() - square.diag().square().sum()) / n).sqrt())
    assert abs(found.terms["jacobian"] - span * float(a.square().sum())) < 4 * stderr
    assert stderr < 0.01 * span * float(a.square().sum())


@pytest.mark.parametrize("gradient", ["backprop", "adjoint"])
def test_gradients_of_the_penalties_are_those_of_the_scheme(gradient: str) -> None:
    """Against differences of the loss in a network's own parameter; the probes are the same each time."""
    torch.manual_seed(0)
    model = tiny.random_flow([8], 2, torch.float64, gain=2.0)
    solver = {"type": "dopri5", "rtol": 1e-10, "atol": 1e-10, "gradient": gradient}
    (weight, *_), x, h = model.parameters(), points(20, 2), 1e-5
    loss(model, x, solver, kinetic=0.5, jacobian=0.2).value.backward()
    assert weight.grad is not None
    values = []
    for step in (h, -h):
        with torch.no_grad():
            weight[0, 0] += step
            values.append(float(loss(model, x, solver, kinetic=0.5, jacobian=0.2).value.detach()))
            weight[0, 0] -= step
    assert float(weight.grad[0, 0]) == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-5)


class Wild:
    """The divergence of a sine's field, and a second integrand that is far harder to follow."""

    def __init__(self, **attributes: int):
        vars(self).update(attributes)

    def __call__(self, t: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, divergence = Sine().rates(t, x)
        return value, torch.cat([divergence, torch.sin(300 * t).expand(len(x), 1)], 1)


@pytest.mark.parametrize("gradient", ["backprop", "adjoint"])
def test_what_is_not_controlled_chooses_no_step(gradient: str) -> None:
    """As many evaluations with the wild integrand as without, there and back; controlled it takes many more."""
    solver = Solver.make({"type": "dopri5", "rtol": 1e-5, "atol": 1e-5, "gradient": gradient})
    counts = []
    for rates in (Sine().rates, Wild(controlled=1), Wild()):
        x = points(30, 1).requires_grad_()
        path = solver.solve(Sine().f, x, 0.0, 1.0, rates)
        path.integrals.sum().backward()
        counts.append((path.evaluations, path.stats["evaluations_backward"]))
    assert counts[0] == counts[1] and counts[2][0] > 5 * counts[0][0]
    assert gradient == "backprop" or counts[2][1] > 5 * counts[0][1] > 0


def test_the_penalties_of_a_loss_are_not_controlled(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    solve = RK4.solve
    monkeypatch.setattr(
        RK4,
        "solve",
        lambda self, f, x, t0, t1, rates, *rest: (
            seen.append(getattr(rates, "controlled", None)),
            solve(self, f, x, t0, t1, rates, *rest),
        )[1],
    )
    loss(tiny.known(Sine()), points(30, 1), {"type": "rk4"}, kinetic=1.0, jacobian=1.0)
    assert seen == [1]


def test_penalties_have_no_meaning_where_a_trace_is_lent() -> None:
    nested = small_spec.said(small_spec.TEXT, "evaluate=[{type: nll, trace: {type: exact_trace, kinetic: 0.1}}]")
    assert len(nested) == 1 and "S111" in nested[0] and "'kinetic'" in nested[0]
    assert small_spec.said(small_spec.TEXT, "estimator.kinetic=0.01", "estimator.jacobian=0.01") == []
