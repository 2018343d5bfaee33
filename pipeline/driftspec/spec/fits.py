"""Checks that the components and values of a spec fit together, by the capabilities that components offer and need.

The checks read validated components only: they make no tensor and read no data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec

from driftspec.components import Data, Dynamics, Metric, Sampler, Solver, Trace
from driftspec.components.capabilities import capabilities, offered
from driftspec.components.component import Component, Need
from driftspec.components.metric import too_few_rows
from driftspec.components.observer import STAGES
from driftspec.errors import Problem, SpecError, in_order, nearest
from driftspec.registry.providers import foreign
from driftspec.source import Document, KeyPath
from driftspec.source.files import Files
from driftspec.spec.envelope import Loaded, Spec, Train
from driftspec.spec.wording import place_of

ADJECTIVES = frozenset({"smooth", "trainable"})
"""Capabilities that describe a component; each of the others is something that it provides."""


TIMELESS = "timeless"
"""A value of `Need.unless` that is not a capability: the dynamics' start time and end time are equal."""

TRAINED = frozenset({"velocity", "score", "energy", "log_prob"})
"""Capabilities that a trainable dynamics gets by training."""

STALE = 0.05
"""A warning is given if the initial weights are more than this share of the averaged weights."""


def met(need: Need, other: Component | None) -> bool:
    """Return whether a component offers what is needed, or makes it unnecessary. False if there is no component."""
    if other is None:
        return False
    timeless = isinstance(other, Dynamics) and len({*other.times()}) == 1
    there = capabilities(other) | ({TIMELESS} if timeless else set())
    return need.unless in there or not there.isdisjoint(need.any_of)


def check(loaded: Loaded, stages: Collection[str] = STAGES) -> list[Problem]:
    """Return what does not fit together in the parts of a spec that these stages use, in order of place.

    For a sweep, return the problems of all points. No tensor is made.
    """
    if loaded.points:
        return in_order(dict.fromkeys(problem for point in loaded.points for problem in check(point, stages)))
    spec, document = loaded.spec, loaded.document
    sections = list(_sections(spec))
    # If a section is missing, components cannot check the sections around them yet.
    parts = [
        _metrics(spec, stages),
        _shows(spec, stages),
        _needs(spec, document, stages),
        laws(spec, stages=stages),
        *([] if sections else [_own(spec, document, stages)]),
        _train(spec, stages),
    ]
    found = [problem_at(document, *one) for part in (sections, *parts) for one in part]
    return in_order([*found, *missing_libraries(spec, document, stages)])


def used(spec: Spec, stages: Collection[str]) -> dict[KeyPath, Component]:
    """Return the components that these stages use, with their paths."""
    draws = "sample" in stages or any(metric.reads_draws() for metric in measured(spec, stages))
    asked = {"train": "train" in stages, "estimator": "train" in stages, "evaluate": "evaluate" in stages}
    asked["sampler"] = draws
    return {path: one for path, one in spec.components().items() if asked.get(str(path[0]), True)}


def measured(spec: Spec, stages: Collection[str]) -> tuple[Metric, ...]:
    """Return the metrics that these stages measure."""
    return spec.evaluate or () if "evaluate" in stages else ()


def unread(loaded: Loaded, files: Files) -> list[Problem]:
    """Return a warning if the data file is missing or not allowed. It is looked for, but not read."""
    data = loaded.spec.data
    if data is None or (name := data.file()) is None:
        return []
    try:
        files.find(name)
    except SpecError as error:
        place = ("data", str(data.file_key))
        return [problem_at(loaded.document, p.code, p.message, place, "warning") for p in error.problems]
    return []


def errors(problems: Sequence[Problem]) -> list[Problem]:
    """Return the problems that prevent a run; the others are warnings."""
    return [problem for problem in problems if problem.severity == "error"]


def missing_libraries(spec: Spec, document: Document, stages: Collection[str] = STAGES) -> list[Problem]:
    """Return a problem for each library that the components of these stages need and that is not installed."""
    return [problem_at(document, *one) for one in _libraries(spec, stages)]


Found = Iterator[tuple[str, str, KeyPath] | tuple[str, str, KeyPath, str]]
"""(code, message, path) or (code, message, path, severity). The severity is "error" if it is not given."""


