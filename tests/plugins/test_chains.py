"""Markov chains: the laws they settle at and the way there, in closed form; a chain is the same in any company."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import small_spec
import torch
from problems import points, tensor
from pydantic import ValidationError
from torch import Tensor, nn

from driftspec.autodiff import gradient
from driftspec.components import Data, Distribution, Draws, Dynamics, Metric, Model, Sampler, Setting
from driftspec.errors import RunFailed
from driftspec.experiment.evaluate import sample
from driftspec.numerics.chains import Noise, noise, starts
from driftspec.numerics.model import BoundModel, build_model
from driftspec.streams import Streams
from driftspec_plugins.dynamics.langevin import Langevin as LangevinSDE

FULL = [[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.8]]
MODES = {"type": "gaussian_mixture", "means": [[-3.0, 0.0], [3.0, 0.0]], "std": 0.5}
MIXTURE = {"type": "gaussian_mixture", "means": [[-2.0, 0.0], [1.5, 0.5], [0.0, 2.0]], "std": [0.6, 0.9, 1.1]}


def on(target: Any, dtype: torch.dtype = torch.float64) -> Model:
    """Langevin dynamics of a known law."""
    dynamics = LangevinSDE(target=Distribution.make(target))
    return build_model(dynamics, dynamics.nested()["target"].dim() or 1, 0, dtype, torch.device("cpu"))


def normal(mean: float, std: float) -> dict[str, Any]:
    return {"type": "gaussian", "mean": [mean], "std": std}


class _Energy(nn.Module):
    """A closed-form energy as a network's module."""

    def __init__(self, energy: Callable[[Tensor], Tensor]):
        super().__init__()
        self.energy = energy
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.one * self.energy(x)[:, None]


def with_energy(energy: Callable[[Tensor], Tensor], d: int, confine: float | str = "none") -> Model:
    body = {"type": "langevin", "network": "mlp", "predicts": "energy", "confine": confine}
    return BoundModel(Dynamics.make(body), _Energy(energy), d)


def draw(model: Model, count: int, seed: int = 0, **body: Any) -> Draws:
    return Sampler.make(body).draw(model, count, Streams(seed))


