"""What fits what: the capabilities of components, and everything in a spec that does not go together.

Both are asked of validated components alone: no tensor is made and no data are read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec

from driftspec.components import Data, Dynamics, Metric, Sampler, Solver, Trace
from driftspec.components.capabilities import capabilities, offered
from driftspec.components.component import Component, Need
from driftspec.components.evaluation import too_few_rows
from driftspec.components.observer import STAGES
from driftspec.errors import Problem, SpecError, in_order
from driftspec.source import Document, KeyPath
from driftspec.source.files import Files
from driftspec.spec.envelope import Loaded, Spec, Train
from driftspec.spec.wording import place_of

ADJECTIVES = frozenset({"smooth", "trainable"})
"""Capabilities that say how a component is, not what it has to give."""


TIMELESS = "timeless"
"""What a need may be spared by beside capabilities: that both ends of a dynamics' time are one."""

TRAINED = frozenset({"velocity", "score", "energy", "log_prob"})
"""Capabilities that a dynamics with something to train has from what it trains."""

STALE = 0.05
"""A share of the initial weights in their average that is worth a word."""


def met(need: Need, other: Component | None) -> bool:
    """Whether this component, if there is one, offers what is needed, or is such that there is no need."""
    if other is None:
        return False
    timeless = isinstance(other, Dynamics) and len({*other.times()}) == 1
    there = capabilities(other) | ({TIMELESS} if timeless else set())
    return need.unless in there or not there.isdisjoint(need.any_of)


def check(loaded: Loaded, stages: Collection[str] = STAGES) -> list[Problem]:
    """Everything that these stages use and that does not fit together, in order of place; of a sweep at any point.

    No tensor is made.
    """
    if loaded.points:
        return in_order(dict.fromkeys(problem for point in loaded.points for problem in check(point, stages)))
    spec, document = loaded.spec, loaded.document
    sections = list(_sections(spec))
    # With a section missing, what stands around a component is not known yet.
    parts = [
        _metrics(spec, stages),
        _needs(spec, document, stages),
        laws(spec, stages=stages),
        *([] if sections else [_own(spec, document, stages)]),
        _train(spec, stages),
    ]
    found = [problem_at(document, *one) for part in (sections, *parts) for one in part]
    return in_order([*found, *missing_libraries(spec, document, stages)])


def used(spec: Spec, stages: Collection[str]) -> dict[KeyPath, Component]:
    """The components that these stages use, with their paths."""
    draws = "sample" in stages or any(metric.reads_draws() for metric in measured(spec, stages))
    asked = {"train": "train" in stages, "estimator": "train" in stages, "evaluate": "evaluate" in stages}
    asked["sampler"] = draws
    return {path: one for path, one in spec.components().items() if asked.get(str(path[0]), True)}


def measured(spec: Spec, stages: Collection[str]) -> tuple[Metric, ...]:
    """The metrics that these stages measure."""
    return spec.evaluate or () if "evaluate" in stages else ()


def unread(loaded: Loaded, files: Files) -> list[Problem]:
    """A data file that is not where the spec says, as a warning: checking reads no data, running does."""
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
    """Those that a spec cannot run with; the others are warnings."""
    return [problem for problem in problems if problem.severity == "error"]


def missing_libraries(spec: Spec, document: Document, stages: Collection[str] = STAGES) -> list[Problem]:
    """Libraries that the components in these stages need and that are not installed here."""
    return [problem_at(document, *one) for one in _libraries(spec, stages)]


Found = Iterator[tuple[str, str, KeyPath] | tuple[str, str, KeyPath, str]]
"""Code, message, where (the value's place, or where it is absent that of the section's key); a severity below error."""


def problem_at(document: Document | None, code: str, message: str, path: KeyPath, severity: str = "error") -> Problem:
    if document is None:
        return Problem(code, message, severity=severity)
    place = place_of(document, path)
    return Problem(code, message, place, severity, source=document.source_line(place))


