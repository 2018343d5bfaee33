"""The registry that resolves components made outside any spec: `Network.make("mlp")`.

Components do not import the registry, which imports them. The package hands it in when it is imported itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_handed_in: list[Callable[[], Any]] = []


def resolve_by(registry: Callable[[], Any]) -> None:
    """Take the function that returns the registry of the installed plugins."""
    _handed_in[:] = [registry]


def registry() -> Any:
    """Return the registry of the installed plugins."""
    return _handed_in[0]()


__all__ = ["registry", "resolve_by"]
