"""Mode coverage: which of the data's separate modes the run's draws are in, and with what share.

A draw belongs to the mode it lies near, as the law itself says: a Gaussian of a mixture within √d + 2 of its
deviations, a ring within 3, a cell of a checkerboard. A mode's ratio is the share of draws in it over the share that
data have; it is covered from half of that on. The value is the smallest ratio: 1 for a perfect model but for chance,
which makes the smallest of several less than 1 (the floor: the same of data in as many rows), and 0 for a lost mode.
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

EXPECTED = 200_000  # rows of data that tell each mode's share
COVERED = 0.5


class ModeCoverage(TwoSamples):
    """The smallest ratio, over the data's modes, of the draws' share to the data's."""

    type = "mode_coverage"

    def needs(self) -> tuple[Need, ...]:
        return (Need("data", ("samples",), "to know each mode's share"),)

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        law = around.law
        if law is not None and not (isinstance(law, Distribution) and type(law).mode_of is not Distribution.mode_of):
            yield "type", f"{law.label} does not say where its modes are: a mixture, rings or a checkerboard do"

    def measure(self, evaluation: Evaluation) -> Measured:
        law = evaluation.law or evaluation.setting.data
        rows = evaluation.fresh(EXPECTED, "modes")
        if not isinstance(law, Distribution) or rows is None:
            raise RunFailed(f"{self.label}: nothing says where the modes are")
        expected = shares(law, rows, 0)
        chains = evaluation.chains(self.samples)
        drawn = Compared(checked(self, chains.flatten(0, 1), "draws"), rows, len(chains))
        found = shares(law, drawn.x, len(expected))
        ratio, n = found / expected, len(drawn.x)
        worst = int(ratio.argmin())
        share, true = (float(found[worst]) * n + 0.5) / (n + 1), float(expected[worst])
        near = by_chain((law.mode_of(drawn.x) == worst).double(), drawn.parts)
        variance = max(share * (1 - share) / n, float(near.var()) / len(near))  # none in n draws: not none at all
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
    """The share (K,) of rows near each mode."""
    import torch

    mode = law.mode_of(rows)
    return torch.bincount(mode[mode >= 0], minlength=modes).double() / len(rows)
