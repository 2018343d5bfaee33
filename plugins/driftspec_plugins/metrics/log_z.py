"""log Z of an energy model, Z = ∫ exp(-E(u)) du over model units, in nats: log p(u) = -E(u) - log Z.

It is computed by quadrature with an error, or by annealed importance sampling with a standard error; see
`driftspec_plugins.metrics._log_z`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from driftspec.components import Measured, Metric, Setting
from driftspec.components.component import Need
from driftspec_plugins.metrics._log_z import Integral

if TYPE_CHECKING:
    from driftspec.components import Evaluation


class LogZ(Metric, Integral):
    """log ∫ exp(-E(u)) du, model units."""

    type = "log_z"

    def needs(self) -> tuple[Need, ...]:
        return (Need("dynamics", ("energy",), "to integrate"),)

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        yield from self.unfit(around)

    def measure(self, evaluation: Evaluation) -> Measured:
        found = self.of(evaluation.model, evaluation.streams)
        n = found.details.get("chains", 0)
        reason = "quadrature is deterministic; its error is in details"
        return Measured(found.value, found.stderr, "nats", n, found.details, reason, found.summary(), found.verdicts())
