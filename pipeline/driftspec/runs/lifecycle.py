"""Start a new run, resume an interrupted one, or measure or sample a trained one again with other settings.

A run directory holds all that is needed. `resume` continues from its newest checkpoint. `again` measures or samples a
trained model with other settings; the result gets a run directory of its own, whose record names the first as `parent`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftspec import source, spec
from driftspec.components import Data, Distribution, Metric, Verdict
from driftspec.components.metric import too_few_rows
from driftspec.components.observer import STAGES, Observer
from driftspec.errors import DriftspecError, Problem, RunFailed, SpecError, UsageError, refusal
from driftspec.experiment.build import Experiment, build, use_of
from driftspec.experiment.records import CheckpointRecord
from driftspec.registry import Registry
from driftspec.runs import provenance
from driftspec.runs.records import RunRecord
from driftspec.runs.run_dir import RUN, RunDir
from driftspec.runs.session import RunUnderWay, recorded, resume_command
from driftspec.runs.stages import carry_out, evaluated_checkpoint, is_trained, load_checkpoint
from driftspec.source.document import filled_in, written
from driftspec.source.files import Files
from driftspec.spec.fits import check, errors, missing_libraries, problem_at

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components.dataset import Dataset
    from driftspec.experiment.train import Training

MAY_CHANGE = ("sampler", "evaluate", "sample", "runtime", "seed", "trackers")
"""The sections that can be changed for a finished run, besides the data file: training does not depend on them."""


def start(
    loaded: spec.Loaded,
    registry: Registry,
    *,
    out: Path | None = None,
    stages: Sequence[str] = STAGES,
    observer: Observer | None = None,
    argv: Sequence[str] = (),
    allow_outside: bool = False,
) -> RunUnderWay:
    """Carry out the stages of a spec and return the finished run. Nothing is written before all checks have passed."""
    if loaded.points or loaded.spec.sweep is not None:
        file = loaded.document.place(()).file
        raise UsageError(f"'{file}' is a sweep of {len(loaded.points) or 'several'} points: run-spec sweep {file}")
    stages = carried_out(loaded.spec, stages)
    if found := errors(check(loaded, stages)):
        raise refusal(found)
    experiment = build(loaded.spec, Files(loaded.root, allow_outside), document=loaded.document, stages=stages)
    loaded = replace(loaded, spec=experiment.spec)  # it has the numbers that depend on the data
    check_rows(loaded, experiment, stages)
    training = _training(experiment, stages)
    run = _new(
        loaded, registry, experiment, out, observer, argv, stages,
        parent=None, allow_outside=allow_outside, data_seed=loaded.spec.seed, every_row=False,
    )  # fmt: skip
    with recorded(run) as stop:
        carry_out(run, experiment, training, None, stop)
    return run


def carried_out(given: spec.Spec, stages: Sequence[str]) -> list[str]:
    """Return those of the given stages that a new run has. UsageError if training would be left out."""
    if given.train is None:
        return [stage for stage in stages if stage != "train"]
    if "train" not in stages:
        text = "a new run of this spec begins with train; measure a trained run with run-spec evaluate RUN"
        raise UsageError(f"{text}, sample it with run-spec sample RUN")
    return list(stages)


def resume(
    path: str | Path, registry: Registry, observer: Observer | None = None, argv: Sequence[str] = ()
) -> RunUnderWay:
    """Continue an interrupted, failed or killed run from its newest checkpoint; return the run.

    Its outputs are the same bytes as those of a run that was never interrupted.
    """
    with RunDir.open(path).lock():
        run = opened(path, registry, observer)
        if run.record.status == "finished":
            _has_checkpoints(run, path)
            raise UsageError(f"'{path}' is finished: nothing to resume")
        if lacking := missing_libraries(run.spec, run.loaded.document, run.record.stages):
            raise refusal(lacking)
        saved = load_checkpoint(run.directory) if run.directory.checkpoints() else None
        if run.record.parent is not None:
            parent = opened(run.record.parent, registry)
            saved = evaluated_checkpoint(run if saved else parent)
            experiment, training = _refitted(run.loaded, run.record, saved, parent), None
        else:
            files = Files(run.loaded.root, allow_outside=True)  # it was allowed at the start; its digest is compared
            experiment = build(run.spec, files, document=run.loaded.document, stages=run.record.stages)
            _same_data(experiment, run.record, str(path))
            training = _training(experiment, run.record.stages)
            if training is not None and saved is not None:
                training.restore(saved)
        step = saved.step if saved else 0
        run.directory.cut_records(step)
        once_more = {"argv": list(argv), "at": provenance.now(), "from": step, "skipped": list(run.directory.skipped)}
        run.note(resumed=[*run.record.resumed, once_more])
        run.record = run.record.without("error")
        run.note(id=run.record.id or secrets.token_hex(8))
        with recorded(run, step, resumed=True) as stop:
            carry_out(run, experiment, training, saved, stop)
    return run


def again(
    path: str | Path,
    registry: Registry,
    changes: spec.Changes,
    stages: Sequence[str],
    *,
    out: Path | None = None,
    observer: Observer | None = None,
    argv: Sequence[str] = (),
    rows: Path | None = None,
) -> RunUnderWay:
    """Measure or sample a run's trained model with other settings; return a new run with a directory of its own.

    `rows` is a data file: all its rows are measured instead of the run's own test rows.
    """
    parent = opened(path, registry)
    if parent.record.status == "finished":
        _has_checkpoints(parent, path)
    saved = evaluated_checkpoint(parent) if parent.directory.checkpoints() else None
    if saved is None or not is_trained(parent):
        raise UsageError(f"'{path}' has not finished training; go on with: {resume_command(parent)}")
    _check_changes(changes, parent.spec.data)
    if rows is not None:
        changes = replace(changes, options=(*changes.options, _from_file(rows, parent.spec.data, registry)))
    document = changes.apply(parent.loaded.document)
    for section in {"shows", "quick"} & document.data.keys():  # they are about the numbers of the first run
        document = source.unset(document, section, section)
    text = source.dump(document.data).encode()
    loaded = spec.Loaded(spec.validate(document, registry), document, text, parent.loaded.root)
    if found := errors(check(loaded, stages)):
        raise refusal(found)
    if "sample" in stages and loaded.spec.sample is None:
        raise UsageError(f"the spec of '{path}' draws no samples: give their number with -n")
    same = loaded.spec.data == parent.spec.data
    # All rows of another file are measured: the file was not used in training.
    asked = parent.record.changed(stages=stages, every_row=parent.record.every_row or not same)
    experiment = _refitted(loaded, asked, saved, parent, same)
    check_rows(loaded, experiment, stages)
    run = _new(
        loaded, registry, experiment, out, observer, argv, stages,
        allow_outside=asked.allow_outside, data_seed=asked.data_seed, columns=asked.columns, every_row=asked.every_row,
        **({"data_digest": asked.data_digest} if same else {}), parent=str(parent.path.resolve()),
        verdicts=[one.entry() for one in parent.verdicts if one.source == "train"],
    )  # fmt: skip
    with recorded(run, saved.step) as stop:
        carry_out(run, experiment, None, saved, stop)
    return run


def opened(path: str | Path, registry: Registry, observer: Observer | None = None) -> RunUnderWay:
    """Return an existing run; its resolved spec is read and checked again."""
    directory = RunDir.open(path)
    record = RunRecord.opened(directory.read_json(RUN), directory.path / RUN)
    document = source.parse(directory.read_bytes("resolved.yaml"), str(directory.path / "resolved.yaml"))
    if isinstance(keys := record.written, list):
        document = filled_in(document, {key for key in keys if isinstance(key, str)})
    text = directory.read_bytes("spec.yaml")
    loaded = spec.Loaded(spec.validate(document, registry), document, text, Path(record.root))
    return RunUnderWay(loaded, registry, directory, record, observer or Observer())


def _has_checkpoints(run: RunUnderWay, path: str | Path) -> None:
    """Raise RunFailed if a finished run has no checkpoints: they were deleted."""
    if not run.directory.checkpoints():
        raise RunFailed(f"'{path}': its checkpoints are missing: restore them from a copy, or run the spec again")


def _training(experiment: Experiment, stages: Sequence[str]) -> Training | None:
    """Return the initial training state; None if the stages have no training."""
    from driftspec.experiment.train import Training

    return Training(experiment) if "train" in stages else None


def check_rows(loaded: spec.Loaded, experiment: Experiment, stages: Sequence[str]) -> None:
    """Raise SpecError before training if a metric has too few rows to read, or rows that it cannot use."""
    data, train = loaded.spec.data, loaded.spec.train
    if data is None:
        return

    def need(part: str, metrics: Mapping[source.KeyPath, Metric]) -> Iterator[Problem]:
        reading = {path: metric for path, metric in metrics.items() if metric.reads_rows(data)}
        if not reading:
            return
        rows = getattr(experiment.dataset, part)
        if len(rows) < 2:
            place = loaded.document.place(("data",), key=True)
            names = ", ".join(metric.label for metric in reading.values())
            text = too_few_rows(names, part, len(rows))
            yield Problem("X303", text, place, source=loaded.document.source_line(place))
            return
        for path, metric in reading.items():
            for key, text, *severity in metric.unfit_rows(rows):
                where = (*path, *key.split("."))
                yield problem_at(loaded.document, "X303", f"{metric.label}: {text}", where, *severity)

    measuring: dict[source.KeyPath, Metric] = {}
    watching: dict[source.KeyPath, Metric] = {}
    if "evaluate" in stages:
        measuring = {("evaluate", index): metric for index, metric in enumerate(loaded.spec.evaluate or ())}
    if "train" in stages and train is not None and train.monitor is not None:
        watching = {("train", "monitor"): train.monitor}
    if found := errors([*need("test", measuring), *need("validation", watching)]):
        raise SpecError(found)


def _check_changes(changes: spec.Changes, data: Data | None) -> None:
    """Raise UsageError for a change of a key on which training depends."""
    file = (f"data.{data.file_key}",) if data is not None and data.file_key is not None else ()
    allowed = (*MAY_CHANGE, *file)
    names = [*(text.partition("=")[0].removesuffix("+") for text in changes.sets), *changes.unsets]
    for name in [*names, *(path for _, path, _ in changes.options)]:
        if not any(name == section or name.startswith(f"{section}.") for section in allowed):
            raise UsageError(
                f"'{name}' belongs to training and cannot be set; a finished run takes {', '.join(allowed)}"
            )


def _from_file(file: Path, data: Data | None, registry: Registry) -> tuple[str, str, Any]:
    """Return the change of the spec that measures the rows of a file.

    The run's own data component reads the file if it reads files; otherwise the one component for its suffix does.
    """
    if data is None:
        raise UsageError(f"--data {file}: the run has no data; its target is used instead of data")
    path, ending = str(file.resolve()), file.suffix.lower()
    if data.file_key is not None:
        return "--data", f"data.{data.file_key}", path
    kinds = {name: registry.look_up(data.kind, name)[0] for name in registry.names(data.kind)}
    readers = {name: one for name, one in kinds.items() if one is not None and issubclass(one, Data) and one.formats}
    fitting = {name: one for name, one in readers.items() if ending in one.formats}
    if len(fitting) != 1:
        known = ", ".join(sorted({end for one in readers.values() for end in one.formats}))
        who = f"both {' and '.join(fitting)} read {ending}" if fitting else f"files that can be read end in {known}"
        raise UsageError(f"--data {file}: {who}")
    ((name, reader),) = fitting.items()
    return "--data", "data", {"type": name, str(reader.file_key): path, **data.model_dump(include=_OF_EVERY_DATA)}


_OF_EVERY_DATA = {"split", "standardize"}


def _refitted(
    loaded: spec.Loaded, record: RunRecord, saved: CheckpointRecord, parent: RunUnderWay, same_data: bool = True
) -> Experiment:
    """Return the experiment of a checkpoint. Its data are read if they are measured or drawn from a distribution."""
    files, data = Files(loaded.root, allow_outside=True), loaded.spec.data  # the run's own file, or that of --data
    experiment = build(loaded.spec, files, fitted=saved, document=loaded.document)
    if data is not None and ("evaluate" in record.stages or isinstance(data, Distribution)):
        experiment = experiment.with_dataset(_measured(experiment, data, record, parent))
        if same_data:
            _same_data(experiment, record, "the run")
    return experiment


def _measured(experiment: Experiment, data: Data, record: RunRecord, parent: RunUnderWay) -> Dataset:
    """Return the data to measure, split as for training.

    For data of another file, all rows are test rows, and the training rows are those of the run.
    """
    from driftspec.experiment import inspection
    from driftspec.experiment.dataset import prepare
    from driftspec.streams import Streams

    streams, use = Streams(record.data_seed).under("data"), use_of(experiment.spec, record.stages)
    if not record.every_row:
        return prepare(data, experiment.files, streams, experiment.transform, use)
    data = data.model_copy(update={"split": (0.0, 0.0, 1.0)})
    dataset = prepare(data, experiment.files, streams, experiment.transform, use, record.columns)
    if (dataset.times is None) != (experiment.model.times is None):
        raise SpecError(Problem("X304", f"{data.label} and the data that were trained on are not both trajectories"))
    trained = _trained_on(parent, experiment)
    if trained is None:
        reason = "the training rows cannot be read, so the test rows are not compared with them"
        unknown = Verdict("rows", "unknown", reason, "unknown")
        return replace(dataset, verdicts=(*dataset.verdicts, unknown))
    dataset = replace(dataset, train=trained)
    return replace(dataset, verdicts=(*dataset.verdicts, *inspection.memorised(dataset)))


def _trained_on(run: RunUnderWay, experiment: Experiment) -> Tensor | None:
    """Return the training rows (n, d) of the run that trained the model; None if its data have changed since."""
    from driftspec.experiment.dataset import prepare
    from driftspec.streams import Streams

    try:
        while run.record.parent is not None:
            run = opened(run.record.parent, run.registry)
        files, data = Files(run.loaded.root, allow_outside=True), run.spec.data
        if data is None:
            return None
        own = prepare(data, files, Streams(run.record.data_seed).under("data"), experiment.transform)
    except DriftspecError:
        return None
    return own.train if own.digest == run.record.data_digest else None


def _same_data(experiment: Experiment, record: RunRecord, who: str) -> None:
    """Raise RunFailed if the data file has changed since training."""
    now = experiment.dataset.digest if experiment.spec.data is not None else None
    if record.data_digest != now:
        was = record.data_digest
        raise RunFailed(f"the data file is not the one '{who}' was trained on (sha256 {now}, was {was})")


def _new(
    loaded: spec.Loaded, registry: Registry, experiment: Experiment, out: Path | None, observer: Observer | None,
    argv: Sequence[str], stages: Sequence[str], **known: Any,
) -> RunUnderWay:  # fmt: skip
    """Make a run directory with the spec as given, the resolved spec, and run.json, whose record has `known`."""
    dataset = experiment.data.made  # None if a run draws samples without reading its data
    digest = provenance.identity(loaded.spec, dataset.digest if dataset else None)
    directory = RunDir.create(out, loaded.spec.name, digest, datetime.now(UTC))
    record = RunRecord.new(
        status="running", id=secrets.token_hex(8), **provenance.origin(loaded.spec, registry, argv),
        stages=list(stages), spec_digest=digest, data_digest=dataset.digest if dataset else None,
        root=str(loaded.root.resolve()), written=written(loaded.document), dim=experiment.model.dim,
        columns=list(dataset.columns) if dataset else _columns(loaded.spec, experiment.model.dim),
        parameters=sum(p.numel() for p in experiment.model.parameters()),
    )  # fmt: skip
    run = RunUnderWay(loaded, registry, directory, record, observer or Observer())
    run.save(**known)
    directory.write_bytes("spec.yaml", loaded.text)
    directory.write_text("resolved.yaml", source.dump(loaded.spec.resolved()))
    return run


def _columns(given: spec.Spec, dim: int) -> list[str]:
    """Return the names of the coordinates if no data have been read: the target's own names, or x1, x2, ..."""
    target = given.dynamics.target_law()
    named = target.columns() if isinstance(target, Distribution) else ()
    return list(named) or [f"x{i + 1}" for i in range(dim)]
