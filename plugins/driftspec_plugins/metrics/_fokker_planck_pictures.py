"""Pictures of a density on a grid and of particles: the map of p(x, t) with paths, and marginals with histograms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from driftspec.components import Line, Map, Panel, Picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from driftspec_plugins.metrics._fokker_planck import Grid

    Array = NDArray[np.float64]

SHOWN = 60  # bars of a histogram
PEAK = 1.5  # the density is cut off at this many times its typical maximum over x


def curves(grid: Grid, p: Array, x: Array, t: float) -> Iterator[dict[str, Any]]:
    """Yield the density and the histogram along each axis, with few numbers, for the plots."""
    for axis in range(len(grid.cells)):
        every = max(1, grid.cells[axis] // 200)
        bars, edges = np.histogram(x[:, axis], SHOWN, grid.box[axis])
        yield {
            "title": f"t = {t:g}", "axis": f"x{axis + 1}",
            "x": _short(grid.centres(axis)[::every]), "density": _short(grid.marginal(p, axis)[::every]),
            "edges": _short(edges), "histogram": _short(bars / len(x) / np.diff(edges)),
        }  # fmt: skip


def evolution(grid: Grid, times: Sequence[float], densities: Array, at: Sequence[float], paths: Array) -> Picture:
    """Return the picture of the densities (T, n) at T times, and of paths (K, M): M particles at K times `at`.

    Cells that neither paths nor density reach are left out, and a high density at few times is cut off.
    """
    x, highest = grid.centres(0), densities.max(0)
    seen = np.flatnonzero((highest > 1e-3 * highest.max()) | ((x >= paths.min()) & (x <= paths.max())))
    inside = slice(seen[0], seen[-1] + 1)
    most = float(f"{PEAK * np.median(densities.max(1)):.2g}")
    label = "p(x, t)" if most > densities.max() else f"p(x, t), cut off at {most:g}"
    ground = Map(times, x[inside].tolist(), densities[:, inside].clip(max=most).T.tolist(), label)
    lines = [Line(at, path, "" if number else "particles", faint=True) for number, path in enumerate(paths.T.tolist())]
    caption = "The solution p(x, t) of the Fokker-Planck equation (dark where it is high), and paths of particles."
    return Picture([Panel([ground, *lines], "t", "x1 (model units)")], caption)


def _short(values: Array) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


__all__ = ["curves", "evolution"]
