"""What a sampler is held to: each sample its own, and draws whose law is known, or whose bias goes as it says."""

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
from driftspec.testing.checks import apart, expect, limit, own_chance, same, unfit
from driftspec.testing.component import ComponentTests
from driftspec.testing.worlds import DATA, KNOWN, Known, NormalLaw, Target, TwoNormals, misfit, model, unmet

STREAMS = Streams(13).under("kit")
SCALES = (1.0, 0.5, 0.25, 0.1)
"""Deviations of the targets: a step that is short in one is long in another."""
LENGTH = 12
"""Steps of chains that begin in their target: enough for a wrong one to leave it."""
COARSE = 8
"""Steps of a sampler of which twice as many should be twice as good."""


class SamplerTests(ComponentTests):
    """Checks of a sampler, on the first of the kit's own dynamics that it fits."""

    kind = "sampler"
    count: ClassVar[int] = 6000
    """Samples whose moments are compared."""
    dynamics: ClassVar[Any] = None
    """The dynamics to draw from, in spec form, for a sampler that fits none of the kit's own."""

    def around(self) -> Dynamics:
        """What it draws from."""
        made = self.made()
        known = [self.make("dynamics", self.dynamics)] if self.dynamics is not None else KNOWN
        lacks = [unmet(made, {"dynamics": one, "data": DATA}) or misfit(made, Setting(one, DATA)) for one in known]
        if None not in lacks:
            unfit(f"{made.label} fits none of the kit's dynamics ({lacks[0]}): give `dynamics`")
        return known[lacks.index(None)]

    def model(self, dynamics: Dynamics | None = None, dtype: torch.dtype = torch.float64) -> Model:
        found = model(dynamics or self.around(), dtype)
        rows = DATA.sample(4000, torch.Generator().manual_seed(5)).to(dtype)
        return replace(found, rows=lambda: rows)

    def drawn(self, sampler: Sampler, on: Model, count: int, seed: int = 0) -> Draws:
        return sampler.draw(on, count, Streams(13 + seed).under("kit"))

    def short(self) -> Sampler:
        """The sampler, its chains a few steps long: for what does not depend on their length."""
        made: Sampler = self.made()
        if not isinstance(made, ChainSampler):
            return made
        return made.model_copy(update={"steps" if made.chains is None else "burn_in": LENGTH})

    def law(self) -> NormalLaw:
        """The law of its draws from the kit's own dynamics, of a sampler that makes no chains."""
        made = self.made()
        if isinstance(made, ChainSampler):
            unfit(f"{made.label} makes chains: what it predicts of their draws is checked")
        known = self.around()
        if made.heuristic or not isinstance(known, Known):
            unfit(f"{made.label} states no law of its draws: it is heuristic, or its dynamics is one of your own")
        law: Any = known.law()
        return law

    def alone(self) -> Sampler:
        """The same, with one draw a chain."""
        made = self.short()
        if made.layout(300) != (300, 1):
            unfit(f"{made.label} draws several samples from a chain: sample i has others before it")
        return made

    def test_draws_are_finite_and_laid_out_as_it_says(self) -> None:
        made, on = self.short(), self.model()
        chains, draws = made.layout(60)
        drawn = self.drawn(made, on, chains * draws)
        shape = tuple(drawn.values.shape)
        expect(shape == (chains, draws, 2), f"draws have shape {shape}, and layout() says {(chains, draws, 2)}")
        expect(drawn.values.isfinite().all(), "some draws are not finite")
        told = [name for name, value in drawn.stats.items() if not math.isfinite(value)]
        expect(not told, f"stats that are no finite numbers: {', '.join(told)}")
        ragged = [name for name, value in drawn.each.items() if value.shape != (chains,)]
        expect(not ragged, f"`each` has a number a chain, and not so: {', '.join(ragged)}")

    def test_sample_i_is_the_same_however_many_are_asked_for(self) -> None:
        made, on = self.alone(), self.model()
        many = self.drawn(made, on, 300).values
        for count in (1, 3, 257):
            few = self.drawn(made, on, count).values
            expect(len(few) == count, f"{count} samples are asked for, and {len(few)} come")
            error = apart(few, many[:count])
            text = f"the first {count} of {count} samples differ from the first {count} of 300 by {error:.1e}"
            expect(error < 1e-8, f"{text}: sample i is a function of (seed, i) alone")
        first, last = many[:1].flatten(), many[256:257].flatten()
        expect(not same(first, last), "sample 0 and sample 256 are the same: each block has a generator of its own")

    def test_the_same_streams_give_the_same_draws(self) -> None:
        made, on = self.short(), self.model()
        count = math.prod(made.layout(60))
        with own_chance(made.label):
            first, second = self.drawn(made, on, count).values, self.drawn(made, on, count).values
        expect(same(first, second), "drawn twice from the same streams, samples differ")
        expect(not same(first, self.drawn(made, on, count, seed=1).values), "every seed gives the same samples")

    def test_float32_is_kept(self) -> None:
        made = self.short()
        drawn = self.drawn(made, self.model(dtype=torch.float32), math.prod(made.layout(60)))
        expect(drawn.values.dtype == torch.float32, f"draws of a float32 model are {drawn.values.dtype}")

    def test_chains_that_begin_in_a_target_have_the_moments_it_predicts(self) -> None:
        """Of a Metropolis sampler the target's own, whatever the step; of others their bias included."""
        made = self.made()
        laws = [*(_normal(scale) for scale in SCALES), *(TwoNormals(width=scale) for scale in SCALES)]
        if not isinstance(made, ChainSampler) or not isinstance(made, PredictsMoments):
            unfit(f"{made.label} predicts the moments of no target: the law of its draws is checked in another way")
        known = [law for law in laws if made.predicts(law) and unmet(made, {"dynamics": Target(target=law)}) is None]
        if not known:
            unfit(f"{made.label} predicts the moments of no target: the law of its draws is checked in another way")
        compared, moved = 0, 0.0
        for law in known:
            here = made.model_copy(update={"start": law, "steps": LENGTH, "chains": None, "burn_in": None, "thin": 1})
            on = self.model(Target(target=law))
            if misfit(here, Setting(on.dynamics)) is not None:
                continue
            begun = starts(on, law, self.count, STREAMS)[: self.count]
            values = here.carry(on, begun, STREAMS).values[:, 0]  # no step adapts: while it does, no law stays
            moved = max(moved, apart(values, begun))
            said = f"after {LENGTH} steps from the target ({type(law).__name__} of width {_width(law):g})"
            agree(law.reported(values)[0], here.predicted(law), said)
            compared += 1
        expect(compared, f"{made.label} predicts moments, and there is no target on which it can run")
        expect(moved > 1e-3, "chains stay where they begin")

    def test_half_the_step_halves_the_bias(self) -> None:
        """Twice the steps, four times over: by order 1 a sixteenth of the bias is left, and chance beside it."""
        made, on, law = self.alone(), self.model(), self.law()
        coarse = made.model_copy(update={"steps": COARSE}) if "steps" in made.body() else made
        if not isinstance(coarse, Refines):
            unfit(f"{made.label} has no halved(): its draws are compared with the law as they are")
        fine = coarse.halved().halved().halved().halved()
        first, second = (self.drawn(one, on, self.count).values[:, 0] for one in (coarse, fine))
        bias = (_moments(first) - _moments(law=law)).abs()
        agree(second, law.moments(), "with a sixteenth of the step", room=bias / 8)

    def test_draws_have_the_moments_of_the_law(self) -> None:
        made, on, law = self.made(), self.model(), self.law()
        if isinstance(made, Refines):
            unfit(f"{made.label} has halved(): its bias is to fall with its step")
        values = self.drawn(made, on, self.count).values
        agree(values[:, -1], law.moments(), "its draws", room=0.02 * torch.ones(5, dtype=torch.float64))

    def test_chains_without_a_number_are_refused_in_time(self) -> None:
        """A model whose score is no number ends a run with a name, and gives no samples."""
        made = self.short()
        law = _Broken()
        dynamics = Target(target=law)
        if unmet(made, {"dynamics": dynamics, "data": law}) is not None:
            unfit(f"{made.label} does not read a score or log p of a target")
        try:
            drawn = self.drawn(made, self.model(dynamics), math.prod(made.layout(60)))
        except RunFailed:
            return
        expect(False, f"a score that is NaN gives draws without a word: {drawn.values.flatten()[:2].tolist()}")


