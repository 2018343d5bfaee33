"""The spec: plain data with places -> a frozen `Spec` of validated components, or every mistake at once.

This file defines the sections of a spec and what each holds. A component defines its own keys.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from driftspec import source
from driftspec.components import (
    Data,
    Dynamics,
    Estimator,
    Metric,
    Optimizer,
    Sampler,
    Schedule,
    Setting,
    Solver,
    Tracker,
)
from driftspec.components.component import Component, default, models
from driftspec.errors import PluginError, Problem, SpecError, in_order, refusal
from driftspec.registry import Registry
from driftspec.registry.providers import check_answers
from driftspec.spec import extends, wording
from driftspec.spec import points as sweep
from driftspec.spec.changes import NONE, Changes
from driftspec.spec.section import Section
from driftspec.spec.statements import Statement
from driftspec.spec.suggestions import Part


class Runtime(Section):
    """Where and in which precision a run computes."""

    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?|mps)$", description="cpu, mps, cuda or cuda:1")
    dtype: Literal["float32", "float64"] = Field("float32", description="precision of parameters and batches")
    threads: int = Field(1, ge=1, description="number of torch threads; one is the fastest for small matrices")


class EarlyStopping(Section):
    """Training ends when the validation loss, with fixed noise, has not improved for `patience` checks."""

    patience: int = Field(10, ge=1, description="checks without improvement before training ends")
    every: int = Field(100, ge=1, description="optimiser steps between two checks")
    min_delta: float = Field(0.0, ge=0, description="the smallest change that counts as an improvement")


class Train(Section):
    """How the parameters are trained."""

    steps: int = Field(ge=1, description="optimiser steps")
    batch_size: int = Field(256, ge=1, description="rows per step; if not given, at most the number of training rows")
    optimizer: Optimizer = default("adam", "how the parameters are updated")
    schedule: Schedule = default("constant", "how the learning rate changes with the step")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient; null: no limit")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of the moving average of the weights, which is evaluated; null: no average"
    )
    early_stopping: EarlyStopping | None = Field(
        None, description="ends training when the validation loss no longer improves; null: training takes all steps"
    )
    monitor: Metric | None = Field(None, description="a metric that is measured in place of the validation loss")
    checkpoint_every: int = Field(200, ge=1, description="optimiser steps between two checkpoints")
    log_every: int = Field(10, ge=1, description="optimiser steps between two records in train.jsonl")


class Sample(Section):
    """How many samples are drawn."""

    count: int = Field(10000, ge=1, description="number of samples, over all chains together")


class Sweep(Section):
    """Many runs from one spec: every combination of a grid's values, each point of a list, or each pair of the two."""

    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] | None = Field(
        None, min_length=1, description="a list of values for each dotted key, as in --set; the last key varies fastest"
    )
    list: tuple[dict[str, Any], ...] | None = Field(
        None,
        description="single points, each a mapping of dotted keys to values",
        json_schema_extra={"minItems": 1},
    )

    @field_validator("list")
    @classmethod
    def _not_empty(cls, points: tuple[dict[str, Any], ...] | None) -> tuple[dict[str, Any], ...] | None:
        if points == ():  # Pydantic's own min_length does not count a point that is not a mapping
            raise PydanticCustomError("too_short", "", {"actual_length": 0, "min_length": 1})
        return points

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.grid is None and self.list is None:
            raise ValueError("it takes a 'grid', a 'list' or both")
        return self


