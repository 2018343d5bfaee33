"""The spec: plain data with places -> a frozen `Spec` of validated components, or every mistake at once.

This page is the envelope alone: sections and what they hold. The keys of a component are the component's own.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
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
from driftspec.spec import extends, wording
from driftspec.spec import points as sweep
from driftspec.spec.changes import NONE, Changes
from driftspec.spec.suggestions import Part


class Section(BaseModel):
    """A part of the spec that is no component."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


class Runtime(Section):
    """Where and in which precision a run computes."""

    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?|mps)$", description="cpu, cuda or cuda:1")
    dtype: Literal["float32", "float64"] = Field("float32", description="precision of parameters and batches")
    threads: int = Field(1, ge=1, description="torch's threads; one is the fastest for small matrices")


class EarlyStopping(Section):
    """Training ends when the validation loss, with fixed noise, has not improved for `patience` checks."""

    patience: int = Field(10, ge=1, description="checks without improvement before training ends")
    every: int = Field(100, ge=1, description="steps from one check to the next")
    min_delta: float = Field(0.0, ge=0, description="what counts as an improvement")


class Train(Section):
    """How parameters are fitted."""

    steps: int = Field(ge=1, description="optimiser steps")
    batch_size: int = Field(
        256, ge=1, description="rows a step; left to its default, all training rows where they are fewer"
    )
    optimizer: Optimizer = default("adam", "how parameters are moved")
    schedule: Schedule = default("constant", "how the learning rate changes with the step")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient; null: as it comes")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of the averaged weights that are evaluated; null: none"
    )
    early_stopping: EarlyStopping | None = Field(
        None, description="ends training when the validation loss no longer improves; null: after all steps"
    )
    monitor: Metric | None = Field(None, description="a metric in place of the validation loss")
    checkpoint_every: int = Field(200, ge=1, description="steps from one checkpoint to the next")
    log_every: int = Field(10, ge=1, description="steps from one record to the next")


class Sample(Section):
    """What is drawn."""

    count: int = Field(10000, ge=1, description="samples in all, over every chain")


class Sweep(Section):
    """Many runs from one spec. A grid's points are every combination; of a list and a grid, each with each."""

    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] | None = Field(
        None, min_length=1, description="for each dotted key, as --set takes it, its values; the last key changes first"
    )
    list: tuple[dict[str, Any], ...] | None = Field(
        None,
        description="points one by one, each a mapping of dotted keys to values",
        json_schema_extra={"minItems": 1},
    )

    @field_validator("list")
    @classmethod
    def _not_empty(cls, points: tuple[dict[str, Any], ...] | None) -> tuple[dict[str, Any], ...] | None:
        if points == ():  # Pydantic's own min_length counts a point that is no mapping as none
            raise PydanticCustomError("too_short", "", {"actual_length": 0, "min_length": 1})
        return points

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.grid is None and self.list is None:
            raise ValueError("it takes a 'grid', a 'list' or both")
        return self


