"""The particles of the run's sampler, compared with the solution of the Fokker-Planck equation.

    ∂p/∂t = -∇·(f p) + ½ g² Δp,   dx = f dt + g dw,   p(0) the density of the chains' start

The equation is solved on a grid (1-D or 2-D) up to each of the given times, and the states of the run's chains at these
times are compared with it. Time counts from the start: k η after k steps of Langevin dynamics, t for an SDE that runs
forwards from data, T - t for one that runs backwards. The quantities are P(x_j > above), P of equally likely bins along
each axis, means and covariances. Each gives z = (particles - density)/se, with se from the density, such as
√(P (1 - P)/N). The value is the largest |z|. It contains random error, the bias of the sampler's finite step, and the
error of the grid. So the details have the floor, which is the mean of the largest |z| of N points drawn from the
densities; the change by half the step; and the error of the grid, by comparison with cells twice as wide. Chains that
begin at data begin here at new rows, drawn from ten times as many rows as there are chains.
`driftspec_plugins.metrics._fokker_planck` solves the equation. In one dimension a picture shows p(x, t).

A. N. Kolmogorov, *Über die analytischen Methoden in der Wahrscheinlichkeitsrechnung*, 1931; H. Risken, *The
Fokker-Planck Equation*, 1989.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from driftspec.components import Distribution, FollowsSDE, Measured, Metric, Setting
from driftspec.components.component import Need
from driftspec.errors import RunFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from driftspec.components import Course, Evaluation, Picture
    from driftspec_plugins.metrics._fokker_planck import Grid
    from driftspec_plugins.metrics._fokker_planck_of_run import Equation
    from driftspec_plugins.metrics._fokker_planck_particles import Quantity

    Array = NDArray[np.float64]

CELLS = {1: 400, 2: 100}  # number of cells along an axis, by dimension
REPLICATES = 40  # number of sets of points drawn from the densities, for the floor
ROWS = 10  # new data rows for each chain; their finite number adds 1/ROWS to the variance, and se includes this
COLUMNS, PATHS, POINTS = 40, 8, 200  # of the picture: times of the density, paths, and intervals of each path


class FokkerPlanck(Metric):
    """The largest |z| between the sampler's particles and the solution of the Fokker-Planck equation, over times."""

    type = "fokker_planck"
    example: ClassVar[Mapping[str, Any]] = {"times": [0.2]}
    reads_chains = True
    finite_time = True

    times: tuple[float, ...] = Field(
        min_length=1, description="times of comparison since the start, rising; each is moved to the nearest step"
    )
    cells: int | None = Field(None, ge=8, le=4000, description="cells along each axis; null: 400 in 1-D, 100 in 2-D")
    box: tuple[tuple[float, float], ...] | None = Field(
        None, min_length=1, max_length=2,
        description="an interval for each axis, model units, without flux through its ends; null: 1.5 times as wide as "
        "the range of the particles",
    )  # fmt: skip
    above: float = Field(0.0, description="c of P(x_j > c), model units")
    bins: int = Field(16, ge=2, le=200, description="number of equally likely intervals along each axis")
    half_step: bool = Field(
        True, description="whether to run the sampler also with half its step, to estimate the bias of the step"
    )

    @field_validator("times")
    @classmethod
    def _rising(cls, times: tuple[float, ...]) -> tuple[float, ...]:
        if times[0] <= 0 or any(after <= before for before, after in itertools.pairwise(times)):
            raise ValueError("times must be above 0 and rise")
        return times

    @field_validator("box")
    @classmethod
    def _wide(cls, box: tuple[tuple[float, float], ...] | None) -> tuple[tuple[float, float], ...] | None:
        if any(low >= high for low, high in box or ()):
            raise ValueError("the lower end of an interval must be below its upper end")
        return box

    def needs(self) -> tuple[Need, ...]:
        return (Need("sampler", ("motion",), "an SDE that its chains follow in time, with one draw of each chain"),)

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        if not isinstance(around.sampler, FollowsSDE) or "motion" not in around.sampler.offers():
            return
        course, law = around.sampler.course(around), around.reference
        if late := self._late(course):
            yield "times", late
        start = law if course.start == "data" else course.start
        if start is not None and not isinstance(start, str) and "log_prob" not in start.offers():
            yield "times", f"the density begins as that of the start, and log p of {start.label} is not known"
        dims = (one.dim() for one in (law, start) if isinstance(one, Distribution))
        d = next((dim for dim in dims if dim is not None), None)
        if d is not None and (misfit := self._misfit(d)):
            yield "box", misfit

    def _late(self, course: Course) -> str:
        """Return why the last time is not reached; empty if it is."""
        late = self.times[-1] > course.duration * (1 + 1e-9)
        return f"{self.times[-1]:g} is after the sampler's end: it goes to time {course.duration:g}" if late else ""

    def _misfit(self, d: int) -> str:
        """Return why there is no grid in d dimensions; empty if there is one."""
        if d > 2:
            return f"a grid is for 1 or 2 dimensions, and there are {d}"
        misfit = self.box is not None and len(self.box) != d
        return f"box has {len(self.box or ())} intervals for {d} dimensions" if misfit else ""

    def measure(self, evaluation: Evaluation) -> Measured:
        import numpy as np

        from driftspec_plugins.metrics._fokker_planck_of_run import equation, solve
        from driftspec_plugins.metrics._fokker_planck_particles import entry, largest_bias, z_score
        from driftspec_plugins.metrics._fokker_planck_pictures import curves

        around, model = evaluation.setting, evaluation.model
        sampler, count = around.sampler, around.count
        if not isinstance(sampler, FollowsSDE) or count is None:
            raise RunFailed(f"{self.label} follows the run's samples, and the spec draws none")
        course = sampler.course(around)
        numbers, times = self._steps(course)
        streams = evaluation.run_streams.under("sample")
        motion = equation(self.label, sampler, evaluation, course)
        rows = count * ROWS if course.start == "data" else None
        if rows is not None:
            fresh = evaluation.fresh(rows, "start")
            if fresh is None:
                raise RunFailed(f"{self.label}: the data cannot be drawn from")
            model = replace(model, rows=lambda: evaluation.rows(fresh))

        def states(chains: int, after: list[int]) -> Array:
            return sampler.states(model, chains, streams, after).double().cpu().numpy()

        seen = states(count, numbers)
        finer: Array | None = None
        if self.half_step:
            half, double = sampler.halved(), [2 * number for number in numbers]
            finer = half.states(model, count, evaluation.streams.under("half step"), double).double().cpu().numpy()
        grid = self._grid(seen)
        densities, solver, moved = solve(motion, grid, times)
        sizes = count / (1 + (0 if rows is None else count / rows))
        tables = [self._compare(grid, p, x, sizes) for p, x in zip(densities, seen)]
        most = [max(table, key=lambda name: z_score(table[name])) for table in tables]
        worst = max(range(len(times)), key=lambda k: z_score(tables[k][most[k]]))
        value = z_score(tables[worst][most[worst]])
        rng = np.random.default_rng(evaluation.streams.number("floor"))
        floors = sorted(self._floor(grid, densities, count, rng) for _ in range(REPLICATES))
        reported: dict[str, Any] = {}
        for k, (t, table) in enumerate(zip(times, tables)):
            other = {} if finer is None else self._compare(grid, densities[k], finer[k], sizes)
            reported[f"{t:g}"] = {name: entry(table[name], other.get(name)) for name in table}
        bias = None if finer is None else largest_bias(reported)
        details = {
            "floor": float(np.mean(floors)),
            "floor_95": floors[math.ceil(0.95 * REPLICATES) - 1],
            "compared": sum(map(len, tables)),
            "worst": {"time": times[worst], "quantity": most[worst]},
            "times": reported,
            "step_bias": bias,
            "moved": moved,
            "solver": solver,
            "box": [list(ends) for ends in grid.box],
            "cells": list(grid.cells),
            "outside": float(np.mean(_outside(grid, seen))),
            "curves": [curve for t, p, x in zip(times, densities, seen) for curve in curves(grid, p, x, t)],
        }
        reason = "a z-score is already in standard errors; the floor is its value for a perfect sampler"
        line = _line(reported, self.above, value, details)
        pictures = {"evolution": self._picture(motion, grid, course, numbers[-1], states)} if model.dim == 1 else {}
        return Measured(value, None, "standard errors", count, details, reason, line, pictures=pictures)

    def _picture(
        self, motion: Equation, grid: Grid, course: Course, last: int, states: Callable[[int, list[int]], Array]
    ) -> Picture:
        """Return the picture of p(x, t) in one dimension up to step number `last`, with paths of the first chains."""
        from driftspec_plugins.metrics._fokker_planck_pictures import evolution

        step, coarse = course.duration / course.steps, grid.coarser()
        columns, points = (sorted({round(last * k / n) for k in range(n + 1)}) for n in (COLUMNS, POINTS))
        times = [number * step for number in columns]
        densities = motion.sketch(coarse, times, 3)
        return evolution(coarse, times, densities, [number * step for number in points], states(PATHS, points)[..., 0])

    def _steps(self, course: Course) -> tuple[list[int], list[float]]:
        """Return the step numbers nearest to the times, and the times of these steps."""
        step = course.duration / max(1, course.steps)
        numbers = [round(t / step) if step else 0 for t in self.times]
        if late := self._late(course):
            raise RunFailed(f"{self.label}: {late}")
        if numbers[0] < 1 or len(set(numbers)) < len(numbers):
            raise RunFailed(f"{self.label}: times are nearer to one another than the sampler's step, {step:g}")
        return numbers, [number * step for number in numbers]

    def _grid(self, seen: Array) -> Grid:
        """Return the grid in `box`, or in 1.5 times the range of the particles (K, N, d)."""
        from driftspec_plugins.metrics._fokker_planck import Grid

        d = seen.shape[-1]
        if misfit := self._misfit(d):
            raise RunFailed(f"{self.label}: {misfit}")
        box = self.box
        if box is None:
            low, high = seen.min((0, 1)), seen.max((0, 1))
            box = tuple((float(a - (b - a) / 4), float(b + (b - a) / 4)) for a, b in zip(low, high))
        return Grid(box, (self.cells or CELLS[d],) * d)

    def _compare(self, grid: Grid, p: Array, x: Array, n: float) -> dict[str, Quantity]:
        """Return the quantities of the particles x (N, d) and of the density p, with a standard error for n of them."""
        from driftspec_plugins.metrics._fokker_planck_particles import compare

        return compare(grid, p, x, n, self.above, self.bins)

    def _floor(self, grid: Grid, densities: Array, count: int, rng: np.random.Generator) -> float:
        """Return the largest |z| of `count` points drawn from the densities, uniform within a cell."""
        from driftspec_plugins.metrics._fokker_planck_particles import z_score

        largest = 0.0
        for p in densities:
            weight = p.clip(0)
            cells = rng.choice(len(p), count, p=weight / weight.sum())
            x = grid.points()[cells] + grid.widths * (rng.random((count, len(grid.cells))) - 0.5)
            largest = max(largest, *map(z_score, self._compare(grid, p, x, count).values()))
        return largest


def _outside(grid: Grid, x: Array) -> Any:
    """Return which points x (..., d) lie outside the box."""
    import numpy as np

    low, high = np.array(grid.box).T
    return ((x < low) | (x > high)).any(-1)


def _line(reported: Mapping[str, Mapping[str, Mapping[str, float]]], above: float, value: float, details: Any) -> str:
    """Return the metric's line: P(x1 > above) at each time, the largest |z|, its floor, and the grid's error."""
    name = f"P(x1 > {above:g})"
    parts = [
        f"{one['particles']:.4f} ± {one['stderr']:.4f} (density {one['density']:.4f}) at t = {t}"
        for t, one in ((t, table[name]) for t, table in reported.items())
    ]
    worst = f"largest |z| {value:.2f} of {details['compared']}, by chance {details['floor']:.2f}"
    return f"{name} = {', '.join(parts)}; {worst}; grid's error {details['solver']['grid_error']:.0e}"
