"""An old import path, see `_moved`: its names are in components now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driftspec._moved import moved

if TYPE_CHECKING:
    from driftspec.components import Component as Component
    from driftspec.components import Finding as Finding
    from driftspec.components import Need as Need
    from driftspec.components import default as default

__getattr__ = moved(__name__, {"driftspec.components": "Component Finding Need default"})
