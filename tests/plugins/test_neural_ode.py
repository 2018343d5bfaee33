"""The neural ODE: what it offers, its ends of time, its closed-form divergence, and its sampler."""

from __future__ import annotations

import itertools
import math
import traceback

import pytest
import tiny
import torch
from problems import points
from pydantic import ValidationError
from torch import Tensor, nn

from driftspec.components import Dynamics, Model, Network, Sampler, Solver, Trace
from driftspec.components._bound import Bound
from driftspec.components.capabilities import capabilities
from driftspec.numerics import likelihood
from driftspec.numerics.model import BoundModel, build_model
from driftspec.streams import Streams

STREAMS = Streams(0).under("sample")


def made(d: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0, **keys: object) -> Model:
    return build_model(Dynamics.make({"type": "neural_ode", **keys}), d, seed, dtype, torch.device("cpu"))


def test_what_it_offers_follows_from_network_and_prior() -> None:
    assert {"velocity", "trainable", "smooth", "log_prob", "score"} <= capabilities(Dynamics.make("neural_ode"))
    kinked = {"type": "neural_ode", "network": {"type": "mlp", "activation": "relu"}}
    assert "smooth" not in capabilities(Dynamics.make(kinked))


def test_time_has_two_ends() -> None:
    assert Dynamics.make({"type": "neural_ode", "time": [2, -1]}).times() == (2.0, -1.0)
    for wrong in ([1.0, 1.0], [1.0], [0.0, math.inf]):
        with pytest.raises(ValidationError):
            Dynamics.make({"type": "neural_ode", "time": wrong})


def test_the_velocity_is_the_networks() -> None:
    model, x, t = made(), points(5, 2), torch.tensor(0.3, dtype=torch.float64)
    assert torch.equal(model.velocity(t, x), model.module(t, x))
    assert torch.equal(model.field(t)(x), model.module(t, x))


@pytest.mark.parametrize("network", ["mlp", {"type": "mlp", "hidden": []}, {"type": "mlp", "time": "fourier"}], ids=str)
def test_the_closed_divergence_is_the_jacobians_trace(network: object) -> None:
    model, x = made(3, network=network), points(40, 3)
    for t in (torch.tensor(0.3, dtype=torch.float64), torch.linspace(0, 1, 40, dtype=torch.float64)):
        field = model.field(t)
        assert field.divergence is not None
        value, divergence = field.divergence(x)
        rows = [
            torch.func.jacrev(lambda y, s=s: model.velocity(s, y[None])[0])(y).trace() for s, y in zip(t.expand(40), x)
        ]
        torch.testing.assert_close(value, model.velocity(t, x))
        torch.testing.assert_close(divergence, torch.stack(rows))


def test_an_exact_trace_uses_the_closed_form_and_agrees_with_autograd() -> None:
    model, x = made(), points(60, 2)
    differentiated = BoundModel(model.dynamics, _Plain(model.module), 2)
    assert differentiated.field(torch.tensor(0.0)).divergence is None
    solver, trace = Solver.make("lobatto"), Trace.make("exact_trace")
    closed, plain = (likelihood.log_prob(m, x, solver, trace, STREAMS).log_prob for m in (model, differentiated))
    torch.testing.assert_close(closed, plain, rtol=0, atol=1e-12)


