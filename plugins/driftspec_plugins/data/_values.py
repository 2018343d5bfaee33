"""Keys that are a number or a list of numbers, and what is asked of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, TypeAlias

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from driftspec.errors import shown


def _one_message(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """A union reports one error for each of its branches; a user makes one mistake.

    Inside a wrapping validator Pydantic no longer takes JSON's list for a tuple.
    """
    try:
        result = handler(tuple(value) if isinstance(value, list) else value)
    except ValidationError as error:
        raise ValueError(f"a number or a list of numbers, not {shown(value)}") from error
    if result == ():
        raise ValueError("the list is empty")
    return result


Numbers: TypeAlias = Annotated[float | tuple[float, ...], WrapValidator(_one_message)]
"""One number for all, or one for each."""


def listed(value: float | tuple[float, ...]) -> tuple[float, ...]:
    """The numbers given, be it one or several."""
    return value if isinstance(value, tuple) else (value,)


def check_positive(values: Iterable[float]) -> None:
    """ValueError with the first that is not more than 0."""
    bad = next((value for value in values if value <= 0), None)
    if bad is not None:
        raise ValueError(f"{shown(bad)} is not more than 0")


__all__ = ["Numbers", "check_positive", "listed"]
