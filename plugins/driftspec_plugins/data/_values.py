"""The type of keys that are a number or a list of numbers, and checks of their values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, TypeAlias

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from driftspec.errors import shown


def _one_message(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Return the validated value, with one error message: a union would report one error for each branch.

    The list is made a tuple here, because Pydantic does not do it inside a wrapping validator.
    """
    try:
        result = handler(tuple(value) if isinstance(value, list) else value)
    except ValidationError as error:
        raise ValueError(f"a number or a list of numbers, not {shown(value)}") from error
    if result == ():
        raise ValueError("the list is empty")
    return result


Numbers: TypeAlias = Annotated[float | tuple[float, ...], WrapValidator(_one_message)]
"""One number for all coordinates or components, or one number for each."""


def listed(value: float | tuple[float, ...]) -> tuple[float, ...]:
    """Return the value as a tuple of one or more numbers."""
    return value if isinstance(value, tuple) else (value,)


def check_positive(values: Iterable[float]) -> None:
    """Raise ValueError for the first value that is not more than 0."""
    bad = next((value for value in values if value <= 0), None)
    if bad is not None:
        raise ValueError(f"{shown(bad)} is not more than 0")


__all__ = ["Numbers", "check_positive", "listed"]
