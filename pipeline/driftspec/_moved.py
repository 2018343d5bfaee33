"""Old import paths: they still work, with a warning that names the new one, as `plugins/STABILITY.md` states."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

GONE = "0.3"
"""The version in which the old paths are removed: the second minor release after the one that moved them."""


class MovedWarning(DeprecationWarning):
    """A name was imported from a path that will be removed."""


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
    """Show a MovedWarning at the line that imports the old path, `depth` calls up, once for each file.

    Its text has the plugin's package, file and line, and the new path. It never raises, so that a package can be
    imported while its tests turn warnings into errors.
    """
    frame = sys._getframe(depth - 1)
    while frame.f_back is not None and "importlib" in frame.f_code.co_filename:  # `warnings.warn` skips these too
        frame = frame.f_back
    file = frame.f_code.co_filename
    if (old, file) in _seen:
        return
    _seen.add((old, file))
    package = str(frame.f_globals.get("__package__") or "").partition(".")[0]
    where = f"{f'plugin {package!r}, ' if package else ''}{file}:{frame.f_lineno}"
    text = f"{where}: {old} is now {home}.{name}; the old path will be removed in version {GONE}"
    try:
        warnings.warn(text, MovedWarning, stacklevel=depth)
    except MovedWarning:
        with warnings.catch_warnings():
            warnings.simplefilter("always", MovedWarning)
            warnings.warn(text, MovedWarning, stacklevel=depth)


__all__ = ["GONE", "MovedWarning", "moved", "warn"]
