"""Quadrature: along a curve by the Gauss-Legendre rule in panels, and over a box by the trapezoidal rule.

Both are for functions that are smooth on a known length σ, the standard deviation of the noise. The error of the
trapezoidal rule with step h is about exp(-2π² σ²/h²); that of 16 Gauss-Legendre nodes on a panel of length 8 σ is
about exp(-2 (16 · σ/4σ)²).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

BUDGET = 3e8  # the most kernels evaluated for one entropy: about 3 seconds


def along(curve: Callable[[Array], Array], start: float, stop: float, std: float) -> tuple[Array, Array]:
    """Return nodes t (K,) and weights w (K,) of ∫ g dt ≈ Σ w g(t), in panels of at most 8 std along curve(t) (K, 2)."""
    import numpy as np

    fine = np.linspace(start, stop, 2049)
    steps = np.linalg.norm(np.diff(curve(fine), axis=0), axis=1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    panels = math.ceil(length[-1] / (8 * std))
    edges = np.interp(np.linspace(0, length[-1], panels + 1), length, fine)
    nodes, weights = np.polynomial.legendre.leggauss(16)
    half, middle = np.diff(edges)[:, None] / 2, (edges[1:] + edges[:-1])[:, None] / 2
    return (middle + half * nodes).ravel(), (half * weights).ravel()


def entropy(
    log_prob: Callable[[Tensor], Tensor], box: Sequence[tuple[float, float]], step: float, cost: int
) -> float | None:
    """Return -∫ p log p over the box in nats, by a grid of n points; None if n · `cost` exceeds BUDGET.

    `cost` is the number of mixture components that one log p evaluates.
    """
    import torch

    counts = [math.ceil((high - low) / step) + 1 for low, high in box]
    if math.prod(counts) * cost > BUDGET:
        return None
    axes = [torch.linspace(*ends, count, dtype=torch.float64) for ends, count in zip(box, counts)]
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    points = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    with torch.no_grad():
        return float(torch.special.entr(log_prob(points).exp()).sum()) * cell


__all__ = ["along", "entropy"]
