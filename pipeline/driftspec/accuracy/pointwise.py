"""Values at points one by one: a bad point does not affect the others, and gradients are computed only when needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from driftspec.errors import RunFailed, SolveFailed

PATIENCE = 64
"""The largest number of solves that may fail in one call. Bad points in a batch are found by bisection."""

Answer = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points (B, d) -> a value (B, ...) and its error (B,)."""


def each(answer: Answer, points: Tensor, shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """Return values (B, *shape) and errors (B,) at points (B, d), float64; NaN and inf if a point or its solve is bad.

    Raise SolveFailed if more than PATIENCE solves fail.
    """
    value = torch.full((len(points), *shape), torch.nan, dtype=torch.float64)
    error = torch.full((len(points),), torch.inf, dtype=torch.float64)
    good = points.isfinite().all(1)
    waiting, failed = [torch.arange(len(points))], 0
    while waiting:
        rows = waiting.pop()
        kept = good[rows]
        if not bool(kept.any()):
            continue
        # A good point replaces each bad one, so that the others keep their row numbers, and so their random probes.
        replacement = points[rows[kept][0]]
        try:
            found, off = answer(torch.where(kept[:, None], points[rows], replacement))
        except SolveFailed as failure:
            failed += 1
            if failed > PATIENCE:
                raise
            waiting += _again(rows, good, failure.rows)
        else:
            value[rows[kept]], error[rows[kept]] = found.double().cpu()[kept], off.double().cpu()[kept]
    error[value.isnan().flatten(1).any(1) if shape else value.isnan()] = torch.inf
    return value, error


def _again(rows: Tensor, good: Tensor, bad: Sequence[int]) -> list[Tensor]:
    """Return the batches of rows to solve after a failed solve, and mark the bad rows in `good`.

    If the bad rows are known, it is the same batch without them, else the two halves of the batch.
    """
    if bad:
        good[rows[list(bad)]] = False
        return [rows]
    if int(good[rows].sum()) > 1:
        return list(rows.tensor_split(2))
    good[rows] = False
    return []


def differentiable(x: Tensor, value: Tensor, gradient: Callable[[], Tensor]) -> Tensor:
    """Return `value` (B,) as a function of x (B, d); the backward pass calls `gradient` for its gradient (B, d)."""
    result: Tensor = _Value.apply(x, value, gradient)  # type: ignore[no-untyped-call]  # torch's
    return result


class _Value(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, gradient: Callable[[], Tensor]) -> Tensor:
        ctx.gradient, ctx.like = gradient, x.detach()
        return value.clone()

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise RunFailed("only first derivatives are known here: leave create_graph out")
        return (weight[:, None] * ctx.gradient().to(weight)).to(ctx.like), None, None


__all__ = ["Answer", "differentiable", "each"]
