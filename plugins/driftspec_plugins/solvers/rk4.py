"""The classical Runge-Kutta method of order 4 in N equal steps of length h.

    k1 = f(t, x)    k2 = f(t + h/2, x + h/2 k1)    k3 = f(t + h/2, x + h/2 k2)    k4 = f(t + h, x + h k3)
    x' = x + h/6 (k1 + 2 k2 + 2 k3 + k4);  the integral of r over the step is the same sum with r in place of f

W. Kutta, Beitrag zur näherungsweisen Integration totaler Differentialgleichungen, 1901.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from driftspec.components import FixedSteps, Solution

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Rates, VectorField


def spread(t0: float | Tensor, t1: float | Tensor, fractions: Tensor) -> Tensor:
    """Return the times t0 + fractions (t1 - t0) (N+1,) float64, exact at both ends, differentiable in t0 and t1."""
    import torch

    start, end = (torch.as_tensor(t, dtype=torch.float64, device=fractions.device) for t in (t0, t1))
    return torch.lerp(start, end, fractions)


def classical_steps(f: VectorField, x: Tensor, times: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield h () and x' (B, d) of each of the N steps between `times` (N+1,) float64, from x (B, d)."""
    lengths, middles = times.diff(), (times[1:] + times[:-1]) / 2
    ends, middles, lengths = (value.to(x.dtype) for value in (times, middles, lengths))
    for t, middle, end, h in zip(ends[:-1].unbind(), middles.unbind(), ends[1:].unbind(), lengths.unbind()):
        k1 = f(t, x)
        k2 = f(middle, x + h / 2 * k1)
        k3 = f(middle, x + h / 2 * k2)
        k4 = f(end, x + h * k3)
        x = x + weighted(h, k1, k2, k3, k4)
        yield h, x


def weighted(h: Tensor, k1: Tensor, k2: Tensor, k3: Tensor, k4: Tensor) -> Tensor:
    """Return h/6 (k1 + 2 k2 + 2 k3 + k4) (B, d) for h ()."""
    return h / 6 * (k1 + 2 * (k2 + k3) + k4)


def arrived(state: Tensor, integrals: Tensor, evaluations: int) -> Solution:
    """Return x(t1) (B, d) and ∫ r dt (B, m) as a Solution with the status `ok` or `non_finite`."""
    finite = bool(state.isfinite().all() and integrals.isfinite().all())
    return Solution(state, integrals, evaluations, "ok" if finite else "non_finite")


class RK4(FixedSteps):
    """The classical Runge-Kutta method of order 4, with 4 N evaluations of f and of the integrands. Kutta 1901."""

    type = "rk4"
    order = 4

    def solve(
        self,
        f: VectorField,
        x: Tensor,
        t0: float | Tensor,
        t1: float | Tensor,
        rates: Rates | None = None,
        steps: int | None = None,
        params: Sequence[Tensor] = (),
    ) -> Solution:
        """Return x(t1) (B, d) and ∫ r dt (B, m) in N = `steps` steps from x (B, d) at t0, r by `rates`."""
        import torch

        n = self.steps if steps is None else steps
        times = spread(t0, t1, torch.arange(n + 1, dtype=torch.float64, device=x.device) / n)
        if rates is None:
            ((_, x),) = collections.deque(classical_steps(f, x, times), maxlen=1)
            return arrived(x, x.new_zeros(len(x), 0), 4 * n)
        stages: list[Tensor] = []  # r at the four stages of the current step

        def slope(t: Tensor, y: Tensor) -> Tensor:
            value, r = rates(t, y)
            stages.append(r)
            return value

        increments = []
        for h, moved in classical_steps(slope, x, times):
            x = moved
            increments.append(weighted(h, *stages))
            stages.clear()
        return arrived(x, torch.stack(increments).sum(0), 4 * n)
