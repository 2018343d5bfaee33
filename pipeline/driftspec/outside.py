"""The registry for components that are made without a spec, as by `Network.make("mlp")`.

The registry imports the components, so they cannot import it. The package `driftspec` sets it here on import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_source: list[Callable[[], Any]] = []


def resolve_by(registry: Callable[[], Any]) -> None:
    """Store the function that returns the registry of the installed plugins."""
    _source[:] = [registry]


def registry() -> Any:
    """Return the registry of the installed plugins."""
    return _source[0]()


__all__ = ["registry", "resolve_by"]