def _sections(spec: Spec) -> Found:
    """Sections that go together."""
    if spec.estimator is None and spec.train is not None:
        yield "X302", "section 'train' needs an 'estimator' beside it: the two come together", ("train", "estimator")
    if spec.estimator is not None and spec.train is None:
        yield "X302", "section 'estimator' needs 'train' beside it: the two come together", ("estimator", "train")
    if _lacks_data(spec):
        yield "S110", "missing section 'data'", ("data",)


def _libraries(spec: Spec, stages: Collection[str]) -> Found:
    """What must be installed, and is looked for without an import."""
    for path, component in used(spec, stages).items():
        for module, wanted in component.libraries.items():
            if find_spec(module) is None:
                yield "P206", f"{component.label} needs {module}, which is not installed: pip install '{wanted}'", path


def _lacks_data(spec: Spec) -> bool:
    return spec.data is None and spec.dynamics.target_law() is None


def _metrics(spec: Spec, stages: Collection[str]) -> Found:
    """Metrics told apart by name, and samples enough for each."""
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


def unable_to_monitor(metric: Metric) -> str:
    """The message for a metric of draws that is to watch training."""
    return f"{metric.label} cannot monitor training: it reads the run's samples, drawn afterwards"


def _needs(spec: Spec, document: Document, stages: Collection[str]) -> Found:
    """Each need that nobody meets, once: of a component its first, and with it every component that has the same."""
    there: dict[str, Component | None] = {
        "dynamics": spec.dynamics, "data": spec.data or spec.dynamics.target_law(),
        "sampler": spec.sampler, "estimator": spec.estimator,
    }  # fmt: skip
    said = {"data": _lacks_data(spec), "estimator": spec.train is not None and spec.estimator is None}
    unmet: dict[tuple[str, tuple[str, ...], str], list[tuple[KeyPath, Component, Need]]] = {}
    for path, component in used(spec, stages).items():
        lends = isinstance(component, Trace) and len(path) > 1  # its divergence alone: what it trains with has no use
        for need in () if lends else component.needs():
            if not met(need, there.get(need.kind)) and not said.get(need.kind):
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
    """ "; the same for metric 'nll', metric 'ksd'"."""
    return f"; the same for {', '.join(dict.fromkeys(other.label for other in others))}" if others else ""


def wanted(need: Need) -> str:
    """ "a noise_kernel", "an energy or a score", "a smooth dynamics", and why."""
    words = []
    for name in need.any_of:
        article = "" if name.endswith("s") or need.kind == "data" else "an " if name[0] in "aeiou" else "a "
        words.append(f"{article}{name} {need.kind}" if name in ADJECTIVES else f"{article}{name}")
    return " or ".join(words) + (f" ({need.why})" if need.why else "")


def _given(kind: str, other: Component | None, need: Need, document: Document) -> str:
    """What there is in its place, and where."""
    if other is None:
        return f"the spec has no {kind}"
    place = f" ({place_of(document, (kind,))})" if (kind,) in document.marks else ""
    if ADJECTIVES.issuperset(need.any_of):
        return f"{other.label} is not {' or '.join(need.any_of)}{place}"
    things = [name for name in offered(other) if name not in ADJECTIVES and name != "prior"]
    return f"{other.label} offers {', '.join(things) or 'none of its kind'}{place}"


def laws(spec: Spec, dim: int | None = None, stages: Collection[str] = STAGES) -> Found:
    """Distributions over one space: of `dim` dimensions once the data are read, else of the first one's."""
    said = "the data have"
    for path, law in used(spec, stages).items():
        if isinstance(law, Data) and law.dim() not in (None, dim):
            if dim is not None:
                yield "X301", f"{'.'.join(map(str, path))}: {law.label} has {law.dim()} dimensions, {said} {dim}", path
            else:
                dim, said = law.dim(), f"{law.label} has"


