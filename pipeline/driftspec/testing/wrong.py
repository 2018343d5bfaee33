"""Values that must be errors for a key, derived from its type and bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from inspect import isclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen, MultipleOf
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from driftspec.components.component import Component

NOTHING = "no such value"


def wrong(field: FieldInfo) -> list[Any]:
    """Return values that are out of bounds, not among the choices of a Literal, or of a wrong type."""
    given = field.default if isinstance(field.default, tuple) else None
    return list(_wrong(field.annotation, field.metadata, given))


def _wrong(annotation: Any, metadata: Sequence[Any], default: Any = None) -> Iterator[Any]:
    """Yield values that a key of this type and these bounds must refuse; `default` is a right value to change."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        own = [one for m in inner[1:] for one in (m.metadata if isinstance(m, FieldInfo) else [m])]
        yield from _wrong(inner[0], [*metadata, *own], default)
    elif origin in (Union, UnionType):
        for branch in inner:
            others = [other for other in inner if other is not branch]
            yield from (
                value for value in _wrong(branch, metadata, default) if not any(takes(other, value) for other in others)
            )
    elif origin is Literal:
        yield NOTHING
    elif annotation in (int, float):
        yield from _numbers(annotation, metadata)
        yield NOTHING
    elif annotation is bool:
        yield NOTHING
    elif annotation is str:
        if any(isinstance(m, MinLen) and m.min_length > 0 for m in metadata):
            yield ""
        yield 1
    elif origin is tuple:
        yield from _lists(inner, metadata, default)
    elif isclass(annotation) and issubclass(annotation, BaseModel):
        yield from _models(annotation)


def _numbers(kind: type, metadata: Sequence[Any]) -> Iterator[float]:
    """Yield numbers just outside each bound, and a number of a wrong kind: 0.5 for an integer, inf for a float."""
    for bound in metadata:
        match bound:
            case Ge(ge=value):
                yield _past(kind, value, -1)
            case Gt(gt=value) | Lt(lt=value):
                yield kind(value)
            case Le(le=value):
                yield _past(kind, value, 1)
            case MultipleOf(multiple_of=value):
                yield _past(kind, value, 1)
    yield 0.5 if kind is int else math.inf


def _past(kind: type, bound: Any, sign: int) -> float:
    """Return a number just above (sign 1) or below (sign -1) a bound."""
    return bound + sign if kind is int else bound + sign * 1e-6 * max(1.0, abs(bound))


def _lists(inner: tuple[Any, ...], metadata: Sequence[Any], default: Any) -> Iterator[Any]:
    """Yield lists with one wrong entry, and lists of a wrong length."""
    yield NOTHING
    if inner[-1] is Ellipsis:
        yield from ([value] for value in _wrong(inner[0], ()))
        if any(isinstance(m, MinLen) and m.min_length > 0 for m in metadata):
            yield []
        return
    yield []
    if isinstance(default, tuple) and len(default) == len(inner):
        for i, kind in enumerate(inner):
            yield from ([*default[:i], value, *default[i + 1 :]] for value in _wrong(kind, ()))


def _models(model: type[BaseModel]) -> Iterator[Any]:
    """Yield mappings with an unknown type, an unknown key or one wrong value."""
    if issubclass(model, Component):
        yield {"type": NOTHING}
        return
    yield {NOTHING: 1}
    for key, field in model.model_fields.items():
        yield from ({key: value} for value in wrong(field))


def takes(annotation: Any, value: Any) -> bool:
    """Whether a type may accept a value; in a union, a value that another type accepts is not wrong."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return takes(inner[0], value)
    if origin in (Union, UnionType):
        return any(takes(branch, value) for branch in inner)
    if annotation in (Any, object):
        return True
    if annotation in (None, NoneType):
        return value is None
    if isinstance(value, (int, float)):
        return annotation in (int, float, bool)
    if isinstance(value, str):
        return annotation is str
    if isinstance(value, list):
        return origin is tuple
    return annotation is dict or origin is dict


__all__ = ["takes", "wrong"]
