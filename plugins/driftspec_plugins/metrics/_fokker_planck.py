"""The equation of Kolmogorov, Fokker and Planck on a grid: ∂p/∂t = -∇·(f p) + ½ g² Δp for dx = f dt + g dw.

Finite volumes in a box without flux through its walls: what leaves a cell enters its neighbour, so mass is conserved.
Between the centres x_i and x_{i+1}, h apart, the flux of Scharfetter and Gummel is exact for constant f and flux:

    J = (D/h) [B(-v) p_i - B(v) p_{i+1}],   B(v) = v/(e^v - 1),   D = ½ g²,   v = ∫ f dx / D  from x_i to x_{i+1}

For f = -D ∇U it is v = U_i - U_{i+1}, and p_i ∝ exp(-U_i) stands still to rounding. Time goes by TR-BDF2, a trapezium
up to γh and the backward differentiation formula from there, γ = 2 - √2: second order and L-stable. The steps are
doubled until the density no longer depends on them. Both orders are two.

D. Scharfetter, H. Gummel, *Large-signal analysis of a silicon Read diode oscillator*, 1969; R. Bank et al., *Transient
simulation of silicon devices and circuits*, 1985.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from driftspec.errors import RunFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Drift = Callable[[float, Array], Array]  # f(t, x) (n, d) at x (n, d)

NODES = 4  # Gauss-Legendre nodes between two centres: exact for a drift that is a polynomial up to degree 7
GAMMA = 2 - math.sqrt(2)


@dataclass(frozen=True)
class Grid:
    """Equal cells in a box, an interval and a number of cells an axis. Densities are their values at the centres."""

    box: tuple[tuple[float, float], ...]
    cells: tuple[int, ...]

    @property
    def widths(self) -> Array:
        return np.array([(high - low) / n for (low, high), n in zip(self.box, self.cells)])

    @property
    def volume(self) -> float:
        """Of a cell."""
        return float(np.prod(self.widths))

    def edges(self, axis: int) -> Array:
        return np.linspace(*self.box[axis], self.cells[axis] + 1)

    def centres(self, axis: int) -> Array:
        edges = self.edges(axis)
        return (edges[1:] + edges[:-1]) / 2

    def points(self) -> Array:
        """All centres (n, d), the last axis fastest."""
        axes = np.meshgrid(*(self.centres(axis) for axis in range(len(self.cells))), indexing="ij")
        return np.stack([one.ravel() for one in axes], 1)

    def coarser(self) -> Grid:
        """Cells twice as wide."""
        return Grid(self.box, tuple(max(2, n // 2) for n in self.cells))

    def mass(self, p: Array) -> float:
        return float(p.sum()) * self.volume

    def moments(self, p: Array) -> tuple[Array, Array]:
        """Mean (d,) and covariance (d, d)."""
        x, weight = self.points(), p / p.sum()
        mean = weight @ x
        return mean, (x - mean).T @ (weight[:, None] * (x - mean))

    def marginal(self, p: Array, axis: int) -> Array:
        """Density along an axis (n,)."""
        others = tuple(other for other in range(len(self.cells)) if other != axis)
        return p.reshape(self.cells).sum(others) * self.volume / self.widths[axis]

    def below(self, p: Array, axis: int, at: Any) -> Any:
        """P(x_axis <= at), linear within a cell."""
        summed = np.concatenate([[0.0], np.cumsum(self.marginal(p, axis))]) * self.widths[axis]
        return np.interp(at, self.edges(axis), summed)


def bernoulli(v: Array) -> Array:
    """B(v) = v/(e^v - 1), B(0) = 1."""
    near = np.abs(v) < 1e-5
    safe = np.where(near, 1.0, v)
    return np.where(near, 1 - v / 2 + v * v / 12, safe / np.expm1(np.minimum(safe, 600.0)))


def generator(grid: Grid, drift: Callable[[Array], Array], g: float) -> Any:
    """The sparse matrix A (n, n) of dp/dt = A p; its columns sum to 0."""
    from scipy.sparse import coo_array

    if not g > 0:
        raise RunFailed(f"the Fokker-Planck equation is solved for a diffusion above 0, not for g = {g:g}")
    half, n = g * g / 2, math.prod(grid.cells)
    points, index = grid.points().reshape(*grid.cells, -1), np.arange(n).reshape(grid.cells)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    rows, columns, values = [], [], []
    for axis, h in enumerate(grid.widths):
        inner = range(grid.cells[axis] - 1)
        low = index.take(inner, axis).ravel()
        high = index.take([i + 1 for i in inner], axis).ravel()
        first = points.take(inner, axis).reshape(-1, len(grid.cells))
        between = np.repeat(first[None], NODES, 0)
        between[..., axis] += h * (1 + nodes[:, None]) / 2
        along = drift(between.reshape(-1, len(grid.cells)))[:, axis].reshape(NODES, -1)
        if not np.isfinite(along).all():
            raise RunFailed("the drift is not finite everywhere in the box of the Fokker-Planck equation", "non_finite")
        v = h * (weights / 2 @ along) / half
        up, down = (half / h**2 * bernoulli(way) for way in (-v, v))
        rows += [high, low, low, high]
        columns += [low, low, high, high]
        values += [up, -up, down, -down]
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return coo_array(entries, shape=(n, n)).tocsc()


class Rate:
    """t -> A(t); the same object as long as it does not change, so that its factors are used again."""

    def __init__(self, grid: Grid, drift: Drift, diffusion: Callable[[float], float]):
        self.grid, self.drift, self.diffusion = grid, drift, diffusion
        self.last: Any = None

    def __call__(self, t: float) -> Any:
        made = generator(self.grid, lambda x: self.drift(t, x), self.diffusion(t))
        if self.last is None or not np.array_equal(made.data, self.last.data):
            self.last = made
        return self.last


def gap(matrix: Any) -> float:
    """The rate at which the slowest deviation from the stationary law dies, on the line: there A is tridiagonal."""
    from scipy.linalg import eigh_tridiagonal

    n, off = matrix.shape[0], np.sqrt(matrix.diagonal(1) * matrix.diagonal(-1))
    return -float(
        eigh_tridiagonal(matrix.diagonal(), off, eigvals_only=True, select="i", select_range=(n - 2, n - 2))[0]
    )


@dataclass(frozen=True)
class Evolution:
    """p at each time asked for (K, n), and the largest error of time's steps, a total variation distance."""

    densities: Array
    error: float
    steps: int


