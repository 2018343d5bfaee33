"""Runge-Kutta steps of the state between Gauss-Lobatto nodes; the integrands are evaluated at the nodes only.

    nodes    c_0 = -1 < ... < c_N = 1, the roots of (1 - c²) P'_N(c);    t_k = t0 + (1 + c_k)/2 (t1 - t0)
    state    x_k -> x_{k+1} by one classical Runge-Kutta step of dx/dt = f from t_k to t_{k+1}
    rates    ∫ r dt ≈ (t1 - t0)/2 Σ_k w_k r(t_k, x_k),    w_k = 2 / (N (N+1) P_N(c_k)²)

The state does not depend on a divergence, so the divergence is evaluated only at the N+1 ends of steps, in a few
batched calls. The quadrature is exact for polynomials of degree 2N - 1; the error is that of the state, of order 4.
R. Lobatto, Lessen over de differentiaal- en integraal-rekening, 1852; Abramowitz and Stegun 1964, 25.4.32.
"""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from driftspec.components import FixedSteps, Solution
from driftspec_plugins.solvers.rk4 import arrived, classical_steps, spread

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from driftspec.components import Rates, VectorField


@functools.cache
def gauss_lobatto(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes c and weights w (n+1,) on [-1, 1], ascending and symmetric, for n >= 1.

    Newton's method solves (1 - c²) P'_n(c) = n P_{n-1}(c) - n c P_n(c) = 0, from the Chebyshev points.
    """
    import numpy as np

    c = -np.cos(np.pi * np.arange(n + 1) / n)
    for _ in range(100):
        before, p = np.ones_like(c), c
        for k in range(2, n + 1):
            before, p = p, ((2 * k - 1) * c * p - (k - 1) * before) / k
        step = (c * p - before) / ((n + 1) * p)
        c = c - step
        if abs(step).max() < 1e-15:
            break
    c, p = (c - c[::-1]) / 2, (abs(p) + abs(p[::-1])) / 2
    weights = 2 / (n * (n + 1) * p**2)
    c.setflags(write=False)
    weights.setflags(write=False)
    return c, weights


class Lobatto(FixedSteps):
    """Classical Runge-Kutta steps from node to node: 4 N evaluations for the state, N + 1 for the integrands."""

    type = "lobatto"
    order = 4
    ROWS: ClassVar[int] = 2048
    """The approximate number of rows in one call of `rates`. With 8192 rows a network of width 64 was 15 % slower."""

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
        """Return x(t1) (B, d) and ∫ r dt (B, m) in N = `steps` steps from x (B, d) at t0; its gradient is exact.

        `rates` is called with the batch at several nodes, one after another: t (n B,) and x (n B, d).
        """
        import torch

        n = self.steps if steps is None else steps
        nodes, weights = (torch.tensor(value, device=x.device) for value in gauss_lobatto(n))
        times = spread(t0, t1, (1 + nodes) / 2)
        states = itertools.chain([x], (state for _, state in classical_steps(f, x, times)))
        if rates is None:
            (x,) = collections.deque(states, maxlen=1)
            return arrived(x, x.new_zeros(len(x), 0), 4 * n)
        batch, total = len(x), x.new_zeros(())
        # One call for gradients: the bits of a point's gradient must not depend on the number of rows.
        calls = 1 if x.requires_grad else max(1, min(n + 1, round((n + 1) * batch / self.ROWS)))
        for at in torch.arange(n + 1, device=x.device).tensor_split(calls):
            block = list(itertools.islice(states, len(at)))
            r = rates(times[at].to(x.dtype).repeat_interleave(batch), torch.cat(block))[1]
            total = total + (weights[at].to(r.dtype) @ r.reshape(len(at), batch * r.shape[1])).view(batch, r.shape[1])
            x = block[-1]
        return arrived(x, ((times[-1] - times[0]) / 2).to(x.dtype) * total, 4 * n + n + 1)
