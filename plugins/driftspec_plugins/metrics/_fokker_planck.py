"""The equation of Kolmogorov, Fokker and Planck on a grid: ∂p/∂t = -∇·(f p) + ½ g² Δp for dx = f dt + g dw.

The method is finite volumes in a box without flux through its walls. What leaves a cell enters its neighbour, so mass
is conserved. The flux of Scharfetter and Gummel between two centres x_i and x_{i+1} = x_i + h is exact if f and the
flux are constant:

    J = (D/h) [B(-v) p_i - B(v) p_{i+1}],   B(v) = v/(e^v - 1),   D = ½ g²,   v = ∫ f dx / D  from x_i to x_{i+1}

For f = -D ∇U, v = U_i - U_{i+1}, and p_i ∝ exp(-U_i) is stationary up to rounding. The time step is TR-BDF2: the
trapezoidal rule up to γh, then the backward differentiation formula, γ = 2 - √2; it is L-stable. The number of steps is
doubled until the density no longer changes. The method is of order two in space and in time.

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

NODES, WEIGHTS = np.polynomial.legendre.leggauss(4)  # between two centres: exact for a drift of degree 7 or less
GAMMA = 2 - math.sqrt(2)


@dataclass(frozen=True)
class Grid:
    """A box divided into equal cells. A density is given by its values (n,) at the centres of the n cells."""

    box: tuple[tuple[float, float], ...]
    cells: tuple[int, ...]

    @property
    def widths(self) -> Array:
        """The width of a cell along each axis (d,)."""
        return np.array([(high - low) / n for (low, high), n in zip(self.box, self.cells)])

    @property
    def volume(self) -> float:
        """The volume of a cell."""
        return float(np.prod(self.widths))

    def edges(self, axis: int) -> Array:
        """Return the edges of the cells along an axis (cells + 1,)."""
        return np.linspace(*self.box[axis], self.cells[axis] + 1)

    def centres(self, axis: int) -> Array:
        """Return the centres of the cells along an axis (cells,)."""
        edges = self.edges(axis)
        return (edges[1:] + edges[:-1]) / 2

    def points(self) -> Array:
        """Return the centres of all cells (n, d); the index of the last axis changes fastest."""
        axes = np.meshgrid(*(self.centres(axis) for axis in range(len(self.cells))), indexing="ij")
        return np.stack([one.ravel() for one in axes], 1)

    def coarser(self) -> Grid:
        """Return the grid of the same box with cells twice as wide."""
        return Grid(self.box, tuple(max(2, n // 2) for n in self.cells))

    def mass(self, p: Array) -> float:
        """Return ∫ p dx of a density (n,)."""
        return float(p.sum()) * self.volume

    def moments(self, p: Array) -> tuple[Array, Array]:
        """Return the mean (d,) and covariance (d, d) of a density (n,)."""
        x, weight = self.points(), p / p.sum()
        mean = weight @ x
        return mean, (x - mean).T @ (weight[:, None] * (x - mean))

    def marginal(self, p: Array, axis: int) -> Array:
        """Return the marginal density along an axis (cells,) of a density (n,)."""
        others = tuple(other for other in range(len(self.cells)) if other != axis)
        return p.reshape(self.cells).sum(others) * self.volume / self.widths[axis]

    def below(self, p: Array, axis: int, at: Any) -> Any:
        """Return P(x_axis <= at) of a density (n,), linear within a cell."""
        summed = np.concatenate([[0.0], np.cumsum(self.marginal(p, axis))]) * self.widths[axis]
        return np.interp(at, self.edges(axis), summed)


def bernoulli(v: Array) -> Array:
    """Return B(v) = v/(e^v - 1), with B(0) = 1."""
    near = np.abs(v) < 1e-5
    safe = np.where(near, 1.0, v)
    return np.where(near, 1 - v / 2 + v * v / 12, safe / np.expm1(np.minimum(safe, 600.0)))


def generator(grid: Grid, drift: Callable[[Array], Array], g: float) -> Any:
    """Return the sparse matrix A (n, n) of dp/dt = A p; its columns sum to 0."""
    from scipy.sparse import coo_array

    if not g > 0:
        raise RunFailed(f"the Fokker-Planck equation is solved for a diffusion above 0, not for g = {g:g}")
    half, n = g * g / 2, math.prod(grid.cells)
    points, index = grid.points().reshape(*grid.cells, -1), np.arange(n).reshape(grid.cells)
    rows, columns, values = [], [], []
    for axis, h in enumerate(grid.widths):
        inner = range(grid.cells[axis] - 1)
        low = index.take(inner, axis).ravel()
        high = index.take([i + 1 for i in inner], axis).ravel()
        first = points.take(inner, axis).reshape(-1, len(grid.cells))
        between = np.repeat(first[None], len(NODES), 0)
        between[..., axis] += h * (1 + NODES[:, None]) / 2
        along = drift(between.reshape(-1, len(grid.cells)))[:, axis].reshape(len(NODES), -1)
        if not np.isfinite(along).all():
            raise RunFailed("the drift is not finite everywhere in the box of the Fokker-Planck equation", "non_finite")
        v = h * (WEIGHTS / 2 @ along) / half
        up, down = (half / h**2 * bernoulli(one) for one in (-v, v))
        rows += [high, low, low, high]
        columns += [low, low, high, high]
        values += [up, -up, down, -down]
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return coo_array(entries, shape=(n, n)).tocsc()


class Rate:
    """The function t -> A(t). It returns the same object while A does not change, so that its LU factors are reused."""

    def __init__(self, grid: Grid, drift: Drift, diffusion: Callable[[float], float]):
        self.grid, self.drift, self.diffusion = grid, drift, diffusion
        self.last: Any = None

    def __call__(self, t: float) -> Any:
        made = generator(self.grid, lambda x: self.drift(t, x), self.diffusion(t))
        if self.last is None or not np.array_equal(made.data, self.last.data):
            self.last = made
        return self.last


def gap(matrix: Any) -> float:
    """Return the spectral gap of a tridiagonal A: the slowest rate of decay to the stationary density, in 1-D."""
    from scipy.linalg import eigh_tridiagonal

    n, off = matrix.shape[0], np.sqrt(matrix.diagonal(1) * matrix.diagonal(-1))
    return -float(
        eigh_tridiagonal(matrix.diagonal(), off, eigvals_only=True, select="i", select_range=(n - 2, n - 2))[0]
    )


@dataclass(frozen=True)
class Evolution:
    """The densities p at K times (K, n), and the largest error of the time steps, as a total variation distance."""

    densities: Array
    error: float
    steps: int


def evolve(
    rate: Callable[[float], Any], volume: float, p: Array, times: Sequence[float], tolerance: float = 1e-6,
    steps: int = 16, most: int = 8192,
) -> Evolution:  # fmt: skip
    """Return the solution of dp/dt = A p at `times`, which rise, from p (n,) at time 0.

    Between two times the number of steps N is doubled until N and 2N steps agree within the tolerance.
    """
    densities, worst, total, t = [], 0.0, 0, 0.0
    for after in times:
        coarse = march(rate, p, t, after, steps)
        while True:
            steps *= 2
            fine = march(rate, p, t, after, steps)
            error = float(np.abs(fine - coarse).sum()) * volume / 2 / 3  # order 2: a third of the difference
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
    """Return p (n,) at time `after`, from p (n,) at t, by `steps` equal steps of TR-BDF2."""
    from scipy.sparse import identity
    from scipy.sparse.linalg import splu

    h, unit = (after - t) / steps, identity(len(p), format="csc")
    factored: tuple[Any, Any] = None, None

    def solve(matrix: Any, right: Array) -> Array:
        """Return (I - γ/2 h A)⁻¹ r (n,); both stages use this matrix, because (1 - γ)/(2 - γ) = γ/2."""
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
