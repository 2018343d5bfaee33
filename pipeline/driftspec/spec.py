"""The spec: plain data with places -> a frozen `Spec` of validated components, or every mistake at once.

This page is the envelope alone: sections and what they hold. The keys of a component are the component's own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, ValidatorFunctionWrapHandler, field_validator

from driftspec import source
from driftspec.component import Component, default
from driftspec.components import Data, Dynamics, Estimator, Metric, Optimizer, Sampler, Schedule, Solver
from driftspec.errors import Place, Problem, SpecError, nearest, shown
from driftspec.registry import Registry


class Section(BaseModel):
    """A part of the spec that is no component."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


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
    batch_size: int = Field(256, ge=1, description="rows a step")
    optimizer: Optimizer = default("adam", "how parameters are moved")
    schedule: Schedule = default("constant", "how the learning rate changes with the step")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient; null: as it comes")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the averaged weights that are evaluated; null: none")
    early_stopping: EarlyStopping | None = Field(None, description="null: all steps")
    monitor: Metric | None = Field(None, description="a metric in place of the validation loss")
    checkpoint_every: int = Field(200, ge=1, description="steps from one checkpoint to the next")
    log_every: int = Field(10, ge=1, description="steps from one record to the next")


class Sample(Section):
    """What is drawn."""

    count: int = Field(10000, ge=1, description="samples in all, over every chain")


