"""Runs from their beginning to their end: a new one, an interrupted one resumed, a finished one measured another way.

A run directory is enough to go on from: `resume` takes the newest checkpoint, `again` measures or samples a finished
run in another way and leaves the answer in a directory of its own, with `parent`.
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
"""What a finished run can be given anew, beside the file of its data: none of it was trained."""


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
    """A new run of a spec, from its first stage to the end. Nothing is written before everything is checked."""
    if loaded.points or loaded.spec.sweep is not None:
        file = loaded.document.place(()).file
        raise UsageError(f"'{file}' is a sweep of {len(loaded.points) or 'several'} points: run-spec sweep {file}")
    stages = carried_out(loaded.spec, stages)
    if found := errors(check(loaded, stages)):
        raise refusal(found)
    experiment = build(loaded.spec, Files(loaded.root, allow_outside), document=loaded.document, stages=stages)
    loaded = replace(loaded, spec=experiment.spec)  # with the numbers that the data decide
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
    """The stages of a new run, of those asked for."""
    if given.train is None:
        return [stage for stage in stages if stage != "train"]
    if "train" not in stages:
        text = "a new run of this spec begins with train; a trained one is measured by run-spec evaluate RUN"
        raise UsageError(f"{text} and drawn from by run-spec sample RUN")
    return list(stages)


def resume(
    path: str | Path, registry: Registry, observer: Observer | None = None, argv: Sequence[str] = ()
) -> RunUnderWay:
    """Go on with an interrupted, failed or killed run from its newest checkpoint, to the same bytes."""
    with RunDir.open(path).lock():
        run = opened(path, registry, observer)
        if run.record.status == "finished":
            raise UsageError(f"'{path}' is finished: nothing to resume")
        if lacking := missing_libraries(run.spec, run.loaded.document, run.record.stages):
            raise refusal(lacking)
        saved = load_checkpoint(run.directory) if run.directory.checkpoints() else None
        if run.record.parent is not None:
            parent = opened(run.record.parent, registry)
            saved = evaluated_checkpoint(run if saved else parent)
            experiment, training = _refitted(run.loaded, run.record, saved, parent), None
        else:
            files = Files(run.loaded.root, allow_outside=True)  # allowed when the run began, and held to its digest
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
    """Measure or sample a run's trained model in another way; the answer has a directory of its own.

    `rows` is a file whose rows are measured in place of the run's own test rows.
    """
    parent = opened(path, registry)
    saved = evaluated_checkpoint(parent) if parent.directory.checkpoints() else None
    if saved is None or not is_trained(parent):
        raise UsageError(f"'{path}' is not trained to its end yet: go on with: {resume_command(parent)}")
    _check_changes(changes, parent.spec.data)
    if rows is not None:
        changes = replace(changes, options=(*changes.options, _from_file(rows, parent.spec.data, registry)))
    document = changes.apply(parent.loaded.document)
    text = source.dump(document.data).encode()
    loaded = spec.Loaded(spec.validate(document, registry), document, text, parent.loaded.root)
    if found := errors(check(loaded, stages)):
        raise refusal(found)
    if "sample" in stages and loaded.spec.sample is None:
        raise UsageError(f"the spec of '{path}' draws no samples: say how many with -n")
    same = loaded.spec.data == parent.spec.data
    # Rows of another file were not trained on: all of them are measured.
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
    """An existing run, its resolved spec read and checked again."""
    directory = RunDir.open(path)
    record = RunRecord.opened(directory.read_json(RUN), directory.path / RUN)
    document = source.parse(directory.read_bytes("resolved.yaml"), str(directory.path / "resolved.yaml"))
    if isinstance(keys := record.written, list):
        document = filled_in(document, {key for key in keys if isinstance(key, str)})
    text = directory.read_bytes("spec.yaml")
    loaded = spec.Loaded(spec.validate(document, registry), document, text, Path(record.root))
    return RunUnderWay(loaded, registry, directory, record, observer or Observer())


def _training(experiment: Experiment, stages: Sequence[str]) -> Training | None:
    from driftspec.experiment.train import Training

    return Training(experiment) if "train" in stages else None


def check_rows(loaded: spec.Loaded, experiment: Experiment, stages: Sequence[str]) -> None:
    """Rows for the metrics to read: said before training, not after it."""
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
    """UsageError for a key that was trained."""
    file = (f"data.{data.file_key}",) if data is not None and data.file_key is not None else ()
    allowed = (*MAY_CHANGE, *file)
    names = [*(text.partition("=")[0].removesuffix("+") for text in changes.sets), *changes.unsets]
    for name in [*names, *(path for _, path, _ in changes.options)]:
        if not any(name == section or name.startswith(f"{section}.") for section in allowed):
            raise UsageError(f"'{name}' was trained and cannot be set; a finished run takes {', '.join(allowed)}")


def _from_file(file: Path, data: Data | None, registry: Registry) -> tuple[str, str, Any]:
    """The change of the spec that has the rows of a file measured: by the run's own data, or by data that read such."""
    if data is None:
        raise UsageError(f"--data {file}: the run has no data, its target stands for them")
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
    """The experiment of a checkpoint. Data are read to be measured, split as they were for training; or just drawn."""
    files, data = Files(loaded.root, allow_outside=True), loaded.spec.data  # the run's own file, or one named by hand
    experiment = build(loaded.spec, files, fitted=saved, document=loaded.document)
    if data is not None and ("evaluate" in record.stages or isinstance(data, Distribution)):
        experiment = experiment.with_dataset(_measured(experiment, data, record, parent))
        if same_data:
            _same_data(experiment, record, "the run")
    return experiment


def _measured(experiment: Experiment, data: Data, record: RunRecord, parent: RunUnderWay) -> Dataset:
    """The data to measure: split as for training, or every row of other data, beside the rows that were trained on."""
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
        unknown = Verdict("rows", "unknown", "the rows that were trained on cannot be read to compare with", "unknown")
        return replace(dataset, verdicts=(*dataset.verdicts, unknown))
    dataset = replace(dataset, train=trained)
    return replace(dataset, verdicts=(*dataset.verdicts, *inspection.memorised(dataset)))


def _trained_on(run: RunUnderWay, experiment: Experiment) -> Tensor | None:
    """The training rows of the run that trained the model; None where its data are no longer what they were."""
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
    now = experiment.dataset.digest if experiment.spec.data is not None else None
    if record.data_digest != now:
        was = record.data_digest
        raise RunFailed(f"the data file is not the one '{who}' was trained on (sha256 {now}, was {was})")


def _new(
    loaded: spec.Loaded, registry: Registry, experiment: Experiment, out: Path | None, observer: Observer | None,
    argv: Sequence[str], stages: Sequence[str], **known: Any,
) -> RunUnderWay:  # fmt: skip
    """A directory of its own with the spec as given, the spec resolved and run.json, with `known` in its record."""
    dataset = experiment.data.made  # None where a run is sampled from without its data
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
    """Names of the coordinates where no data have been read: a target's own."""
    target = given.dynamics.target_law()
    named = target.columns() if isinstance(target, Distribution) else ()
    return list(named) or [f"x{i + 1}" for i in range(dim)]
