"""Effective sample size: how many independent draws the chains' draws are worth, for the quantity worth least.

    ESS = M N / τ, by normal scores of ranks (bulk); beside it the ESS of the 5 % and 95 % quantiles (tail)

Vehtari, Gelman, Simpson, Carpenter, Bürkner 2021. Of chains with one draw each it is their number: they are
independent. Of chains of 2 to 19 draws there is none: their halves show too little of the autocorrelation.
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
    """The smallest bulk ESS of the reported quantities, and of each bulk and tail."""

    type = "ess"
    reads_chains = True

    def measure(self, evaluation: Evaluation) -> Measured:
        values, names = self.quantities(evaluation)
        chains, draws = values.shape[:2]
        details: dict[str, object] = {"chains": chains, "draws": draws}
        if draws == 1:
            reason = "the chains are independent: it is their number, not an estimate"
            return Measured(float(chains), None, "draws", chains, details, reason)
        short = f"chains of {draws} draws are too short for an effective sample size: it takes {SHORT}"
        if refused := unmoved(values, names) or (short if draws < SHORT else None):
            return Measured(None, None, "draws", chains * draws, details, refused)
        each = {name: {"bulk": bulk(x), "tail": tail(x)} for name, x in as_arrays(values, names).items()}
        worst = min(each, key=lambda name: each[name]["bulk"])
        details |= {"worst": worst, "quantities": each}
        reason = "it measures how precise the other metrics are"
        return Measured(each[worst]["bulk"], None, "draws", chains * draws, details, reason)
