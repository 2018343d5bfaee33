"""Mode coverage: the share of the run's draws in each mode of the data, relative to the share of the data.

The distribution of the data defines when a draw is near a mode: within √d + 2 deviations of a component of a Gaussian
mixture, within 3 deviations of a ring, in a cell of a checkerboard. The ratio of a mode is the share of draws near it
divided by the share of data near it. A mode is covered if its ratio is at least ½. The value is the smallest ratio. It
is 0 if a mode has no draws. For a perfect model it is somewhat below 1, because it is the smallest of several random
ratios; the floor is its value for as many data rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from driftspec.components import Distribution, Setting
from driftspec.components.component import Need
from driftspec.errors import RunFailed
from driftspec_plugins.metrics._two_samples import Compared, TwoSamples, by_chain, checked

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation, Measured

EXPECTED = 200_000  # number of data rows for the share of each mode
COVERED = 0.5  # smallest ratio of a covered mode


class ModeCoverage(TwoSamples):
    """The smallest ratio, over the modes of the data, of the share of draws to the share of data."""

    type = "mode_coverage"

    def needs(self) -> tuple[Need, ...]:
        return (Need("data", ("samples",), "to know each mode's share"),)

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        law = around.reference
        if law is not None and not (isinstance(law, Distribution) and type(law).mode_of is not Distribution.mode_of):
            yield "type", f"{law.label} does not define its modes; a mixture, rings and a checkerboard do"

    def measure(self, evaluation: Evaluation) -> Measured:
        law = evaluation.target_alone or evaluation.setting.data
        rows = evaluation.fresh(EXPECTED, "modes")
        if not isinstance(law, Distribution) or rows is None:
            raise RunFailed(f"{self.label}: the modes of the data are not known")
        expected = shares(law, rows, 0)
        chains = evaluation.chains(self.samples)
        drawn = Compared(checked(self, chains.flatten(0, 1), "draws"), rows, len(chains))
        found = shares(law, drawn.x, len(expected))
        ratio, n = found / expected, len(drawn.x)
        worst = int(ratio.argmin())
        share, true = (float(found[worst]) * n + 0.5) / (n + 1), float(expected[worst])
        near = by_chain((law.mode_of(drawn.x) == worst).double(), drawn.parts)
        variance = max(share * (1 - share) / n, float(near.var()) / len(near))  # above 0 even for 0 draws
        stderr = math.sqrt(variance + (share / true) ** 2 * true * (1 - true) / EXPECTED) / true
        covered = int((ratio >= COVERED).sum())
        details = {
            "covered": covered, "modes": len(expected), "worst": worst, "ratios": ratio.tolist(),
            "expected": expected.tolist(), "near_none": 1 - float(found.sum()),
            "near_none_expected": 1 - float(expected.sum()),
            "floor": evaluation.floor(lambda a, _: float((shares(law, a, len(expected)) / expected).min()), n),
        }  # fmt: skip
        value = float(ratio[worst])
        bar = f"{value:.3f} ± {drawn.stated(stderr):.3f}"
        line = f"{covered} of {len(expected)} modes covered; the least has {bar} of its share"
        return drawn.measured(value, stderr, "", details, line)


def shares(law: Distribution, rows: Tensor, modes: int) -> Tensor:
    """Return the share (K,) of rows (n, d) near each mode, for at least `modes` modes."""
    import torch

    mode = law.mode_of(rows)
    return torch.bincount(mode[mode >= 0], minlength=modes).double() / len(rows)
