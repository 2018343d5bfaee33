"""Answers point by point: what a bad point costs is its own answer, and gradients are found when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from driftspec.errors import RunFailed, SolveFailed

PATIENCE = 64
"""Solves that may fail before a call gives up; the points at fault in a batch are searched for by halves."""

Answer = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points (B, d) -> an answer (B, ...) and its error (B,)."""


def each(answer: Answer, points: Tensor, shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """Answers (B, *shape) float64 at points (B, d), errors (B,); NaN and inf where a point or its solve is not finite.

    SolveFailed where so many solves fail that it is not a matter of single points.
    """
    value = torch.full((len(points), *shape), torch.nan, dtype=torch.float64)
    error = torch.full((len(points),), torch.inf, dtype=torch.float64)
    good = points.isfinite().all(1)
    waiting, failed = [torch.arange(len(points))], 0
    while waiting:
        rows = waiting.pop()
        asked = good[rows]
        if not bool(asked.any()):
            continue
        # Another point in the place of a bad one: the rest keep their places, by which random probes are drawn.
        stand_in = points[rows[asked][0]]
        try:
            found, off = answer(torch.where(asked[:, None], points[rows], stand_in))
        except SolveFailed as failure:
            failed += 1
            if failed > PATIENCE:
                raise
            waiting += _again(rows, good, failure.rows)
        else:
            value[rows[asked]], error[rows[asked]] = found.double().cpu()[asked], off.double().cpu()[asked]
    error[value.isnan().flatten(1).any(1) if shape else value.isnan()] = torch.inf
    return value, error


def _again(rows: Tensor, good: Tensor, bad: Sequence[int]) -> list[Tensor]:
    """What to try after a failed solve: the rows again, without those known to be bad in `good`; else both halves."""
    if bad:
        good[rows[list(bad)]] = False
        return [rows]
    if int(good[rows].sum()) > 1:
        return list(rows.tensor_split(2))
    good[rows] = False
    return []


def differentiable(x: Tensor, value: Tensor, gradient: Callable[[], Tensor]) -> Tensor:
    """`value` (B,) as a function of x (B, d) whose gradient (B, d) is computed in the backward pass; once."""
    result: Tensor = _Value.apply(x, value, gradient)  # type: ignore[no-untyped-call]
    return result


class _Value(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, gradient: Callable[[], Tensor]) -> Tensor:
        ctx.gradient, ctx.like = gradient, x.detach()
        return value.clone()

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise RunFailed("first derivatives alone are known here: leave create_graph out")
        return (weight[:, None] * ctx.gradient().to(weight)).to(ctx.like), None, None


__all__ = ["Answer", "differentiable", "each"]
