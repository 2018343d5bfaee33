"""Bits per dimension: an upper bound of the code length -log₂ P(k)/d of quantised data k, from a density p.

The data k have `levels` L over a range of width R. Uniform noise of width h = R/L was added to them. Then

    -log₂ P(k) ≤ E[-log₂ (p(x) h^d)],   bits/dim = NLL/(d log 2) - log₂ h      (Theis, van den Oord, Bethge 2016)

with p in data units; the NLL is already in these units if the data are standardised. For pixels of 256 levels on [0, 1]
h is 1/256, and - log₂ h is 8 bits; on [0, 256] it is 0. Data that were never quantised have no h: their value would
depend on the unit of length. If the data have no noise and lie on their levels, there is no bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from driftspec.components import Distribution, Measured, Setting
from driftspec.errors import RunFailed
from driftspec_plugins.metrics._likelihood import Likelihood

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation

ON_EDGES = 0.01
"""The largest share of values on the edges of their levels; with the uniform noise it is about 1e-6."""


class BitsPerDim(Likelihood):
    """NLL of quantised data with uniform noise, in bits per dimension."""

    type = "bits_per_dim"
    example: ClassVar[Mapping[str, Any]] = {"levels": 256}

    levels: int = Field(ge=2, description="L, number of levels of the data before the noise was added")
    range: tuple[float, float] = Field((0.0, 1.0), description="range of the data, in data units: h is its width/L")

    @field_validator("range")
    @classmethod
    def _rises(cls, range: tuple[float, float]) -> tuple[float, float]:
        if range[0] >= range[1]:
            raise ValueError("two numbers, the smaller one first")
        return range

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        yield from super().problems(around)
        if isinstance(around.reference, Distribution):
            yield "levels", f"{around.reference.label} is continuous, it never had levels: take nll"

    @property
    def bin(self) -> float:
        """The width h of a level in data units."""
        low, high = self.range
        return (high - low) / self.levels

    def unfit_rows(self, rows: Tensor) -> Iterator[tuple[str, str]]:
        """Yield (key, message) if rows (n, d), data units, lie outside `range` or on the edges of the levels."""
        low, high = self.range
        x = rows[: self.points]
        if outside := int(((x < low) | (x > high)).any(1).sum()):
            yield "range", f"{outside} of {len(x)} rows lie outside range [{low:g}, {high:g}]"
            return
        steps = (x - low) / self.bin
        share = float(((steps - steps.round()).abs() < 1e-6).double().mean())
        if share > ON_EDGES:
            text = f"{share:.0%} of the values lie on the edges of their {self.levels} levels, where a density has no"
            yield "levels", f"{text} bound: add uniform noise of width {self.bin:g} to the data"

    def measure(self, evaluation: Evaluation) -> Measured:
        x, h = evaluation.test(self.points), self.bin
        for _, text in self.unfit_rows(x):
            raise RunFailed(f"{self.label}: {text}")
        scored = self.scored(evaluation)
        nll, stderr = scored.mean(-scored.log_p)
        unit = x.shape[1] * math.log(2)
        value = nll / unit - math.log2(h)
        details = {**scored.details, "nll": nll, "bin": h}
        line = f"{value:.3f} ± {stderr / unit:.3f} bits/dim at {self.levels} levels; {scored.summary}"
        return Measured(value, stderr / unit, "bits/dim", len(x), details, line=line, verdicts=scored.verdicts)
