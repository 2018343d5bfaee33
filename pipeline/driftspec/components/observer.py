"""Observers: objects that receive the events of a run.

An observer shows the progress of the command, passes events to the hooks of a plugin, or is made by a tracker of the
spec. The objects it receives are frozen, and the results of the run do not depend on observers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from driftspec.components import Measured, Verdict
    from driftspec.errors import Problem

STAGES = ("train", "evaluate", "sample")
"""The stages of a run, in this order."""


@dataclass(frozen=True)
class RunInfo:
    """The description of a run that observers receive."""

    id: str  # unique; a resumed run keeps it
    name: str
    path: Path  # the run directory
    spec: Mapping[str, Any]  # the spec as plain data, with every default filled in; read-only
    stages: tuple[str, ...]
    steps: int  # the largest number of training steps; 0 if nothing is trained
    step: int  # training steps that are done already: 0 for a new run
    resumed: bool
    parent: str | None  # the finished run whose model this one evaluates or samples again
    records: Callable[[], Sequence[Mapping[str, Any]]]  # returns the lines of train.jsonl so far


@dataclass(frozen=True)
class Record:
    """The results of one training step."""

    step: int
    loss: float
    terms: Mapping[str, float]
    grad_norm: float
    lr: float
    evaluations: int
    seconds: float
    validation: float | None = None  # the validation loss, or the metric `train.monitor`; None at most steps
    validation_terms: Mapping[str, float] = field(default_factory=dict)  # `Measured.terms` of `train.monitor`
    best: bool = False
    last: bool = False
    logged: bool = False  # whether it is written to train.jsonl
    verdicts: tuple[Verdict, ...] = ()  # the estimator's, on this step

    def line(self) -> dict[str, Any]:
        """Return the record as it is written to train.jsonl."""
        data: dict[str, Any] = {"step": self.step, "loss": self.loss, **self.terms, "grad_norm": self.grad_norm}
        data |= {"lr": self.lr, "evaluations": self.evaluations, "seconds": round(self.seconds, 4)}
        if self.validation is not None:
            data |= {"validation": self.validation, "best": self.best}
        if self.validation_terms:
            data["validation_terms"] = dict(self.validation_terms)
        return data


class Observer:
    """Receives the events of one run. Its methods do nothing, except that `trouble` gives a warning; override them."""

    def started(self, run: RunInfo) -> None:
        """The run has started, or a stopped run has resumed."""

    def stage(self, name: str) -> None:
        """The next stage starts: train, evaluate, sample or plots."""

    def step(self, record: Record, steps: int) -> None:
        """One training step is done, out of at most `steps`."""

    def checkpoint(self, step: int, path: Path) -> None:
        """The checkpoint of a step is written, with its tensors in the file `path`."""

    def metric(self, name: str, measured: Measured) -> None:
        """A metric is measured."""

    def verdict(self, source: str, verdict: Verdict) -> None:
        """A verdict on the run is new or worse than before; `source` is train, data, sample or a metric's key."""

    def finished(self, status: str, error: str | None) -> None:
        """The run has ended: finished, failed or interrupted; the last two have the cause in `error`."""

    def trouble(self, problem: Problem, error: BaseException) -> None:
        """Another observer failed and receives no more events; the run continues."""
        warnings.warn(str(problem), RuntimeWarning, stacklevel=2)


__all__ = ["Observer", "Record", "RunInfo"]
