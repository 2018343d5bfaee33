"""Checks of a sampler: draw i depends only on (seed, i); moments of draws are right, or their bias falls as stated."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from driftspec.components import Distribution, Draws, Dynamics, Model, PredictsMoments, Refines, Sampler, Setting
from driftspec.errors import RunFailed
from driftspec.numerics.chains import ChainSampler, starts
from driftspec.streams import Streams
from driftspec.testing.checks import apart, expect, limit, no_global_draws, same, unfit
from driftspec.testing.component import ComponentTests
from driftspec.testing.worlds import DATA, KNOWN, Known, NormalLaw, Target, TwoNormals, misfit, model, unmet

STREAMS = Streams(13).under("kit")
SCALES = (1.0, 0.5, 0.25, 0.1)
"""The widths of the targets: a step that is short in one is long in another."""
LENGTH = 12
"""The steps of chains that start in their target: enough for a wrong chain to leave it."""
COARSE = 8
"""The steps of a sampler whose bias is compared with that of smaller steps."""


class SamplerTests(ComponentTests):
    """Checks of a sampler, on the first of the kit's own dynamics that it fits."""

    kind = "sampler"
    count: ClassVar[int] = 6000
    """The number of draws whose moments are compared."""
    dynamics: ClassVar[Any] = None
    """The dynamics to draw from, in spec form, if the sampler fits none of the kit's own."""

    def around(self) -> Dynamics:
        """Return the dynamics from which it draws."""
        made = self.made()
        known = [self.make("dynamics", self.dynamics)] if self.dynamics is not None else KNOWN
        lacks = [unmet(made, {"dynamics": one, "data": DATA}) or misfit(made, Setting(one, DATA)) for one in known]
        if None not in lacks:
            unfit(f"{made.label} fits none of the kit's dynamics ({lacks[0]}): give `dynamics`")
        return known[lacks.index(None)]

    def model(self, dynamics: Dynamics | None = None, dtype: torch.dtype = torch.float64) -> Model:
        """Return a model with data rows."""
        found = model(dynamics or self.around(), dtype)
        rows = DATA.sample(4000, torch.Generator().manual_seed(5)).to(dtype)
        return replace(found, rows=lambda: rows)

    def drawn(self, sampler: Sampler, on: Model, count: int, seed: int = 0) -> Draws:
        """Return draws of the sampler."""
        return sampler.draw(on, count, Streams(13 + seed).under("kit"))

    def short(self) -> Sampler:
        """Return the sampler with short chains, for checks that do not depend on the length."""
        made: Sampler = self.made()
        if not isinstance(made, ChainSampler):
            return made
        return made.model_copy(update={"steps" if made.chains is None else "burn_in": LENGTH})

    def distribution(self) -> NormalLaw:
        """Return the distribution of the draws; skip the check for a sampler of chains, or if it is not known."""
        made = self.made()
        if isinstance(made, ChainSampler):
            unfit(f"{made.label} makes chains: their draws are compared with the moments that it predicts")
        known = self.around()
        if made.heuristic or not isinstance(known, Known):
            unfit(f"the distribution of draws of {made.label} is not known: it is heuristic, or you gave the dynamics")
        distribution: Any = known.distribution()
        return distribution

    def alone(self) -> Sampler:
        """Return the sampler if it makes one draw per chain; else skip the check."""
        made = self.short()
        if made.layout(300) != (300, 1):
            unfit(f"{made.label} makes several draws per chain: draw i depends on the draws before it")
        return made

    def test_draws_are_finite_and_laid_out_as_it_says(self) -> None:
        made, on = self.short(), self.model()
        chains, draws = made.layout(60)
        drawn = self.drawn(made, on, chains * draws)
        shape = tuple(drawn.values.shape)
        expect(shape == (chains, draws, 2), f"draws have shape {shape}, but by layout() it is {(chains, draws, 2)}")
        expect(drawn.values.isfinite().all(), "some draws are not finite")
        wrong = [name for name, value in drawn.stats.items() if not math.isfinite(value)]
        expect(not wrong, f"stats that are not finite numbers: {', '.join(wrong)}")
        ragged = [name for name, value in drawn.each.items() if value.shape != (chains,)]
        expect(not ragged, f"entries of `each` without one number per chain: {', '.join(ragged)}")

    def test_sample_i_is_the_same_however_many_are_asked_for(self) -> None:
        made, on = self.alone(), self.model()
        many = self.drawn(made, on, 300).values
        for count in (1, 3, 257):
            few = self.drawn(made, on, count).values
            expect(len(few) == count, f"it makes {len(few)} draws instead of {count}")
            error = apart(few, many[:count])
            text = f"the {count} draws of a run differ from the first {count} of 300 by {error:.1e}"
            expect(error < 1e-8, f"{text}: draw i may only depend on (seed, i)")
        first, last = many[:1].flatten(), many[256:257].flatten()
        expect(not same(first, last), "draws 0 and 256 are the same: each block has a generator of its own")

    def test_the_same_streams_give_the_same_draws(self) -> None:
        made, on = self.short(), self.model()
        count = math.prod(made.layout(60))
        with no_global_draws(made.label):
            first, second = self.drawn(made, on, count).values, self.drawn(made, on, count).values
        expect(same(first, second), "the same streams give different draws")
        expect(not same(first, self.drawn(made, on, count, seed=1).values), "every seed gives the same draws")

    def test_float32_is_kept(self) -> None:
        made = self.short()
        drawn = self.drawn(made, self.model(dtype=torch.float32), math.prod(made.layout(60)))
        expect(drawn.values.dtype == torch.float32, f"draws of a float32 model are {drawn.values.dtype}")

    def test_chains_that_begin_in_a_target_have_the_moments_it_predicts(self) -> None:
        """A Metropolis sampler has the target's moments with any step size; others predict theirs with the bias."""
        made = self.made()
        elsewhere = f"{made.label} predicts the moments of no target: another check compares its draws"
        targets = [*(_normal(scale) for scale in SCALES), *(TwoNormals(width=scale) for scale in SCALES)]
        if not isinstance(made, ChainSampler) or not isinstance(made, PredictsMoments):
            unfit(elsewhere)
        able = [one for one in targets if unmet(made, {"dynamics": Target(target=one)}) is None]
        known = [one for one in able if made.predicts(one)]
        if not known:
            unfit(elsewhere)
        compared, moved = 0, 0.0
        for target in known:
            here = made.model_copy(
                update={"start": target, "steps": LENGTH, "chains": None, "burn_in": None, "thin": 1}
            )
            on = self.model(Target(target=target))
            if misfit(here, Setting(on.dynamics)) is not None:
                continue
            begun = starts(on, target, self.count, STREAMS)[: self.count]
            values = here.carry(on, begun, STREAMS).values[:, 0]  # without adaptation, which would change the moments
            moved = max(moved, apart(values, begun))
            what = f"after {LENGTH} steps from the target ({type(target).__name__} of width {_width(target):g})"
            agree(target.reported(values)[0], here.predicted(target), what)
            compared += 1
        expect(compared, f"{made.label} predicts moments, but can run on none of the kit's targets")
        expect(moved > 1e-3, "chains do not move")

    def test_half_the_step_halves_the_bias(self) -> None:
        """With a sixteenth of the step, a method of order 1 has a sixteenth of the bias, besides the standard error."""
        made, on, distribution = self.alone(), self.model(), self.distribution()
        coarse = made.model_copy(update={"steps": COARSE}) if "steps" in made.body() else made
        if not isinstance(coarse, Refines):
            unfit(f"{made.label} has no halved(): another check compares its draws")
        fine = coarse.halved().halved().halved().halved()
        first, second = (self.drawn(one, on, self.count).values[:, 0] for one in (coarse, fine))
        bias = (_moments(first) - _moments(distribution=distribution)).abs()
        agree(second, distribution.moments(), "with a sixteenth of the step", room=bias / 8)

    def test_draws_have_the_moments_of_the_law(self) -> None:
        made, on, distribution = self.made(), self.model(), self.distribution()
        if isinstance(made, Refines):
            unfit(f"{made.label} has halved(): another check compares its bias for two steps")
        values = self.drawn(made, on, self.count).values
        agree(values[:, -1], distribution.moments(), "its draws", room=0.02 * torch.ones(5, dtype=torch.float64))

    def test_chains_without_a_number_are_refused_in_time(self) -> None:
        """If the score or log p is NaN, the sampler raises RunFailed and returns no draws."""
        made = self.short()
        distribution = _Broken()
        dynamics = Target(target=distribution)
        if unmet(made, {"dynamics": dynamics, "data": distribution}) is not None:
            unfit(f"{made.label} does not read a score or log p of a target")
        try:
            drawn = self.drawn(made, self.model(dynamics), math.prod(made.layout(60)))
        except RunFailed:
            return
        expect(False, f"if the score is NaN, there is no error but draws: {drawn.values.flatten()[:2].tolist()}")


