"""Checks that several metrics share: test rows, a flow that moves, and the message of a solve that failed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from driftspec.components import Metric, Setting
from driftspec.errors import RunFailed, SolveFailed


def no_rows(around: Setting) -> Iterator[tuple[str, str]]:
    """Yield a problem if the spec has no data: a target meets the need for samples, but has no test rows."""
    if around.data is None:
        yield "type", "it reads test rows, and the spec has a target and no data: add a section 'data'"


def no_flow(around: Setting, *, path: bool = False) -> Iterator[tuple[str, str]]:
    """Yield a problem if the dynamics has no time and no velocity of its own: its probability flow does not move.

    With `path`, the velocity is integrated in time, and one of its own needs two times too: its own or those of
    trajectories.
    """
    first, last = around.dynamics.times()
    moves = "velocity" in around.dynamics.offers()
    timed = around.data is not None and "trajectories" in around.data.offers()
    if first == last and not (moves and (timed or not path)):
        text = f"{around.dynamics.label} has no time, so no ODE leads from the data to a prior"
        yield "type", f"{text}: take a dynamics with t_prior and t_data, such as neural_ode"


@contextlib.contextmanager
def naming(metric: Metric, cure: str) -> Iterator[None]:
    """Raise a failure again with the metric's label, and with this cure if the failure has none."""
    try:
        yield
    except SolveFailed as error:
        text = f"{metric.label}: {error.message}"
        raise SolveFailed(text, error.status, error.step, error.cure or cure, error.rows) from error
    except RunFailed as error:
        if error.message.startswith(metric.label):
            raise
        raise RunFailed(f"{metric.label}: {error.message}", error.status, error.step, error.cure) from error


__all__ = ["naming", "no_flow", "no_rows"]
