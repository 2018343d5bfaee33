"""The mechanism every component shares: a frozen Pydantic model, picked by its `type`, checked in one pass.

A *kind* (data, network, dynamics, ...) is an open class: it has no `type`. As the type of a field it stands for
"any component of this kind": the spec's `type` (or a bare name) is looked up in the registry and the rest is
validated by the class found there, with the inner positions kept. A *component* is a final class: it has a `type`.
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
    """A key's default component by name (`solver: Solver = default("rk4", ...)`): no plugin imports another's class."""
    return Field(default=body, validate_default=True, description=description)


@dataclass(frozen=True)
class Need:
    """What a component asks of another: one of `any_of`, offered by the spec's component of `kind`."""

    kind: str
    any_of: tuple[str, ...]
    why: str = ""
    severity: Literal["error", "warning"] = "error"  # a warning is said, and the run goes on
    unless: str = ""  # no need where the other offers this, or is a dynamics without a time: "timeless"


Finding = tuple[str, str] | tuple[str, str, Literal["error", "warning"]]
"""What a component finds wrong: the key, what is said, how bad it is."""


class Component(BaseModel):
    """One frozen model whose fields are its spec keys and whose methods are its mathematics."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=(),
        defer_build=True,  # of a family in one file a spec uses one member: the others' schemas are never built
    )  # fmt: skip

    kind: ClassVar[str] = ""
    type: ClassVar[str] = ""
    libraries: ClassVar[Mapping[str, str]] = {}
    """Modules it needs beyond its distribution's own requirements, and what to install for each."""
    unused_nested: ClassVar[frozenset[str]] = frozenset()
    """Keys without a meaning when the component stands in a field of this open class: refused there."""
    takes_over: ClassVar[frozenset[str]] = frozenset({"solver"})
    """Keys that, left out, take what the spec's section of the same name says for all."""
    example: ClassVar[Mapping[str, Any]] = {}
    """Keys that make it valid, of a component that needs some: what `run-spec plugins check` makes it with."""

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
        """Return the methods that a component of its kind must give and this class does not."""
        return sorted(cls.__abstractmethods__)

    def offers(self) -> frozenset[str]:
        """Capabilities this component has, given the values of its keys."""
        return frozenset()

    def needs(self) -> tuple[Need, ...]:
        """Capabilities it asks of the spec's other components."""
        return ()

    def problems(self, around: Setting) -> Iterator[Finding]:
        """(key, message) of each value that cannot work with what is around; of a key of a component inside, `a.b`.

        A third part, "warning": the run goes on, and gives less than was meant.
        """
        yield from ()

    @property
    def label(self) -> str:
        """`estimator 'hutchinson'`: messages always print the kind."""
        return f"{self.kind} '{self.spelling}'"

    @property
    def spelling(self) -> str:
        """The `type` as the spec wrote it: the plain name, or `dist/name` where two plugins provide it."""
        return self._spelling or self.type

    def body(self, without: Iterable[str] = ()) -> dict[str, Any]:
        """Back to spec form: `type` first, then every key with its value."""
        return {"type": self.spelling, **self.model_dump(mode="json", exclude=set(without))}

    def nested(self) -> dict[str, Component]:
        """The components standing in its keys."""
        return {name: value for name in type(self).model_fields if isinstance(value := getattr(self, name), Component)}

    @classmethod
    def unused_in(cls, key: str) -> frozenset[str]:
        """Keys without a meaning in the component that stands in `key`."""
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
        """Of an open class itself, for the schema of specs to say what may stand there."""
        return handler(core) if cls.type else {"component": cls}

    @classmethod
    def _resolve(cls, value: Any, info: ValidationInfo) -> Component:
        """The component that `value` names and configures."""
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
        """A component of this kind from spec form: `Network.make({"type": "mlp", "hidden": [64]})`."""
        result: Self = TypeAdapter(cls).validate_python(body, context={"registry": registry})
        return result


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The open classes, and the models that are no component, in a key's type."""
    final = isclass(annotation) and issubclass(annotation, Component) and annotation.type
    if isclass(annotation) and issubclass(annotation, BaseModel) and not final:
        yield annotation
    for inner in get_args(annotation):
        yield from models(inner)


def _named(base: type[Component], value: Any, registry: Any) -> tuple[type[Component], str, dict[str, Any]]:
    """The class that `value` names, the name as written, and the keys beside it."""
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
    """Errors to raise again from outside, with what `model` knows: its keys, save the hidden ones, and lengths."""
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
    """The registry a component is validated with: the spec's, or outside any spec that of the installed plugins."""
    return (info.context or {}).get("registry") or outside.registry()
