"""Every key of every solver has its effect, forwards and backwards, and the error that a solver states is its own."""

from __future__ import annotations

import functools

import pytest
import tiny
import torch
from problems import Planar, points, tensor
from small_spec import edited, said

from driftspec.components import FixedSteps, Solver
from driftspec.errors import SolveFailed
from driftspec.numerics import likelihood, transport
from driftspec.registry import installed
from driftspec.streams import Streams
from driftspec_plugins.estimators.exact_trace import ExactTrace

T0, T1 = 0.2, 1.5
TYPES = {
    name: installed().look_up("solver", name)[0] for kind, name in sorted(installed().providers) if kind == "solver"
}
BOTH_WAYS = [name for name, found in TYPES.items() if "gradient" in found.model_fields]
ADAPTIVE = [name for name, found in TYPES.items() if "rtol" in found.model_fields]
BEFORE = {
    "rtol": 1e-3, "atol": 1e-3, "adjoint_rtol": 1e-3, "adjoint_atol": 1e-3, "gradient": "adjoint", "steps": 8,
    "adjoint_steps": 8, "tolerance": 1e-3, "max_steps": 100, "max_evaluations": 5000,
}  # fmt: skip
"""Of each key that a solver of ours has, a value ..."""
AFTER = {
    "rtol": 1e-5, "atol": 1e-5, "adjoint_rtol": 1e-5, "adjoint_atol": 1e-5, "gradient": "backprop", "steps": 9,
    "adjoint_steps": 9, "tolerance": 1e-5, "max_steps": 60, "max_evaluations": 4,
}  # fmt: skip
"""... and another, which changes what happens."""
KEYS = [(name, key) for name, found in TYPES.items() for key in found.model_fields]
over = pytest.mark.parametrize


def made(name: str, **keys) -> Solver:
    known = {key: value for key, value in BEFORE.items() if key in TYPES[name].model_fields}
    return Solver.make({"type": name, **known, **keys})


def solved(solver: Solver):
    """The solve of a field that depends on everything, and ∂L/∂u through it."""
    u = tensor(0.9, -0.5, 1.2).requires_grad_()
    problem = Planar(u, tensor(0.8, 1.1, 0.6))
    path = solver.solve(problem.f, 3 * points(4, 3), T0, T1, problem.rates, params=(u,))
    if path.status != "ok":
        return path, None
    return path, torch.autograd.grad(path.state.square().sum() + path.integrals.sum(), u)[0]


def behaviour(solver: Solver) -> dict[str, object]:
    path, gradient = solved(solver)
    missed = path.missed_start()
    moves = [solver.adapt(50, 10.0**power) for power in range(-8, 3)] if isinstance(solver, FixedSteps) else []
    return {
        "forwards": (path.state.flatten().tolist(), path.evaluations), "status": path.status,
        "backwards": None if gradient is None else (gradient.tolist(), path.stats.get("evaluations_backward")),
        "missed": None if missed is None else missed.tolist(), "in training": (solver.start_steps(), moves),
    }  # fmt: skip


@functools.cache
def at_first(name: str) -> dict[str, object]:
    return behaviour(made(name))


def test_the_keys_are_all_known_here() -> None:
    assert {key for _, key in KEYS} == BEFORE.keys() == AFTER.keys()


@over("name, key", KEYS, ids=[f"{name}-{key}" for name, key in KEYS])
def test_every_key_changes_something_and_those_of_the_adjoint_the_gradient_alone(name: str, key: str) -> None:
    before, after = at_first(name), behaviour(made(name, **{key: AFTER[key]}))
    changed = {what for what in before if before[what] != after[what]}
    if key.startswith("adjoint_"):
        assert "backwards" in changed and "forwards" not in changed
    elif key in ("tolerance", "max_steps"):
        assert "in training" in changed and not changed & {"forwards", "backwards", "status"}
    elif key == "gradient":
        assert {"backwards", "missed"} <= changed and "forwards" not in changed
    else:
        assert "forwards" in changed


