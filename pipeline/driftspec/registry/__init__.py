"""Plugins: discovery through entry points, the hooks they implement, lookup of a component by kind and name."""

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
