"""Explain a failed run by its losses: if the loss was rising before the failure, the steps were too long."""

from __future__ import annotations

import collections
import contextlib
import math
import statistics
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from driftspec.errors import RunFailed, SolveFailed

if TYPE_CHECKING:
    from driftspec.spec import Train

DIVERGED = frozenset({"non_finite", "budget", "step_underflow", "not_converged"})
"""The statuses with which a run fails after a step that was too long."""


class Losses:
    """The lowest and the last loss of a training, and the changes from step to step before the lowest."""

    NEAR, NOISE = 100, 6.0
    """The number of changes before the lowest loss that are kept; a rise is more than NOISE times their median."""

    def __init__(self) -> None:
        self.changes: collections.deque[float] = collections.deque(maxlen=self.NEAR)
        self.until_lowest: tuple[float, ...] = ()
        self.count = self.step_of_lowest = 0
        self.lowest = self.last = math.inf
        self.rate = math.nan

    def add(self, step: int, loss: float, rate: float) -> None:
        """Add the loss of a step, and the learning rate of the update after it."""
        if self.count:
            self.changes.append(abs(loss - self.last))
        self.count, self.last, self.rate = self.count + 1, loss, rate
        if loss <= self.lowest:
            self.lowest, self.step_of_lowest, self.until_lowest = loss, step, tuple(self.changes)

    def rise(self) -> str:
        """Return "the loss had risen since step 3, from 1.52 to 48.3", or "" if the rise is within the noise."""
        noise = statistics.median(self.until_lowest) if self.until_lowest else 0.0
        if not self.last - self.lowest > self.NOISE * noise:
            return ""
        return f"the loss had risen since step {self.step_of_lowest}, from {self.lowest:.4g} to {self.last:.4g}"


@contextlib.contextmanager
def explained(so_far: Callable[[], Losses], settings: Train, step: int | None = None) -> Iterator[None]:
    """Raise a failure again with the step of training, and with what to change if the loss had risen before it.

    `so_far` is called only after a failure.
    """
    try:
        yield
    except RunFailed as error:
        losses = so_far()
        rise = losses.rise() or ("the first update of the weights led there" if step == 2 and losses.count == 1 else "")
        cure = _shorter_steps(rise, losses.rate, settings) if rise and error.status in DIVERGED else error.cure
        message = error.message if step is None else f"step {step}: {error.message}"
        kind = SolveFailed if isinstance(error, SolveFailed) else RunFailed
        raise kind(message, error.status, error.step if step is None else step, cure) from error


def _shorter_steps(rise: str, rate: float, settings: Train) -> str:
    """Return what to change for shorter steps, after the sentence about the rise."""
    clip = "set clip_norm" if settings.clip_norm is None else f"lower clip_norm (it is {settings.clip_norm:g})"
    return f"{rise}: lower lr in train.optimizer (the rate was {rate:g}), raise warmup in train.schedule, or {clip}"


__all__ = ["Losses", "explained"]