@over("name", ADAPTIVE)
def test_the_adjoints_tolerances_are_the_solvers_own_unless_they_are_given(name: str) -> None:
    """Null is the same as `rtol` and `atol`, to the bit."""
    (_, own), (_, same), (_, other) = (
        solved(made(name, rtol=1e-2, atol=1e-3, adjoint_rtol=rtol, adjoint_atol=atol))
        for rtol, atol in ((None, None), (1e-2, 1e-3), (1e-3, 1e-2))
    )
    assert torch.equal(own, same) and not torch.equal(own, other)


@over("name", ADAPTIVE)
def test_the_budget_holds_for_the_way_back_too(name: str) -> None:
    path, _ = solved(made(name))
    used = path.evaluations
    with pytest.raises(SolveFailed, match=f"adjoint ODE ended with status budget after {used} evaluations"):
        solved(made(name, adjoint_rtol=1e-9, adjoint_atol=1e-9, max_evaluations=used))


@over("name", BOTH_WAYS)
def test_what_is_made_of_a_solver_keeps_its_other_keys(name: str) -> None:
    """`finer` changes tolerances alone, each by 10, and `differentiated` the gradient alone."""
    solver = made(name)
    for by in ("backprop", "adjoint"):
        other = solver.differentiated(by)
        assert type(other) is type(solver) and other.model_dump() == {**solver.model_dump(), "gradient": by}
    finer = solver.finer()
    if finer is not None:
        tolerances = {key: value / 10 for key, value in solver.model_dump().items() if key.endswith("tol") and value}
        assert finer.model_dump() == pytest.approx({**solver.model_dump(), **tolerances}) and len(tolerances) == 4


@over("keys, told", [
    ("gradient: adjoint, adjoint_rtol: 1e-9", "'adjoint_rtol' is 1e-09, below 1.2e-07, the epsilon of float32"),
    ("adjoint_rtol: 1e-4", "'adjoint_rtol' is for the adjoint solve, and 'gradient' is 'backprop'"),
    ("adjoint_atol: 1e-4", "'adjoint_atol' is for the adjoint solve, and 'gradient' is 'backprop'"),
    ("gradient: adjoint, adjoint_rtol: 1e-4, adjoint_atol: 1e-4", None),
])  # fmt: skip
def test_a_key_of_the_adjoint_without_effect_is_a_warning(keys: str, told: str | None) -> None:
    text = edited(("noise: rademacher", f"solver: {{type: bosh3, {keys}}}"))
    found = said(text)
    assert [told in one and "warning[X303]" in one for one in found] == ([] if told is None else [True])
    steps = said(edited(("noise: rademacher", "solver: {type: heun3, adjoint_steps: 5}")))
    assert len(steps) == 1 and "'adjoint_steps' is for the adjoint solve" in steps[0]


# ------------------------------------------------------------------------------------------------------ stated errors


@over("name", ADAPTIVE)
def test_the_error_that_an_adaptive_solver_states_is_the_one_it_makes(name: str) -> None:
    """Point by point, against the closed form: its size on average, and no point's is understated 10 times."""
    problem, x = Planar(), points(20, 3, seed=2)
    model = tiny.known(problem, (T0, T1))
    tolerance = {"adaptive_heun": 1e-3, "fehlberg2": 1e-4, "bosh3": 1e-4}.get(name, 1e-5)
    solver = Solver.make({"type": name, "rtol": tolerance, "atol": tolerance})
    exact, z = problem.log_p(x, T0, T1), problem.flow(x, T1, T0)
    scored = likelihood.log_prob(model, x, solver, ExactTrace(), Streams(0))
    off = (scored.log_prob - exact).detach().abs()
    ratio = scored.error / torch.cat([off[:, None], (scored.latent - z).detach().abs()], 1).amax(1)
    assert 0.6 < float(ratio.median()) < 1.6 and float(ratio.min()) > 0.1
    moved = transport.transport(model, x, T1, T0, solver)
    ratio = moved.error / (moved.value - z).detach().abs().amax(1)
    assert 0.6 < float(ratio.median()) < 1.6
    loss = ExactTrace(solver=solver, check_every=1).loss(model, x, {"steps": None}, Streams(0).at(1))
    assert loss.terms["solver_error"] == pytest.approx(float(off.mean()), rel=0.5)
