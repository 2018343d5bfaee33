"""Energy distance: D²(P, Q) = 2 E‖X - Y‖ - E‖X - X'‖ - E‖Y - Y'‖, zero only for P = Q.

Székely, Rizzo, *Energy statistics: a class of statistics based on distances*, 2013. It is MMD² with the kernel
-‖x - y‖. The estimate by U-statistics has no bias, so it may be negative. `_u_statistics` computes its standard error,
which for P = Q is 1.8 times the true one; `chance` is the standard error if P = Q.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from driftspec_plugins.metrics._two_samples import TwoSamples
from driftspec_plugins.metrics._u_statistics import discrepancy

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation, Measured


class EnergyDistance(TwoSamples):
    """D² between the run's draws and data, in data units (a length)."""

    type = "energy_distance"

    def measure(self, evaluation: Evaluation) -> Measured:
        both = self.compared(evaluation)
        value, stderr, chance = energy_distance(both.x, both.y, both.parts)
        floor = evaluation.floor(lambda a, b: energy_distance(a, b)[0], len(both.x))
        return both.measured(value, stderr, "data units", {"floor": floor, "chance": chance})


def energy_distance(x: Tensor, y: Tensor, parts: int | None = None) -> tuple[float, float, float]:
    """Return D², its standard error, and its standard error if P = Q.

    x (n, d) has `parts` independent parts of equal length (None: n); y is (m, d). Both need at least 3.
    """
    import torch

    centre = torch.cat([x, y]).mean(0)  # cdist squares coordinates: far from the origin it would lose digits
    return discrepancy(lambda a, b: -torch.cdist(a, b), x - centre, y - centre, parts or len(x))
