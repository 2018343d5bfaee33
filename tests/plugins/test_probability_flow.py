"""The likelihood of a score model through its probability-flow ODE, against a law whose every p_t is known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import tiny
import torch
from pydantic import Field
from torch import Tensor, nn

from driftspec.autodiff import gradient
from driftspec.components import Distribution, Model, Solver, Trace
from driftspec.errors import SpecError
from driftspec.numerics import likelihood
from driftspec.numerics.model import BoundModel
from driftspec.spec import fits
from driftspec.streams import Streams
from driftspec_plugins.dynamics.ornstein_uhlenbeck import OrnsteinUhlenbeck
from driftspec_plugins.dynamics.sub_vp_sde import SubVPSDE
from driftspec_plugins.dynamics.ve_sde import VESDE
from driftspec_plugins.dynamics.vp_sde import VPSDE

if TYPE_CHECKING:
    from torch import Generator

MEANS, STD, WEIGHTS = [[-1.5, 0.3], [1.0, -0.8]], 0.4, [0.3, 0.7]
T_DATA = 1e-3


def noised(alpha: float, sigma: float) -> Distribution:
    """The law of α x + σ ε for x of the mixture."""
    means = [[alpha * m for m in mean] for mean in MEANS]
    std = (alpha**2 * STD**2 + sigma**2) ** 0.5
    return Distribution.make({"type": "gaussian_mixture", "means": means, "std": std, "weights": WEIGHTS})


def log_noised(alpha: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
    """log p_t(x) (B,), α and σ () or (B,), by the formula of a mixture."""
    means, weights = torch.tensor(MEANS, dtype=x.dtype), torch.tensor(WEIGHTS, dtype=x.dtype)
    alpha, sigma = (value.expand(len(x))[:, None] for value in (alpha, sigma))
    variance = alpha**2 * STD**2 + sigma**2
    square = (x[:, None] - alpha[..., None] * means).square().sum(-1)
    return torch.logsumexp(weights.log() - square / (2 * variance) - (2 * torch.pi * variance).log(), 1)


def exact(family: type[Any], **keys: Any) -> Model:
    """The family's SDE with the mixture's own score, and p_T for a prior where `true_prior` says so."""

    class Exact(family):  # type: ignore[misc]
        true_prior: bool = Field(True, description="p_T itself, or the family's prior")

        def build(self, dim: int, generator: Generator) -> nn.Module:
            return nn.Module()

        def score(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
            alpha, sigma = self.kernel(t)
            return gradient(lambda y: log_noised(alpha, sigma, y), x)[1]

        def prior_law(self) -> Distribution:
            alpha, sigma = self.kernel(torch.tensor(self.times()[0], dtype=torch.float64))
            return noised(float(alpha), float(sigma)) if self.true_prior else super().prior_law()

    return BoundModel(Exact(t_data=T_DATA, **keys), nn.Module(), 2)


X = torch.tensor([[-1.4, 0.1], [0.9, -0.9], [0.0, 0.0], [2.0, 0.5], [-2.5, 1.4]], dtype=torch.float64)
DOPRI5 = Solver.make({"type": "dopri5", "rtol": 1e-10, "atol": 1e-10, "max_evaluations": 100_000})


def log_p(model: Model, solver: Solver = DOPRI5, trace: str = "exact_trace") -> Tensor:
    return likelihood.log_prob(model, X, solver, Trace.make(trace), Streams(0), compare=False).log_prob


@pytest.mark.parametrize("family", [VPSDE, SubVPSDE, VESDE, OrnsteinUhlenbeck], ids=lambda family: family.type)
def test_with_the_exact_score_and_the_true_prior_the_likelihood_is_the_laws(family: type[Any]) -> None:
    model = exact(family)
    alpha, sigma = model.dynamics.kernel(torch.tensor(T_DATA, dtype=torch.float64))
    expected = noised(float(alpha), float(sigma)).log_prob(X)
    assert float((log_p(model) - expected).abs().max()) < 1e-6
    # What is read at t_data is the density of data with that much noise: a stated difference, not an error.
    assert float((noised(1.0, 0.0).log_prob(X) - expected).abs().max()) > 1e-6


def test_a_normal_prior_in_the_place_of_p_t_errs_by_the_mismatch() -> None:
    error = log_p(exact(VPSDE, true_prior=False)) - log_p(exact(VPSDE))
    assert 1e-4 < float(error.abs().mean()) < 1e-2


def test_the_velocity_is_the_drift_less_half_of_g2_the_score() -> None:
    model, t = exact(VPSDE), torch.tensor(0.3, dtype=torch.float64)
    beta = 0.1 + 0.3 * 19.9
    alpha, sigma = model.dynamics.kernel(t)
    s = gradient(lambda y: log_noised(alpha, sigma, y), X)[1]
    assert torch.allclose(model.velocity(t, X), -beta / 2 * X - beta / 2 * s, atol=1e-12)


def test_the_mismatch_of_a_normal_prior_is_the_divergence_of_two_normal_laws() -> None:
    """VE: p_T = N(0, s² + σ_max²) for data N(0, s²), and the prior N(0, σ_max²): KL in closed form."""
    from driftspec_plugins.metrics._likelihood import ends_of_time

    s, sigma_max = 2.0, 3.0
    made = tiny.experiment(
        f"data={{type: gaussian, mean: [0, 0], std: {s}, samples: 20000, standardize: none}}",
        f"dynamics={{type: ve_sde, sigma_max: {sigma_max}, predicts: score, network: {{type: mlp, hidden: [8]}}}}",
        "estimator=denoising",
        "evaluate=[]",
    )
    told = ends_of_time(tiny.evaluation(made, made.model))
    ratio = (s**2 + sigma_max**2) / sigma_max**2
    expected = ratio - 1 - math.log(ratio)  # d/2 (r - 1 - log r) with d = 2
    assert abs(told["prior_mismatch"] - expected) < 4 * told["prior_mismatch_stderr"] + 0.01 * expected
    assert "prior_mismatch_max" not in told  # without the points that were scored
    assert told["t_data"] == 1e-3 and told["sigma_at_t_data"] == pytest.approx(0.01 * 300 ** (1e-3))


@pytest.mark.parametrize("family, keys", [(VPSDE, {}), (VPSDE, {"beta_max": 12.0}), (VESDE, {})], ids=str)
def test_the_largest_mismatch_of_a_point_is_stated(family: type[Any], keys: dict[str, Any]) -> None:
    """max |log p_T(z) - log p_prior(z)| over the points' z, far above the mean; p_T a mixture, taken for normal."""
    from driftspec_plugins.metrics._likelihood import ends_of_time

    model = exact(family, true_prior=False, **keys)
    means = f"means: {MEANS}, std: {STD}, weights: {WEIGHTS}"
    made = tiny.experiment(
        f"data={{type: gaussian_mixture, {means}, samples: 20000, standardize: none}}", "evaluate=[]"
    )
    alpha, sigma = model.dynamics.kernel(torch.tensor(1.0, dtype=torch.float64))
    p_t = noised(float(alpha), float(sigma))
    latent = p_t.sample(2000, torch.Generator().manual_seed(0), 2)
    found = ends_of_time(tiny.evaluation(made, model), latent)
    largest = float((p_t.log_prob(latent) - model.prior().log_prob(latent)).abs().max())
    assert found["prior_mismatch_max"] == pytest.approx(largest, rel=0.15)
    assert found["prior_mismatch_max"] > 50 * abs(found["prior_mismatch"])


