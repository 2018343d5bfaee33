"""Functions for the metrics of scores: the model's score at many rows.

For x in data units and u = (x - shift) Wᵀ in model units, ∇_x log p = Wᵀ ∇_u log p.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from driftspec.components import Metric
from driftspec.errors import RunFailed

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Model

BLOCK = 4096  # rows in one graph


def score_at(model: Model, u: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Return the score s(u) (n, d) at t_data and u (n, d), model units, float64 on the CPU, and details.

    The details have the error of the score if an ODE solve computed it.
    """
    import torch

    parts = [model.score_and_error(part) for part in torch.split(model.like(u), BLOCK)]
    score, error = (torch.cat(values).double().cpu() for values in zip(*parts, strict=True))
    return score, {"score_error": stated(error)} if bool(error.any()) else {}


def stated(error: Tensor) -> dict[str, float | None]:
    """Return the mean and the largest of errors (n,); None if one is inf or NaN."""
    known = bool(error.isfinite().all())
    return {"mean": float(error.mean()), "max": float(error.max())} if known else {"mean": None, "max": None}


def finite(metric: Metric, values: Tensor, what: str) -> Tensor:
    """Return values (n, d) unchanged. Raise RunFailed if one is not finite."""
    bad = int((~values.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise RunFailed(f"{metric.label}: {what} is not finite at {bad} of {len(values)} rows", "non_finite")
    return values


def mean(values: Tensor) -> tuple[float, float]:
    """Return the mean of values (n,) and its standard error."""
    return float(values.mean()), float(values.std()) / len(values) ** 0.5
