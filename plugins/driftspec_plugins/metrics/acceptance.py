"""Acceptance rate of a Metropolis sampler after burn-in: the mean over chains.

The standard error comes from the spread of the chains' rates. The best rates in high dimension are 0.574 for MALA and
0.651 for HMC. Roberts, Rosenthal, *Optimal scaling of discrete approximations to Langevin diffusions*, 1998; Beskos et
al., *Optimal tuning of the hybrid Monte Carlo algorithm*, 2013.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from driftspec.components import Measured, Metric
from driftspec.components.component import Need

if TYPE_CHECKING:
    from driftspec.components import Evaluation


class Acceptance(Metric):
    """The number of accepted proposals divided by that of all proposals, after burn-in."""

    type = "acceptance"
    reads_chains = True

    def needs(self) -> tuple[Need, ...]:
        return (Need("sampler", ("acceptance",), "the sampler must accept or reject proposals"),)

    def measure(self, evaluation: Evaluation) -> Measured:
        draws = evaluation.drawn()
        each = draws.each.get("acceptance")
        if each is None:
            return Measured(None, None, "", 0, {}, "the sampler made no proposals after burn-in")
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
            return Measured(float(each[0]), None, "", n, details, "one chain: its proposals are not independent")
        return Measured(float(each.mean()), float(each.std()) / math.sqrt(len(each)), "", n, details)
