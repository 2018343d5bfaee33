"""The conformance kit can fail: dynamics, samplers and metrics that break a promise, one for each check."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from kit import held, outcome
from pydantic import Field
from torch import Generator, Tensor, nn

from driftspec.autodiff import gradient
from driftspec.components import (
    Distribution,
    Draws,
    Evaluation,
    Measured,
    Metric,
    Sampler,
)
from driftspec.components.component import Component, Need
from driftspec.numerics.chains import Moved, Noise
from driftspec.testing import (
    DynamicsTests,
    MetricTests,
    SamplerTests,
)
from driftspec.testing.samplers import Push, Walk
from driftspec.testing.worlds import Energy, Flow, KnownNoising

# ------------------------------------------------------------------------------------------------------------- dynamics


class Plain(Flow):
    """The kit's own flow under a name."""

    type = "plain"
    default_sampler = "ode"


class MixedField(Plain):
    """Whose velocity looks at the batch."""

    type = "mixed_field"

    def velocity(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        return super().velocity(module, t, x - x.mean(0))


class OneTime(Plain):
    """Which reads the first row's time for all."""

    type = "one_time"

    def velocity(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        return super().velocity(module, t.reshape(-1)[:1].expand(len(x)), x) * t.sum()


class NotTrained(Plain):
    """Which cuts its network off."""

    type = "not_trained"

    def velocity(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        return super().velocity(module, t, x).detach() + 0 * next(module.parameters()).sum()


class Jumps(Plain):
    """Which offers to be smooth with a rectifier."""

    type = "jumps"

    def velocity(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        return torch.relu(super().velocity(module, t, x))


class Wanders(Plain):
    """Which draws."""

    type = "wanders"

    def velocity(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        return super().velocity(module, t, x) + torch.rand(()).to(x)


class Precise(Plain):
    """Which goes to float64."""

    type = "precise"

    def velocity(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        return super().velocity(module, t, x).double()


class Misplaced(Plain):
    """Which makes a tensor on the CPU."""

    type = "misplaced"

    def velocity(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        return super().velocity(module, t, x) * torch.ones(2)


class Priorless(Plain):
    """Which offers a prior that is none."""

    type = "priorless"

    def prior_law(self) -> Any:
        return None


class Nowhere(Plain):
    """Whose sampler nobody provides."""

    type = "nowhere"
    default_sampler = "od"


class Endless(Plain):
    """Whose time has no end."""

    type = "endless"

    def times(self) -> tuple[float, float]:
        return 0.0, math.inf


class FlatField(Plain):
    """Whose velocity is one column."""

    type = "flat_field"

    def velocity(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        return super().velocity(module, t, x)[:, :1]


@pytest.mark.parametrize(
    ("found", "check"),
    [
        (MixedField, "a_row_depends_on_no_other"),
        (OneTime, "fields_have_a_row_a_sample"),
        (FlatField, "fields_have_a_row_a_sample"),
        (NotTrained, "gradients_reach_every_parameter"),
        (Jumps, "it_is_as_smooth_as_it_offers"),
        (Wanders, "it_is_the_same_each_time"),
        (Precise, "float32_and_float64_agree"),
        (Misplaced, "it_stays_on_its_device"),
        (Priorless, "its_prior_is_a_law"),
        (Nowhere, "the_sampler_and_metrics_it_names_are_there"),
        (Endless, "its_time_has_two_ends"),
    ],
    ids=lambda one: getattr(one, "type", None),
)
def test_what_a_dynamics_gets_wrong(found: type[Component], check: str) -> None:
    assert outcome(held(DynamicsTests, found), check).startswith("failed: ")
    assert outcome(held(DynamicsTests, Plain), check) == "passed"


class Noised(KnownNoising):
    """The kit's own noising SDE under a name."""

    type = "noised"
    default_sampler = "heun"


class WrongNoise(Noised):
    """Whose diffusion lacks a √2."""

    type = "wrong_noise"

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class WrongPull(Noised):
    """Whose drift is half of what its kernel says."""

    type = "wrong_pull"

    def drift(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        return -x / 2


class Scalar(Noised):
    """Whose diffusion is a number whatever t is."""

    type = "scalar"

    def diffusion(self, t: Tensor) -> Tensor:
        return t.new_tensor(2**0.5)


class Hill(Energy):
    """The kit's own energy under a name."""

    type = "hill"
    default_sampler = "mala"


class Downhill(Hill):
    """Whose score has the wrong sign."""

    type = "downhill"

    def offers(self) -> frozenset[str]:
        return super().offers() | {"score"}

    def score(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        return gradient(lambda y: self.energy(module, y), x)[1]


class Divergent(Plain):
    """Whose divergence is another's."""

    type = "divergent"

    def closed_divergence(self, module: nn.Module) -> Any:
        return lambda t, x: (self.velocity(module, t, x), x.sum(1))


@pytest.mark.parametrize(
    ("found", "right", "check"),
    [
        (WrongNoise, Noised, "its_noise_kernel_is_that_of_its_sde"),
        (WrongPull, Noised, "its_noise_kernel_is_that_of_its_sde"),
        (Scalar, Noised, "the_diffusion_has_the_shape_of_time"),
        (Downhill, Hill, "the_score_is_the_slope_of_the_density"),
        (Divergent, None, "its_own_divergence_is_the_trace"),
    ],
    ids=lambda one: getattr(one, "type", None),
)
def test_pieces_that_are_no_pieces_of_one_equation(
    found: type[Component], right: type[Component] | None, check: str
) -> None:
    assert outcome(held(DynamicsTests, found), check).startswith("failed: ")
    assert right is None or outcome(held(DynamicsTests, right), check) == "passed"


# -------------------------------------------------------------------------------------------------------------- sampler


class Stroll(Walk):
    """Metropolis with normal proposals, which knows that it keeps a law's moments."""

    type = "stroll"

    def predicts(self, law: Distribution) -> bool:
        return law.moments() is not None

    def predicted(self, law: Distribution) -> Any:
        return law.moments()


class AcceptsAll(Stroll):
    """Without the Metropolis step."""

    type = "accepts_all"

    def advance(self, model: Any, x: Tensor, state: Any, noise: Noise, warming: bool) -> Moved:
        return Moved(x + 0.5 * noise.normal)


class HalfRatio(Stroll):
    """Which accepts by the root of the ratio."""

    type = "half_ratio"

    def advance(self, model: Any, x: Tensor, state: Any, noise: Noise, warming: bool) -> Moved:
        y = x + 0.5 * noise.normal
        taken = noise.uniform.log() < (model.log_density(y) - model.log_density(x)) / 2
        return Moved(torch.where(taken[:, None], y, x))


class Stays(Stroll):
    """Which never moves."""

    type = "stays"

    def advance(self, model: Any, x: Tensor, state: Any, noise: Noise, warming: bool) -> Moved:
        return Moved(x)


class Pulls(Stroll):
    """Whose chains look at their company."""

    type = "pulls"

    def advance(self, model: Any, x: Tensor, state: Any, noise: Noise, warming: bool) -> Moved:
        moved = super().advance(model, x, state, noise, warming)
        return replace(moved, x=moved.x + 0.01 * (x.mean(0) - x))


class Strays(Stroll):
    """Which draws from the global generator."""

    type = "strays"

    def advance(self, model: Any, x: Tensor, state: Any, noise: Noise, warming: bool) -> Moved:
        return super().advance(model, x, state, Noise(torch.randn_like(x), noise.uniform), warming)


class Widening(Stroll):
    """Which goes to float64."""

    type = "widening"

    def advance(self, model: Any, x: Tensor, state: Any, noise: Noise, warming: bool) -> Moved:
        moved = super().advance(model, x, state, noise, warming)
        return replace(moved, x=moved.x.double())


class Mutes(Stroll):
    """Which makes numbers of what is none."""

    type = "mutes"

    def begin(self, model: Any, x: Tensor, asked: int) -> Any:
        return None

    def advance(self, model: Any, x: Tensor, state: Any, noise: Noise, warming: bool) -> Moved:
        moved = super().advance(model, x, state, noise, warming)
        return replace(moved, x=moved.x.nan_to_num())


class Misshapen(Stroll):
    """Whose draws are a column each."""

    type = "misshapen"

    def draw(self, *given: Any) -> Draws:
        drawn = super().draw(*given)
        return replace(drawn, values=drawn.values[..., :1])


class Reversed(Sampler):
    """The reverse SDE in equal steps of Euler's and Maruyama's."""

    type = "reversed"
    steps: int = Field(200, ge=1, description="steps of time")

    def needs(self) -> Any:
        return (Need("dynamics", ("noise_kernel",), "to run back"), Need("dynamics", ("score",), "to run back"))

    def halved(self) -> Reversed:
        return self.model_copy(update={"steps": 2 * self.steps})

    def draw_block(self, model: Any, generator: Generator) -> Draws:
        x = model.like(model.prior().sample(self.BLOCK, generator, 2))
        times = torch.linspace(*model.dynamics.times(), self.steps + 1, dtype=torch.float64)
        for t, after in pairwise(times):
            h, g = (t - after).to(x), model.dynamics.diffusion(t).to(x)
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
            drift = model.drift(t.to(x), x) - self.part() * g * g * model.score(t.to(x), x)
            x = x - h * drift + g * h.sqrt() * noise
        return Draws(x[:, None])

    def part(self) -> float:
        return 1.0


class HalfScore(Reversed):
    """Which takes a little less of the score than it should."""

    type = "half_score"

    def part(self) -> float:
        return 0.9


class OneBlock(Reversed):
    """Whose every block is the first."""

    type = "one_block"

    def draw(self, model: Any, count: int, streams: Any) -> Draws:
        block = self.draw_block(model, streams.generator("noise")).values
        return Draws(block.repeat(-(-count // self.BLOCK), 1, 1)[:count])


class Pushes(Push):
    """Draws of the prior, along the velocity."""

    type = "pushes"

    def needs(self) -> Any:
        return (Need("dynamics", ("velocity",), "to follow"), Need("dynamics", ("prior",), "to begin at"))


class Shifted(Pushes):
    """Which ends beside the law."""

    type = "shifted"

    def draw_block(self, model: Any, generator: Generator) -> Draws:
        return Draws(1.15 * super().draw_block(model, generator).values)


@pytest.mark.parametrize(
    ("found", "right", "check"),
    [
        (AcceptsAll, Stroll, "chains_that_begin_in_a_target_have_the_moments_it_predicts"),
        (HalfRatio, Stroll, "chains_that_begin_in_a_target_have_the_moments_it_predicts"),
        (Stays, Stroll, "chains_that_begin_in_a_target_have_the_moments_it_predicts"),
        (Pulls, Stroll, "sample_i_is_the_same_however_many_are_asked_for"),
        (Strays, Stroll, "the_same_streams_give_the_same_draws"),
        (Widening, Stroll, "float32_is_kept"),
        (Mutes, Stroll, "chains_without_a_number_are_refused_in_time"),
        (Misshapen, Stroll, "draws_are_finite_and_laid_out_as_it_says"),
        (HalfScore, Reversed, "half_the_step_halves_the_bias"),
        (OneBlock, Reversed, "sample_i_is_the_same_however_many_are_asked_for"),
        (Shifted, None, "draws_have_the_moments_of_the_law"),
    ],
    ids=lambda one: getattr(one, "type", None),
)
def test_what_a_sampler_gets_wrong(found: type[Component], right: type[Component] | None, check: str) -> None:
    assert outcome(held(SamplerTests, found), check).startswith("failed: ")
    assert right is None or not outcome(held(SamplerTests, right), check).startswith("failed: ")


# --------------------------------------------------------------------------------------------------------------- metric


class Means(Metric):
    """The mean of the run's draws."""

    type = "means"
    draws_wanted = "samples"
    samples: int = Field(200, ge=2, description="draws read")

    def measure(self, evaluation: Evaluation) -> Measured:
        x = self.seen(evaluation)
        return Measured(float(x.mean()), float(x.std() / len(x) ** 0.5), "", len(x), self.more(x))

    def seen(self, evaluation: Evaluation) -> Tensor:
        return evaluation.draws(self.samples)[:, 0]

    def more(self, x: Tensor) -> dict[str, Any]:
        return {}


class NoReason(Means):
    """Without an error and without a reason."""

    type = "no_reason"

    def measure(self, evaluation: Evaluation) -> Measured:
        return replace(super().measure(evaluation), stderr=None)


class Infinite(Means):
    """No number."""

    type = "infinite"

    def measure(self, evaluation: Evaluation) -> Measured:
        return replace(super().measure(evaluation), value=math.nan)


class TensorDetails(Means):
    """Details that JSON cannot hold."""

    type = "tensor_details"

    def more(self, x: Tensor) -> dict[str, Any]:
        return {"x": x}


class Lucky(Means):
    """By chance of its own."""

    type = "lucky"

    def seen(self, evaluation: Evaluation) -> Tensor:
        return super().seen(evaluation) + random.random()


class Unsteady(Means):
    """By a generator that nobody seeds."""

    type = "unsteady"

    def seen(self, evaluation: Evaluation) -> Tensor:
        return super().seen(evaluation) + float(np.random.default_rng().random())


class SpoilsDraws(Means):
    """Changes the draws that others read."""

    type = "spoils_draws"

    def seen(self, evaluation: Evaluation) -> Tensor:
        return evaluation.drawn().values.add_(1.0).flatten()


class SpoilsModel(Means):
    """Leaves gradients behind."""

    type = "spoils_model"

    def seen(self, evaluation: Evaluation) -> Tensor:
        x = super().seen(evaluation)
        sum(p.sum() for p in evaluation.model.parameters()).backward()
        return x


class Freezes(Means):
    """Leaves the model in evaluation mode."""

    type = "freezes"

    def seen(self, evaluation: Evaluation) -> Tensor:
        evaluation.model.module.eval()
        return super().seen(evaluation)


@pytest.mark.parametrize(
    ("found", "check"),
    [
        (NoReason, "it_gives_a_number_with_its_error_or_the_reason_why_none"),
        (Infinite, "it_gives_a_number_with_its_error_or_the_reason_why_none"),
        (TensorDetails, "it_gives_a_number_with_its_error_or_the_reason_why_none"),
        (Lucky, "it_is_the_same_each_time"),
        (Unsteady, "it_is_the_same_each_time"),
        (SpoilsDraws, "it_disturbs_no_other_metric"),
        (SpoilsModel, "it_disturbs_no_other_metric"),
        (Freezes, "it_disturbs_no_other_metric"),
    ],
    ids=lambda one: getattr(one, "type", None),
)
def test_what_a_metric_gets_wrong(found: type[Component], check: str) -> None:
    assert outcome(held(MetricTests, found), check).startswith("failed: ")
    assert outcome(held(MetricTests, Means), check) == "passed"