def evolve(
    rate: Callable[[float], Any], volume: float, p: Array, times: Sequence[float], tolerance: float = 1e-6,
    steps: int = 16, most: int = 8192,
) -> Evolution:  # fmt: skip
    """p (n,) at time 0 carried to `times`, which rise; between two of them by N steps, doubled until 2N agrees."""
    densities, worst, total, t = [], 0.0, 0, 0.0
    for after in times:
        coarse = march(rate, p, t, after, steps)
        while True:
            steps *= 2
            fine = march(rate, p, t, after, steps)
            error = float(np.abs(fine - coarse).sum()) * volume / 2 / 3  # of two orders: a third of the difference
            if error <= tolerance:
                break
            if not steps < most:
                text = f"the Fokker-Planck equation from t = {t:g} to {after:g}: {steps} steps leave an error of"
                raise RunFailed(f"{text} {error:.1e}, above {tolerance:g}", "not_converged")
            coarse = fine
        p, t, worst, total, steps = fine, after, max(worst, error), total + steps, max(4, steps // 2)
        densities.append(p)
    return Evolution(np.stack(densities), worst, total)


def march(rate: Callable[[float], Any], p: Array, t: float, after: float, steps: int) -> Array:
    """`steps` equal steps of TR-BDF2."""
    from scipy.sparse import identity
    from scipy.sparse.linalg import splu

    h, unit = (after - t) / steps, identity(len(p), format="csc")
    factored: tuple[Any, Any] = None, None

    def solve(matrix: Any, right: Array) -> Array:
        """(I - γ/2 h A)⁻¹ r; both stages have the same factor, since (1 - γ)/(2 - γ) = γ/2."""
        nonlocal factored
        if factored[0] is not matrix:
            factored = matrix, splu(unit - GAMMA / 2 * h * matrix)
        solved: Array = factored[1].solve(right)
        return solved

    here = rate(t)
    for number in range(steps):
        now = t + number * h
        middle = solve(rate(now + GAMMA * h), p + GAMMA / 2 * h * (here @ p))
        here = rate(now + h)
        p = solve(here, (middle - (1 - GAMMA) ** 2 * p) / (GAMMA * (2 - GAMMA)))
    return p


__all__ = ["Evolution", "Grid", "Rate", "bernoulli", "evolve", "gap", "generator", "march"]
