"""The Fokker-Planck equation of a run's chains: ∂p/∂t = -∇·(f p) + ½ g² Δp, with the f and g that its sampler follows.

p(x, 0) is the density of the chains' start. `driftspec_plugins.metrics._fokker_planck` solves the equation on a grid.
The errors of the solution are found by comparison with cells twice as wide and with fewer time steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from driftspec.errors import RunFailed
from driftspec_plugins.metrics._fokker_planck import Grid, Rate, evolve, gap, march

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from driftspec.components import Course, Distribution, Evaluation, FollowsSDE

    Array = NDArray[np.float64]

HELD = 0.99  # share of the start's mass that the box must contain


@dataclass(frozen=True)
class Equation:
    """The Fokker-Planck equation of a run: f and g of its sampler's motion, and the density of the chains' start."""

    who: str  # the metric's label
    drift: Callable[[float, Array], Array]
    diffusion: Callable[[float], float]
    start: Callable[[Array], Array]

    def begin(self, grid: Grid) -> tuple[Array, float, Rate]:
        """Return the density (n,) at time 0, its mass before it was divided by it, and t -> A(t) of dp/dt = A p.

        RunFailed if the grid's box does not hold the start.
        """
        p = self.start(grid.points())
        mass = grid.mass(p)
        if not abs(mass - 1) < 1 - HELD:
            text = f"the box {[list(ends) for ends in grid.box]} of {list(grid.cells)} cells holds {mass:.4g} of the"
            raise RunFailed(f"{self.who}: {text} start's mass: make it wider, or its cells smaller")
        return p / mass, mass, Rate(grid, self.drift, self.diffusion)

    def sketch(self, grid: Grid, times: Sequence[float], steps: int) -> Array:
        """Return the densities (K, n) at times from 0, which rise; `steps` is the number from one time to the next."""
        p, _, rate = self.begin(grid)
        densities = [p]
        for t, after in itertools.pairwise(times):
            densities.append(march(rate, densities[-1], t, after, steps))
        return np.stack(densities)


def equation(who: str, sampler: FollowsSDE, evaluation: Evaluation, course: Course) -> Equation:
    """Return the equation of the run's chains, in float64."""
    import torch

    exact = evaluation.model.double()
    f, g = sampler.motion(exact)

    def drift(t: float, x: Array) -> Array:
        with torch.no_grad():
            points = exact.like(torch.from_numpy(x))
            return f(points.new_tensor(t), points).double().cpu().numpy()

    def diffusion(t: float) -> float:
        return float(g(torch.tensor(t, dtype=torch.float64)))

    return Equation(who, drift, diffusion, _start(who, evaluation, course))


def solve(equation: Equation, grid: Grid, times: list[float]) -> tuple[Array, dict[str, Any], float]:
    """Return the densities (K, n) at the K times, details with their errors, and how far the density moves.

    It moves by the largest total variation distance from its start, ½ ∫ |p(x, t) - p(x, 0)| dx.
    """
    tolerance = 1e-6 if len(grid.cells) == 1 else 1e-5
    start, mass, rate = equation.begin(grid)
    evolution, coarse = evolve(rate, grid.volume, start, times, tolerance), grid.coarser()
    coarse_start, _, coarse_rate = equation.begin(coarse)
    other = evolve(coarse_rate, coarse.volume, coarse_start, times, 10 * tolerance)
    off = 0.0
    for fine_p, coarse_p in zip(evolution.densities, other.densities):
        for axis in range(len(grid.cells)):
            at = coarse.edges(axis)
            off = max(off, float(np.abs(grid.below(fine_p, axis, at) - coarse.below(coarse_p, axis, at)).max()))
    steady = rate(0.0) is rate(times[-1] / 3) is rate(times[-1])
    known = {
        "grid_error": off / 3,  # order 2: a third of the difference of the distribution functions
        "time_error": evolution.error,
        "steps": evolution.steps,
        "mass_in_box": mass,
        "relaxation_rate": gap(rate(0.0)) if steady and len(grid.cells) == 1 else None,
    }
    moved = float(np.abs(evolution.densities - start).sum(1).max()) * grid.volume / 2
    return evolution.densities, known, moved


def _start(who: str, evaluation: Evaluation, course: Course) -> Any:
    """Return the function x (n, d), model units -> the density (n,) of the chains' start."""
    import torch

    law: Distribution | None
    if course.start == "data":
        law = evaluation.truth if evaluation.setting.data is not None else None
        if law is None:
            raise RunFailed(f"{who}: chains begin at data whose log p is not known")
    else:
        law = evaluation.model.prior() if course.start == "prior" else course.start

    def density(x: Array) -> Array:
        u = torch.from_numpy(x)
        if law is None:
            log_p = -(u.square().sum(1) + u.shape[1] * math.log(2 * math.pi)) / 2
        elif course.start == "data":
            log_p = law.log_prob(evaluation.transform.to_data(u)) - evaluation.transform.log_det()
        else:
            log_p = law.log_prob(u)
        return log_p.detach().exp().numpy()

    return density


__all__ = ["Equation", "equation", "solve"]