class Spec(Section):
    """The spec of one run."""

    version: Literal[1] = Field(description="the version of the spec format")
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$", description="the name of the run and of its folder below runs/"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="the seed of every random stream")
    runtime: Runtime = Field(default_factory=Runtime, description="device, precision, threads")
    # Before the other components, because each of them may take over this solver.
    solver: Solver | None = Field(None, description="the solver for estimators, samplers and metrics without one")
    data: Data | None = Field(None, description="the distribution of the data")
    dynamics: Dynamics = Field(description="the ODE or SDE of the model")
    estimator: Estimator | None = Field(None, description="the loss that training minimises")
    sampler: Sampler | None = Field(None, description="how samples are drawn; null: the dynamics' default")
    train: Train | None = Field(None, description="how the parameters are trained")
    evaluate: tuple[Metric, ...] | None = Field(None, description="what is measured; null: the dynamics' default")
    sample: Sample | None = Field(None, description="how many samples are drawn")
    trackers: tuple[Tracker, ...] | None = Field(
        None, description="loggers that receive the events of the run; they change no result"
    )
    sweep: Sweep | None = Field(None, description="many runs from one spec, started by run-spec sweep")
    shows: tuple[Statement, ...] | None = Field(
        None, description="statements that the run shows, with the expected numbers; they are judged and reported"
    )
    quick: dict[str, Any] | None = Field(
        None, description="values for dotted keys, as in --set, that run-spec report --quick sets"
    )

    _default_scorers: tuple[Metric, ...] = PrivateAttr(default=())

    @property
    def scorers(self) -> tuple[Metric, ...]:
        """The metrics that compute log p: the spec's own, then the dynamics' default ones. A run uses the first."""
        own = [metric for metric in self.evaluate or () if "log_prob" in metric.offers()]
        return (*own, *self._default_scorers)

    @field_validator("version", mode="before")
    @classmethod
    def _whole(cls, version: Any) -> Any:
        if isinstance(version, (bool, float)):  # Pydantic would accept true and 1.0 as 1
            raise PydanticCustomError("literal_error", "", {"expected": "1"})
        return version

    @field_validator("solver", mode="wrap")
    @classmethod
    def _take_over(cls, body: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Solver | None:
        solver: Solver | None = handler(body)
        if solver is not None and info.context is not None:
            # As written, without defaults: those are filled in where a component takes the solver over.
            info.context["shared"] = {"solver": body}
        return solver

    def resolved(self) -> dict[str, Any]:
        """Return the spec as plain data with every default filled in; running that gives the same run."""
        return {key: value for key, value in self.model_dump(mode="json").items() if value is not None}

    def setting(self) -> Setting:
        """Return the parts of this spec that its components may read when they check themselves."""
        return Setting(
            self.dynamics, self.data, self.sampler, self.sample.count if self.sample else None, self.estimator,
            self.train.steps if self.train else None, self.train.optimizer if self.train else None, self.runtime.dtype,
        )  # fmt: skip

    def components(self) -> dict[source.KeyPath, Component]:
        """Return every component that is used, with its path, outer components before inner ones."""
        found: dict[source.KeyPath, Component] = {}

        def visit(value: object, path: source.KeyPath, unused: frozenset[str]) -> None:
            if isinstance(value, Component):
                found[path] = value
            if isinstance(value, BaseModel):
                for name in (name for name in type(value).model_fields if name not in unused):
                    within = value.unused_in(name) if isinstance(value, Component) else frozenset[str]()
                    visit(getattr(value, name), (*path, name), within)
            elif isinstance(value, tuple):
                for index, item in enumerate(value):
                    visit(item, (*path, index), frozenset())

        visit(self, (), frozenset())
        return found


@dataclass(frozen=True)
class Loaded:
    """A spec, the text it was read from, and the document with the place of every value."""

    spec: Spec
    document: source.Document
    text: bytes
    root: Path  # the folder from which relative paths start
    values: Mapping[str, Any] = field(default_factory=dict)  # the values of this point of a sweep, by dotted key
    points: tuple[Loaded, ...] = ()  # of a sweep; its `spec` is that of the first point


def read(path: str | Path, registry: Registry, changes: Changes = NONE, allow_outside: bool = False) -> Loaded:
    """Return the spec in a file, merged over its base, with the changes made. SpecError lists every mistake.

    Both files, links followed, must be in the folder of `path`, in the current directory, or below one of them, unless
    `allow_outside`. So a spec from a stranger cannot make a message quote another file.
    """
    path = Path(path)
    document, text = extends.read(path, {*Spec.model_fields, "extends"}, allow_outside)
    return _changed(document, registry, text, path.parent, changes, allow_outside)


def from_text(text: str, name: str, root: Path, registry: Registry, changes: Changes = NONE) -> Loaded:
    """Return the spec in a text, as `read` does for a file in the folder `root`; messages call it `name`."""
    return _changed(source.parse(text, name), registry, text.encode(), root, changes, allow_outside=False)


def _changed(
    document: source.Document, registry: Registry, text: bytes, root: Path, changes: Changes, allow_outside: bool
) -> Loaded:
    if "extends" in document.data:
        document = _extended(document, root, allow_outside)
    return loaded(changes.apply(document, registry), registry, text, root)


def loaded(document: source.Document, registry: Registry, text: bytes, root: Path) -> Loaded:
    """Return the spec in a document, with every point of its sweep. A mistake of several points is listed once."""
    if document.data.get("sweep") is None:
        return Loaded(validate(document, registry), document, text, root)
    points: list[Loaded] = []
    found: dict[Problem, None] = dict.fromkeys(_malformed(document, registry))
    for point in () if found else sweep.points(document):
        try:
            points.append(Loaded(validate(made := point.document(), registry), made, text, root, point.values))
        except (SpecError, PluginError) as error:
            found |= dict.fromkeys(error.problems)
    if not found:
        found = dict.fromkeys(sweep.alike(document, [one.spec.resolved() for one in points]))
    if found:
        raise _error(found)
    return Loaded(points[0].spec, document, text, root, points=tuple(points))


def hastened(given: Loaded, registry: Registry) -> Loaded:
    """Return the spec with the values of its section `quick`; the same spec if it has none."""
    if given.document.data.get("quick") is None:
        return given
    made = sweep.hastened(given.document)
    return replace(given, spec=validate(made, registry), document=made)


def _malformed(document: source.Document, registry: Registry) -> list[Problem]:
    """Return the mistakes in the section 'sweep' and, if there are any, also those in the other sections.

    A missing key of another section is not listed, because the points may give it.
    """
    try:
        TypeAdapter(dict[str, Sweep]).validate_json(json.dumps({"sweep": document.data["sweep"]}))
        found = sweep.conflicts(document)
    except ValidationError as error:
        found = wording.problems(error, document, {("sweep",): Part(Sweep)}, registry.words)
    if found:
        try:
            validate(source.unset(document, "sweep", "sweep"), registry)
        except (SpecError, PluginError) as error:
            found += [problem for problem in error.problems if problem.code != "S110"]
    return found


def _error(found: Iterable[Problem]) -> SpecError | PluginError:
    """Return the exception for these problems, in order of place: PluginError if every error is a plugin's."""
    return refusal(in_order(found))


def _extended(document: source.Document, folder: Path, allow_outside: bool = False) -> source.Document:
    """Return the base that the document names, with the document over it."""
    return extends.extended(document, folder, {*Spec.model_fields, "extends"}, allow_outside)


def validate(document: source.Document, registry: Registry) -> Spec:
    """Return the spec in a document, with every component in it validated and the defaults of the dynamics filled in.

    SpecError lists every mistake; it is a PluginError if every mistake is a plugin's.
    """
    context: dict[str, Any] = {"registry": registry}
    try:
        spec = Spec.model_validate_json(json.dumps(document.data), context=context)
        filled: dict[str, Any] = {}
        if spec.sampler is None:
            filled["sampler"] = _default_sampler(spec.dynamics, document, context)
        if spec.evaluate is None:
            filled["evaluate"] = _default_metrics(spec, context)
    except ValidationError as error:
        parts = dict(_parts(document.data, Spec, registry)) | {(): Part(Spec, ("extends",))}
        found = wording.problems(error, document, parts, registry.words)
        raise _error([*found, *registry.wordless]) from None
    made = spec.model_copy(update=filled)
    for component in made.components().values():
        check_answers(component)
    if not any(metric.solves_with() for metric in made.scorers):
        made._default_scorers = _default_scorers(made, context)
    return made


def _default_sampler(dynamics: Dynamics, document: source.Document, context: dict[str, Any]) -> Sampler:
    """Return the sampler that a spec without one gets. SpecError if the dynamics names none, or one that needs keys."""
    name: Any = dynamics.default_sampler
    if not isinstance(name, str):
        raise PluginError(Problem("P204", f"{dynamics.label}: default_sampler is a text, not {name!r:.60}"))
    place = document.place(())
    if not name:
        text = f"missing section 'sampler': {dynamics.label} names no default"
        raise SpecError(Problem("S110", text, place, source=document.source_line(place)))
    try:
        sampler: Sampler = _by_name(Sampler, name, context)
    except ValidationError as error:
        keys = [str(one["loc"][-1]) for one in error.errors() if one["type"] == "missing"]
        if not keys:
            raise
        needed = ", ".join(f"{key}: ..." for key in keys)
        text = f"missing section 'sampler': write sampler: {{type: {name}, {needed}}}, or another one"
        raise SpecError(Problem("S110", text, place, source=document.source_line(place))) from None
    return sampler


def _default_metrics(spec: Spec, context: dict[str, Any]) -> tuple[Metric, ...]:
    """Return the default metrics of the dynamics, with the solver of the spec."""
    return tuple(_by_name(Metric, name, context) for name in spec.dynamics.default_metrics)


def _default_scorers(spec: Spec, context: dict[str, Any]) -> tuple[Metric, ...]:
    """Return the default metrics of the dynamics that compute log p; none if the plugin of one is missing."""
    with contextlib.suppress(ValidationError):
        return tuple(metric for metric in _default_metrics(spec, context) if "log_prob" in metric.offers())
    return ()


def _parts(
    data: Any, model: type[BaseModel], registry: Registry, path: source.KeyPath = ()
) -> Iterator[tuple[source.KeyPath, Part]]:
    """Yield each part of the spec with its path, outer parts before inner ones: those given and those by default.

    A component whose type is unknown is left out.
    """
    yield path, Part(model)
    for name, info in model.model_fields.items():
        body = data.get(name, info.default) if isinstance(data, dict) else info.default
        for index, part in enumerate(body) if isinstance(body, list) else [(None, body)]:
            at = (*path, name) if index is None else (*path, name, index)
            for inner in models(info.annotation):
                written = part.get("type") if isinstance(part, dict) else part
                found: type[BaseModel] | None = inner
                if issubclass(inner, Component):
                    found = None
                    if isinstance(written, str) and registry.provider(inner.kind, written):
                        found = registry.look_up(inner.kind, written, inner)[0]
                if found is not None:
                    yield from _parts(part, found, registry, at)


def _by_name(kind: type[Component], name: str, context: dict[str, Any]) -> Any:
    return TypeAdapter(kind).validate_python(name, context=context)


__all__ = [
    "Changes", "EarlyStopping", "Loaded", "Runtime", "Sample", "Spec", "Sweep", "Train", "from_text", "hastened",
    "loaded", "read", "validate",
]  # fmt: skip
