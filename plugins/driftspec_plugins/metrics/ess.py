"""Effective sample size (ESS): the number of independent draws with the same precision of the mean.

    ESS = M N / τ, of the normal scores of ranks (bulk), and of the 5 % and 95 % quantiles (tail)

Vehtari, Gelman, Simpson, Carpenter, Bürkner 2021. If each chain makes one draw, the ESS is the number of chains, which
are independent. For chains of 2 to 19 draws there is no ESS, because they show too little of the autocorrelation.
`driftspec.accuracy.convergence` has the whole formula.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from driftspec.accuracy.convergence import SHORT, bulk, tail
from driftspec.components import Measured
from driftspec_plugins.metrics._chains import OfQuantities, as_arrays, unmoved

if TYPE_CHECKING:
    from driftspec.components import Evaluation


class ESS(OfQuantities):
    """The smallest bulk ESS of the reported quantities; the details have bulk and tail ESS of each."""

    type = "ess"
    reads_chains = True

    def measure(self, evaluation: Evaluation) -> Measured:
        values, names = self.quantities(evaluation)
        chains, draws = values.shape[:2]
        details: dict[str, object] = {"chains": chains, "draws": draws}
        if draws == 1:
            reason = "the chains are independent: the value is their number, not an estimate"
            return Measured(float(chains), None, "draws", chains, details, reason)
        short = f"chains of {draws} draws are too short for an effective sample size: {SHORT} draws are needed"
        if refused := unmoved(values, names) or (short if draws < SHORT else None):
            return Measured(None, None, "draws", chains * draws, details, refused)
        each = {name: {"bulk": bulk(x), "tail": tail(x)} for name, x in as_arrays(values, names).items()}
        worst = min(each, key=lambda name: each[name]["bulk"])
        details |= {"worst": worst, "quantities": each}
        reason = "an effective sample size measures the precision of the other metrics"
        return Measured(each[worst]["bulk"], None, "draws", chains * draws, details, reason)