class Spec(Section):
    """One run."""

    version: Literal[1] = Field(description="of the spec's format")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$", description="names the folder below runs/")
    seed: int = Field(0, ge=0, lt=2**63, description="the root of every random stream")
    runtime: Runtime = Field(default_factory=Runtime, description="device, precision, threads")
    # First among the components, for the others take over what it says.
    solver: Solver | None = Field(None, description="for the estimator, sampler and metrics that name none")
    data: Data | None = Field(None, description="which distribution")
    dynamics: Dynamics = Field(description="which ODE or SDE")
    estimator: Estimator | None = Field(None, description="what is optimised")
    sampler: Sampler | None = Field(None, description="how samples are drawn; null: as the dynamics says")
    train: Train | None = Field(None, description="how parameters are fitted")
    evaluate: tuple[Metric, ...] | None = Field(None, description="what is measured; null: what the dynamics says")
    sample: Sample | None = Field(None, description="what is drawn")
    trackers: tuple[Tracker, ...] | None = Field(None, description="who is told how the run goes; it changes no result")
    sweep: Sweep | None = Field(None, description="many runs from one spec: run-spec sweep")

    _default_scorers: tuple[Metric, ...] = PrivateAttr(default=())

    @property
    def scorers(self) -> tuple[Metric, ...]:
        """The metrics that know log p: the spec's own, then those its dynamics names; the first answers for the run."""
        own = [metric for metric in self.evaluate or () if "log_prob" in metric.offers()]
        return (*own, *self._default_scorers)

    @field_validator("version", mode="before")
    @classmethod
    def _whole(cls, version: Any) -> Any:
        if isinstance(version, (bool, float)):  # of which Pydantic takes true and 1.0 for 1
            raise PydanticCustomError("literal_error", "", {"expected": "1"})
        return version

    @field_validator("solver", mode="wrap")
    @classmethod
    def _take_over(cls, body: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Solver | None:
        solver: Solver | None = handler(body)
        if solver is not None and info.context is not None:
            # As written: each component that takes it over fills in its own defaults.
            info.context["shared"] = {"solver": body}
        return solver

    def resolved(self) -> dict[str, Any]:
        """Every default filled in; running it gives the same run."""
        return {key: value for key, value in self.model_dump(mode="json").items() if value is not None}

    def setting(self) -> Setting:
        """Return what a component of this spec can see of the others."""
        return Setting(
            self.dynamics, self.data, self.sampler, self.sample.count if self.sample else None, self.estimator,
            self.train.steps if self.train else None, self.train.optimizer if self.train else None, self.runtime.dtype,
        )  # fmt: skip

    def components(self) -> dict[source.KeyPath, Component]:
        """Every component that has a use, with its path, outer before inner."""
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
    """A spec, the text it came from and where everything in it stands."""

    spec: Spec
    document: source.Document
    text: bytes
    root: Path  # the folder relative paths start from
    values: Mapping[str, Any] = field(default_factory=dict)  # what makes it a point of a sweep, by dotted key
    points: tuple[Loaded, ...] = ()  # of a sweep, whose `spec` is its first point's and whose `document` is the whole


def read(path: str | Path, registry: Registry, changes: Changes = NONE, allow_outside: bool = False) -> Loaded:
    """The spec in a file, its base merged in and the command line's changes made. SpecError lists every mistake.

    Links followed, both files lie in the folder of `path`, in the current directory, or below one of them, unless
    `allow_outside`: a stranger's spec makes no message quote another file.
    """
    path = Path(path)
    document, text = extends.read(path, {*Spec.model_fields, "extends"}, allow_outside)
    return _changed(document, registry, text, path.parent, changes, allow_outside)


def from_text(text: str, name: str, root: Path, registry: Registry, changes: Changes = NONE) -> Loaded:
    """The spec in a text, which messages call by `name`, as `read` makes it of a file in the folder `root`."""
    return _changed(source.parse(text, name), registry, text.encode(), root, changes, allow_outside=False)


def _changed(
    document: source.Document, registry: Registry, text: bytes, root: Path, changes: Changes, allow_outside: bool
) -> Loaded:
    if "extends" in document.data:
        document = _extended(document, root, allow_outside)
    return loaded(changes.apply(document, registry), registry, text, root)


def loaded(document: source.Document, registry: Registry, text: bytes, root: Path) -> Loaded:
    """The spec in a document; of a sweep every point, and each mistake once however many points have it."""
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


def _malformed(document: source.Document, registry: Registry) -> list[Problem]:
    """What is wrong with a sweep as such, and beside it with the spec around it, save what its points may yet give."""
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
    """In order of place; a PluginError if each is a plugin's."""
    return refusal(in_order(found))


def _extended(document: source.Document, folder: Path, allow_outside: bool = False) -> source.Document:
    """The base with the document over it."""
    return extends.extended(document, folder, {*Spec.model_fields, "extends"}, allow_outside)


def validate(document: source.Document, registry: Registry) -> Spec:
    """The envelope and every component in it, in one pass; then what the dynamics names by default.

    SpecError lists every mistake; PluginError if each of them is a plugin's.
    """
    context: dict[str, Any] = {"registry": registry}
    try:
        spec = Spec.model_validate_json(json.dumps(document.data), context=context)
        filled: dict[str, Any] = {}
        if spec.sampler is None:
            filled["sampler"] = _by_name(Sampler, spec.dynamics.default_sampler, context)
        if spec.evaluate is None:
            filled["evaluate"] = _default_metrics(spec, context)
    except ValidationError as error:
        parts = dict(_parts(document.data, Spec, registry)) | {(): Part(Spec, ("extends",))}
        found = wording.problems(error, document, parts, registry.words)
        raise _error([*found, *registry.wordless]) from None
    made = spec.model_copy(update=filled)
    if not any(metric.solves_with() for metric in made.scorers):
        made._default_scorers = _default_scorers(made, context)
    return made


def _default_metrics(spec: Spec, context: dict[str, Any]) -> tuple[Metric, ...]:
    """The metrics that the dynamics names, with what the spec says for all: its solver."""
    return tuple(_by_name(Metric, name, context) for name in spec.dynamics.default_metrics)


def _default_scorers(spec: Spec, context: dict[str, Any]) -> tuple[Metric, ...]:
    """The metrics that know log p of those the dynamics names; none where a plugin they come from is not there."""
    with contextlib.suppress(ValidationError):
        return tuple(metric for metric in _default_metrics(spec, context) if "log_prob" in metric.offers())
    return ()


def _parts(
    data: Any, model: type[BaseModel], registry: Registry, path: source.KeyPath = ()
) -> Iterator[tuple[source.KeyPath, Part]]:
    """Each part that the spec has, or has by default, outer before inner, as far as types are known."""
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
    "Changes", "EarlyStopping", "Loaded", "Runtime", "Sample", "Spec", "Sweep", "Train", "from_text", "loaded",
    "read", "validate",
]  # fmt: skip
