"""The known field c M sign(z) |z|^p: its closed solutions, and what follows where it is not Lipschitz."""

from __future__ import annotations

import pytest
import tiny
import torch
from problems import MATRICES, Cubic, Linear, points
from small_spec import said

from driftspec.components import Dynamics, Model, Solver, Trace
from driftspec.errors import SolveFailed
from driftspec.numerics import likelihood, transport
from driftspec.numerics.model import build_model
from driftspec.streams import Streams

FINE = Solver.make({"type": "dopri8", "rtol": 1e-10, "atol": 1e-10})
over = pytest.mark.parametrize
UNTRAINED = "version: 1\nname: known\nseed: 3\ndata: moons\ndynamics: {type: power}\nevaluate: [round_trip]\n"


def model(d: int = 1, **keys: object) -> Model:
    return build_model(Dynamics.make({"type": "power", **keys}), d, 0, torch.float64, torch.device("cpu"))


@over("p, c", [(0.5, 1.3), (1.5, -0.8), (2.0, 0.3), (3.0, -1.0)])
def test_solutions_are_the_closed_form(p: float, c: float) -> None:
    z, t = points(20, 2), 0.7
    z = z + 0.3 * z.sign()
    assert float(z.abs().max()) < 1 / (0.3 * t)  # no solution for p = 2 is infinite yet
    solved = transport.transport(model(2, exponent=p, rate=c), z, 0.0, t, FINE).value
    exact = z.sign() * (z.abs() ** (1 - p) + (1 - p) * c * t) ** (1 / (1 - p))
    torch.testing.assert_close(solved, exact, rtol=1e-7, atol=1e-8)


def test_the_linear_flow_and_its_log_density() -> None:
    matrix, x = MATRICES[2].tolist(), points(20, 2)
    flow, exact = model(2, matrix=matrix, rate=0.8, time=[0.2, 1.5]), Linear(0.8 * MATRICES[2])
    torch.testing.assert_close(transport.transport(flow, x, 0.2, 1.5, FINE).value, exact.flow(x, 0.2, 1.5))
    log_p = likelihood.log_prob(flow, x, FINE, Trace.make("exact_trace"), Streams(0)).log_prob
    torch.testing.assert_close(log_p, exact.log_p(x, 0.2, 1.5))


def test_the_log_density_of_a_cubic_flow() -> None:
    x = points(20, 1)
    flow = model(exponent=3.0, rate=-1.0, time=[1.0, 0.0])
    log_p = likelihood.log_prob(flow, x, FINE, Trace.make("exact_trace"), Streams(0)).log_prob
    torch.testing.assert_close(log_p, Cubic().log_p(x, 1.0, 0.0), rtol=1e-6, atol=1e-6)


@over("p, refused", [(0.5, True), (0.99, True), (1.0, False), (1.5, False)])
def test_a_likelihood_needs_a_continuous_derivative(p: float, refused: bool) -> None:
    """So a likelihood is refused where the field is not Lipschitz, and its solution not unique."""
    found = said(UNTRAINED.replace("power}", f"power, exponent: {p}}}").replace("round_trip", "nll"))
    assert [("smooth" in one, "C1" in one) for one in found] == ([(True, True)] if refused else [])


def test_paths_merge_and_the_solve_back_leads_elsewhere() -> None:
    """dz/dt = 2 sign(z) √|z|: from t = 1 back every |x| < 1 arrives at 0, and forwards 0 leads to 0, 1 and -1 alike."""
    made = tiny.experiment(
        "data={type: gaussian, mean: [0.0], samples: 4000, standardize: none}", "evaluate=[round_trip]",
        "dynamics={type: power, exponent: 0.5, rate: 2.0}", text=UNTRAINED,
    )  # fmt: skip
    result = made.spec.evaluate[0].measure(tiny.evaluation(made, made.model))  # type: ignore[index]
    x = made.dataset.test
    lost = (1 - x.abs()).clamp_min(0)
    assert abs(result.value - lost.mean()) < 0.01 and result.value > 0.3
    assert [(one.subject, one.severity) for one in result.verdicts] == [("inverse", "bad")]


@over("solver", [{"type": "dopri5", "max_evaluations": 500}, "rk4", "lobatto"], ids=["dopri5", "rk4", "lobatto"])
def test_a_blow_up_is_named(solver: object) -> None:
    """z' = z² from 1.25 is infinite at t = 0.8: the solve ends, with a reason."""
    field, start = model(exponent=2.0), torch.tensor([[1.25]], dtype=torch.float64)
    with pytest.raises(SolveFailed) as failed:
        transport.transport(field, start, 0.0, 1.0, Solver.make(solver))
    assert failed.value.status in ("non_finite", "step_underflow", "budget")
    solved = transport.transport(field, start, 0.0, 0.7, Solver.make(solver)).value
    torch.testing.assert_close(solved, start / (1 - 0.7 * start), rtol=1e-4, atol=0.0)


@over(
    "given, message",
    [
        ("matrix: [[1.0, 0.0]]", "a square matrix has d rows of d numbers"),
        ("matrix: [[1.0]]", "'matrix' is for 1 dimensions, and the data have 2"),
        ("exponent: 0.0", "exponent"),
        ("time: [1.0, 1.0]", "t_prior and t_data must differ"),
    ],
)
def test_what_a_spec_gets_wrong(given: str, message: str) -> None:
    found = said(UNTRAINED.replace("{type: power}", f"{{type: power, {given}}}"))
    assert len(found) == 1 and message in found[0]
