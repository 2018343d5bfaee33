"""R-hat: the spread of all draws divided by the spread within chains; near 1 for chains that converged.

    R-hat = √(V/W), V the variance of all halves of chains together, W the mean variance within a half, of normal scores

Gelman, Rubin 1992; in the rank-normalised form of Vehtari, Gelman, Simpson, Carpenter, Bürkner 2021, who recommend a
value below 1.01. `driftspec.accuracy.convergence` has the whole formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from driftspec.accuracy.convergence import FEWEST, split_r_hat
from driftspec.components import Measured, Setting
from driftspec_plugins.metrics._chains import OfQuantities, as_arrays

if TYPE_CHECKING:
    from driftspec.components import Evaluation


class RHat(OfQuantities):
    """The largest R-hat of the reported quantities."""

    type = "r_hat"
    reads_chains = True

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        if around.sampler is not None and around.count is not None:
            chains, draws = around.sampler.layout(around.count)
            if few := _too_few(chains, draws):
                yield "of", f"{few}: a sampler with 'chains' makes several draws each"

    def measure(self, evaluation: Evaluation) -> Measured:
        values, names = self.quantities(evaluation)
        chains, draws = values.shape[:2]
        details: dict[str, object] = {"chains": chains, "draws": draws}
        if few := _too_few(chains, draws):
            return Measured(None, None, "", chains * draws, details, few)
        each = {name: split_r_hat(x) for name, x in as_arrays(values, names).items()}
        details["quantities"] = each
        known = {name: value for name, value in each.items() if value is not None}
        if len(known) < len(each):
            still = ", ".join(name for name in each if name not in known)
            return Measured(None, None, "", chains * draws, details, f"nothing moves within the chains: {still}")
        details["worst"] = max(known, key=lambda name: known[name])
        reason = "R-hat is compared with a threshold, 1.01"
        return Measured(max(known.values()), None, "", chains * draws, details, reason)


def _too_few(chains: int, draws: int) -> str:
    few = chains < 2 or draws < FEWEST
    return f"R-hat compares at least 2 chains of {FEWEST} draws, and there are {chains} of {draws}" if few else ""
