"""The conformance kit can fail: data that break a promise, one for each check."""

from __future__ import annotations

import math
import random

import pytest
import torch
from kit import checks, held, outcome
from pydantic import Field
from torch import Generator, Tensor

from driftspec.components import (
    Distribution,
)
from driftspec.components.component import Component
from driftspec.testing import (
    DataTests,
    checks_for,
)


class Law(Distribution):
    """N(m, I) in two dimensions, right in all it says; its mutants are not."""

    type = "law"
    shift: float = Field(0.7, description="each coordinate of m")

    def dim(self) -> int:
        return 2

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        return torch.randn(n, 2, generator=generator, dtype=torch.float64) + self.shift

    def log_prob(self, x: Tensor) -> Tensor:
        return -(x - self.shift).square().sum(1) / 2 - math.log(2 * math.pi)

    def entropy(self) -> float:
        return 1 + math.log(2 * math.pi)

    def moments(self) -> tuple[Tensor, Tensor]:
        return torch.full((2,), self.shift, dtype=torch.float64), torch.eye(2, dtype=torch.float64)


class GlobalDraws(Law):
    """Draws from torch's global generator."""

    type = "global_draws"

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        return torch.randn(n, 2, dtype=torch.float64) + self.shift


class PythonDraws(Law):
    """Draws from Python's."""

    type = "python_draws"

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        return super().sample(n, generator) + 1e-3 * random.random()


class FixedDraws(Law):
    """Draws the same whatever the seed."""

    type = "fixed_draws"

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        return super().sample(n, torch.Generator().manual_seed(0))


class Narrow(Law):
    """Draws in float32."""

    type = "narrow"

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        return super().sample(n, generator).float()


class WrongConstant(Law):
    """Lacks a factor of 1.05 in its density."""

    type = "wrong_constant"

    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x) - 0.05


class WrongScore(Law):
    """Has half the slope."""

    type = "wrong_score"

    def score(self, x: Tensor) -> Tensor:
        return -(x - self.shift) / 2


class WrongEntropy(Law):
    """Forgets the 1."""

    type = "wrong_entropy"

    def entropy(self) -> float:
        return math.log(2 * math.pi)


class WrongMean(Law):
    """Says a mean beside the right one."""

    type = "wrong_mean"

    def moments(self) -> tuple[Tensor, Tensor]:
        mean, covariance = super().moments()
        return mean + torch.tensor([0.0, 0.05], dtype=torch.float64), covariance


class WrongCovariance(Law):
    """Says a correlation that is not there."""

    type = "wrong_covariance"

    def moments(self) -> tuple[Tensor, Tensor]:
        return super().moments()[0], torch.tensor([[1.0, 0.05], [0.05, 1.0]], dtype=torch.float64)


class ScoresTheBatch(Law):
    """Scores a row by its company."""

    type = "scores_the_batch"

    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x) + 0.01 * x.std()


class WidensScores(Law):
    """Scores in float64 whatever is given."""

    type = "widens_scores"

    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x.double())


class Flattened(Law):
    """Draws one row as a vector."""

    type = "flattened"

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        return super().sample(n, generator).squeeze(0)


class Renamed(Law):
    """Has a name too many."""

    type = "renamed"

    def columns(self) -> tuple[str, ...]:
        return ("a", "b", "c")


class HeavyTailed(Law):
    """Whose moments no number of draws tells."""

    type = "heavy_tailed"

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        return super().sample(n, generator).pow(15)


@pytest.mark.parametrize(
    ("found", "check"),
    [
        (GlobalDraws, "the_same_generator_gives_the_same_rows_and_no_other_is_touched"),
        (PythonDraws, "the_same_generator_gives_the_same_rows_and_no_other_is_touched"),
        (FixedDraws, "the_same_generator_gives_the_same_rows_and_no_other_is_touched"),
        (Narrow, "rows_are_finite_float64_and_named"),
        (Renamed, "rows_are_finite_float64_and_named"),
        (Flattened, "one_row_can_be_drawn"),
        (WrongConstant, "log_prob_integrates_to_one"),
        (WrongConstant, "the_entropy_is_that_of_its_draws"),
        (WrongScore, "the_score_is_the_slope_of_log_prob"),
        (WrongEntropy, "the_entropy_is_that_of_its_draws"),
        (WrongMean, "draws_have_the_moments_it_says"),
        (WrongCovariance, "draws_have_the_moments_it_says"),
        (ScoresTheBatch, "log_prob_of_a_row_is_its_own"),
        (WidensScores, "log_prob_keeps_the_precision_it_is_given"),
    ],
    ids=lambda one: getattr(one, "type", None),
)
def test_what_data_get_wrong(found: type[Component], check: str) -> None:
    assert outcome(held(DataTests, found), check).startswith("failed: ")
    assert outcome(held(DataTests, Law), check) == "passed"


def test_what_data_do_not_offer_is_skipped_with_its_name() -> None:
    tests = checks_for("data", "spiral_trajectories")()
    said = {outcome(tests, check) for check in checks(tests) if "log_prob" in check or "moments" in check}
    assert said == {
        "skipped: data 'spiral_trajectories' is no Distribution: it has rows, but their density is not known"
    }
    target = checks_for("data", "eight_schools")()
    assert "offers no samples" in outcome(target, "one_row_can_be_drawn")
    assert "holds up to a constant" in outcome(target, "log_prob_integrates_to_one")
    assert "too heavy" in outcome(held(DataTests, HeavyTailed), "draws_have_the_moments_it_says")
