"""Energy distance: D²(P, Q) = 2 E‖X - Y‖ - E‖X - X'‖ - E‖Y - Y'‖, zero only for P = Q.

Székely, Rizzo, *Energy statistics: a class of statistics based on distances*, 2013. Estimated without bias by
U-statistics, so it may come out below zero; its standard error by the jackknife, too large by about 1.5 for P = Q.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from driftspec_plugins.metrics._two_samples import TwoSamples, by_chain

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Measured
    from driftspec.evaluate import Evaluation


class EnergyDistance(TwoSamples):
    """D² between the run's draws and data, in the data's own units (a length)."""

    type = "energy_distance"

    def measure(self, evaluation: Evaluation) -> Measured:
        both = self.compared(evaluation)
        value, stderr = energy_distance(both.x, both.y, both.parts)
        floor = evaluation.floor(lambda a, b: energy_distance(a, b)[0], len(both.x))
        return both.measured(value, stderr, "data units", {"floor": floor})


def energy_distance(x: Tensor, y: Tensor, parts: int | None = None) -> tuple[float, float]:
    """(D², standard error) for x (n, d) in so many independent parts (null: n) and y (m, d), at least 3 of each."""
    import torch

    n, m = parts or len(x), len(y)
    centre = torch.cat([x, y]).mean(0)  # cdist squares coordinates: far from the origin their differences would drown
    x, y = x - centre, y - centre
    across, within_y = by_chain(torch.cdist(x, y), n), torch.cdist(y, y).sum(1)
    within_x = by_chain(by_chain(torch.cdist(x, x), n).T, n).fill_diagonal_(0).sum(1)
    rows, columns = across.sum(1), across.sum(0)
    total, total_x, total_y = rows.sum(), within_x.sum(), within_y.sum()
    mean_x, mean_y = total_x / (n * (n - 1)), total_y / (m * (m - 1))
    # Leaving one row out changes each sum by that row's own distances.
    less_x, less_y = (total_x - 2 * within_x) / ((n - 1) * (n - 2)), (total_y - 2 * within_y) / ((m - 1) * (m - 2))
    without_x = 2 * (total - rows) / ((n - 1) * m) - less_x - mean_y
    without_y = 2 * (total - columns) / (n * (m - 1)) - mean_x - less_y
    variance = without_x.var(correction=0) * (n - 1) + without_y.var(correction=0) * (m - 1)
    return float(2 * total / (n * m) - mean_x - mean_y), math.sqrt(float(variance))
