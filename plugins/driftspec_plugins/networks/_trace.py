"""tr(W_L D_L ... W_1 D_1 W_0): the trace of a feed-forward network's Jacobian, with matrices W_l and diagonals D_l."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def chain_trace(weights: Sequence[Tensor], diagonals: Sequence[Tensor]) -> Tensor:
    """Return the trace (B,) for W_0 (h_1, d), W_l (h_{l+1}, h_l), W_L (d, h_L) and diagonals D_l (B, h_l), L ≥ 1.

    With L = 1 the trace is a linear form in D_1, and with L = 2 a bilinear form. With L ≥ 3 the product is computed
    from both ends, each by one matrix product over (B, h): W_1 D_1 W_0 is linear in D_1, and W_L D_L W_{L-1} in D_L.
    The columns of the first and the rows of the second, min(d, h_L) of each, are then multiplied at D_{L-1}.
    """
    import torch
    from torch.nn.functional import linear

    first, last = weights[0], weights[-1]
    if len(diagonals) == 1:
        return diagonals[0] @ (first * last.T).sum(1)
    if len(diagonals) == 2:
        return (linear(diagonals[0], weights[1] * (first @ last).T) * diagonals[1]).sum(-1)
    if last.shape[0] > last.shape[1]:  # the trace is cyclic: sum over h_L instead of d
        first, last = first @ last, torch.eye(last.shape[1], dtype=last.dtype, device=last.device)
    count = len(last)
    columns = linear(diagonals[0], (first.T[:, None] * weights[1]).flatten(0, 1)).view(-1, count, len(weights[1]))
    for weight, diagonal in zip(weights[2:-2], diagonals[1:-2]):
        columns = linear(diagonal[:, None] * columns, weight)
    rows = linear(diagonals[-1], (last[:, None] * weights[-2].T).flatten(0, 1)).view(-1, count, weights[-2].shape[1])
    return ((columns * rows).sum(1) * diagonals[-2]).sum(-1)
