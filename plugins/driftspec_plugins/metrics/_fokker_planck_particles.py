"""Quantities of particles beside those of a density on a grid: P(x_j > c), P of equally likely bins, moments.

Each quantity is a triple: its value for the particles, its value for the density, and the standard error of their
difference, from the density, such as √(P (1 - P)/N) for a probability P and N independent particles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from driftspec_plugins.metrics._fokker_planck import Grid

    Array = NDArray[np.float64]
    Quantity = tuple[float, float, float]


def compare(grid: Grid, p: Array, x: Array, n: float, above: float, bins: int) -> dict[str, Quantity]:
    """Return each quantity of the particles x (N, d) and of the density p, with a standard error for n of them."""
    made: dict[str, Quantity] = {}

    def probability(name: str, ours: float, theirs: float) -> None:
        made[name] = ours, theirs, math.sqrt(max(theirs * (1 - theirs), 1 / n) / n)

    for axis in range(x.shape[1]):
        share = float((x[:, axis] > above).mean())
        probability(f"P(x{axis + 1} > {above:g})", share, 1 - float(grid.below(p, axis, above)))
    for axis in range(x.shape[1]):
        summed = grid.below(p, axis, grid.edges(axis))
        edges = np.interp(np.arange(1, bins) / bins * summed[-1], summed, grid.edges(axis))
        inside = np.bincount(np.searchsorted(edges, x[:, axis]), minlength=bins) / len(x)
        exact = np.diff(grid.below(p, axis, edges), prepend=0.0, append=summed[-1])
        for k, (ours, theirs) in enumerate(zip(inside, exact)):
            probability(f"bin {k + 1} of x{axis + 1}", float(ours), float(theirs))
    return made | _moments(grid, p, x, n)


def _moments(grid: Grid, p: Array, x: Array, n: float) -> dict[str, Quantity]:
    """Return means and covariances of the samples x beside those of the density p, each with its standard error.

    The errors follow from the second and fourth moments of p, for n independent samples.
    """
    mean, covariance = grid.moments(p)
    off, weight = grid.points() - mean, p / p.sum()
    ours = x - x.mean(0)
    made = {}
    for i in range(len(mean)):
        made[f"mean x{i + 1}"] = float(x[:, i].mean()), float(mean[i]), math.sqrt(covariance[i, i] / n)
    for i in range(len(mean)):
        for j in range(i, len(mean)):
            name = f"variance x{i + 1}" if i == j else f"covariance x{i + 1} x{j + 1}"
            spread = float(weight @ (off[:, i] * off[:, j]) ** 2) - covariance[i, j] ** 2
            product = float(ours[:, i] @ ours[:, j]) / (len(x) - 1)
            made[name] = product, float(covariance[i, j]), math.sqrt(max(spread, 0.0) / n)
    return made


def z_score(quantity: Quantity) -> float:
    """Return |particles - density| / se."""
    ours, theirs, stderr = quantity
    return abs(ours - theirs) / stderr


def entry(quantity: Quantity, half: Quantity | None) -> dict[str, float]:
    """Return the entry of a quantity, with `value`, the particles' again, which a spec's `shows` reads with `stderr`.

    `step_bias` is twice the change by half the step, for an error of order 1.
    """
    ours, theirs, stderr = quantity
    made = {"particles": ours, "density": theirs, "value": ours, "stderr": stderr, "z": (ours - theirs) / stderr}
    if half is not None:
        made |= {"half_step": half[0], "step_bias": 2 * (ours - half[0]), "step_bias_stderr": 2 * math.sqrt(2) * stderr}
    return made


def largest_bias(reported: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Return the step's bias that is largest in standard errors, and the largest |z| with half the step."""
    each = [(t, name, one) for t, table in reported.items() for name, one in table.items()]
    t, name, one = max(each, key=lambda it: abs(it[2]["step_bias"] / it[2]["step_bias_stderr"]))
    half = max(abs(it["half_step"] - it["density"]) / it["stderr"] for _, _, it in each)
    bias, stderr = one["step_bias"], one["step_bias_stderr"]
    return {"time": float(t), "quantity": name, "bias": bias, "stderr": stderr, "half_step_value": half}


__all__ = ["compare", "entry", "largest_bias", "z_score"]
