"""Rate of acceptance of a Metropolis sampler after burn-in: the mean over chains, its standard error from their spread.

The best rates in high dimension: 0.574 for MALA, 0.651 for HMC. Roberts, Rosenthal, *Optimal scaling of discrete
approximations to Langevin diffusions*, 1998; Beskos et al., *Optimal tuning of the hybrid Monte Carlo algorithm*, 2013.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from driftspec.components import Measured, Metric
from driftspec.components.component import Need

if TYPE_CHECKING:
    from driftspec.components import Evaluation


class Acceptance(Metric):
    """Accepted proposals over all, after burn-in."""

    type = "acceptance"
    reads_chains = True

    def needs(self) -> tuple[Need, ...]:
        return (Need("sampler", ("acceptance",), "to average: that of a sampler that proposes"),)

    def measure(self, evaluation: Evaluation) -> Measured:
        draws = evaluation.drawn()
        each = draws.each.get("acceptance")
        if each is None:
            return Measured(None, None, "", 0, {}, "the sampler made no proposal after burn-in that it could refuse")
        each, steps = each.double().cpu(), draws.each.get("step")
        details = {
            "chains": len(each),
            "lowest": float(each.min()),
            "highest": float(each.max()),
            "non_finite_proposals": draws.stats.get("non_finite_proposals"),
        }
        if steps is not None:
            details |= {"step": float(steps.mean())}
            details |= {"step_lowest": float(steps.min()), "step_highest": float(steps.max())}
        n = int(draws.stats["proposed"])
        if len(each) < 2:
            return Measured(float(each[0]), None, "", n, details, "one chain: proposals in a row are not independent")
        return Measured(float(each.mean()), float(each.std()) / math.sqrt(len(each)), "", n, details)