def problem_at(document: Document | None, code: str, message: str, path: KeyPath, severity: str = "error") -> Problem:
    """Return the problem at the place of `path`, or of the section around it; without a document, with no place."""
    if document is None:
        return Problem(code, message, severity=severity)
    place = place_of(document, path)
    return Problem(code, message, place, severity, source=document.source_line(place))


def _sections(spec: Spec) -> Found:
    """Yield the sections that are missing although other sections need them."""
    if spec.estimator is None and spec.train is not None:
        yield "X302", "section 'train' needs an 'estimator' beside it: the two come together", ("train", "estimator")
    if spec.estimator is not None and spec.train is None:
        yield "X302", "section 'estimator' needs 'train' beside it: the two come together", ("estimator", "train")
    if _lacks_data(spec):
        yield "S110", "missing section 'data'", ("data",)


def _libraries(spec: Spec, stages: Collection[str]) -> Found:
    """Yield libraries that are not installed. They are looked for without importing them."""
    for path, component in used(spec, stages).items():
        for module, wanted in component.libraries.items():
            if find_spec(module) is None:
                yield "P206", f"{component.label} needs {module}, which is not installed: pip install '{wanted}'", path


def _lacks_data(spec: Spec) -> bool:
    return spec.data is None and spec.dynamics.target_law() is None


def _metrics(spec: Spec, stages: Collection[str]) -> Found:
    """Yield metrics that have the same name, read more samples than are drawn, or cannot monitor training."""
    keys: set[str] = set()
    drawless: list[tuple[KeyPath, Metric]] = []
    for index, metric in enumerate(measured(spec, stages)):
        path = ("evaluate", index)
        if metric.key() in keys:
            yield "X302", f"two metrics are called '{metric.key()}': give one a 'name'", path
        keys.add(metric.key())
        wanted = metric.wanted()
        if spec.sample is None and metric.reads_draws():
            drawless.append((path, metric))
        elif spec.sample is not None and wanted > spec.sample.count:
            text = f"{metric.label} reads {wanted} samples and sample.count is {spec.sample.count}: raise it or lower"
            yield "X303", f"{text} '{metric.draws_wanted}'", (*path, str(metric.draws_wanted))
    if drawless:
        (where, first), *others = drawless
        wanted = max(metric.wanted() for _, metric in drawless)
        reads = f"{first.wanted()} samples" if first.wanted() else "the run's samples"
        text = f"{first.label} reads {reads} and the spec draws none: add sample: {{count: {wanted or 'N'}}}"
        yield "X302", text + _same([metric for _, metric in others]), where
    monitor = spec.train.monitor if spec.train is not None and "train" in stages else None
    if monitor is not None and monitor.reads_draws():
        yield "X302", unable_to_monitor(monitor), ("train", "monitor")


def _shows(spec: Spec, stages: Collection[str]) -> Found:
    """Yield statements about a metric that the spec does not measure."""
    keys = [metric.key() for metric in spec.evaluate or ()]
    for index, one in enumerate(spec.shows or () if "evaluate" in stages else ()):
        if one.metric is not None and one.metric not in keys:
            near, there = nearest(one.metric, keys), ", ".join(keys) or "none"
            text = f"'{one.metric}' is no metric of this spec{near}; it measures: {there}"
            yield "X302", text, ("shows", index, "metric")


def unable_to_monitor(metric: Metric) -> str:
    """Return the message for a metric that monitors training, but reads samples that are drawn afterwards."""
    return f"{metric.label} cannot monitor training: it reads the run's samples, drawn afterwards"