class Spec(Section):
    """One run."""

    version: Literal[1]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$", description="names the folder below runs/")
    seed: int = Field(0, ge=0, lt=2**63, description="the root of every random stream")
    runtime: Runtime = Field(default_factory=Runtime, description="device, precision, threads")
    # First among the components, for the others take over what it says.
    solver: Solver | None = Field(None, description="for the estimator, sampler and metrics that name none")
    data: Data | None = Field(None, description="which distribution")
    dynamics: Dynamics = Field(description="which ODE or SDE")
    estimator: Estimator | None = Field(None, description="what is optimised")
    sampler: Sampler | None = Field(None, description="how samples are drawn; the dynamics names a default")
    train: Train | None = Field(None, description="how parameters are fitted")
    evaluate: tuple[Metric, ...] | None = Field(None, description="what is measured; the dynamics names a default")
    sample: Sample | None = Field(None, description="what is drawn")

    @field_validator("solver", mode="wrap")
    @classmethod
    def _take_over(cls, body: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Solver | None:
        solver: Solver | None = handler(body)
        if solver is not None and info.context is not None:
            info.context["solver"] = body  # as written: each place that takes it over fills in its own defaults
        return solver

    def resolved(self) -> dict[str, Any]:
        """Every default filled in; running it gives the same run."""
        return {key: value for key, value in self.model_dump(mode="json").items() if value is not None}

    def components(self) -> dict[tuple[str | int, ...], Component]:
        """Every component with its path, outer before inner."""
        found: dict[tuple[str | int, ...], Component] = {}

        def visit(value: object, path: tuple[str | int, ...]) -> None:
            if isinstance(value, Component):
                found[path] = value
            if isinstance(value, BaseModel):
                for name in type(value).model_fields:
                    visit(getattr(value, name), (*path, name))
            elif isinstance(value, tuple):
                for index, item in enumerate(value):
                    visit(item, (*path, index))

        visit(self, ())
        return found


@dataclass(frozen=True)
class Loaded:
    """A spec, the text it came from and where everything in it stands."""

    spec: Spec
    document: source.Document
    text: bytes
    root: Path  # the folder relative paths start from


@dataclass(frozen=True)
class Changes:
    """What the command line says on top of the file."""

    sets: Sequence[str] = ()
    unsets: Sequence[str] = ()
    options: tuple[tuple[str, str, Any], ...] = ()  # (flag, path, value), e.g. ("--seed", "seed", 3)

    def apply(self, document: source.Document) -> source.Document:
        for index, text in enumerate(self.sets):
            name = f"--set[{index + 1}]"
            path, equals, value = text.partition("=")
            if not equals or not path.strip("+"):
                raise SpecError(Problem("Y014", f"{shown(text)} is not KEY=VALUE", Place(name)))
            parsed = source.parse_value(value, name)
            document = source.assign(document, path.removesuffix("+"), parsed, name, append=path.endswith("+"))
        for index, path in enumerate(self.unsets):
            document = source.unset(document, path, f"--unset[{index + 1}]")
        for flag, path, value in self.options:
            document = source.assign(document, path, source.parse_value(json.dumps(value), flag), flag)
        return document


def read(path: str | Path, registry: Registry, changes: Changes = Changes()) -> Loaded:
    """The spec in a file, its base merged in and the command line's changes made. SpecError lists every mistake."""
    path = Path(path)
    document = source.read(path)
    text = path.read_bytes()
    if "extends" in document.data:
        document = _extended(document, path.parent)
    document = changes.apply(document)
    return Loaded(validate(document, registry), document, text, path.parent)


def _extended(document: source.Document, folder: Path) -> source.Document:
    name, place = document.data["extends"], document.place(("extends",))
    top = source.unset(document, "extends", "extends")
    if not isinstance(name, str):
        raise SpecError(Problem("Y013", f"extends names a file, not {shown(name)}", place, source=document.source_line(place)))
    base = source.read(folder / name)
    if "extends" in base.data:
        where = base.place(("extends",), key=True)
        raise SpecError(Problem("Y013", "a base cannot extend another: one level", where, source=base.source_line(where)))
    return source.merge(base, top)


def validate(document: source.Document, registry: Registry) -> Spec:
    """The envelope and every component in it, in one pass; then what the dynamics names by default."""
    context: dict[str, Any] = {"registry": registry}
    try:
        spec = Spec.model_validate_json(json.dumps(document.data), context=context)
    except ValidationError as error:
        raise SpecError(sorted((_problem(one, document) for one in error.errors(include_url=False)), key=_order)) from None
    filled: dict[str, Any] = {}
    if spec.sampler is None:
        filled["sampler"] = _by_name(Sampler, spec.dynamics.default_sampler, context)
    if spec.evaluate is None:
        filled["evaluate"] = tuple(_by_name(Metric, name, context) for name in spec.dynamics.default_metrics)
    return spec.model_copy(update=filled)


def _by_name(kind: type[Component], name: str, context: dict[str, Any]) -> Component:
    from pydantic import TypeAdapter

    component: Component = TypeAdapter(kind).validate_python(name, context=context)
    return component


def _order(problem: Problem) -> tuple[str, int, int]:
    place = problem.place or Place("")
    return place.file, place.line, place.column


SECTIONS: dict[tuple[str, ...], type[BaseModel]] = {
    (): Spec, ("train",): Train, ("runtime",): Runtime, ("sample",): Sample, ("train", "early_stopping"): EarlyStopping,
}  # fmt: skip
TYPES = {"string": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "tuple": "a list", "model": "a mapping",
         "list": "a list", "dict": "a mapping"}  # fmt: skip


def _problem(error: Any, document: source.Document) -> Problem:
    """One Pydantic error as a problem with its place: what was given, what is allowed, the nearest valid name."""
    path, kind, context, given = tuple(error["loc"]), error["type"], error.get("ctx", {}), error["input"]
    inside = ".".join(str(part) for part in path[:-1])
    where = f" in {inside}" if inside else ""
    name = f"'{path[-1]}'" if path else "the spec"
    place = document.place(path)
    if kind == "missing":
        section = len(path) == 1
        place = Place(document.place(()).file, 1, 1) if section else document.place(path[:-1], key=True)
        code, text = "S110", f"missing section {name}" if section else f"missing key {name}{where}"
    elif kind in ("extra_forbidden", "unused_key"):
        place = document.place(path, key=True)
        owner = SECTIONS.get(path[:-1])
        allowed = context.get("allowed") or (list(owner.model_fields) if owner else [])
        near = nearest(str(path[-1]), allowed)
        listed = "" if near or not allowed else f"; it knows {', '.join(allowed)}"
        code, text = "S111", f"unknown key {name}{where}{near}{listed}" if kind == "extra_forbidden" else error["msg"]
    elif kind in ("unknown_component", "unfit_component"):
        code, text = "S120", error["msg"]
    elif kind in ("component", "component_type"):
        code, text = "S121", error["msg"]
    elif kind in ("literal_error", "string_pattern_mismatch"):
        expected = context.get("expected", f"text like {context.get('pattern')}")
        choices = [part.strip("'") for part in expected.replace(" or ", ", ").split(", ")]
        code, text = "S114", f"{name}{where} is {shown(given)}; allowed: {expected}{nearest(str(given), choices)}"
    elif kind.removesuffix("_type") in TYPES or kind in ("int_from_float", "int_parsing_size", "model_attributes_type"):
        wanted = TYPES.get(kind.removesuffix("_type"), "a whole number" if "int" in kind else "a mapping")
        code, text = "S112", f"{name}{where} should be {wanted}, not {shown(given)}{_hint(wanted, given)}"
    elif kind == "value_error":
        code, text = "S115", f"{name}{where}: {error['msg'].removeprefix('Value error, ')}"
    elif "than" in kind or "too" in kind or kind == "finite_number":
        code, text = "S113", f"{name}{where} is {shown(given)}: {error['msg'].replace('Input', 'it')[:1].lower()}{error['msg'].replace('Input', 'it')[1:]}"
    else:
        code, text = "S115", f"{name}{where} is {shown(given)}: {error['msg']}"
    return Problem(code, text, place, source=document.source_line(place))


def _hint(wanted: str, given: object) -> str:
    """What to write instead, where that is known."""
    if wanted == "true or false" and isinstance(given, str):
        return ": write true or false"
    if wanted in ("a number", "a whole number") and isinstance(given, str):
        return ": write it without quotes" if given.replace(".", "", 1).lstrip("+-").isdigit() else ""
    if wanted == "a list":
        return f": write [{shown(given)}]" if isinstance(given, (int, float, str)) else ""
    return ""