def test_a_prior_far_from_p_t_is_a_warning() -> None:
    """VE up to σ = 1.5 from data of deviation 1: its prior leaves out the data's own variance."""
    sets = ["dynamics={type: ve_sde, sigma_max: 1.5, predicts: score, network: {type: mlp, hidden: [8]}}"]
    solver = "{type: dopri5, rtol: 1e-5, atol: 1e-5}"
    made = tiny.experiment(*sets, "estimator=denoising", f"evaluate=[{{type: nll, points: 20, solver: {solver}}}]")
    (metric,) = made.spec.evaluate or ()
    measured = metric.measure(tiny.evaluation(made, made.model))
    (one,) = [verdict for verdict in measured.verdicts if verdict.subject == "prior"]
    ends = measured.details["ends_of_time"]
    assert (one.outcome, one.severity) == ("far_from_p_t", "warning")
    assert 0.01 < ends["prior_mismatch"] < 0.2 < ends["prior_mismatch_max"] and "at a single point" in one.reason


def test_nll_reads_an_sde_where_it_is_told() -> None:
    """The end of time is the metric's own where it says so, the dynamics' elsewhere; and it changes the number."""
    sets = ["dynamics={type: vp_sde, network: {type: mlp, hidden: [8]}, predicts: score}", "estimator=denoising"]
    solver = "{type: dopri5, rtol: 1e-5, atol: 1e-5}"
    made = tiny.experiment(
        *sets, f"evaluate=[{{type: nll, points: 20, solver: {solver}, t_data: 0.2}}]", "runtime.dtype=float64"
    )
    (metric,) = made.spec.evaluate or ()
    told = metric.measure(tiny.evaluation(made, made.model))
    assert told.details["ends_of_time"]["t_data"] == 0.2
    plain = metric.model_copy(update={"t_data": None}).measure(tiny.evaluation(made, made.model))
    assert plain.details["ends_of_time"]["t_data"] == made.model.t_data
    assert plain.value is not None and told.value is not None and abs(plain.value - told.value) > 1e-3


def test_a_flow_has_no_t_data_to_be_told() -> None:
    with pytest.raises(SpecError, match=r"X303.*neural_ode.*has no t_data"):
        raise SpecError(fits.check(tiny.loaded("evaluate=[{type: nll, t_data: 0.1}]")))
