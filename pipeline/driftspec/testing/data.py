"""What data are held to: rows from the generator given, and of a law that log p, score, entropy and moments agree."""

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
    own_chance,
    rows_alone,
    same,
    slope,
    unbiased,
    unfit,
)
from driftspec.testing.component import ComponentTests

DRAWS = 20_000
CELLS = {1: 20_000, 2: 160}
"""Of the grid that log p is integrated on, along each axis."""
ROOM = 0.4
"""How far the grid reaches beyond the draws on either side, in widths of their range."""
MASS = 0.01
"""By how much the integral of a density may miss 1, beside the grid's own error."""


class DataTests(ComponentTests):
    """Checks of data: a `Distribution` that can be drawn from or scored, or what is read from a file."""

    kind = "data"
    root: ClassVar[str | None] = None
    """Where paths to data begin; the folder of the test class by default."""
    dim: ClassVar[int] = 2
    """d, where the component leaves it open."""

    def law(self) -> Distribution:
        made = self.made()
        if not isinstance(made, Distribution):
            unfit(f"{made.label} is no Distribution: it has rows, and no law that is known")
        return made

    def sampled(self, n: int = DRAWS, seed: int = 1) -> Tensor:
        """Draws (n, d) of a law that can be drawn from."""
        law = self.law()
        if "samples" not in law.offers():
            unfit(f"{law.label} offers no samples")
        return law.sample(n, generator(seed), law.dim() or self.dim)

    def scored(self) -> Distribution:
        """A law with a log p, of which a constant may be missing."""
        law = self.law()
        if law.offers().isdisjoint(("log_prob", "energy")):
            unfit(f"{law.label} offers no log_prob")
        return law

    def points(self, n: int = 64) -> Tensor:
        """(n, d) to score at: draws, or where there are none the normal ones."""
        law = self.law()
        if "samples" in law.offers():
            return self.sampled(n, seed=3)
        return torch.randn(n, law.dim() or self.dim, generator=generator(3), dtype=torch.float64)

    def read(self, seed: int = 1) -> Table:
        """The rows there are."""
        made = self.made()
        if isinstance(made, Distribution):
            if "samples" not in made.offers():
                unfit(f"{made.label} offers no samples: it is a target alone")
            if made.dim() is None:
                values = made.sample(made.samples, generator(seed), self.dim)
                return Table(values, tuple(f"x{i + 1}" for i in range(self.dim)))
        table: Table = made.read(Files(Path(self.root) if self.root else self.folder()), generator(seed))
        return table

    def test_rows_are_finite_float64_and_named(self) -> None:
        made, table = self.made(), self.read()
        values = table.values
        expect(values.dtype == torch.float64, f"rows are float64, not {values.dtype}")
        expect(values.dim() >= 2 and len(values), f"rows are (n, ..., d), not of shape {tuple(values.shape)}")
        expect(values.isfinite().all(), "some rows are not finite")
        d, names = values.shape[-1], table.columns
        expect(made.dim() in (None, d), f"dim() says {made.dim()}, the rows have {d} columns")
        expect(len(names) == d, f"{d} columns have {len(names)} names")
        expect(len(set(names)) == d, f"column names are repeated: {', '.join(names)}")
        asked = len(values) if made.rows() is None else made.rows()
        expect(len(values) == asked, f"rows() says {asked}, and {len(values)} come")
        if table.times is not None:
            expect(
                values.shape[1:2] == table.times.shape, f"{len(table.times)} times for {values.shape[1]} observations"
            )

    def test_the_same_generator_gives_the_same_rows_and_no_other_is_touched(self) -> None:
        made = self.made()
        with own_chance(made.label):
            first, second = self.read().values, self.read().values
        expect(same(first, second), "two generators of one seed give different rows: draw from the generator alone")
        if isinstance(made, Distribution):
            expect(not same(first, self.read(2).values), "every seed gives the same rows: draw from the generator")

    def test_one_row_can_be_drawn(self) -> None:
        law, one = self.law(), self.sampled(1)
        d = law.dim() or self.dim
        expect(tuple(one.shape) == (1, d), f"sample(1) has shape {tuple(one.shape)}, not (1, {d})")

    def test_log_prob_of_a_row_is_its_own(self) -> None:
        law, x = self.scored(), self.points()
        rows_alone(law.log_prob, x, what="log_prob")
        expect(law.log_prob(x).shape == (len(x),), f"log_prob is (B,), not {tuple(law.log_prob(x).shape)}")
        expect(law.log_prob(x).isfinite().all(), "log_prob is not finite where the law's own draws lie")

    def test_log_prob_keeps_the_precision_it_is_given(self) -> None:
        law, x = self.scored(), self.points()
        single = law.log_prob(x.float())
        expect(single.dtype == torch.float32, f"log_prob of float32 is float32, not {single.dtype}")
        if not law.hard_edges:
            error = apart(single.double(), law.log_prob(x))
            expect(error < 1e-2, f"log_prob in float32 is off by {error:.1e}")

    def test_log_prob_stays_on_its_device(self) -> None:
        law, x = self.scored(), self.points()
        if not torch.cuda.is_available():
            expect(law.log_prob(x).device == x.device, "log_prob moves to another device")
            unfit("there is no CUDA device: on the CPU it stays")
        expect(law.log_prob(x.cuda()).is_cuda, "log_prob of a point on the GPU comes from the CPU")

    def test_the_score_is_the_slope_of_log_prob(self) -> None:
        law, x = self.scored(), self.points()
        if law.hard_edges:
            unfit(f"{law.label} has hard edges: its log p has no slope there")
        score, true = law.score(x), slope(lambda y: law.log_prob(y).detach(), x)
        error = apart(score.detach(), true)
        expect(error < 1e-3, f"score differs from the slope of log_prob by {error:.1e}, relative to 1 + |slope|")

    def test_log_prob_integrates_to_one(self) -> None:
        law, x = self.scored(), self.points(4000)
        if not law.normalized:
            unfit(f"{law.label} is normalized = False: its log p holds up to a constant")
        d = x.shape[1]
        if d not in CELLS:
            unfit(f"{law.label} has {d} dimensions: a grid is for 1 or 2")
        low, high = x.amin(0), x.amax(0)
        room = ROOM * (high - low)
        first, second = (_mass(law, low - room, high + room, shift) for shift in (0.25, 0.75))
        mass, error = (first + second) / 2, abs(first - second)
        text = f"exp(log_prob) integrates to {mass:.4f} (grid error {error:.1e}), not to 1"
        expect(abs(mass - 1) < MASS + 2 * error, text)

    def test_the_entropy_is_that_of_its_draws(self) -> None:
        law = self.scored()
        entropy = law.entropy()
        if entropy is None or not law.normalized:
            unfit(f"{law.label} does not say its entropy")
        unbiased(-law.log_prob(self.sampled())[:, None], entropy, "-log_prob of its draws against entropy()")

    def test_draws_have_the_moments_it_says(self) -> None:
        law = self.law()
        moments = law.moments()
        if moments is None:
            unfit(f"{law.label} does not say its moments")
        values, names = law.reported(self.sampled())
        mean, covariance = moments
        m = len(names)
        expect(mean.shape == (m,) and covariance.shape == (m, m), f"moments() are ({m},) and ({m}, {m})")
        expect(apart(covariance, covariance.T) < 1e-9, "the covariance that moments() says is not symmetric")
        centred = values - mean
        pairs = [*itertools.combinations_with_replacement(range(m), 2)]
        products = torch.stack([centred[:, i] * centred[:, j] - covariance[i, j] for i, j in pairs], 1)
        told = [*(f"mean of {name}" for name in names), *(f"cov({names[i]}, {names[j]})" for i, j in pairs)]
        compared = 0
        for name, column in zip(told, torch.cat([centred, products], 1).T):
            compared += self.agrees(name, column, limit(len(told)))
        if not compared:
            unfit(f"the tails of {law.label} are too heavy for {DRAWS} draws to tell its moments")

    @staticmethod
    def agrees(name: str, off: Tensor, bound: float) -> bool:
        """The numbers (n,) have mean 0 within chance; False where a few of them make the mean and nothing can tell."""
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


def _mass(law: Any, low: Tensor, high: Tensor, shift: float) -> float:
    """∫ p over a box, by equal cells with one point each, `shift` of the way through it."""
    d = len(low)
    n = CELLS[d]
    axes = [low[i] + (high[i] - low[i]) * (torch.arange(n, dtype=torch.float64) + shift) / n for i in range(d)]
    points = torch.cartesian_prod(*axes).reshape(-1, d)
    parts = [law.log_prob(part).detach().exp().sum() for part in torch.split(points, 20_000)]
    return float(torch.stack(parts).sum() * ((high - low) / n).prod())


__all__ = ["DataTests"]
