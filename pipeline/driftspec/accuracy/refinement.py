"""The numerical error of an ODE solve, point by point: by N and 2N steps, or by a solver and a finer one.

    error(N) = |result(N) - result(2N)|        N is doubled for each point until its own difference is allowed

Points are solved in blocks of one fixed size, so that no point's value depends on another. Rounding, which no number
of steps removes, is estimated beside that difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from driftspec.components import Solution, Solver
from driftspec.errors import SolveFailed

if TYPE_CHECKING:
    from driftspec.components import Gradient, Rates, VectorField

BLOCK = 256
"""Rows solved together. Always whole, padded by repetition: the same shapes give a row the same bits in any company."""


BY_CHANCE = 64
"""How much smaller than the difference before it a difference may be, to be believed.

Doubling N divides a difference by 16 for a method of order 4: one that falls to less than a quarter of that may agree
by chance, as 1 point in 3,000 does where N is small.
"""


SMALL = 2.0**-10
"""The size of a state, model units, below which an absolute tolerance, made for a size of 1, may hide all of it."""


@dataclass(frozen=True)
class Solved:
    """Row by row: the result, its errors, and what it took.

    `error` is the difference to the next finer solve. `rounding` is ε/2 √E s: each of E evaluations rounds what is
    summed, of size s, by up to half the dtype's ε, and errors of random sign grow as √E (Higham, *Accuracy and
    Stability of Numerical Algorithms*, 2002, sections 2.2 and 2.8). A row whose error is below its rounding has
    converged: more steps would make it no better.
    """

    value: Tensor  # (B, k)
    error: Tensor  # (B,)
    rounding: Tensor  # (B,)
    converged: Tensor  # (B,) bool
    evaluations: int

    @property
    def not_converged(self) -> int:
        return int((~self.converged).sum())


@dataclass(frozen=True)
class Resolving:
    """A solver with its absolute tolerances in units u of the state: it solves dy/dt = f(t, u y)/u for y = x/u.

    u is a power of two, so that the change of units rounds nothing.
    """

    solver: Solver
    unit: float

    def solve(
        self,
        f: VectorField,
        x: Tensor,
        t0: float | Tensor,
        t1: float | Tensor,
        rates: Rates | None = None,
        steps: int | None = None,
    ) -> Solution:
        def scaled(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            value, integrands = rates(t, u * y)  # type: ignore[misc]
            return value / u, integrands

        u = self.unit
        asked = None if rates is None else scaled
        path = self.solver.solve(lambda t, y: f(t, u * y) / u, x / u, t0, t1, asked, steps)
        return replace(path, state=u * path.state)

    def start_steps(self) -> int | None:
        return self.solver.start_steps()

    def differentiated(self, by: Gradient) -> Resolving | None:
        found = self.solver.differentiated(by)
        return None if found is None else replace(self, solver=found)


Integrator = Solver | Resolving


def resolving(solver: Solver, size: float) -> Integrator:
    """The solver, its absolute tolerances in units of the state where that is as small as `size`, below SMALL.

    A solver that chooses its own steps sees no error in a state below its absolute tolerance, and neither does a finer
    one: from data of size e^-40 both take a few long steps, and agree to all digits. One of N steps has no such
    tolerance, and is left as it is.
    """
    if solver.start_steps() is not None or size >= SMALL:
        return solver
    return Resolving(solver, 2.0 ** math.floor(math.log2(size)))


def smallest(x: Tensor) -> float:
    """The size of the smallest row of x (B, d) that is not zero; inf where there is none."""
    sizes = x.abs().amax(1)
    sizes = sizes[(sizes > 0) & sizes.isfinite()]
    return float(sizes.min()) if len(sizes) else math.inf


Solve = Callable[[Integrator, Tensor, int | None], tuple[Tensor, int]]
"""(solver, rows, steps) -> the value of these rows (n, k), and the evaluations it took."""


def refined(
    solve: Solve,
    n: int,
    solver: Integrator,
    compared: slice,
    compare: bool = True,
    summed: Callable[[Tensor, Tensor], Tensor] = lambda value, rows: value.new_zeros(len(rows)),
    size: float = math.inf,
) -> Solved:
    """Every row by N and 2N steps, doubled until its own difference is small; or by a solver and a finer one.

    `summed` gives the size (n,) of what was summed to a value (n, k) of certain rows; `size` is that of the smallest
    state that is given.
    """
    steps, rows = solver.start_steps(), torch.arange(n)
    value, evaluations = solve(solver, rows, steps)

    def rounding(value: Tensor, rows: Tensor, evaluations: int) -> Tensor:
        each = evaluations / max(1, len(rows))
        return torch.finfo(value.dtype).eps / 2 * math.sqrt(each) * summed(value, rows)

    error, converged = value.new_full((n,), torch.inf), torch.full((n,), steps is None)
    found = Solved(value, error, rounding(value, rows, evaluations), converged, evaluations)
    if compare and isinstance(solver, Solver):
        found = (
            _against_finer(solve, solver, found, compared, size)
            if steps is None
            else _doubled(solve, solver, steps, found, compared, rounding)
        )
    bad = (~found.value.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:  # a solver that chooses its steps gives up a whole block for one of its points
        text = f"the ODE solve of {len(bad)} of {n} points ended with status non_finite"
        raise SolveFailed(text, "non_finite", rows=() if steps is None and n > 1 else bad)
    return found


def _against_finer(solve: Solve, solver: Solver, found: Solved, compared: slice, size: float) -> Solved:
    """With the difference to a finer solver for the error; inf where that one cannot reach the end."""
    finer = solver.finer()
    if finer is None:
        return found
    try:
        other, more = solve(resolving(finer, size), torch.arange(len(found.value)), None)
    except SolveFailed:
        return replace(found, converged=torch.zeros_like(found.converged))
    apart = _apart(found.value, other, compared)
    allowed = solver.allowed(found.value)[:, compared].maximum(found.rounding[:, None])
    converged = ((apart <= allowed) & apart.isfinite()).all(1).cpu()
    return replace(found, error=apart.amax(1), converged=converged, evaluations=found.evaluations + more)


def _doubled(
    solve: Solve,
    solver: Solver,
    steps: int,
    found: Solved,
    compared: slice,
    rounding: Callable[[Tensor, Tensor, int], Tensor],
) -> Solved:
    """With twice the steps, and twice those for each row whose last two differences do not show that it converged."""
    value, error, rounded, converged = found.value, found.error, found.rounding, found.converged
    rows, evaluations = torch.arange(len(value)), found.evaluations
    half, more = solve(solver, rows, max(1, steps // 2))
    before, evaluations = _apart(half, value, compared).amax(1), evaluations + more
    while len(rows):
        steps *= 2
        finer_value, more = solve(solver, rows, steps)
        apart = _apart(finer_value, value[rows], compared).amax(1)
        error[rows], before[rows] = apart.maximum(before[rows] / BY_CHANCE), apart
        value[rows], rounded[rows] = finer_value, rounding(finer_value, rows, more)
        allowed = solver.allowed(finer_value)[:, compared].amin(1)
        converged[rows] = ((error[rows] <= allowed.maximum(rounded[rows])) & error[rows].isfinite()).cpu()
        evaluations += more
        most = solver.most_steps()
        if most is not None and 2 * steps > most:
            break
        rows = rows[~converged[rows]]
    return Solved(value, error, rounded, converged, evaluations)


def _apart(one: Tensor, other: Tensor, compared: slice) -> Tensor:
    """|one - other| of the columns that are compared; inf for NaN."""
    return (one - other)[:, compared].abs().nan_to_num(nan=torch.inf)


def by_blocks(solve: Callable[[Tensor], Solution], rows: Tensor, block: int = BLOCK) -> list[Solution]:
    """Solve rows in whole blocks, the last one padded with copies of its last row, and cut the padding off."""
    paths = []
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        whole = torch.cat([part, part[-1:].expand(block - len(part))])
        path = solve(whole)
        if path.status not in ("ok", "non_finite"):  # a non-finite row may still be another N's good row
            path.require()
        paths.append(Solution(path.state[: len(part)], path.integrals[: len(part)], path.evaluations * len(part)))
    return paths


__all__ = ["BLOCK", "Integrator", "Resolving", "Solved", "by_blocks", "refined", "resolving", "smallest"]
