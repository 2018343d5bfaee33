"""Bits per dimension: the code length of dequantised data, -log₂ P(k)/d, bounded by the density's.

Data k that have `levels` L over a range of width R were spread over their bins of edge h = R/L by uniform noise, and

    -log₂ P(k) ≤ E[-log₂ (p(x) h^d)],   bits/dim = NLL/(d log 2) - log₂ h      (Theis, van den Oord, Bethge 2016)

with p in the data's own units: the change of units of standardised data is in the NLL already. Pixels of 256 levels on
[0, 1] have h = 1/256 and 8 bits are added; on [0, 256], none. Data that were never quantised have no h, and their
number would change with the unit of length; data that still lie on their levels have no bound at all.
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
"""A share of values on the edges of their levels that noise does not explain: of dequantised data it is about 1e-6."""


class BitsPerDim(Likelihood):
    """NLL of dequantised data in bits per dimension, at the resolution of their levels."""

    type = "bits_per_dim"
    example: ClassVar[Mapping[str, Any]] = {"levels": 256}

    levels: int = Field(ge=2, description="L, levels that the data had before they were dequantised")
    range: tuple[float, float] = Field((0.0, 1.0), description="the range they lie in, data units: h = its width/L")

    @field_validator("range")
    @classmethod
    def _rises(cls, range: tuple[float, float]) -> tuple[float, float]:
        if range[0] >= range[1]:
            raise ValueError("two numbers, the smaller one first")
        return range

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        yield from super().problems(around)
        if isinstance(around.law, Distribution):
            yield "levels", f"{around.law.label} is continuous, it never had levels: take nll"

    @property
    def bin(self) -> float:
        """h, the width of a level in data units."""
        low, high = self.range
        return (high - low) / self.levels

    def unfit_rows(self, rows: Tensor) -> Iterator[tuple[str, str]]:
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
        line = f"{value:.3f} ± {stderr / unit:.3f} bits/dim at {self.levels} levels; {scored.told}"
        return Measured(value, stderr / unit, "bits/dim", len(x), details, line=line, verdicts=scored.verdicts)
