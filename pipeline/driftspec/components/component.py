"""The base class of all components: a frozen Pydantic model, which a spec chooses by its `type`.

A *kind* (data, network, dynamics, ...) is an open class: it has no `type`. A field annotated with an open class accepts
any component of that kind. The spec's `type` (or a bare name) is looked up in the registry, and the class found there
validates the other keys; errors keep their place inside the component. A *component* is a final class with a `type`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from inspect import get_annotations, isclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from driftspec import outside
from driftspec.errors import PluginError, Problem

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue

    from driftspec.components import Setting


def default(body: str | Mapping[str, Any], description: str) -> Any:
    """Return a field with a default component. It is given by name, so that its class need not be imported."""
    return Field(default=body, validate_default=True, description=description)


@dataclass(frozen=True)
class Need:
    """A need of a component: the spec's component of `kind` must offer one of the capabilities `any_of`."""

    kind: str
    any_of: tuple[str, ...]
    why: str = ""
    severity: Literal["error", "warning"] = "error"  # a warning does not stop the run
    unless: str = ""  # no need if the other offers this; "timeless": if the dynamics has no time


Finding = tuple[str, str] | tuple[str, str, Literal["error", "warning"]]
"""A mistake that a component finds: the key, the message, and the severity (by default "error")."""


class Component(BaseModel):
    """A frozen model: its fields are its keys in a spec, and its methods are its mathematics."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=(),
        defer_build=True,  # a spec uses one of several classes in a file: the schemas of the others are not built
    )  # fmt: skip

    kind: ClassVar[str] = ""
    type: ClassVar[str] = ""
    libraries: ClassVar[Mapping[str, str]] = {}
    """Modules that it needs beyond the requirements of its distribution, and what to install for each."""
    unused_nested: ClassVar[frozenset[str]] = frozenset()
    """Keys that are refused when the component is the value of a key of this open class: they have no meaning there."""
    takes_over: ClassVar[frozenset[str]] = frozenset({"solver"})
    """Keys that, if left out, take the value of the spec's section of the same name."""
    example: ClassVar[Mapping[str, Any]] = {}
    """Values for its required keys, if it has some: `run-spec plugins check` makes the component with them."""

    _spelling: str = PrivateAttr(default="")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in get_annotations(cls):
            # Pydantic takes a function of the same name as the key's default, and lets a key hide a method.
            known = [vars(base)[name] for base in cls.__mro__ if name in vars(base)]
            if any(isinstance(one, (FunctionType, classmethod, staticmethod, property)) for one in known):
                text = f"{cls.__module__}.{cls.__name__}: key and method share the name '{name}'"
                raise PluginError(Problem("P204", text))

    @classmethod
    def lacking(cls) -> list[str]:
        """Return the methods that a component of its kind must have and this class lacks."""
        return sorted(cls.__abstractmethods__)

    def offers(self) -> frozenset[str]:
        """Return the capabilities that this component has, with these values of its keys."""
        return frozenset()

    def needs(self) -> tuple[Need, ...]:
        """Return the capabilities that it needs from the other components of the spec."""
        return ()

    def problems(self, around: Setting) -> Iterator[Finding]:
        """Yield (key, message) for each value that cannot work with the rest of the spec.

        A key of a nested component is `a.b`. A third item, "warning", means that the run is not stopped.
        """
        yield from ()

    @property
    def label(self) -> str:
        """The kind and the `type`, as in `estimator 'hutchinson'`: messages always print both."""
        return f"{self.kind} '{self.spelling}'"

    @property
    def spelling(self) -> str:
        """The `type` as written in the spec: the plain name, or `dist/name` if two plugins provide that name."""
        return self._spelling or self.type

    def body(self, without: Iterable[str] = ()) -> dict[str, Any]:
        """Return the component as a spec writes it: `type` first, then every key with its value."""
        return {"type": self.spelling, **self.model_dump(mode="json", exclude=set(without))}

    def nested(self) -> dict[str, Component]:
        """Return the components that are values of its keys, by key."""
        return {name: value for name in type(self).model_fields if isinstance(value := getattr(self, name), Component)}

    @classmethod
    def unused_in(cls, key: str) -> frozenset[str]:
        """Return the keys that have no meaning in a component that is the value of `key`."""
        return frozenset().union(
            *(one.unused_nested for one in models(cls.model_fields[key].annotation) if issubclass(one, Component))
        )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if cls.type or get_origin(source):
            return handler(source)
        without = cls.unused_nested
        return core_schema.with_info_plain_validator_function(
            cls._resolve,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.body(without)),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the JSON schema; for an open class a placeholder, which the schema of specs replaces."""
        return handler(core) if cls.type else {"component": cls}

    @classmethod
    def _resolve(cls, value: Any, info: ValidationInfo) -> Component:
        """Return the component that `value` names and configures."""
        if isinstance(value, cls):
            return value
        found, name, keys = _named(cls, value, registry_of(info))
        shared: Mapping[str, Any] = (info.context or {}).get("shared", {})
        for key in shared.keys() & found.takes_over & found.model_fields.keys() - cls.unused_nested:
            keys.setdefault(key, shared[key])
        unused = [
            _mistake("unused_key", "it has no use here", (key,), keys[key], {"component": f"{cls.kind} '{name}'"})
            for key in sorted(cls.unused_nested & keys.keys())
        ]
        used = {key: value for key, value in keys.items() if key not in cls.unused_nested}
        try:
            component = found.model_validate_json(json.dumps(used), context=info.context)
        except ValidationError as error:
            raise ValidationError.from_exception_data(
                cls.kind, [*unused, *restated(error, found, cls.unused_nested, info)]
            ) from None
        if unused:
            raise ValidationError.from_exception_data(cls.kind, unused)
        if name != found.type:
            component._spelling = name
        return component

    @classmethod
    def make(cls, body: Any, registry: Any = None) -> Self:
        """Return a component of this kind, made as from a spec: `Network.make({"type": "mlp", "hidden": [64]})`."""
        result: Self = TypeAdapter(cls).validate_python(body, context={"registry": registry})
        return result


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the open classes, and the models that are not components, in the type of a key."""
    final = isclass(annotation) and issubclass(annotation, Component) and annotation.type
    if isclass(annotation) and issubclass(annotation, BaseModel) and not final:
        yield annotation
    for inner in get_args(annotation):
        yield from models(inner)