class _Broken(NormalLaw):
    """Whose log p is no number, nor its score."""

    type = "kit_broken"

    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x) * math.nan

    def score(self, x: Tensor) -> Tensor:
        return x * math.nan


def _normal(scale: float) -> NormalLaw:
    return NormalLaw(center=(0.5, -1.0), root=((scale, 0.0), (0.6 * scale, 1.5 * scale)))


def _width(law: Distribution) -> float:
    return law.root[0][0] if isinstance(law, NormalLaw) else law.width if isinstance(law, TwoNormals) else 0.0


def _moments(x: Tensor | None = None, law: Distribution | None = None) -> Tensor:
    """Means and covariances of rows or of a law, one after the other (m + m (m + 1)/2,)."""
    if x is not None:
        mean, covariance = x.mean(0), torch.cov(x.T)
    else:
        known = law.moments() if law is not None else None
        if known is None:
            raise ValueError("a law whose moments are not known")
        mean, covariance = known
    at = torch.triu_indices(len(mean), len(mean))
    return torch.cat([mean, covariance[at[0], at[1]]])


def agree(x: Tensor, moments: Any, what: str, room: Tensor | float = 0.0) -> None:
    """Means and covariances of independent rows x (n, m) are `moments`, within chance and some room."""
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
            False, f"{what}: {names[worst]} of {len(x)} draws is {found:.4g} where {right:.4g} is right (z = {z:+.3g})"
        )


__all__ = ["SamplerTests"]
