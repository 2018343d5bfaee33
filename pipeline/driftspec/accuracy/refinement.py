"""The numerical error of an ODE solve, point by point: by N and 2N steps, or by a solver and a finer one.

    error(N) = |result(N) - result(2N)|        N is doubled for each point until this is within the tolerance

Points are solved in blocks of one fixed size, so that the value of a point does not depend on the other points. The
rounding error, which more steps do not reduce, is estimated separately.
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
"""The number of rows in one solve. The last block is padded, so that all have one shape and a row has the same bits in
any of them."""


BY_CHANCE = 64
"""The error is at least the previous difference divided by this.

Doubling N divides the difference by 16 for a method of order 4. If it falls to less than a quarter of that, the two
results may agree by accident, as 1 point in 3,000 does for a small N.
"""


SMALL = 2.0**-10
"""If a state is smaller than this, in model units, absolute tolerances are scaled by its size."""


@dataclass(frozen=True)
class Solved:
    """The result of a solve with its errors, one for each row.

    `error` is the difference to the next finer solve. `rounding` is ε/2 √E s: each of E evaluations rounds a sum of
    size s by up to half of the dtype's ε, and errors of random sign grow as √E (Higham, *Accuracy and Stability of
    Numerical Algorithms*, 2002, sections 2.2 and 2.8). A row converged if its error is within the tolerance or below
    its rounding.
    """

    value: Tensor  # (B, k)
    error: Tensor  # (B,)
    rounding: Tensor  # (B,)
    converged: Tensor  # (B,) bool
    evaluations: int

    @property
    def not_converged(self) -> int:
        """The number of rows that did not converge."""
        return int((~self.converged).sum())


@dataclass(frozen=True)
class Resolving:
    """A solver that solves dy/dt = f(t, u y)/u for y = x/u, so that its absolute tolerances are in units of u.

    u is a power of two, so that the change of units adds no rounding error.
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
        """Return x(t1) (B, d) and ∫ r dt (B, m) of dx/dt = f from x (B, d) at t0, as `Solver.solve` does."""

        def scaled(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            value, integrands = rates(t, u * y)  # type: ignore[misc]  # called only where rates are given
            return value / u, integrands

        u = self.unit
        scaled_rates = None if rates is None else scaled
        path = self.solver.solve(lambda t, y: f(t, u * y) / u, x / u, t0, t1, scaled_rates, steps)
        return replace(path, state=u * path.state)

    def start_steps(self) -> int | None:
        return self.solver.start_steps()

    def differentiated(self, by: Gradient) -> Resolving | None:
        found = self.solver.differentiated(by)
        return None if found is None else replace(self, solver=found)


Integrator = Solver | Resolving


def resolving(solver: Solver, size: float) -> Integrator:
    """Return the solver, with its absolute tolerances in units of the state if `size`, that of the state, is < SMALL.

    A solver that chooses its own steps ignores errors below its absolute tolerance, and so does a finer one. For states
    of size e^-40 both take a few long steps and agree, although both are wrong. A solver with N steps has no such
    tolerance and is returned unchanged.
    """
    if solver.start_steps() is not None or size >= SMALL:
        return solver
    return Resolving(solver, 2.0 ** math.floor(math.log2(size)))


def smallest(x: Tensor) -> float:
    """Return the smallest of max_i |x_i| over the rows of x (B, d) that are not zero; inf if there are none."""
    sizes = x.abs().amax(1)
    sizes = sizes[(sizes > 0) & sizes.isfinite()]
    return float(sizes.min()) if len(sizes) else math.inf


Solve = Callable[[Integrator, Tensor, int | None], tuple[Tensor, int]]
"""(solver, row numbers (n,), steps) -> the values (n, k) of these rows, and the number of evaluations."""


def refined(
    solve: Solve,
    n: int,
    solver: Integrator,
    compared: slice,
    compare: bool = True,
    summed: Callable[[Tensor, Tensor], Tensor] = lambda value, rows: value.new_zeros(len(rows)),
    size: float = math.inf,
) -> Solved:
    """Return the values of n rows with N and 2N steps, N doubled for each row until both agree.

    A solver that chooses its own steps is compared with a finer one instead. Without `compare` the error is inf.
    `compared` are the columns of a value that are compared. `summed(value (n, k), rows (n,))` returns the size s (n,)
    of the sums behind a value, for the rounding. `size` is the smallest size of the states at the start.
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
    if bad:  # if a solver chooses its own steps, one bad point makes a whole block NaN
        text = f"the ODE solve of {len(bad)} of {n} points ended with status non_finite"
        raise SolveFailed(text, "non_finite", rows=() if steps is None and n > 1 else bad)
    return found


def _against_finer(solve: Solve, solver: Solver, found: Solved, compared: slice, size: float) -> Solved:
    """Return `found` with the difference to a finer solver as its error; inf if the finer one fails."""
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
    """Return `found` with each row solved in 2N, 4N, ... steps until it converges or N reaches its limit."""
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
    """Return |one - other| of the columns that are compared, with inf for NaN."""
    return (one - other)[:, compared].abs().nan_to_num(nan=torch.inf)


def by_blocks(solve: Callable[[Tensor], Solution], rows: Tensor, block: int = BLOCK) -> list[Solution]:
    """Return the solutions of `rows` (n,), row numbers, one for each block of rows.

    The last block is padded with copies of its last row; the solutions are without the padding.
    """
    paths = []
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        whole = torch.cat([part, part[-1:].expand(block - len(part))])
        path = solve(whole)
        if path.status not in ("ok", "non_finite"):  # a row that is not finite may be finite with another N
            path.require()
        paths.append(Solution(path.state[: len(part)], path.integrals[: len(part)], path.evaluations * len(part)))
    return paths


__all__ = ["BLOCK", "Integrator", "Resolving", "Solved", "by_blocks", "refined", "resolving", "smallest"]
