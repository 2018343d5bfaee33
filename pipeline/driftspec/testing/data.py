"""Checks of data: rows come from the given generator; log p, score, entropy and moments of a distribution agree."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from driftspec.components import Distribution, Table
from driftspec.source.files import Files
from driftspec.testing.checks import (
    apart,
    expect,
    generator,
    limit,
    no_global_draws,
    rows_alone,
    same,
    slope,
    unbiased,
    unfit,
)
from driftspec.testing.component import ComponentTests

DRAWS = 20_000
CELLS = {1: 20_000, 2: 160}
"""The cells per axis of the grid on which the density is integrated, by dimension."""
ROOM = 0.4
"""The margin of the grid beyond the draws on each side, as a part of their range."""
MASS = 0.01
"""The allowed difference of the integral of a density from 1, besides the error of the grid."""


class DataTests(ComponentTests):
    """Checks of data: of a `Distribution` that can be sampled or scored, or of data read from a file."""

    kind = "data"
    root: ClassVar[str | None] = None
    """The folder to which data paths are relative; by default that of the test class."""
    dim: ClassVar[int] = 2
    """d, if the component does not fix it."""

    def distribution(self) -> Distribution:
        """Return the component if it is a Distribution; else skip the check."""
        made = self.made()
        if not isinstance(made, Distribution):
            unfit(f"{made.label} is no Distribution: it has rows, but their density is not known")
        return made

    def sampled(self, n: int = DRAWS, seed: int = 1) -> Tensor:
        """Return draws (n, d); skip the check if the distribution cannot be sampled."""
        distribution = self.distribution()
        if "samples" not in distribution.offers():
            unfit(f"{distribution.label} offers no samples")
        return distribution.sample(n, generator(seed), distribution.dim() or self.dim)

    def scored(self) -> Distribution:
        """Return the distribution if it has log p, at least up to a constant; else skip the check."""
        distribution = self.distribution()
        if distribution.offers().isdisjoint(("log_prob", "energy")):
            unfit(f"{distribution.label} offers no log_prob")
        return distribution

    def points(self, n: int = 64) -> Tensor:
        """Return points (n, d) at which to evaluate log p: draws, or normal numbers if there are no draws."""
        distribution = self.distribution()
        if "samples" in distribution.offers():
            return self.sampled(n, seed=3)
        return torch.randn(n, distribution.dim() or self.dim, generator=generator(3), dtype=torch.float64)

    def read(self, seed: int = 1) -> Table:
        """Return the rows of the data, or draws of the distribution."""
        made = self.made()
        if isinstance(made, Distribution):
            if "samples" not in made.offers():
                unfit(f"{made.label} offers no samples: it is only a target")
            if made.dim() is None:
                values = made.sample(made.samples, generator(seed), self.dim)
                return Table(values, tuple(f"x{i + 1}" for i in range(self.dim)))
        table: Table = made.read(Files(Path(self.root) if self.root else self.folder()), generator(seed))
        return table

    def test_rows_are_finite_float64_and_named(self) -> None:
        made, table = self.made(), self.read()
        values = table.values
        expect(values.dtype == torch.float64, f"rows must be float64, not {values.dtype}")
        expect(values.dim() >= 2 and len(values), f"rows must be (n, ..., d), not of shape {tuple(values.shape)}")
        expect(values.isfinite().all(), "some rows are not finite")
        d, names = values.shape[-1], table.columns
        expect(made.dim() in (None, d), f"dim() is {made.dim()}, but the rows have {d} columns")
        expect(len(names) == d, f"{d} columns have {len(names)} names")
        expect(len(set(names)) == d, f"column names are repeated: {', '.join(names)}")
        asked = len(values) if made.rows() is None else made.rows()
        expect(len(values) == asked, f"rows() is {asked}, but there are {len(values)} rows")
        if table.times is not None:
            expect(
                values.shape[1:2] == table.times.shape, f"{len(table.times)} times for {values.shape[1]} observations"
            )

    def test_the_same_generator_gives_the_same_rows_and_no_other_is_touched(self) -> None:
        made = self.made()
        with no_global_draws(made.label):
            first, second = self.read().values, self.read().values
        expect(same(first, second), "two generators with one seed give different rows: draw only from the generator")
        if isinstance(made, Distribution):
            expect(not same(first, self.read(2).values), "every seed gives the same rows: draw from the generator")

    def test_one_row_can_be_drawn(self) -> None:
        distribution, one = self.distribution(), self.sampled(1)
        d = distribution.dim() or self.dim
        expect(tuple(one.shape) == (1, d), f"sample(1) has shape {tuple(one.shape)}, not (1, {d})")

    def test_log_prob_of_a_row_is_its_own(self) -> None:
        distribution, x = self.scored(), self.points()
        rows_alone(distribution.log_prob, x, what="log_prob")
        value = distribution.log_prob(x)
        expect(value.shape == (len(x),), f"log_prob must be (B,), not {tuple(value.shape)}")
        expect(value.isfinite().all(), "log_prob is not finite at the distribution's own draws")

    def test_log_prob_keeps_the_precision_it_is_given(self) -> None:
        distribution, x = self.scored(), self.points()
        single = distribution.log_prob(x.float())
        expect(single.dtype == torch.float32, f"log_prob of float32 points must be float32, not {single.dtype}")
        if not distribution.hard_edges:
            error = apart(single.double(), distribution.log_prob(x))
            expect(error < 1e-2, f"log_prob in float32 differs by {error:.1e}")

    def test_log_prob_stays_on_its_device(self) -> None:
        distribution, x = self.scored(), self.points()
        if not torch.cuda.is_available():
            expect(distribution.log_prob(x).device == x.device, "log_prob is on another device than x")
            unfit("there is no CUDA device: only the CPU was checked")
        expect(distribution.log_prob(x.cuda()).is_cuda, "log_prob of a point on the GPU is on the CPU")

    def test_the_score_is_the_slope_of_log_prob(self) -> None:
        distribution, x = self.scored(), self.points()
        if distribution.hard_edges:
            unfit(f"{distribution.label} has hard edges: its log p has no slope there")
        score, true = distribution.score(x), slope(lambda y: distribution.log_prob(y).detach(), x)
        error = apart(score.detach(), true)
        expect(error < 1e-3, f"score differs from the slope of log_prob by {error:.1e}, relative to 1 + |slope|")

    def test_log_prob_integrates_to_one(self) -> None:
        distribution, x = self.scored(), self.points(4000)
        if not distribution.normalized:
            unfit(f"{distribution.label} is normalized = False: its log p holds up to a constant")
        d = x.shape[1]
        if d not in CELLS:
            unfit(f"{distribution.label} has {d} dimensions: the integral is checked in 1 or 2")
        low, high = x.amin(0), x.amax(0)
        room = ROOM * (high - low)
        first, second = (_mass(distribution, low - room, high + room, shift) for shift in (0.25, 0.75))
        mass, error = (first + second) / 2, abs(first - second)
        text = f"exp(log_prob) integrates to {mass:.4f} (grid error {error:.1e}), not to 1"
        expect(abs(mass - 1) < MASS + 2 * error, text)

    def test_the_entropy_is_that_of_its_draws(self) -> None:
        distribution = self.scored()
        entropy = distribution.entropy()
        if entropy is None or not distribution.normalized:
            unfit(f"{distribution.label} has no entropy()")
        unbiased(-distribution.log_prob(self.sampled())[:, None], entropy, "-log_prob of its draws against entropy()")

    def test_draws_have_the_moments_it_says(self) -> None:
        distribution = self.distribution()
        moments = distribution.moments()
        if moments is None:
            unfit(f"{distribution.label} has no moments()")
        values, names = distribution.reported(self.sampled())
        mean, covariance = moments
        m = len(names)
        expect(mean.shape == (m,) and covariance.shape == (m, m), f"moments() must be ({m},) and ({m}, {m})")
        expect(apart(covariance, covariance.T) < 1e-9, "the covariance of moments() is not symmetric")
        centred = values - mean
        pairs = [*itertools.combinations_with_replacement(range(m), 2)]
        products = torch.stack([centred[:, i] * centred[:, j] - covariance[i, j] for i, j in pairs], 1)
        entries = [*(f"mean of {name}" for name in names), *(f"cov({names[i]}, {names[j]})" for i, j in pairs)]
        compared = 0
        for name, column in zip(entries, torch.cat([centred, products], 1).T):
            compared += self.agrees(name, column, limit(len(entries)))
        if not compared:
            unfit(f"the tails of {distribution.label} are too heavy to estimate its moments from {DRAWS} draws")

    @staticmethod
    def agrees(name: str, off: Tensor, bound: float) -> bool:
        """Check that numbers (n,) have mean 0 within their standard error.

        Return False without a check if a few large numbers dominate the mean.
        """
        squares = off.square()
        if float(squares.max()) > 0.02 * float(squares.sum()):
            return False
        error = float(off.std()) / math.sqrt(len(off))
        z = float(off.mean()) / error if error else math.inf * float(off.mean() != 0)
        expect(
            abs(z) < bound,
            f"{name} of {len(off)} draws differs from moments() by {float(off.mean()):.4g} (z = {z:+.1f})",
        )
        return True


def _mass(distribution: Any, low: Tensor, high: Tensor, shift: float) -> float:
    """Return ∫ p over a box with limits (d,), by equal cells with one point each, at the part `shift` of each side."""
    d = len(low)
    n = CELLS[d]
    axes = [low[i] + (high[i] - low[i]) * (torch.arange(n, dtype=torch.float64) + shift) / n for i in range(d)]
    points = torch.cartesian_prod(*axes).reshape(-1, d)
    parts = [distribution.log_prob(part).detach().exp().sum() for part in torch.split(points, 20_000)]
    return float(torch.stack(parts).sum() * ((high - low) / n).prod())


__all__ = ["DataTests"]
