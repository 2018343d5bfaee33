"""The training loop: a generator that yields one record per optimiser step. Writes no files and prints nothing."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor

from driftspec.components import Estimator, Loss, Model
from driftspec.components.observer import Record
from driftspec.errors import RunFailed, blamed, returned
from driftspec.experiment.build import Experiment
from driftspec.experiment.losses import Losses, explained
from driftspec.experiment.records import BestCheck, CheckpointRecord
from driftspec.spec import Train


class Training:
    """The training state: weights, optimiser, schedule, estimator state and the best check. A checkpoint holds it."""

    def __init__(self, experiment: Experiment):
        spec = experiment.spec
        if spec.train is None or spec.estimator is None:
            raise RunFailed("the spec trains nothing")
        self.experiment, self.settings, self.estimator = experiment, spec.train, spec.estimator
        self.model = experiment.model
        self.streams = experiment.streams.under("train")
        self.rows = experiment.rows(experiment.dataset.train)
        self.validation_rows = experiment.rows(experiment.dataset.validation)
        with blamed(self.settings.optimizer.label):
            made = self.settings.optimizer.build(list(self.model.parameters()))
            self.optimizer = returned(made, torch.optim.Optimizer, "build")
        with blamed(self.settings.schedule.label):
            rates = self.settings.schedule.build(self.optimizer, self.settings.steps)
            self.schedule = returned(rates, torch.optim.lr_scheduler.LRScheduler, "build")
        self.ema = copy.deepcopy(self.model.module) if self.settings.ema is not None else None
        with blamed(self.estimator.label):
            self.state = self.estimator.start(self.model, self.streams.under("start"))
        self.step = 0
        self.best = BestCheck.new(value=math.inf, step=None, checks_since=0)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def checkpoint(self) -> CheckpointRecord:
        """Return the training state after `step` steps."""
        return CheckpointRecord.new(
            step=self.step,
            module=self.model.module.state_dict(),
            ema=self.ema.state_dict() if self.ema is not None else None,
            optimizer=self.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
            estimator=self.state,
            best=self.best,
            transform=self.experiment.transform.tree(),
            dim=self.model.dim,
            times=self.model.times,
        )

    def restore(self, saved: CheckpointRecord) -> None:
        """Continue from a checkpoint. RunFailed if it holds no training state."""
        if saved.optimizer is None or saved.schedule is None or saved.best is None:
            raise RunFailed(f"the checkpoint of step {saved.step} holds no training to go on with")
        self.step = saved.step
        self.model.module.load_state_dict(saved.module)
        if self.ema is not None:
            self.ema.load_state_dict(saved.ema or {})
        self.optimizer.load_state_dict(saved.optimizer)
        self.schedule.load_state_dict(saved.schedule)
        self.state, self.best = saved.estimator, saved.best

    def is_over(self) -> bool:
        """Whether no further step is to be taken."""
        return is_over(self.settings, self.step, self.best)

    def averaged(self) -> Model:
        """Return the model that is evaluated: with the averaged weights if there are any."""
        return self.model if self.ema is None else replace(self.model, module=self.ema)

    def batch(self, step: int) -> Tensor:
        """Return the rows (B, d) of one step, B = batch_size.

        Each epoch has its own permutation; rows that do not fill a last batch are left out.
        """
        size = self.settings.batch_size
        epoch, position = divmod(step, len(self.rows) // size)
        if self._order[0] != epoch:
            generator = self.streams.at(epoch).generator("order")
            self._order = epoch, torch.randperm(len(self.rows), generator=generator)
        return self.rows[self._order[1][position * size : (position + 1) * size]]


Monitor = Callable[[Model], tuple[float, Mapping[str, float]]]
"""Returns the number that a check watches for a model, and its terms."""


def train(training: Training, monitor: Monitor | None = None) -> Iterator[Record]:
    """Train until the last step or early stopping; yield a record per step. RunFailed names the step that failed."""
    settings, estimator, model = training.settings, training.estimator, training.model
    parameters, losses = list(model.parameters()), Losses()
    while not training.is_over():
        started, step = time.perf_counter(), training.step
        with explained(lambda: losses, settings, step + 1), blamed(estimator.label):
            given = (model, training.batch(step), training.state, training.streams.at(step + 1))
            loss = returned(estimator.loss(*given), Loss, "loss")
            training.optimizer.zero_grad(set_to_none=True)
            loss.value.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            value = _finite(loss.value.item(), "loss")
            _finite(norm.item(), "gradient norm")
            # Read before the weights change: an estimator may compute the gradient again.
            terms, verdicts = MappingProxyType({**loss.terms, **loss.stats()}), tuple(loss.verdicts())
        rate = float(training.optimizer.param_groups[0]["lr"])
        losses.add(step + 1, value, rate)
        if settings.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, settings.clip_norm, norm)
        training.optimizer.step()
        training.schedule.step()
        training.state, training.step = loss.next_state(), step + 1
        _average(training, settings)
        record = Record(step + 1, value, terms, norm.item(), rate, loss.evaluations, 0.0, verdicts=verdicts)
        with explained(lambda: losses, settings, step + 1):
            record = _checked(training, estimator, record, monitor)
        yield replace(record, seconds=time.perf_counter() - started, last=training.is_over())


def _average(training: Training, settings: Train) -> None:
    """ema <- decay · ema + (1 - decay) · weights."""
    if training.ema is not None and settings.ema is not None:
        with torch.no_grad():
            torch._foreach_lerp_(list(training.ema.parameters()), list(training.model.parameters()), 1 - settings.ema)
            for mean, now in zip(training.ema.buffers(), training.model.module.buffers(), strict=True):
                mean.copy_(now)


def _checked(training: Training, estimator: Estimator, record: Record, monitor: Monitor | None) -> Record:
    """Return the record, with the validation loss, or the monitor's number and terms, if this step has a check."""
    stopping = training.settings.early_stopping
    every = stopping.every if stopping else training.settings.checkpoint_every if monitor else None
    if every is None or record.step % every:
        return record
    watched = training.averaged()
    watched.module.eval()
    value, terms = monitor(watched) if monitor else (_validation_loss(training, estimator), {})
    watched.module.train()
    _finite(value, "validation loss")
    for name, term in terms.items():
        _finite(term, f"validation {name}")
    better = value < training.best.value - (stopping.min_delta if stopping else 0.0)
    if better:
        training.best = BestCheck.new(value=value, step=record.step, checks_since=0)
    else:
        training.best = training.best.changed(checks_since=training.best.checks_since + 1)
    return replace(record, validation=value, validation_terms=MappingProxyType(dict(terms)), best=better)


def _validation_loss(training: Training, estimator: Estimator) -> float:
    """Return the estimator's mean loss over the validation rows, with the same noise at every check."""
    streams = training.experiment.streams.under("validation")
    model, rows = training.averaged(), training.validation_rows
    size, total = training.settings.batch_size, 0.0
    for first in range(0, len(rows), size):
        part, scope = rows[first : first + size], streams.under(str(first)).at(1)
        total += estimator.loss(model, part, training.state, scope).value.item() * len(part)
    return total / len(rows)


def _finite(value: float, what: str) -> float:
    """Return the value. RunFailed if it is not finite."""
    if not math.isfinite(value):
        raise RunFailed(f"{what} {value} (status non_finite)", "non_finite")
    return value


def is_over(settings: Train, step: int, best: BestCheck | None) -> bool:
    """Whether training ends at a step: all steps are done, or `patience` checks brought no improvement."""
    stopping = settings.early_stopping
    patience_over = stopping is not None and best is not None and best.checks_since >= stopping.patience
    return step >= settings.steps or patience_over


__all__ = ["Monitor", "Training", "is_over", "train"]
