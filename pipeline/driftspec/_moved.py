"""Old import paths: they still work, with a warning that names the new module, until after the next minor release."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any


class MovedWarning(FutureWarning):
    """A name was imported from its module before version 0.2, which will be removed after the next minor release."""


_seen: set[tuple[str, str]] = set()


def moved(old: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of an old module; `homes` maps each new module to the names that are there now."""

    def __getattr__(name: str) -> Any:
        home = next((home for home, names in homes.items() if name in names.split()), None)
        if home is None:
            raise AttributeError(f"module '{old}' has no attribute '{name}'")
        warn(f"{old}.{name}", home, name, depth=3)
        return getattr(importlib.import_module(home), name)

    return __getattr__


def warn(old: str, home: str, name: str, depth: int = 2) -> None:
    """Show a MovedWarning at the line that imports the old path, once for each file.

    It never raises, so that a package can be imported while its tests turn warnings into errors.
    """
    frame = sys._getframe(depth - 1)
    while frame.f_back is not None and "importlib" in frame.f_code.co_filename:
        frame, depth = frame.f_back, depth + 1
    place = (old, frame.f_code.co_filename)
    if place in _seen:
        return
    _seen.add(place)
    text = f"{old} is now {home}.{name}: the old path will be removed after the next minor release"
    try:
        warnings.warn_explicit(text, MovedWarning, frame.f_code.co_filename, frame.f_lineno)
    except MovedWarning:
        with warnings.catch_warnings():
            warnings.simplefilter("always", MovedWarning)
            warnings.warn_explicit(text, MovedWarning, frame.f_code.co_filename, frame.f_lineno)


__all__ = ["MovedWarning", "moved", "warn"]
