"""The mechanism every component shares: a frozen Pydantic model, picked by its `type`, checked in one pass.

A *kind* (data, network, dynamics, ...) is an open class: it has no `type`. As the type of a field it stands for
"any component of this kind": the spec's `type` (or a bare name) is looked up in the registry and the rest is
validated by the class found there, with the inner positions kept. A *component* is a final class: it has a `type`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, ClassVar, Self, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, PrivateAttr, TypeAdapter, ValidationError, ValidationInfo
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from driftspec.errors import PluginError, nearest, shown


def default(body: str | Mapping[str, Any], description: str) -> Any:
    """A key's default component by name, so that no plugin imports another's class: `solver: Solver = default("rk4", ...)`."""
    return Field(default=body, validate_default=True, description=description)


@dataclass(frozen=True)
class Need:
    """What a component asks of another: one of `any_of`, offered by the spec's component of `kind`."""

    kind: str
    any_of: tuple[str, ...]
    why: str = ""


class Component(BaseModel):
    """One frozen model whose fields are its spec keys and whose methods are its mathematics."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    kind: ClassVar[str] = ""
    type: ClassVar[str] = ""
    unused_nested: ClassVar[frozenset[str]] = frozenset()
    """Keys without a meaning when the component stands in a field of this open class: refused there."""

    _spelling: str = PrivateAttr(default="")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        for name, field in cls.model_fields.items():
            # Pydantic takes a function of the same name as the key's default, and lets a key hide a method.
            inherited = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
            if isinstance(field.default, FunctionType) or isinstance(inherited, (FunctionType, classmethod, property)):
                raise PluginError("P204", f"{cls.__module__}.{cls.__name__}: key and method share the name '{name}'")

    def offers(self) -> frozenset[str]:
        """Capabilities this component has, given the values of its keys."""
        return frozenset()

    def needs(self) -> tuple[Need, ...]:
        """Capabilities it asks of the spec's other components."""
        return ()

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
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if cls.type or get_origin(source):
            return handler(source)
        without = cls.unused_nested
        return core_schema.with_info_plain_validator_function(
            cls._resolve,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.body(without)),
        )

    @classmethod
    def _resolve(cls, value: Any, info: ValidationInfo) -> Component:
        """The component that `value` names and configures."""
        if isinstance(value, cls):
            return value
        context = info.context or {}
        registry = registry_of(info)
        keys = {"type": value} if isinstance(value, str) else value
        if not isinstance(keys, dict):
            message = "{kind} is a name or a mapping with a 'type', not {given}"
            raise PydanticCustomError("component", message, {"kind": cls.kind, "given": shown(value)})
        keys = dict(keys)
        name = keys.pop("type", None)
        location = () if isinstance(value, str) else ("type",)
        if not isinstance(name, str):
            names = ", ".join(registry.names(cls.kind))
            given = f", not {shown(name)}" if "type" in value else ""
            message = "{kind} needs a 'type'{given}; one of {names}"
            error = PydanticCustomError("component_type", message, {"kind": cls.kind, "given": given, "names": names})
            raise _located(cls.kind, error, location if "type" in value else (), value)
        found, problem = registry.look_up(cls.kind, name)
        if found is None:
            raise _located(cls.kind, PydanticCustomError("unknown_component", "{text}", {"text": problem}), location, name)
        if not issubclass(found, cls):
            allowed = [other for other in registry.names(cls.kind) if cls.accepts(registry.look_up(cls.kind, other)[0])]
            text = f"{cls.kind} '{name}' cannot stand here; one of {', '.join(allowed)}{nearest(name, allowed)}"
            raise _located(cls.kind, PydanticCustomError("unfit_component", "{text}", {"text": text}), location, name)
        refused = [
            InitErrorDetails(
                type=PydanticCustomError("unused_key", "'{key}' has no use in a nested {kind}", {"key": key, "kind": cls.kind}),
                loc=(key,),
                input=keys.pop(key),
            )
            for key in sorted(cls.unused_nested & keys.keys())
        ]
        solver = context.get("solver")
        if solver is not None and "solver" in found.model_fields.keys() - cls.unused_nested:
            keys.setdefault("solver", solver)
        try:
            component = found.model_validate_json(json.dumps(keys), context=info.context)
        except ValidationError as error:
            raise ValidationError.from_exception_data(cls.kind, [*refused, *restated(error, found)]) from None
        if refused:
            raise ValidationError.from_exception_data(cls.kind, refused)
        if name != found.type:
            component._spelling = name
        return component

    @classmethod
    def accepts(cls, found: type | None) -> bool:
        """Whether a component of class `found` may stand in a field of this open class."""
        return found is not None and issubclass(found, cls)

    @classmethod
    def make(cls, body: Any, registry: Any = None) -> Self:
        """A component of this kind from spec form: `Network.make({"type": "mlp", "hidden": [64]})`."""
        result: Self = TypeAdapter(cls).validate_python(body, context={"registry": registry})
        return result


def _located(title: str, error: PydanticCustomError, location: tuple[str, ...], given: Any) -> ValidationError:
    return ValidationError.from_exception_data(title, [InitErrorDetails(type=error, loc=location, input=given)])


def restated(error: ValidationError, model: type[BaseModel]) -> list[InitErrorDetails]:
    """Errors to raise again from outside; an unknown key takes along the keys that `model` has."""
    details = []
    for one in error.errors(include_url=False):
        context = {**one.get("ctx", {}), "text": one["msg"]}
        if one["type"] == "extra_forbidden" and len(one["loc"]) == 1:
            context["allowed"] = list(model.model_fields)
        kind = PydanticCustomError(one["type"], "{text}", context)  # type: ignore[arg-type]
        details.append(InitErrorDetails(type=kind, loc=one["loc"], input=one["input"]))
    return details


def registry_of(info: ValidationInfo) -> Any:
    """The registry a component is validated with: the spec's, or outside any spec that of the installed plugins."""
    from driftspec.registry import installed  # the registry knows components, not the reverse

    return (info.context or {}).get("registry") or installed()