def _named(base: type[Component], value: Any, registry: Any) -> tuple[type[Component], str, dict[str, Any]]:
    """Return the class that `value` names, the name as written, and the other keys."""
    keys = dict(value) if isinstance(value, dict) else {"type": value}
    at = ("type",) if isinstance(value, dict) else ()
    name = keys.pop("type", None)
    if isinstance(name, str):
        found, problem = registry.look_up(base.kind, name, base)
        if problem is None:
            return found, name, keys
        mistake = _mistake(problem.code, problem.message, at, name)
    elif isinstance(value, dict) and "type" not in value:
        others = [key for key in keys if key not in base.model_fields]
        alike = next((key for key in others if registry.nearest(key, ["type"])), None)
        kind, allowed = ("extra_forbidden", ["type"]) if alike else ("missing", registry.fitting(base.kind, base))
        mistake = _mistake(kind, f"{base.kind} without a 'type'", (alike or "type",), value, {"allowed": allowed})
    else:
        what = f"{'an' if base.kind[0] in 'aeiou' else 'a'} {base.kind} component"
        context = {"component": what, "allowed": registry.fitting(base.kind, base)}
        mistake = _mistake("component_type", f"it should name {what}", at, name, context)
    raise ValidationError.from_exception_data(base.kind, [mistake])


def _mistake(
    kind: Any, text: str, location: tuple[str | int, ...], given: Any, context: Mapping[str, Any] | None = None
) -> InitErrorDetails:
    error = PydanticCustomError(kind, "{text}", {**(context or {}), "text": text})
    return InitErrorDetails(type=error, loc=location, input=given)


def restated(
    error: ValidationError, model: type[Component], hidden: frozenset[str], info: ValidationInfo
) -> list[InitErrorDetails]:
    """Return the errors of a `model` for the model that contains it, with the keys and lengths that it allows."""
    details = []
    for one in error.errors(include_url=False):
        kind, location, context = one["type"], one["loc"], dict(one.get("ctx", {}))
        if kind == "extra_forbidden" and len(location) == 1:
            context.setdefault("allowed", [key for key in model.model_fields if key not in hidden])
            context["others"] = [f"{model.kind} '{name}'" for name in registry_of(info).having(model.kind, location[0])]
        field = model.model_fields.get(str(location[0])) if len(location) == 1 else None
        if kind == "too_long" and field is not None and "..." not in repr(field.annotation):
            kind, context["length"] = "length", context["max_length"]
        details.append(_mistake(kind, one["msg"], location, one["input"], context))
    return details


def registry_of(info: ValidationInfo) -> Any:
    """Return the registry that validates a component: that of the spec, or else that of the installed plugins."""
    return (info.context or {}).get("registry") or outside.registry()