class _Plain(nn.Module):
    """A stranger's module, without a closed form."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.inner(t, x)


def test_a_copy_in_another_precision_has_its_own_closed_form() -> None:
    single = made(dtype=torch.float32)
    double, x = single.double(), points(7, 2)
    field = double.field(torch.tensor(0.5, dtype=torch.float64))
    assert field.divergence is not None and field.divergence(x)[1].dtype == torch.float64
    assert next(single.module.parameters()).dtype == torch.float32


def test_turning_time_round_turns_the_field_round() -> None:
    """With prior and data exchanged in time and f(x, t) -> -f(x, 1 - t) the density is the same."""
    model, x = made(), points(50, 2)

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model.module

        def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return -self.inner(1 - t, x)

    turned = BoundModel(Dynamics.make({"type": "neural_ode", "time": [1.0, 0.0]}), Turned(), 2)
    solver, trace = Solver.make("lobatto"), Trace.make("exact_trace")
    plain, other = (likelihood.log_prob(m, x, solver, trace, STREAMS).log_prob for m in (model, turned))
    torch.testing.assert_close(plain, other, rtol=0, atol=1e-12)


def test_parameters_are_a_function_of_the_seed() -> None:
    before = torch.random.get_rng_state()
    first, same, other = (made(seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = list(zip(first.parameters(), same.parameters(), other.parameters(), strict=True))
    assert pairs and all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in pairs)


class Stranger(Network):
    """A network whose module draws from the global generator, as nn.Linear does."""

    type = "stranger"

    def build(self, d_in: int, d_out: int, generator: torch.Generator) -> nn.Module:
        class Autonomous(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Linear(d_in, d_out)

            def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
                return self.inner(x)

        return Autonomous()


def test_a_strangers_module_is_a_function_of_the_seed_too() -> None:
    dynamics = Dynamics.make("neural_ode").model_copy(update={"network": Stranger()})
    models = []
    for _ in range(2):
        models.append(build_model(dynamics, 2, 5, torch.float64, torch.device("cpu")))
        torch.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models)))
    assert not isinstance(models[0].module, Bound)
    assert (
        likelihood.log_prob(
            models[0], points(3, 2), Solver.make("lobatto"), Trace.make("exact_trace"), STREAMS
        ).not_converged
        == 0
    )


def test_draws_have_the_density_that_is_scored() -> None:
    """1-D: counts of 6,000 draws in 30 bins against the integral of exp(log p), by chi-square."""
    model = tiny.random_flow([16, 16], 1, torch.float64, gain=4.0)
    drawn = Sampler.make("ode").draw(model, 6000, STREAMS)
    assert drawn.values.shape == (6000, 1, 1) and drawn.stats["not_converged"] == 0
    edges = drawn.flat()[:, 0].quantile(torch.linspace(0.01, 0.99, 31, dtype=torch.float64))
    pairs = itertools.pairwise(edges.tolist())
    fine = torch.cat([torch.linspace(a, b, 21, dtype=torch.float64) for a, b in pairs])
    log_p = likelihood.log_prob(
        model, fine[:, None], Solver.make("lobatto"), Trace.make("exact_trace"), STREAMS
    ).log_prob
    expected = 6000 * torch.trapezoid(log_p.exp().reshape(30, 21), fine.reshape(30, 21))
    fresh = Sampler.make("ode").draw(model, 6000, STREAMS.under("fresh")).flat()[:, 0].contiguous()
    counts = torch.histogram(fresh, edges).hist
    chi_square = ((counts - expected).square() / expected).sum()
    assert abs(float(chi_square) - 30) < 4 * math.sqrt(60)
    assert bool((expected > 50).all())


def test_stats_add_up_over_blocks() -> None:
    model = tiny.random_flow([8], 2)
    one, three = (Sampler.make("ode").draw(model, count, STREAMS).stats["evaluations"] for count in (256, 700))
    assert three >= 3 * one > 0


def test_samples_that_a_solver_misses_are_a_bad_verdict_with_their_error() -> None:
    model = tiny.random_flow([8], 2, torch.float64, gain=4.0)
    solvers = [{"type": "rk4", "steps": 2, "max_steps": most} for most in (1024, 4)]
    good, bad = (Sampler.make({"type": "ode", "solver": solver}).draw(model, 20, STREAMS) for solver in solvers)
    off = (good.values - bad.values)[:, 0].abs().amax(1)
    assert good.verdicts == () and good.stats["not_converged"] == 0 and good.stats["solver_error"] <= 1e-4
    assert bool((off <= bad.each["solver_error"]).all()) and bad.stats["solver_error"] > float(off.max()) > 1e-3
    assert bad.stats["not_converged"] == int((~bad.each["converged"]).sum()) > 0
    ((verdict,),) = (bad.verdicts,)
    assert (verdict.subject, verdict.outcome, verdict.severity) == ("solver", "samples_inaccurate", "bad")


def test_from_the_exact_trace_to_a_layer_lie_two_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this project: the trace asks the network for its closed form, which calls the layers."""
    calls: list[list[str]] = []
    plain = torch.nn.functional.linear

    def linear(*given: Tensor) -> Tensor:
        frames = [frame.name for frame in traceback.extract_stack() if "torch" not in frame.filename]
        calls.append(frames[frames.index("divergence") : -1])
        return plain(*given)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    model = tiny.random_flow([5], 2)
    Trace.make("exact_trace").divergence(model.field(torch.tensor(0.0)), points(3, 2).float())
    assert calls == [["divergence", "divergence"]] * 2
