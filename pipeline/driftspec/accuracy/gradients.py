"""The error of a gradient that a solver computes by the adjoint equation, with the state solved back in time.

    m = max |x_back(t0) - x(t0)| / (atol + rtol |x(t0)|)        error of the state after the backward solve
    r = ‖g - g_steps‖ / ‖g_steps‖                               difference to the gradient by backpropagation

If the flow contracts fast, rounding errors grow in the backward solve. Then m is large, and the gradient may be wrong
by any factor without another symptom. A large m does not prove that: the error may lie in a direction that hardly
changes the loss. So when m exceeds `TRIGGER`, and again in each new power of ten of m, the gradient of the loss on the
worst rows is computed by both methods. If r is above `INACCURATE` there is a warning; above `UNRELIABLE` the run ends.

A. Gholami, K. Keutzer, G. Biros, *ANODE: Unconditionally Accurate Memory-Efficient Gradients for Neural ODEs*, 2019.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from driftspec.components import Loss, Model, Solution, Solver, Verdict
from driftspec.errors import SolveFailed

TRIGGER = 100.0
"""The gradients are compared if m is above this."""
ROWS = 16
"""The largest number of rows of the batch on which they are compared: those with the largest m."""
INACCURATE, UNRELIABLE = 1e-3, 0.1
"""There is a warning if r is above the first, and the run ends if r is above the second."""

DECADE = "missed_start_decade"
"""The key of an estimator's state that holds the largest power of ten of m at which the gradients were compared."""


def watched(
    loss: Loss,
    paths: Sequence[Solution],
    model: Model,
    solver: Solver,
    rows: Tensor,
    again: Callable[[Solver, Tensor], Tensor],
) -> Loss:
    """Return the loss with the results of its backward pass: counts, m, and a verdict if r is large.

    `paths` are the solves of the loss by `solver`; row i of each belongs to row i of `rows` (B, ...). `again(solver,
    rows)` returns the loss () of some rows with another solver. `loss.state` is a mapping, to which `DECADE` is added.
    """
    seen = _Watched(loss.state, paths, model, solver, rows, again)
    return replace(loss, stats=seen.stats, verdicts=seen.verdicts, final_state=seen.state)


def flat(loss: Tensor, model: Model) -> Tensor:
    """Return ∂L/∂θ of the loss L () as one vector (P,), P the number of parameters."""
    gradients = torch.autograd.grad(loss, model.parameters(), materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients])


def relative(found: Tensor, right: Tensor) -> float:
    """Return r = ‖found - right‖ / ‖right‖ of two gradients (P,)."""
    return float((found - right).norm() / right.norm().clamp_min(torch.finfo(right.dtype).tiny))


def stats(paths: Sequence[Solution]) -> dict[str, int]:
    """Return the sums of the solves' counts; those of a backward pass are complete after that pass."""
    total: Counter[str] = Counter()
    for path in paths:
        total.update(path.stats)
    return dict(total)


@dataclass(eq=False)
class _Watched:
    """A loss; its methods are called after the backward pass."""

    before: Mapping[str, Any]
    paths: Sequence[Solution]
    model: Model
    solver: Solver
    rows: Tensor
    again: Callable[[Solver, Tensor], Tensor]

    def missed(self) -> Tensor | None:
        """Return m of each row (B,), the largest over the solves; None if no state was solved back."""
        each = [missed for path in self.paths if (missed := path.missed_start()) is not None]
        return torch.stack(each).amax(0) if each else None

    def stats(self) -> dict[str, float]:
        """Return the counts of the solves, and the largest m as `missed_start`."""
        missed = self.missed()
        return {**stats(self.paths), **({} if missed is None else {"missed_start": float(missed.max())})}

    @functools.cached_property
    def decade(self) -> int | None:
        """The power of ten of m if the gradients must be compared; None if m is too small or was compared before."""
        missed = self.missed()
        if missed is None or not float(missed.max()) > TRIGGER:
            return None
        decade = math.floor(math.log10(min(float(missed.max()), 1e99)))  # m is inf if the backward solve overflowed
        return decade if decade > self.before.get(DECADE, -math.inf) else None

    def state(self) -> Mapping[str, Any]:
        """Return the estimator's state after this step."""
        return self.before if self.decade is None else {**self.before, DECADE: self.decade}

    def verdicts(self) -> tuple[Verdict, ...]:
        """Return a warning if r is large, or nothing. Raise SolveFailed if the gradient is wrong."""
        missed = self.missed()
        if missed is None or self.decade is None:
            return ()
        how = f"the state solved back misses its start by {float(missed.max()):.1e} tolerances"
        steps = self.solver.differentiated("backprop")
        if steps is None:
            text = f"{how}, and {self.solver.label} offers no other gradient to compare with"
            return (Verdict("adjoint", "unknown", text, "unknown"),)
        worst = self.rows[missed.topk(min(ROWS, len(missed))).indices]
        found, right = (flat(self.again(solver, worst), self.model) for solver in (self.solver, steps))
        difference = relative(found, right)
        text = f"on {len(worst)} rows the gradient differs from backpropagation's by {difference:.1e}, relative; {how}"
        if not difference <= UNRELIABLE:
            ended = f"solving the adjoint ODE ended with status adjoint_unreliable: {text}"
            raise SolveFailed(ended, "adjoint_unreliable", cure="write gradient: backprop for the estimator's solver")
        return (Verdict("adjoint", "adjoint_inaccurate", text, "warning"),) if difference > INACCURATE else ()


__all__ = ["DECADE", "INACCURATE", "ROWS", "TRIGGER", "UNRELIABLE", "flat", "relative", "stats", "watched"]
