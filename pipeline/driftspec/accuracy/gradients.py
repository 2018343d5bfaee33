"""Whether the gradient of a loss can be trusted, where solvers take it by solving the state back in time.

    m = max |x_back(t0) - x(t0)| / (atol + rtol |x(t0)|)        how far the state solved back misses its start
    r = ‖g - g_steps‖ / ‖g_steps‖                               how far the gradient is from backpropagation's

Where the flow contracts fast, rounding grows on the way back: m is large, and the gradient may be wrong by any factor
with no other sign. But m does not decide: the gradient may still be right, for a large m in a direction that the loss
hardly sees. So past `TRIGGER`, and again in each new power of ten of m, the gradient of the loss on the worst rows is
taken both ways, and r decides: above `INACCURATE` there is a warning, above `UNRELIABLE` the run ends.

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
"""Tolerances by which the state solved back may miss its start before the gradients are compared."""
ROWS = 16
"""Rows of the batch on which they are compared, at most: those that miss their start by most."""
INACCURATE, UNRELIABLE = 1e-3, 0.1
"""Relative differences of the gradients above which there is a warning, and above which the run ends."""

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
    """The loss with what its backward pass will tell: counts, m, and a verdict where r is large.

    `paths` are the solves behind it, by `solver`, row i of each belonging to row i of `rows` (B, ...).
    `again(solver, rows)` is the loss () of some of the rows by another solver. The state, a mapping, gets `DECADE`.
    """
    seen = _Watched(loss.state, paths, model, solver, rows, again)
    return replace(loss, stats=seen.stats, verdicts=seen.verdicts, final_state=seen.state)


def flat(loss: Tensor, model: Model) -> Tensor:
    """∂L/∂θ as one vector."""
    gradients = torch.autograd.grad(loss, model.parameters(), materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients])


def relative(found: Tensor, right: Tensor) -> float:
    """r = ‖found - right‖ / ‖right‖."""
    return float((found - right).norm() / right.norm().clamp_min(torch.finfo(right.dtype).tiny))


def stats(paths: Sequence[Solution]) -> dict[str, int]:
    """What several solves counted, together, as far as it is known by now."""
    total: Counter[str] = Counter()
    for path in paths:
        total.update(path.stats)
    return dict(total)


@dataclass(eq=False)
class _Watched:
    """One loss; its methods are to be called once the backward pass is done."""

    before: Mapping[str, Any]
    paths: Sequence[Solution]
    model: Model
    solver: Solver
    rows: Tensor
    again: Callable[[Solver, Tensor], Tensor]

    def missed(self) -> Tensor | None:
        """m of each row (B,), the worst of its solves; None where nothing was solved back."""
        each = [missed for path in self.paths if (missed := path.missed_start()) is not None]
        return torch.stack(each).amax(0) if each else None

    def stats(self) -> dict[str, float]:
        missed = self.missed()
        return {**stats(self.paths), **({} if missed is None else {"missed_start": float(missed.max())})}

    @functools.cached_property
    def decade(self) -> int | None:
        """The power of ten of m, where it is to be compared: beyond the trigger, and beyond all before."""
        missed = self.missed()
        if missed is None or not float(missed.max()) > TRIGGER:
            return None
        decade = math.floor(math.log10(min(float(missed.max()), 1e99)))  # m is infinite where the way back overflowed
        return decade if decade > self.before.get(DECADE, -math.inf) else None

    def state(self) -> Mapping[str, Any]:
        return self.before if self.decade is None else {**self.before, DECADE: self.decade}

    def verdicts(self) -> tuple[Verdict, ...]:
        """A warning, or nothing. SolveFailed where the gradient is wrong."""
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
