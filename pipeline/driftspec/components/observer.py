"""Who is told how a run goes, and what they are told.

An observer is the command's progress, a plugin that implements hooks, or what a tracker of the spec makes. What it is
told of is frozen, and the run's results depend on none of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from driftspec.components import Measured, Verdict
    from driftspec.errors import Problem

STAGES = ("train", "evaluate", "sample")
"""What a run does, in this order."""


@dataclass(frozen=True)
class RunInfo:
    """The run that observers are told of."""

    id: str  # its own; a run that is resumed keeps it
    name: str
    path: Path  # the run directory
    spec: Mapping[str, Any]  # the spec as plain data, every default filled in; read only
    stages: tuple[str, ...]
    steps: int  # that training takes at most; 0 where nothing is trained
    step: int  # steps trained before this: 0 for a new run
    resumed: bool
    parent: str | None  # the run that this one measures or draws from in another way
    records: Callable[[], Sequence[Mapping[str, Any]]]  # reads the lines of train.jsonl so far


@dataclass(frozen=True)
class Record:
    """What happened in one step of training."""

    step: int
    loss: float
    terms: Mapping[str, float]
    grad_norm: float
    lr: float
    evaluations: int
    seconds: float
    validation: float | None = None  # at a check
    best: bool = False
    last: bool = False
    logged: bool = False  # it stands in train.jsonl
    verdicts: tuple[Verdict, ...] = ()  # of the estimator, on this step

    def line(self) -> dict[str, Any]:
        """The record in train.jsonl."""
        data = {"step": self.step, "loss": self.loss, **self.terms, "grad_norm": self.grad_norm, "lr": self.lr}
        data |= {"evaluations": self.evaluations, "seconds": round(self.seconds, 4)}
        if self.validation is not None:
            data |= {"validation": self.validation, "best": self.best}
        return data


class Observer:
    """Is told how one run goes. Each method does nothing until overridden, save that trouble is a warning."""

    def started(self, run: RunInfo) -> None:
        """The run begins, or goes on."""

    def stage(self, name: str) -> None:
        """The next stage begins: train, evaluate, sample or plots."""

    def step(self, record: Record, steps: int) -> None:
        """A step of training is done, of at most `steps`."""

    def checkpoint(self, step: int, path: Path) -> None:
        """The checkpoint of a step is on the disk, its tensors at `path`."""

    def metric(self, name: str, measured: Measured) -> None:
        """A metric is measured."""

    def verdict(self, source: str, verdict: Verdict) -> None:
        """A verdict on the run is new or worse than before; `source` is train, data, sample or a metric's key."""

    def finished(self, status: str, error: str | None) -> None:
        """The run is over: finished, failed or interrupted; the last two with what ended it."""

    def trouble(self, problem: Problem, error: BaseException) -> None:
        """Another observer failed and is told no more; the run goes on."""
        warnings.warn(str(problem), RuntimeWarning, stacklevel=2)


__all__ = ["Observer", "Record", "RunInfo"]
