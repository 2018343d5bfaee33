"""log p of a flow and its gradient outside training: each point by its own N, chains by one, and what both state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from problems import points, regular
from tiny import known, random_flow
from torch import Tensor

from driftspec.autodiff import gradient
from driftspec.components import Draws, Dynamics, Model, Sampler, Solver, Trace
from driftspec.components.model import Pilot
from driftspec.errors import RunFailed
from driftspec.experiment.evaluate import evaluate
from driftspec.numerics import density, likelihood
from driftspec.numerics.model import build_model
from driftspec.streams import Streams

EXACT = Trace.make("exact_trace")
STREAMS = Streams(0).under("sample")
TIME = (0.2, 1.4)


def wavy(solver: Any = "lobatto") -> Model:
    """A flow whose 10 steps are far off, with the trace and the solver that a spec would give it."""
    return replace(random_flow([8], 2, torch.float64, gain=5.0), trace=EXACT, solver=Solver.make(solver))


def truth(model: Model, x: Tensor, steps: int = 320) -> tuple[Tensor, Tensor]:
    """log p (B,) and its gradient (B, d) by many steps."""
    value, slope = gradient(lambda y: likelihood.differentiable_log_prob(model, y, EXACT, model.solver, steps), x)
    return value.detach(), slope.detach()


# Each point by its own N ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["lobatto", "rk4"])
def test_the_score_is_the_closed_form_and_states_its_error(solver: str) -> None:
    problem = regular()["planar"]
    x = problem.flow(points(16, problem.d, seed=1), *TIME)
    log_p, score = (value.detach() for value in gradient(lambda y: problem.log_p(y, *TIME), x))
    solved = likelihood.log_prob_and_score(known(problem, TIME), x, Solver.make(solver), EXACT)
    off = (solved.value - torch.cat([log_p[:, None], score], 1)).abs().amax(1)
    assert bool((off <= solved.error).all()) and float(off.max()) < 1e-5
    assert float(solved.error.max()) < 1e-3 * float(score.abs().max()) and bool(solved.converged.all())


def test_a_score_that_few_steps_miss_is_refined_point_by_point() -> None:
    model, x = wavy(), points(64, 2)
    log_p, score = truth(model, x)
    _, coarse = truth(model, x, 20)
    solved = likelihood.log_prob_and_score(model, x, Solver.make("lobatto"), EXACT)
    off = (solved.value[:, 1:] - score).abs().amax(1)
    assert float((coarse - score).abs().max()) > 0.03, "else it is no test"
    assert bool((off <= solved.error).all()) and bool((off <= 1e-4 * (1 + score.abs().amax(1))).all())
    assert float((solved.value[:, 0] - log_p).abs().max()) < 1e-5
    assert float(solved.error.median()) < 1e4 * float(off.median()), "the bound says something"


def test_the_stated_error_covers_what_twice_the_steps_change_in_log_p_and_score() -> None:
    """In one dimension the directions of two large scores agree, and some points agree in log p, by chance."""
    few = Solver.make({"type": "lobatto", "steps": 2, "max_steps": 4})
    model = replace(random_flow([12], 1, torch.float64, gain=9.0), trace=EXACT, solver=few)
    x = torch.linspace(-6, 6, 1000, dtype=torch.float64)[:, None]
    solved = likelihood.log_prob_and_score(model, x, few, EXACT)
    apart = [(a - b).view(1000) for a, b in zip(truth(model, x, 4), truth(model, x, 2), strict=True)]
    assert bool((solved.error >= 0.999 * torch.stack(apart).abs().amax(0)).all())
    assert bool((apart[0].abs() < apart[1].abs() / 100).any()) and solved.not_converged == 1000


def test_a_score_has_the_same_bits_in_any_company_and_however_many_rows_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = wavy(), points(20, 2)
    every = likelihood.log_prob_and_score(model, x, Solver.make("lobatto"), EXACT)
    hard = int(every.error.argmax())
    for i in (hard, 19):
        alone = likelihood.log_prob_and_score(model, x[i : i + 1], Solver.make("lobatto"), EXACT)
        assert torch.equal(alone.value, every.value[i : i + 1]) and torch.equal(alone.error, every.error[i : i + 1])
    few = points(40, 2).float()
    wide = replace(random_flow([64, 64], 2, gain=3.0), trace=EXACT, solver=model.solver, pilot=Pilot(few))
    with torch.no_grad():
        every = wide.log_density_and_score(few)
        monkeypatch.setattr(likelihood, "AT_ONCE", 16 * 20)
        again = wide.log_density_and_score(few)
    assert torch.equal(again[0], every[0]) and torch.equal(again[1], every[1])


def test_a_model_answers_for_its_density_with_an_error_below_the_tolerance() -> None:
    model, x = wavy(), points(16, 2)
    log_p, score = truth(model, x)
    with torch.no_grad():
        both = model.log_density_and_score(x)
        assert float((model.log_density(x) - log_p).abs().max()) < 1e-4
        assert torch.equal(model.log_density(x[:1]), model.log_density(x)[:1])
    for found in (both[1], model.score(x.new_tensor(1.0), x).detach()):
        assert bool(((found - score).abs().amax(1) <= 1e-4 * (1 + score.abs().amax(1))).all())
    assert float((both[0] - log_p).abs().max()) < 1e-4


def test_metrics_of_a_flows_score_state_its_error() -> None:
    changes = "evaluate=[{type: ksd, of: data, samples: 20}]", "data.samples=200", "runtime.dtype=float64"
    made = tiny.experiment(*changes)
    ((_, result),) = evaluate(made, made.model, lambda: Draws(torch.zeros(0, 1, 2)))
    assert 0 < result.details["score_error"]["mean"] < result.details["score_error"]["max"] < 1e-2


def test_a_random_trace_alone_gives_no_score() -> None:
    model = replace(wavy(), trace=Trace.make("hutchinson"))
    with pytest.raises(RunFailed, match="needs an exact trace"):
        model.score(torch.ones(()), points(3, 2))
    with pytest.raises(RunFailed, match="neither the estimator nor a metric has one"):
        replace(model, trace=None).score(torch.ones(()), points(3, 2))


# Chains: one N for all of them ---------------------------------------------------------------------------------------


def chained(model: Model, count: int, sampler: Any) -> Draws:
    return Sampler.make({"steps": 2, "start": "prior", **sampler}).draw(model, count, STREAMS)


def test_chains_move_by_an_accurate_density_whatever_their_number() -> None:
    few, more = (chained(wavy(), count, {"type": "langevin", "step": 0.05}) for count in (5, 40))
    assert torch.equal(few.values, more.values[:5])
    assert few.stats["density_steps"] == more.stats["density_steps"] > 20
    assert not [one for one in more.verdicts if one.subject == "solver"]
    assert 0 < more.stats["density_error"] < 1e-4


def test_a_density_that_few_steps_miss_is_a_bad_verdict_with_the_error() -> None:
    model = wavy({"type": "lobatto", "max_steps": 20})
    drawn = chained(model, 16, {"type": "mala", "step": 0.05})
    x = drawn.values[:, -1]
    pairs = [torch.cat([value[:, None], slope.asinh()], 1) for value, slope in (truth(model, x), truth(model, x, 20))]
    off = float((pairs[0] - pairs[1]).abs().max())
    (verdict,) = (one for one in drawn.verdicts if one.subject == "solver")
    assert (verdict.outcome, verdict.severity) == ("chain_density_inaccurate", "bad")
    assert "in 20 steps are off" in verdict.reason and "raise the solver's max_steps" in verdict.reason
    assert drawn.stats["density_error"] == pytest.approx(off, rel=0.3) and off > 1e-2


def test_in_chains_the_gradient_is_that_of_the_log_p_used() -> None:
    """Even where N is far too small: else a Metropolis ratio and its proposal would be of two densities."""
    x = points(20, 2)
    model = replace(wavy(), pilot=Pilot(x, steps=20, needed=True))
    with torch.no_grad():
        value, slope = model.log_density_and_score(x)
        assert torch.equal(value, model.log_density(x))
        for j, step in enumerate(1e-5 * torch.eye(2, dtype=torch.float64)):
            difference = (model.log_density(x + step) - model.log_density(x - step)) / 2e-5
            assert float((slope[:, j] - difference).abs().max()) < 1e-6 * float(slope.abs().max())
    assert float((slope - truth(model, x)[1]).abs().max()) > 1e-2


def test_a_solver_that_chooses_its_steps_states_the_error_of_a_finer_one() -> None:
    drawn = chained(wavy({"type": "dopri5", "rtol": 1e-6, "atol": 1e-6}), 5, {"type": "langevin", "step": 0.05})
    assert 0 < drawn.stats["density_error"] < 1e-3 and "density_steps" not in drawn.stats
    assert not [one for one in drawn.verdicts if one.subject == "solver"]


def test_chains_on_a_known_density_state_no_solver() -> None:
    target = Dynamics.make({"type": "langevin", "target": {"type": "gaussian", "mean": [0, 1]}})
    model = build_model(target, 2, 0, torch.float64, torch.device("cpu"))
    drawn = Sampler.make({"type": "langevin", "step": 0.1, "steps": 2}).draw(model, 3, STREAMS)
    assert "density_error" not in drawn.stats and not [one for one in drawn.verdicts if one.subject == "solver"]


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_steps_are_doubled_until_log_p_and_its_gradient_hold_at_the_pilot(tolerance: float) -> None:
    """The gradient is the harder of the two: at 1e-2 log p alone would take half the steps."""
    model, x = wavy({"type": "lobatto", "tolerance": tolerance}), points(32, 2)
    steps = density.enough_steps(model, x)
    assert steps == 80
    for n, enough in ((80, True), (40, False)):
        both = [torch.cat([v[:, None], s.asinh()], 1) for v, s in (truth(model, x, n), truth(model, x, n // 2))]
        assert (float((both[0] - both[1]).abs().max()) <= tolerance) == enough


def test_steps_are_found_at_one_block_of_starts_whatever_the_number_of_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    pilots: list[Tensor] = []
    monkeypatch.setattr(density, "enough_steps", lambda model, x: pilots.append(x) or 20)
    sampler = Sampler.make({"type": "langevin", "step": 0.05, "steps": 1, "start": "prior"})
    for count in (1, 300):
        sampler.draw(wavy(), count, STREAMS)
        sampler.states(wavy(), count, STREAMS, [1])
    assert [len(pilot) for pilot in pilots] == [256] * 4 and len(torch.cat(pilots).unique(dim=0)) == 256