class _Broken(NormalLaw):
    """A distribution whose log p and score are NaN."""

    type = "kit_broken"

    def log_prob(self, x: Tensor) -> Tensor:
        """Return NaN (B,)."""
        return super().log_prob(x) * math.nan

    def score(self, x: Tensor) -> Tensor:
        """Return NaN (B, d)."""
        return x * math.nan


def _normal(scale: float) -> NormalLaw:
    """Return a correlated normal distribution of this width."""
    return NormalLaw(center=(0.5, -1.0), root=((scale, 0.0), (0.6 * scale, 1.5 * scale)))


def _width(target: Distribution) -> float:
    """Return the width of one of the kit's targets."""
    return (
        target.root[0][0] if isinstance(target, NormalLaw) else target.width if isinstance(target, TwoNormals) else 0.0
    )


def _moments(x: Tensor | None = None, distribution: Distribution | None = None) -> Tensor:
    """Return means and covariances of rows x (n, m) or of a distribution, concatenated (m + m (m + 1)/2,)."""
    if x is not None:
        mean, covariance = x.mean(0), torch.cov(x.T)
    else:
        known = distribution.moments() if distribution is not None else None
        if known is None:
            raise ValueError("the moments of the distribution are not known")
        mean, covariance = known
    at = torch.triu_indices(len(mean), len(mean))
    return torch.cat([mean, covariance[at[0], at[1]]])


def agree(x: Tensor, moments: Any, what: str, room: Tensor | float = 0.0) -> None:
    """Check that independent rows x (n, m) have these means and covariances, within standard errors plus `room`."""
    mean, covariance = moments
    at = torch.triu_indices(len(mean), len(mean))
    centred = x - mean
    products = centred[:, at[0]] * centred[:, at[1]] - covariance[at[0], at[1]]
    each = torch.cat([centred, products], 1).double()
    off, error = each.mean(0), each.std(0) / math.sqrt(len(x))
    bad = (off.abs() > limit(len(off)) * error + room).nonzero().flatten()
    if len(bad):
        names = [
            *(f"mean {i + 1}" for i in range(len(mean))),
            *(f"covariance {i + 1},{j + 1}" for i, j in at.T.tolist()),
        ]
        worst = int(bad[(off / error)[bad].abs().argmax()])
        right = float(torch.cat([mean, covariance[at[0], at[1]]])[worst])
        found = right + float(off[worst])
        z = float(off[worst] / error[worst])
        expect(
            False, f"{what}: {names[worst]} of {len(x)} draws is {found:.4g}, it should be {right:.4g} (z = {z:+.3g})"
        )


__all__ = ["SamplerTests"]