def z_moments(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """z-scores of all means and covariances of rows of a normal law (n, d)."""
    n, d = len(x), len(mean)
    off, variance = x - mean, covariance.diagonal()
    of_means = off.mean(0) / (variance / n).sqrt()
    spread = ((variance[:, None] * variance + covariance.square()) / n).sqrt()
    above = torch.triu_indices(d, d).unbind()
    return torch.cat([of_means, ((off.T @ off / n - covariance) / spread)[above]])


def z_rows(rows: Tensor, expected: Tensor | float) -> Tensor:
    """z-scores of the column means of independent rows (n, m), by the rows' own spread."""
    return (rows.mean(0) - expected) / (rows.std(0) / len(rows) ** 0.5)


# ----------------------------------------------------------------------------------------------------------- langevin


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("steps", [1, 10, 100])
def test_langevin_has_the_moments_of_its_own_recursion_at_every_step(steps: int, temperature: float) -> None:
    eta, variance, m, (m0, v0) = 1.2, 2.25, 0.7, (4.0, 0.25)
    a = 1 - eta / (2 * variance)
    settled = temperature * variance / (1 - eta / (4 * variance))
    mean, spread = m + a**steps * (m0 - m), a ** (2 * steps) * v0 + (1 - a ** (2 * steps)) * settled
    body = {"type": "langevin", "step": eta, "steps": steps, "temperature": temperature, "start": normal(m0, 0.5)}
    x = draw(on(normal(m, 1.5)), 20000, **body).values[:, 0]
    assert z_moments(x, tensor(mean), tensor([spread])).abs().max() < 4


def test_langevin_settles_beside_a_full_covariance_where_it_says() -> None:
    eta, covariance, mean = 0.9, tensor(*FULL), tensor(1.0, -2.0, 0.5)
    target = {"type": "gaussian", "mean": mean.tolist(), "covariance": FULL}
    body = {"type": "langevin", "step": eta, "start": {"type": "gaussian", "mean": [4.0, 3.0, 2.0], "std": 2.0}}
    settled = covariance @ torch.linalg.inv(torch.eye(3).double() - eta / 4 * torch.linalg.inv(covariance))
    x = draw(on(target), 20000, steps=200, **body).values[:, 0]
    assert z_moments(x, mean, settled).abs().max() < 4
    assert z_moments(x, mean, covariance).abs().max() > 10  # the bias is seen
    law = Data.make(target)
    at, balance = Sampler.make({**body, "steps": 3000}).predicted(law)
    torch.testing.assert_close((at, balance), (mean, settled), rtol=1e-10, atol=1e-10)
    several = Sampler.make({**body, "chains": 10, "temperature": 0.3})
    torch.testing.assert_close(several.predicted(law)[1], 0.3 * settled)

    early = Sampler.make({**body, "steps": 4, "temperature": 0.7})
    m, v, inverse = tensor(4.0, 3.0, 2.0), 4 * torch.eye(3).double(), torch.linalg.inv(covariance)
    step = torch.eye(3).double() - eta / 2 * inverse
    for _ in range(4):
        m, v = m + eta / 2 * inverse @ (mean - m), step @ v @ step.T + 0.7 * eta * torch.eye(3).double()
    torch.testing.assert_close(early.predicted(law), (m, v), rtol=1e-12, atol=1e-12)


def test_only_of_a_normal_target_langevin_predicts_moments() -> None:
    langevin, mala = (Sampler.make({"type": name, "step": 0.1}) for name in ("langevin", "mala"))
    banana, bound = Data.make("banana"), Data.make({"type": "gaussian", "mean": [0.0]})
    assert [langevin.predicts(banana), langevin.predicts(bound)] == [False, True]
    assert mala.predicts(banana) and torch.equal(mala.predicted(banana)[1], banana.moments()[1])
    with pytest.raises(RunFailed, match="a normal target only"):
        langevin.predicted(banana)


def test_langevin_predicts_the_moments_of_the_start_that_an_open_one_stands_for() -> None:
    """N(0, I) of a target alone; a law that fits any dimension; a prior where the dynamics has one."""
    target = {"type": "gaussian", "mean": [1.0, -2.0], "covariance": [[2.0, 0.5], [0.5, 1.0]]}
    law, dynamics = Distribution.make(target), Dynamics.make({"type": "langevin", "target": target})

    def predicted(around: Dynamics, **body: Any) -> tuple[Tensor, Tensor]:
        langevin = Sampler.make({"type": "langevin", "step": 0.4, "steps": 3, **body})
        return langevin.settled(Setting(around)).predicted(law)

    for given, open_, around in (
        ({"type": "gaussian", "mean": [0.0, 0.0]}, None, dynamics),
        ({"type": "gaussian", "mean": [3.0, 3.0], "std": 0.5}, {"type": "gaussian", "mean": 3.0, "std": 0.5}, dynamics),
        ({"type": "gaussian", "mean": [4.0, 1.0]}, None, WithPrior(target=law)),
        ({"type": "gaussian", "mean": [4.0, 1.0]}, "prior", WithPrior(target=law)),
    ):
        torch.testing.assert_close(
            predicted(around, start=open_), predicted(around, start=given), rtol=1e-12, atol=1e-12
        )
    alone = Sampler.make({"type": "langevin", "step": 0.4, "steps": 3})
    torch.testing.assert_close(alone.predicted(law), predicted(dynamics))
    drawn = draw(on(target), 4000, type="langevin", step=0.4, steps=3).values[:, 0]
    assert z_moments(drawn, *predicted(dynamics)).abs().max() < 4
    model = build_model(WithPrior(target=law), 2, 0, torch.float64, torch.device("cpu"))
    begun = starts(model, None, 2000, Streams(0))
    assert z_moments(begun, tensor(4.0, 1.0), torch.eye(2).double()).abs().max() < 4


class WithPrior(Dynamics):
    """A stationary law, and a prior N((4, 1), I) beside it."""

    type = "with_prior"
    target: Distribution

    def offers(self) -> frozenset[str]:
        return frozenset({"score", "prior"})

    def build(self, dim: int, generator: torch.Generator) -> nn.Module:
        module = nn.Module()
        module.register_buffer("unit", torch.ones(()))
        return module

    def score(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        return self.target.score(x)

    def prior_law(self) -> Distribution:
        return Distribution.make({"type": "gaussian", "mean": [4.0, 1.0]})


def test_at_temperature_zero_langevin_climbs_to_the_modes() -> None:
    body = {"type": "langevin", "step": 0.05, "steps": 300, "temperature": 0.0, "start": normal(0.0, 1.0)}
    x = draw(on("double_well"), 100, **body).values[:, 0, 0]
    torch.testing.assert_close(x.abs(), torch.ones(100).double(), rtol=0, atol=1e-10)
    assert {-1, 1} == set(x.sign().tolist())


def test_the_score_of_an_energy_or_a_target_is_the_closed_form() -> None:
    x, mean, inverse = points(20, 3), tensor(1.0, -2.0, 0.5), torch.linalg.inv(tensor(*FULL))
    law = on({"type": "gaussian", "mean": mean.tolist(), "covariance": FULL})
    score, t = -(x - mean) @ inverse, torch.zeros(())
    torch.testing.assert_close(law.score(t, x), score)
    torch.testing.assert_close(law.drift(t, x), score / 2)
    assert law.dynamics.diffusion(torch.tensor(0.3)) == 1
    quartic = with_energy(lambda y: (y**4).sum(1), 3, confine=2.0)
    torch.testing.assert_close(quartic.score(t, x), -4 * x**3 - x / 4)
    log_p, slope = quartic.log_density_and_score(x)
    torch.testing.assert_close(log_p, -(x**4).sum(1) - x.square().sum(1) / 8)
    torch.testing.assert_close(slope, -4 * x**3 - x / 4)
    mixture = Data.make({**MIXTURE, "weights": [0.2, 0.5, 0.3]})
    far = 8 * points(200, 2)
    torch.testing.assert_close(mixture.score(far), gradient(mixture.log_prob, far)[1], rtol=1e-11, atol=1e-11)
    assert mixture.score(far.float()).dtype == torch.float32


# ------------------------------------------------------------------------------------------------- metropolis, hastings


@pytest.mark.parametrize("eta", [0.5, 3.0, 8.0])
def test_mala_keeps_the_law_whatever_the_step_and_accepts_as_often_as_it_must(eta: float) -> None:
    std = 1.3
    made = draw(on(normal(0.4, std)), 12000, type="mala", step=eta, steps=160, start=normal(5.0, 0.5))
    assert z_moments(made.values[:, 0], tensor(0.4), tensor([std**2])).abs().max() < 4
    expected = 2 / math.pi * math.atan(1 / (math.sqrt(eta) / (2 * std)) ** 3)
    rates = made.each["acceptance"][:, None].double()
    assert abs(float(z_rows(rates, expected))) < 4
    assert made.stats["acceptance"] == pytest.approx(float(rates.mean()))
    assert made.stats["proposed"] == 12000 * 80 and made.stats["non_finite_proposals"] == 0


def test_a_proposal_of_mala_is_judged_by_the_closed_form() -> None:
    std, eta, x = 0.8, 0.7, points(50, 3, 1)
    mala = Sampler.make({"type": "mala", "step": eta})
    model = on({"type": "gaussian", "mean": [0.0] * 3, "std": std})
    chance = Noise(points(50, 3, 2), torch.zeros(50))
    y, log_p, slope, log_ratio = mala.propose(model, x, mala.begin(model, x, 50), chance)
    torch.testing.assert_close(y, x - eta / 2 * x / std**2 + math.sqrt(eta) * chance.normal)
    torch.testing.assert_close(log_ratio, eta * (x.square().sum(1) - y.square().sum(1)) / (8 * std**4))
    torch.testing.assert_close((log_p, slope), (model.log_density(y), -y / std**2))


@pytest.mark.parametrize("body", [{"type": "mala", "step": 0.4}, {"type": "hmc", "step": 0.35, "leapfrogs": 4}])
def test_a_bent_law_has_its_exact_moments(body: dict[str, Any]) -> None:
    target = {"type": "banana", "width": 1.2, "bend": 0.4}
    start = {"type": "gaussian", "mean": [2.0, -2.0], "std": 0.3}
    x = draw(on(target), 6000, steps=150, start=start, **body).values[:, 0]
    mean, covariance = Distribution.make(target).moments()
    products = (x[:, :, None] * x[:, None, :]).flatten(1)[:, [0, 1, 3]]
    assert z_rows(x, mean).abs().max() < 4
    assert z_rows(products, covariance.flatten()[[0, 1, 3]]).abs().max() < 4


@pytest.mark.parametrize(("step", "jitter"), [(0.4, 0.0), (0.7, 0.9)])
def test_hmc_keeps_a_full_covariance(step: float, jitter: float) -> None:
    target = {"type": "gaussian", "mean": [1.0, 0.0, -1.0], "covariance": FULL}
    start = {"type": "gaussian", "mean": [3.0, -2.0, 1.0], "std": 0.3}
    made = draw(on(target), 8000, type="hmc", step=step, leapfrogs=3, jitter=jitter, steps=80, start=start)
    assert z_moments(made.values[:, 0], tensor(1.0, 0.0, -1.0), tensor(*FULL)).abs().max() < 4
    assert 0.2 < made.stats["acceptance"] < 0.99


def test_hmc_of_one_leapfrog_is_mala() -> None:
    model, start = on(MIXTURE), {"type": "gaussian", "std": 2.0}
    hmc = draw(model, 300, type="hmc", step=0.9, leapfrogs=1, jitter=0.0, steps=40, start=start)
    mala = draw(model, 300, type="mala", step=0.81, steps=40, start=start)
    torch.testing.assert_close(hmc.values, mala.values, rtol=1e-9, atol=1e-9)
    assert torch.equal(hmc.each["accepted"], mala.each["accepted"])
    assert 0 < mala.stats["acceptance"] < 1


def test_a_path_as_long_as_the_laws_period_is_jittered() -> None:
    """Ten steps of 0.628 lead a point of N(0, 1) back to where it was: chains from 5 stay there, at acceptance 0.99."""
    body = {"type": "hmc", "step": 0.628, "leapfrogs": 10, "steps": 30, "start": normal(5.0, 1.0)}
    periodic = draw(on(normal(0.0, 1.0)), 1000, **body, jitter=0.0)
    assert periodic.values.mean() > 4 and periodic.stats["acceptance"] > 0.98
    made = draw(on(normal(0.0, 1.0)), 1000, **body)
    assert z_moments(made.values[:, 0], tensor(0.0), tensor([1.0])).abs().max() < 4
    assert [one.verdicts[0].outcome for one in (periodic, made)] == ["not_converged", "converged"]


def test_a_proposal_of_hmc_has_a_step_of_its_own() -> None:
    """One leapfrog from x: y = x + h v + (h²/2) ∇log p, h = 0.5 (1 + 0.4 (2u - 1))."""
    hmc, model, x = (
        Sampler.make({"type": "hmc", "step": 0.5, "leapfrogs": 1, "jitter": 0.4}),
        on(normal(0.0, 1.0)),
        points(9, 1),
    )
    chance = Noise(points(9, 1, 2), torch.zeros(9), torch.linspace(0, 1, 9).double())
    y = hmc.propose(model, x, hmc.begin(model, x, 9), chance)[0]
    h = torch.linspace(0.3, 0.7, 9).double()[:, None]
    torch.testing.assert_close(y, x + h * chance.normal - h**2 / 2 * x)


@pytest.mark.parametrize("name", ["mala", "hmc"])
def test_each_chain_adapts_its_own_step_while_it_burns_in_and_no_longer(name: str) -> None:
    target, goal = {"type": "gaussian", "mean": [0.0, 0.0], "std": [0.5, 2.0]}, {"mala": 0.574, "hmc": 0.651}[name]
    body = {"type": name, "step": 0.01, "adapt": True, "chains": 64, "burn_in": 300, "start": {"type": "gaussian"}}
    short, long = (draw(on(target), 64 * draws, **body) for draws in (2, 60))
    assert torch.equal(short.each["step"], long.each["step"])
    assert torch.equal(short.values, long.values[:, :2])
    assert long.each["step"].unique().numel() == 64 and long.each["step"].min() > 0.05
    assert abs(long.stats["acceptance"] - goal) < 0.05
    alone = draw(on(target), 60, **{**body, "chains": 1})
    torch.testing.assert_close(alone.values, long.values[:1], rtol=1e-12, atol=1e-12)
    ends = draw(on(target), 64, **{k: v for k, v in body.items() if k not in ("chains", "burn_in")}, steps=600)
    torch.testing.assert_close(ends.each["step"], long.each["step"])  # half the length is the burn-in
    torch.testing.assert_close(ends.stats["proposed"], 64 * 300.0)


def test_a_proposal_that_is_no_number_is_rejected_and_counted() -> None:
    def cut(value: float) -> Model:
        return with_energy(lambda x: torch.where(x[:, 0] > 1, value * torch.ones(()), x[:, 0].square() / 2), 1)

    cut_at = math.exp(-0.5) / math.sqrt(2 * math.pi)
    mean = -cut_at / (0.5 * (1 + math.erf(1 / math.sqrt(2))))  # of a normal law cut off above 1
    for value, counted in ((math.nan, True), (math.inf, False)):
        made = draw(cut(value), 4000, type="mala", step=0.6, steps=100, start=normal(-4.0, 0.3))
        x = made.values[:, 0]
        assert x.max() <= 1
        assert abs(float(z_rows(x, mean))) < 4
        assert (made.stats["non_finite_proposals"] > 0) == counted
    with pytest.raises(RunFailed, match=r"sampler 'mala': chain \d+ begins where log p is nan") as caught:
        draw(cut(math.nan), 100, type="mala", step=0.6, start=normal(0.5, 1.0))
    assert caught.value.status == "bad_start"


class Deep(Distribution):
    """exp(-x²/2 - level), up to its constant."""

    type = "deep"
    normalized = False
    level: float

    def dim(self) -> int:
        return 1

    def log_prob(self, x: Tensor) -> Tensor:
        return -x[:, 0].square() / 2 - self.level


@pytest.mark.parametrize(
    "body", [{"type": "mala", "step": 1.2}, {"type": "hmc", "step": 0.9, "leapfrogs": 2, "adapt": True}]
)
def test_known_densities_are_compared_in_float64(body: dict[str, Any]) -> None:
    """log p near -1e8, where float32 knows multiples of 8: MALA's variance was 2.7 for 1."""
    runs = [draw(on(Deep(level=level), torch.float32), 4000, steps=60, **body) for level in (0.0, 1e8)]
    assert [run.values.dtype for run in runs] == 2 * [torch.float32]
    assert runs[1].each["step"].dtype == torch.float32
    assert runs[1].stats["acceptance"] == pytest.approx(runs[0].stats["acceptance"], abs=1e-3)
    assert z_moments(runs[1].values[:, 0].double(), tensor(0.0), tensor([1.0])).abs().max() < 4
    assert {one.subject for one in runs[1].verdicts} == {"chains"}


def test_a_network_whose_log_p_is_rounded_too_much_is_a_warning() -> None:
    for level, warned in ((1e5, False), (1e6, True)):  # times 1.2e-7, against 0.1
        model = with_energy(lambda x, level=level: x.square().sum(1) / 2 + level, 1)
        model.module.float()
        found = [one for one in draw(model, 60, type="mala", step=1.0, steps=20).verdicts if one.subject == "rounding"]
        assert [(one.outcome, one.severity) for one in found] == warned * [("metropolis_ratio_rounded", "warning")]


# ------------------------------------------------------------------------------------------------------------ verdicts


NORMAL = {"type": "gaussian", "mean": [0.0, 0.0]}
AWAY = {"type": "gaussian", "mean": [5.0, 5.0]}
SEVERITIES = {"converged": "good", "not_converged": "bad", "unknown": "unknown"}


def mala(step: float, **body: Any) -> dict[str, Any]:
    return {"type": "mala", "step": step, **body}


def langevin(step: float, **body: Any) -> dict[str, Any]:
    return {"type": "langevin", "step": step, **body}


@pytest.mark.parametrize(
    ("target", "count", "body", "outcome", "reason"),
    [
        (NORMAL, 400, mala(1e6, chains=8, burn_in=20), "not_converged", "no proposal was accepted, of 392"),
        (NORMAL, 40, mala(1e6, steps=20), "not_converged", "no proposal was accepted, of 400"),
        (NORMAL, 400, mala(1e-3, chains=8, burn_in=20, start=AWAY), "not_converged", "R-hat is above 1.0"),
        (NORMAL, 1600, mala(1.5, chains=40, burn_in=50, thin=3), "converged", "effective draws"),
        (NORMAL, 400, langevin(0.5, steps=4, start=AWAY), "not_converged", "from step 2 to step 4 the mean of x"),
        (NORMAL, 400, langevin(0.5, steps=100, start=AWAY), "converged", "over 400 chains agree"),
        (NORMAL, 400, langevin(1e-6, steps=20), "unknown", "each chain stays near where it was"),
        (NORMAL, 400, langevin(0.5, steps=0), "not_converged", "400 of 400 chains are still at their start"),
        (NORMAL, 400, langevin(0.5, steps=9, temperature=0.0), "unknown", "each chain goes to a mode"),
        (NORMAL, 20, langevin(0.5, steps=9), "unknown", "20 chains of 1 draw are too few for a verdict"),
        (MODES, 400, langevin(0.2, steps=60), "unknown", "the correlation of x1 is"),
        (MODES, 400, langevin(0.2, chains=8, burn_in=60), "not_converged", "(x1) of 8 chains"),
    ],
)
def test_every_run_of_chains_has_a_verdict(
    target: Any, count: int, body: dict[str, Any], outcome: str, reason: str
) -> None:
    (found,) = draw(on(target, torch.float32), count, **body).verdicts
    assert (found.subject, found.outcome) == ("chains", outcome) and reason in found.reason
    assert found.severity == SEVERITIES[outcome]


def test_chains_whose_proposals_are_no_numbers_are_not_converged() -> None:
    """They are where they began, and that says nothing of the law."""
    model = replace(with_energy(lambda x: x.square().sum(1).where(x[:, 0] == 0, x[:, 0].detach() * math.nan), 1))
    model = replace(model, rows=lambda: torch.zeros(3, 1).double())
    made = draw(model, 16, type="hmc", step=0.3, steps=5, start="data")
    assert not made.values.any()
    assert made.verdicts[0].reason == "no proposal was accepted, of 48; 80 proposals were not finite"


def test_annealing_states_no_law() -> None:
    (found,) = Sampler.make({"type": "annealed_langevin", "step": 1e-4})._verdicts()
    assert (found.outcome, found.severity) == ("unknown", "unknown") and "until its chains converge" in found.reason


def test_where_a_metric_aims_at_a_finite_time_no_convergence_is_asked() -> None:
    model = on(Deep(level=1e16))  # with a verdict on rounding beside it
    for metric, subjects in (("ess", {"chains", "rounding"}), ("fokker_planck", {"rounding"})):
        aims = [Metric.make({"type": metric, **({} if metric == "ess" else {"times": [1e-3]})})]
        sampler = Sampler.make(mala(1e-3, steps=4))
        spec = SimpleNamespace(sample=SimpleNamespace(count=60), sampler=sampler, evaluate=aims)
        experiment: Any = SimpleNamespace(spec=spec, streams=Streams(0))
        assert {one.subject for one in sample(experiment, model).verdicts} == subjects


# ------------------------------------------------------------------------------------------------------ chains together


BODIES = {
    "langevin": {"type": "langevin", "step": 0.1},
    "mala": {"type": "mala", "step": 0.5},
    "mala_adapted": {"type": "mala", "step": 0.5, "adapt": True},
    "hmc": {"type": "hmc", "step": 0.4, "leapfrogs": 3},
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("target", [MIXTURE, {"type": "gaussian", "mean": [0.0] * 3, "covariance": FULL}, "funnel"])
def test_a_chain_is_the_same_alone_and_among_others(name: str, target: Any) -> None:
    model, body = on(target), {**BODIES[name], "start": {"type": "gaussian", "std": 1.5}}
    many = draw(model, 600, steps=20, **body)
    assert many.values.shape == (600, 1, model.dim) and many.values.unique(dim=0).shape[0] == 600
    for count in (1, 17, 256, 300):
        few = draw(model, count, steps=20, **body)
        torch.testing.assert_close(few.values, many.values[:count], rtol=1e-12, atol=1e-12)
        for key, value in few.each.items():
            torch.testing.assert_close(value, many.each[key][:count])
    longer = draw(model, 300 * 5, chains=300, burn_in=20, thin=3, **body)
    fewer = draw(model, 2 * 3, chains=2, burn_in=20, thin=3, **body)
    torch.testing.assert_close(fewer.values, longer.values[:2, :3], rtol=1e-12, atol=1e-12)
    if "adapt" not in body:
        torch.testing.assert_close(longer.values[:, 0], many.values[:300, 0], rtol=1e-12, atol=1e-12)
    assert longer.stats["steps"] == 20 + 4 * 3
    assert not torch.equal(draw(model, 5, seed=1, steps=20, **body).values, many.values[:5])


def test_draws_are_thin_steps_apart() -> None:
    body = {**BODIES["langevin"], "chains": 4, "burn_in": 7, "start": {"type": "gaussian"}}
    dense, thin = draw(on(MIXTURE), 4 * 9, **body), draw(on(MIXTURE), 4 * 3, thin=4, **body)
    assert torch.equal(thin.values, dense.values[:, ::4])


def test_chains_begin_at_a_law_at_data_or_at_a_normal_law() -> None:
    model, rows = on(MIXTURE), points(7, 2, 5)
    still = {"type": "langevin", "step": 0.1, "steps": 0}
    x = draw(model, 3000, **still).values[:, 0]
    assert z_moments(x, tensor(0.0, 0.0), torch.eye(2).double()).abs().max() < 4
    for start in ("data", None):
        x = draw(replace(model, rows=lambda: rows), 200, start=start, **still).values[:, 0]
        assert {tuple(row) for row in x.tolist()} == {tuple(row) for row in rows.tolist()}
    with pytest.raises(RunFailed, match="there are no data"):
        draw(model, 10, start="data", **still)
    with pytest.raises(RunFailed, match="has no prior"):
        draw(model, 10, start="prior", **still)


def test_padding_never_fails_a_run_and_a_chain_that_diverges_does() -> None:
    body = {**BODIES["langevin"], "steps": 3, "start": "data"}
    model = replace(on({"type": "gaussian", "mean": [0.0]}), rows=lambda: tensor([0.5], [math.nan]))
    seeds = [seed for seed in range(20) if bool(starts(model, "data", 1, Streams(seed))[0].isfinite())]
    assert draw(model, 1, seed=seeds[0], **body).values.isfinite().all()
    with pytest.raises(RunFailed, match=r"chain \d+ of 16 is no longer finite after step 1"):
        draw(model, 16, seed=seeds[0], **body)
    with pytest.raises(RunFailed, match="no longer finite") as caught:
        draw(on("double_well"), 50, type="langevin", step=0.8, start=normal(0.0, 2.0))
    assert caught.value.status == "diverged" and caught.value.step is not None and caught.value.step > 1


def test_chains_carried_from_where_they_stand_make_the_same_steps() -> None:
    model, body = on(MIXTURE), {**BODIES["mala"], "steps": 12, "start": {"type": "gaussian"}}
    sampler, streams = Sampler.make(body), Streams(0)
    x = starts(model, sampler.start, 21, streams)[:21]
    carried, drawn = sampler.carry(model, x, streams), sampler.draw(model, 21, streams)
    assert torch.equal(carried.values, drawn.values)
    assert carried.stats["proposed"] == 21 * 12  # nothing burns in


def test_a_run_in_single_precision_stays_near_and_leaves_no_graph() -> None:
    body = {**BODIES["langevin"], "steps": 30, "start": {"type": "gaussian"}}
    exact, single = draw(on(MIXTURE), 40, **body), draw(on(MIXTURE, torch.float32), 40, **body)
    assert single.values.dtype == torch.float32 and not single.values.requires_grad
    torch.testing.assert_close(single.values.double(), exact.values, rtol=1e-3, atol=1e-3)


def test_noise_is_white_in_blocks_and_each_chain_has_its_own() -> None:
    like = torch.zeros(700, 2, dtype=torch.float64)
    source = noise(Streams(3), 700, like)
    steps = [next(source) for _ in range(40)]  # beyond what is drawn at once
    normals = torch.stack([one.normal for one in steps])  # (40, 700, 2)
    uniforms = torch.stack([one.uniform for one in steps])
    for values, mean, variance in ((normals.flatten(), 0, 1), (uniforms.flatten(), 0.5, 1 / 12)):
        assert abs(float(z_rows(values[:, None], mean))) < 4
        assert abs(float(z_rows((values - mean).square()[:, None], variance))) < 4
    for first, second in (
        (normals[1:], normals[:-1]),
        (normals[16:], normals[:-16]),
        (normals[:, 256:512], normals[:, :256]),
        (normals[..., :1], normals[..., 1:]),
        (normals[..., 0], uniforms - 0.5),
    ):
        assert abs(float(z_rows((first * second).flatten()[:, None], 0.0))) < 4
    alone = noise(Streams(3), 3, like)
    assert torch.equal(next(alone).normal, steps[0].normal[:3])
    source = noise(Streams(3), 700, like, second=True)
    two = [next(source) for _ in range(40)]
    assert all(torch.equal(a.normal, b.normal) and torch.equal(a.uniform, b.uniform) for a, b in zip(steps, two))
    second = torch.stack([one.second for one in two if one.second is not None])
    of_steps = torch.rand(16, 256, generator=Streams(3).at(0).generator("steps"), dtype=torch.float64)
    assert not torch.equal(second[:16, :256], of_steps)
    assert abs(float(z_rows((second.flatten() - 0.5).square()[:, None], 1 / 12))) < 4
    for first in (uniforms - 0.5, second.roll(1, 0) - 0.5, second.roll(256, 1) - 0.5):
        assert abs(float(z_rows((first * (second - 0.5)).flatten()[:, None], 0.0))) < 4


# ---------------------------------------------------------------------------------------------------------- in a spec


SPEC = """\
version: 1
name: a
dynamics: {type: langevin, target: {type: gaussian, mean: [0, 0], covariance: [[2.0, 1.5], [1.5, 2.0]]}}
sampler: {type: langevin, step: 1.0, steps: 10}
sample: {count: 100}
"""


def test_a_step_that_diverges_on_a_normal_target_is_named_before_running() -> None:
    assert small_spec.said(SPEC) == []
    assert small_spec.said(SPEC, "sampler.step=1.99") == []  # the smallest variance is 0.5
    (problem,) = small_spec.said(SPEC, "sampler.step=2.0")
    assert "error[X303] sampler 'langevin': 'step' is 2: on a normal distribution of smallest variance 0.5" in problem
    assert small_spec.said(SPEC, "sampler={type: mala, step: 50.0}") == []
    body = "dynamics.target={type: gaussian, mean: [0, 0], std: [0.1, 3]}"
    (problem,) = small_spec.said(SPEC, body)
    assert "it diverges from 0.04 on" in problem
    assert small_spec.said(SPEC, "dynamics.target=banana") == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("sampler.start=data", "chains begin at training rows, and there are no data"),
        ("sampler.start=prior", "chains begin at the prior, and dynamics 'langevin' has none"),
        ("sampler.start=eight_schools", "chains begin at draws, and data 'eight_schools' cannot be drawn from"),
        ("sampler={type: mala, step: 1.0, chains: 30}", "sample.count is 100, no multiple of 30 chains"),
    ],
)
def test_what_chains_cannot_do_is_said_at_validation(change: str, text: str) -> None:
    assert any("error[X303] sampler" in problem and text in problem for problem in small_spec.said(SPEC, change))


@pytest.mark.parametrize(
    "body",
    [
        {"burn_in": 10},
        {"chains": 5, "steps": 10},
        {"thin": 2},
        {"start": "nobody"},
        {"step": 0.0},
        {"temperature": -1.0},
    ],
)
def test_keys_that_have_no_sense_together_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Sampler.make({"type": "langevin", "step": 0.1, **body})