def _needs(spec: Spec, document: Document, stages: Collection[str]) -> Found:
    """Yield each need that is not met, with all components that have it: the first error of each, and its warnings."""
    there: dict[str, Component | None] = {
        "dynamics": spec.dynamics, "data": spec.data or spec.dynamics.target_law(),
        "sampler": spec.sampler, "estimator": spec.estimator,
    }  # fmt: skip
    reported = {"data": _lacks_data(spec), "estimator": spec.train is not None and spec.estimator is None}
    unmet: dict[tuple[str, tuple[str, ...], str], list[tuple[KeyPath, Component, Need]]] = {}
    for path, component in used(spec, stages).items():
        lends = isinstance(component, Trace) and len(path) > 1  # it only computes a divergence here, and trains nothing
        for need in () if lends else component.needs():
            if not met(need, there.get(need.kind)) and not reported.get(need.kind):
                same = unmet.setdefault((need.kind, need.any_of, need.severity), [])
                if not any(path[: len(outer)] == outer for outer, _, _ in same):
                    same.append((path, component, need))
                if need.severity == "error":
                    break
    for (kind, _, severity), ((path, component, need), *others) in unmet.items():
        verb = "needs" if severity == "error" else "wants"
        also = _same([other for _, other, _ in others])
        yield (
            "X301",
            f"{component.label} {verb} {wanted(need)}; {_given(kind, there.get(kind), need, document)}{also}",
            path,
            severity,
        )
    if spec.estimator is not None and "train" in stages and "trainable" not in capabilities(spec.dynamics):
        yield (
            "X301",
            f"{spec.estimator.label} needs a trainable dynamics; {spec.dynamics.label} has nothing to train",
            ("estimator",),
        )


def _same(others: Sequence[Component]) -> str:
    """Return the end of a message that others share: "; the same for metric 'nll', metric 'ksd'", "" without others."""
    return f"; the same for {', '.join(dict.fromkeys(other.label for other in others))}" if others else ""


def wanted(need: Need) -> str:
    """Return a need in words, and why: "a noise_kernel", "an energy or a score", "a smooth dynamics"."""
    words = []
    for name in need.any_of:
        article = "" if name.endswith("s") or need.kind == "data" else "an " if name[0] in "aeiou" else "a "
        words.append(f"{article}{name} {need.kind}" if name in ADJECTIVES else f"{article}{name}")
    return " or ".join(words) + (f" ({need.why})" if need.why else "")


def _given(kind: str, other: Component | None, need: Need, document: Document) -> str:
    """Return what the spec has instead, and where."""
    if other is None:
        return f"the spec has no {kind}"
    place = f" ({place_of(document, (kind,))})" if (kind,) in document.marks else ""
    if ADJECTIVES.issuperset(need.any_of):
        return f"{other.label} is not {' or '.join(need.any_of)}{place}"
    things = [name for name in offered(other) if name not in ADJECTIVES and name != "prior"]
    return f"{other.label} offers {', '.join(things) or 'none of its kind'}{place}"


def laws(spec: Spec, dim: int | None = None, stages: Collection[str] = STAGES) -> Found:
    """Yield distributions whose dimension differs from `dim`, the data's, or if it is None, from the first one's."""
    expected = "the data have"
    for path, one in used(spec, stages).items():
        if isinstance(one, Data) and one.dim() not in (None, dim):
            if dim is not None:
                where = ".".join(map(str, path))
                yield "X301", f"{where}: {one.label} has {one.dim()} dimensions, {expected} {dim}", path
            else:
                dim, expected = one.dim(), f"{one.label} has"


def _own(spec: Spec, document: Document, stages: Collection[str]) -> Found:
    """Yield the problems that a component finds in the components and values around it."""
    around = spec.setting()
    components = used(spec, stages)
    for path, component in components.items():
        if isinstance(component, Solver) and path not in document.marks:
            continue  # a solver taken over is checked at its own place; a default is not checked
        inner = component is not spec.sampler and isinstance(component, Sampler)  # its owner sets the chains
        owner = components.get(path[:-1])
        double = isinstance(owner, Metric) and path[-1] in owner.in_float64
        here = replace(around, count=None if inner else around.count, dtype="float64" if double else around.dtype)
        with foreign(f"{component.label} failed"):
            found = [(key, text, *severity) for key, text, *severity in component.problems(here)]
        for key, text, *severity in found:
            level = str(severity[0]) if severity else "error"
            yield "X303", f"{component.label}: {text}", (*path, *key.split(".")), level


