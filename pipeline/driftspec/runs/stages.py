"""The stages of a run, in order: train, evaluate, sample, then the pictures and the report."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from driftspec import spec
from driftspec.components.verdict import Verdict
from driftspec.errors import DriftspecError, RunFailed, cause
from driftspec.experiment.build import Experiment
from driftspec.experiment.losses import Losses, explained
from driftspec.experiment.records import CheckpointRecord
from driftspec.runs.run_dir import RunDir
from driftspec.runs.session import RunUnderWay, Stop
from driftspec.spec.fits import unable_to_monitor

if TYPE_CHECKING:
    from driftspec.components import Draws, Model
    from driftspec.experiment.train import Monitor, Training
    from driftspec.report.page import Shown

KEEP = 2
"""The number of newest checkpoints that are kept, besides the best one."""


def carry_out(
    run: RunUnderWay, experiment: Experiment, training: Training | None, saved: CheckpointRecord | None, stop: Stop
) -> None:
    """Carry out the stages of a run, from a training state or from a saved checkpoint."""
    from driftspec.experiment.evaluate import as_json, evaluate, once, sample

    stages = run.record.stages
    run.note(seconds=run.record.seconds)
    run.forget_verdicts()
    if experiment.has_data():
        for verdict in experiment.dataset.verdicts:
            run.judge("data", verdict)
    if training is not None:
        with run.timed("train"), stop.deferred():
            run.observer.stage("train")
            _train(run, training, stop)
    elif not run.directory.checkpoints():
        save_checkpoint(run.directory, saved or _untrained(experiment))
    chosen = evaluated_checkpoint(run)
    model = fitted(experiment, chosen)
    best = _best_step(run.spec, chosen) == chosen.step
    run.note(evaluated={"weights": "ema" if chosen.ema else "last", "step": chosen.step, "best": best})

    def draw() -> Draws:
        draws = sample(experiment, model)
        for verdict in draws.verdicts:
            run.judge("sample", verdict)
        return draws

    drawn = once(draw)
    if "evaluate" in stages:
        with run.timed("evaluate"), _as_trained(run):
            run.observer.stage("evaluate")
            for name, measured in evaluate(experiment, model, drawn):
                run.measured[name] = measured
                for verdict in measured.verdicts:
                    run.judge(name, verdict)
                run.observer.metric(name, measured)
        _compare(run)
    sampled = "sample" in stages and run.spec.sample is not None
    if sampled:
        with run.timed("sample"), _as_trained(run):
            run.observer.stage("sample")
            _save_samples(run, experiment, drawn())
    if "evaluate" in stages:
        run.directory.write_json("metrics.json", {name: as_json(measured) for name, measured in run.measured.items()})
    with run.timed("plots"):
        run.observer.stage("plots")
        _draw(run, experiment, model, drawn if sampled else None)


def _compare(run: RunUnderWay) -> None:
    """Judge the numbers for which the spec states what is expected."""
    from driftspec.experiment.evaluate import as_json

    metrics = {name: as_json(measured) for name, measured in run.measured.items()}
    for statement in run.spec.shows or ():
        if verdict := statement.verdict(metrics):
            run.judge(str(statement.metric), verdict)


def _train(run: RunUnderWay, training: Training, stop: Stop) -> None:
    """Train; write records and checkpoints; report steps and verdicts. A signal ends the run after a checkpoint."""
    from driftspec.experiment.train import train

    settings = training.settings

    def save() -> None:
        save_checkpoint(run.directory, training.checkpoint())
        best = training.best.step
        run.directory.prune({*run.directory.checkpoints()[-KEEP:], *([best] if best else [])})
        run.observer.checkpoint(training.step, run.directory.weights(training.step))

    for record in train(training, _monitor(training)):
        if record.step % settings.log_every == 0 or record.last or record.validation is not None:
            record = replace(record, logged=True)
            run.directory.append_record(record.line())
        for verdict in record.verdicts:
            run.judge("train", verdict)
        run.observer.step(record, settings.steps)
        interrupted = stop.signal is not None
        if interrupted or record.last or record.best or record.step % settings.checkpoint_every == 0:
            save()
        if interrupted:
            stop.now(f"interrupted after step {record.step}, its checkpoint is written")


def _as_trained(run: RunUnderWay) -> AbstractContextManager[None]:
    """Add to the message of a later failure that the loss had risen during training, if it had."""
    if run.spec.train is None:
        return nullcontext()

    def so_far() -> Losses:
        losses = Losses()
        for record in run.directory.records():
            losses.add(record["step"], record["loss"], record["lr"])
        return losses

    return explained(so_far, run.spec.train)


def _monitor(training: Training) -> Monitor | None:
    """Return the function of the metric that monitors training, with the validation rows as test rows; or None."""
    from driftspec.experiment.evaluate import evaluation_of

    metric, experiment = training.settings.monitor, training.experiment
    if metric is None:
        return None
    streams = experiment.streams.under("monitor")
    watched = experiment.with_dataset(replace(experiment.dataset, test=experiment.dataset.validation))

    def no_draws() -> Draws:
        raise RunFailed(unable_to_monitor(metric))

    def watch(model: Model) -> tuple[float, Mapping[str, float]]:
        measured = metric.measure(evaluation_of(watched, model, streams, no_draws))
        value = metric.watched(measured)
        if value is None:
            raise RunFailed(f"{metric.label} cannot monitor training: {measured.stderr_reason}")
        return value, measured.terms

    return watch


def _untrained(experiment: Experiment) -> CheckpointRecord:
    """Return the checkpoint of the initial weights, at step 0."""
    return CheckpointRecord.new(
        step=0, module=experiment.model.module.state_dict(), ema=None, transform=experiment.transform.tree(),
        dim=experiment.model.dim, times=experiment.model.times,
    )  # fmt: skip


def _save_samples(run: RunUnderWay, experiment: Experiment, draws: Draws) -> None:
    """Write the draws in data units to samples.npy, and note their numbers in the record."""
    import numpy as np

    values = experiment.transform.to_data(draws.flat().cpu()).numpy().astype(np.float32)
    run.directory.write_array("samples.npy", values)
    chains, each = draws.values.shape[:2]
    run.note(samples={"count": len(values), "chains": chains, "draws": each, "stats": dict(draws.stats)})


def _draw(run: RunUnderWay, experiment: Experiment, model: Model, drawn: Callable[[], Draws] | None) -> None:
    """Write the pictures and the report. A picture that cannot be drawn gives a warning."""
    from driftspec.report import page as report
    from driftspec.report import plots

    samples = experiment.transform.to_data(drawn().flat().cpu()).numpy() if drawn else None
    stages, records, lost = run.record.stages, run.directory.records(), list[str]()

    def without(name: str, error: Exception) -> None:
        lost.append(f"'{name}' ({cause(error)})")

    for name, png in plots.draw(experiment, model, stages, records, samples, run.measured, without):
        run.directory.write_bytes(f"plots/{name}.png", png)
    named = (
        {one.picture for one in run.spec.shows or () if one.picture} if {"evaluate", "sample"} <= {*stages} else set()
    )
    if missing := sorted(named - run.directory.pictures().keys()):
        text = f"the spec names {', '.join(map(repr, missing))}, and the run has {', '.join(run.directory.pictures())}"
        run.judge("plots", Verdict("pictures", "missing", text, "warning"))
    if lost:
        run.judge("plots", Verdict("pictures", "not_drawn", ", ".join(lost), "warning"))
    run.directory.write_text("report.html", report.page(shown(run)))


def shown(run: RunUnderWay) -> Shown:
    """Return what the report of the run shows."""
    from driftspec.report.page import Shown

    return Shown(run.spec, run.record.entries(), run.verdicts, run.measured, run.directory.pictures())


def fitted(experiment: Experiment, saved: CheckpointRecord) -> Model:
    """Return the model of a checkpoint, with the averaged weights if there are any."""
    module = copy.deepcopy(experiment.model.module)
    module.load_state_dict(saved.ema or saved.module)
    return replace(experiment.model, module=module.eval())


def save_checkpoint(directory: RunDir, record: CheckpointRecord) -> None:
    """Write a checkpoint to the run directory."""
    directory.save_checkpoint(record.step, record.entries())


def load_checkpoint(directory: RunDir, step: int | None = None) -> CheckpointRecord:
    """Return the newest checkpoint that is not damaged, or the one of this step."""
    number, tree = directory.load_checkpoint(step)
    try:
        return CheckpointRecord.read(tree)
    except DriftspecError as error:
        raise RunFailed(f"{directory.path}: the checkpoint of step {number} is damaged ({error})") from error


def evaluated_checkpoint(run: RunUnderWay) -> CheckpointRecord:
    """Return the checkpoint that is evaluated: the best one with early stopping, otherwise the newest."""
    newest = load_checkpoint(run.directory)
    best = _best_step(run.spec, newest)
    return newest if best in (None, newest.step) else load_checkpoint(run.directory, best)


def is_trained(run: RunUnderWay) -> bool:
    """Whether the run has finished its training, or has none."""
    from driftspec.experiment.train import is_over

    train = run.spec.train if "train" in run.record.stages else None
    if train is None:
        return True
    newest = load_checkpoint(run.directory)
    return is_over(train, newest.step, newest.best)


def _best_step(given: spec.Spec, record: CheckpointRecord) -> int | None:
    """Return the step of the best check, or None without early stopping."""
    stopping = given.train is not None and given.train.early_stopping is not None
    return record.best.step if stopping and record.best is not None else None
