"""What the metrics of scores share: the model's score at many rows, and how its units change.

Of x in the data's own units and u = (x - shift) Wᵀ in model units: ∇_x log p = Wᵀ ∇_u log p.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from driftspec.components import Metric
from driftspec.errors import RunFailed

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Model

BLOCK = 4096  # rows whose graph is held at a time


def score_at(model: Model, u: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """s(u) (n, d) float64 on the CPU, model units, at t_data; and details: its error, where it comes from solves."""
    import torch

    parts = [model.score_and_error(part) for part in torch.split(model.like(u), BLOCK)]
    score, error = (torch.cat(values).double().cpu() for values in zip(*parts, strict=True))
    return score, {"score_error": stated(error)} if bool(error.any()) else {}


def stated(error: Tensor) -> dict[str, float | None]:
    """Mean and largest of errors (n,), null where they are not known."""
    known = bool(error.isfinite().all())
    return {"mean": float(error.mean()), "max": float(error.max())} if known else {"mean": None, "max": None}


def finite(metric: Metric, values: Tensor, what: str) -> Tensor:
    """Values (n, d) as they are. RunFailed where one is not finite."""
    bad = int((~values.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise RunFailed(f"{metric.label}: {what} is not finite at {bad} of {len(values)} rows", "non_finite")
    return values


def mean(values: Tensor) -> tuple[float, float]:
    """Mean of (n,) and its standard error."""
    return float(values.mean()), float(values.std()) / len(values) ** 0.5