def _train(spec: Spec, stages: Collection[str]) -> Found:
    """Yield values of `runtime`, `data.split` and `train` that conflict with the rest of the spec."""
    if spec.runtime.device == "mps" and spec.runtime.dtype == "float64":
        yield "X303", "'dtype' in runtime is 'float64': 'mps' computes only in float32", ("runtime", "dtype")
    split = spec.data.split if spec.data is not None else (1.0, 0.0, 0.0)
    if abs(sum(split) - 1) > 1e-9 or min(split) < 0 or split[0] == 0:
        text = f"'split' in data is {list(split)}: it takes fractions for training (more than 0), validation and test"
        yield "X303", f"{text} that sum to 1", ("data", "split")
        return
    rows = None if spec.data is None else spec.data.rows()
    if spec.data is not None and rows is not None:
        first, second = round(split[0] * rows), round((split[0] + split[1]) * rows)
        yield from enough_rows(spec, first, second - first) if "train" in stages else ()
        readers = [metric for metric in measured(spec, stages) if metric.reads_rows(spec.data)]
        if readers and (left := rows - second) < 2:
            yield "X303", too_few_rows(readers[0].label, "test", left) + _same(readers[1:]), ("data", "split")
    if spec.train is not None:
        yield from _lengths(spec.train) if "train" in stages else ()
    elif spec.estimator is None and "trainable" in capabilities(spec.dynamics) and _learned(spec, stages):
        text = f"{spec.dynamics.label} has something to train, and the spec trains nothing"
        yield "X302", f"{text}: all results come from its initial weights", ("dynamics",), "warning"


def _learned(spec: Spec, stages: Collection[str]) -> bool:
    """Return whether a component needs what the dynamics has only after training, unlike a drift or noise kernel."""
    needs = (need for component in used(spec, stages).values() for need in component.needs())
    return any(need.kind == "dynamics" and TRAINED & {*need.any_of} for need in needs)


def _lengths(train: Train) -> Found:
    """Yield keys of `train` whose values do not suit its number of steps."""
    steps, stopping = train.steps, train.early_stopping
    text = f"'early_stopping' in train cannot end {steps} steps of training sooner"
    if stopping is not None and stopping.patience * stopping.every >= steps:
        text = f"{text}: it waits {stopping.patience} checks, one every {stopping.every} steps"
        yield "X303", text, ("train", "early_stopping"), "warning"
    elif train.monitor and not train.monitor.wanted() and not stopping and train.checkpoint_every > steps:
        text = f"'monitor' in train is never measured: checkpoint_every is {train.checkpoint_every}, steps is {steps}"
        yield "X303", text, ("train", "monitor"), "warning"
    if train.ema is not None and train.ema**steps > STALE:
        share = f"{train.ema**steps:.0%} of the average are still the initial weights"
        yield "X303", f"'ema' in train is {train.ema:g}: after {steps} steps {share}", ("train", "ema"), "warning"


def enough_rows(spec: Spec, train: int, validation: int) -> Found:
    """Yield a problem if the training rows or validation rows are too few for the section `train`."""
    if spec.train is not None and spec.train.batch_size > train and _gives_batch_size(spec.train):
        text = (
            f"'batch_size' in train is {spec.train.batch_size}: it must be at most the number of training rows, {train}"
        )
        yield "X303", text, ("train", "batch_size")
    if spec.train is not None and spec.train.early_stopping and not spec.train.monitor and validation == 0:
        text = "'early_stopping' in train reads the validation loss: 'split' in data leaves no validation rows"
        yield "X303", text, ("train", "early_stopping")


def fitted_to(spec: Spec, rows: int) -> Spec:
    """Return the spec with its batch size reduced to `rows`, all training rows, if it is a default and larger."""
    if spec.train is None or spec.train.batch_size <= rows or _gives_batch_size(spec.train):
        return spec
    return spec.model_copy(update={"train": spec.train.model_copy(update={"batch_size": rows})})


def _gives_batch_size(train: Train) -> bool:
    """Return whether the spec gives the batch size, which is otherwise a default."""
    return "batch_size" in train.model_fields_set


__all__ = [
    "check", "enough_rows", "errors", "fitted_to", "laws", "measured", "met",
    "missing_libraries", "problem_at", "unable_to_monitor", "unread", "used", "wanted",
]  # fmt: skip