def _own(spec: Spec, document: Document, stages: Collection[str]) -> Found:
    """What components themselves find wrong with what stands around them."""
    around = spec.setting()
    components = used(spec, stages)
    for path, component in components.items():
        if isinstance(component, Solver) and path not in document.marks:
            continue  # a solver that stands elsewhere, or by default, is told of there or not at all
        inner = component is not spec.sampler and isinstance(component, Sampler)  # its chains are its owner's
        owner = components.get(path[:-1])
        double = isinstance(owner, Metric) and path[-1] in owner.in_float64
        here = replace(around, count=None if inner else around.count, dtype="float64" if double else around.dtype)
        for key, text, *severity in component.problems(here):
            level = str(severity[0]) if severity else "error"
            yield "X303", f"{component.label}: {text}", (*path, *key.split(".")), level


def _train(spec: Spec, stages: Collection[str]) -> Found:
    """Numbers that cannot work with the rest."""
    if spec.runtime.device == "mps" and spec.runtime.dtype == "float64":
        yield "X303", "'dtype' in runtime is 'float64': 'mps' computes in float32 alone", ("runtime", "dtype")
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
        yield "X302", f"{text}: what is asked of it comes from the weights it begins with", ("dynamics",), "warning"


def _learned(spec: Spec, stages: Collection[str]) -> bool:
    """Whether anything asks the dynamics for what training gives it; a drift or a kernel of noise may be known."""
    needs = (need for component in used(spec, stages).values() for need in component.needs())
    return any(need.kind == "dynamics" and TRAINED & {*need.any_of} for need in needs)


def _lengths(train: Train) -> Found:
    """Numbers of steps that the number of steps in all makes pointless."""
    steps, stopping = train.steps, train.early_stopping
    said = f"'early_stopping' in train cannot end {steps} steps of training sooner"
    if stopping is not None and stopping.patience * stopping.every >= steps:
        text = f"{said}: it waits {stopping.patience} checks, one every {stopping.every} steps"
        yield "X303", text, ("train", "early_stopping"), "warning"
    elif train.monitor and not train.monitor.wanted() and not stopping and train.checkpoint_every > steps:
        text = f"'monitor' in train is asked every {train.checkpoint_every} steps (checkpoint_every): in {steps}, never"
        yield "X303", text, ("train", "monitor"), "warning"
    if train.ema is not None and train.ema**steps > STALE:
        share = f"{train.ema**steps:.0%} of the average are still the weights that training began with"
        yield "X303", f"'ema' in train is {train.ema:g}: after {steps} steps {share}", ("train", "ema"), "warning"


def enough_rows(spec: Spec, train: int, validation: int) -> Found:
    """Rows enough for training, known at once where the data are drawn, and after reading where they are a file."""
    if spec.train is not None and spec.train.batch_size > train and _says_batch_size(spec.train):
        text = (
            f"'batch_size' in train is {spec.train.batch_size}: it must be at most the number of training rows, {train}"
        )
        yield "X303", text, ("train", "batch_size")
    if spec.train is not None and spec.train.early_stopping and not spec.train.monitor and validation == 0:
        text = "'early_stopping' in train reads the validation loss: 'split' in data leaves no validation rows"
        yield "X303", text, ("train", "early_stopping")


def fitted_to(spec: Spec, rows: int) -> Spec:
    """The spec with a batch of all its training rows, where they are fewer than the batch that it has by default."""
    if spec.train is None or spec.train.batch_size <= rows or _says_batch_size(spec.train):
        return spec
    return spec.model_copy(update={"train": spec.train.model_copy(update={"batch_size": rows})})


def _says_batch_size(train: Train) -> bool:
    return "batch_size" in train.model_fields_set


__all__ = [
    "check", "enough_rows", "errors", "fitted_to", "laws", "measured", "met",
    "missing_libraries", "problem_at", "unable_to_monitor", "unread", "used", "wanted",
]  # fmt: skip
