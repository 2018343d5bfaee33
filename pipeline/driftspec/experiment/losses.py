"""Whether training was getting worse before it, or what came after it, failed: a step that is too long shows so."""

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
"""Statuses in which a run ends whose weights have gone too far."""


class Losses:
    """The losses of a training: the lowest, the last, and how far they moved from step to step until the lowest."""

    NEAR, NOISE = 100, 6.0
    """Changes before the lowest loss that count, and the multiple of their median that is still no rise."""

    def __init__(self) -> None:
        self.changes: collections.deque[float] = collections.deque(maxlen=self.NEAR)
        self.until_lowest: tuple[float, ...] = ()
        self.count = self.step_of_lowest = 0
        self.lowest = self.last = math.inf
        self.rate = math.nan

    def add(self, step: int, loss: float, rate: float) -> None:
        """The loss of a step, and the rate of the update that followed."""
        if self.count:
            self.changes.append(abs(loss - self.last))
        self.count, self.last, self.rate = self.count + 1, loss, rate
        if loss <= self.lowest:
            self.lowest, self.step_of_lowest, self.until_lowest = loss, step, tuple(self.changes)

    def rise(self) -> str:
        """ "the loss had risen since step 3, from 1.52 to 48.3"; empty where it had not, beyond its noise."""
        noise = statistics.median(self.until_lowest) if self.until_lowest else 0.0
        if not self.last - self.lowest > self.NOISE * noise:
            return ""
        return f"the loss had risen since step {self.step_of_lowest}, from {self.lowest:.4g} to {self.last:.4g}"


@contextlib.contextmanager
def explained(so_far: Callable[[], Losses], settings: Train, step: int | None = None) -> Iterator[None]:
    """A failure says in which step of training it happened, and what to change where the loss had risen before.

    `so_far` is called after a failure alone.
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
    clip = "set clip_norm" if settings.clip_norm is None else f"lower clip_norm (it is {settings.clip_norm:g})"
    return f"{rise}: lower lr in train.optimizer (the rate was {rate:g}), raise warmup in train.schedule, or {clip}"


__all__ = ["Losses", "explained"]
