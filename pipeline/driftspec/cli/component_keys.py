"""The values that a component's keys accept, in words: `a whole number, at least 1`, `'scale' | 'none'`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from driftspec.components.component import Component

PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
BOUNDS = {
    "ge": "at least {}", "gt": "more than {}", "le": "at most {}", "lt": "less than {}",
    "min_length": "at least {}", "max_length": "at most {}", "pattern": "matching {}",
}  # fmt: skip


def keys(found: type[Component]) -> Iterator[dict[str, Any]]:
    """Yield each key with its default, the values it accepts, and its description."""
    for name, field in found.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
        yield {
            "key": name, "required": field.is_required(), "default": json.loads(json.dumps(default, default=_plain)),
            "takes": takes(field), "description": field.description or "",
        }  # fmt: skip


def _plain(default: object) -> object:
    """Return a default that JSON cannot hold: a component as a mapping, anything else as text."""
    return default.model_dump(mode="json") if isinstance(default, BaseModel) else str(default)


def takes(field: FieldInfo) -> str:
    """Return the values that a key accepts, in words."""
    return _with_bounds(field.annotation, field.metadata)


def _with_bounds(annotation: Any, metadata: Any) -> str:
    """Return a type with its bounds, in words. The bounds do not apply to null."""
    inner = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    words = " or ".join(dict.fromkeys(_worded(one) for one in inner if one is not NoneType))
    counted = "character" if str in inner else "item"
    text = ", ".join([words, *_bounds(metadata, counted)])
    return f"{text}{',' if ',' in text else ''} or null" if NoneType in inner else text


def _worded(annotation: Any) -> str:
    """Return a type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _with_bounds(inner[0], inner[1:])
    if origin is Literal:
        return " | ".join(f"'{value}'" if isinstance(value, str) else json.dumps(value) for value in inner)
    if origin in (Union, UnionType):
        return _with_bounds(annotation, ())
    if origin in (tuple, list):
        return _list(inner)
    if inspect.isclass(annotation) and issubclass(annotation, Component):
        return f"{'an' if annotation.kind[0] in 'aeiou' else 'a'} {annotation.kind} component"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return f"a mapping of {', '.join(annotation.model_fields)}"
    return PLAIN.get(annotation, "a mapping")


def _list(inner: tuple[Any, ...]) -> str:
    """Return a list type in words, from the types of its items."""
    worded = list(dict.fromkeys(_worded(one) for one in inner if one is not ...))
    count = "" if len(inner) == 1 or ... in inner else f" of {len(inner)}"
    return f"a list{count}: {', '.join(worded)}" if worded else "a list"


def _bounds(metadata: Any, counted: str) -> Iterator[str]:
    """Yield the bounds in words: those of the metadata, and those of a Field inside it; lengths count `counted`."""
    for one in metadata:
        if isinstance(one, FieldInfo):
            yield from _bounds(one.metadata, counted)
        for name, words in BOUNDS.items():
            if (bound := getattr(one, name, None)) is not None and not isinstance(one, FieldInfo):
                unit = f" {counted}{'s' * (bound != 1)}" if name.endswith("_length") else ""
                yield "not empty" if (name, unit) == ("min_length", " character") else words.format(bound) + unit


def place(found: type[Component]) -> str:
    """Return path:line of a class, or "" if its source is not known."""
    try:
        return f"{inspect.getsourcefile(found)}:{inspect.getsourcelines(found)[1]}"
    except (OSError, TypeError):  # the class was made in a notebook, or its source file is missing
        return ""


__all__ = ["keys", "place", "takes"]
