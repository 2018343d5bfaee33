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
    from driftspec.evaluate import Evaluation


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

    def measure(self, evaluation: Evaluation) -> Measured:
        low, high = self.range
        x, h = evaluation.test(self.points), (high - low) / self.levels
        if outside := int(((x < low) | (x > high)).any(1).sum()):
            raise RunFailed(f"{self.label}: {outside} of {len(x)} rows lie outside range [{low:g}, {high:g}]")
        steps = (x - low) / h
        if float((steps - steps.round()).abs().max()) < 1e-6:
            text = f"every row lies on the edges of its {self.levels} levels, where a density has no bound"
            raise RunFailed(f"{self.label}: {text}: add uniform noise of width {h:g} to the data")
        scored = self.scored(evaluation)
        nll, stderr = scored.mean(-scored.log_p)
        unit = x.shape[1] * math.log(2)
        value = nll / unit - math.log2(h)
        details = {**scored.details, "nll": nll, "bin": h}
        line = f"{value:.3f} ± {stderr / unit:.3f} bits/dim at {self.levels} levels; {scored.told}"
        return Measured(value, stderr / unit, "bits/dim", len(x), details, line=line, verdicts=scored.verdicts)
