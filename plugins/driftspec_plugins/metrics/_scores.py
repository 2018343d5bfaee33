"""What the metrics of scores share: the model's score at many rows, and how its units change.

Of x in the data's own units and u = (x - shift) Wᵀ in model units: ∇_x log p = Wᵀ ∇_u log p.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from driftspec.components import Metric
from driftspec.errors import RunFailed

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.model import Model

BLOCK = 4096  # rows whose graph is held at a time


def score_at(model: Model, u: Tensor) -> Tensor:
    """s(u) (n, d) float64 on the CPU, model units, at t_data."""
    import torch

    u = model.like(u)
    with torch.no_grad():
        parts = [model.score(part.new_tensor(model.t_data), part) for part in torch.split(u, BLOCK)]
    return torch.cat(parts).double().cpu()


def finite(metric: Metric, values: Tensor, what: str) -> Tensor:
    """Values (n, d) as they are. RunFailed where one is not finite."""
    bad = int((~values.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise RunFailed(f"{metric.label}: {what} is not finite at {bad} of {len(values)} rows", "non_finite")
    return values


def mean(values: Tensor) -> tuple[float, float]:
    """Mean of (n,) and its standard error."""
    return float(values.mean()), float(values.std()) / len(values) ** 0.5
