"""Plugins: their discovery by entry points, the hooks they implement, and components by kind and name."""

from __future__ import annotations

from driftspec.registry.registry import (
    API_VERSION,
    GROUP,
    HOOKS,
    Hooks,
    Plugin,
    Provider,
    Registry,
    discover,
    hookimpl,
    installed,
)

__all__ = [
    "API_VERSION",
    "GROUP",
    "HOOKS",
    "Hooks",
    "Plugin",
    "Provider",
    "Registry",
    "discover",
    "hookimpl",
    "installed",
]
