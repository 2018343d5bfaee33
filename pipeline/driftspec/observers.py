"""An old import path, see `_moved`: its names are in components now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driftspec._moved import moved

if TYPE_CHECKING:
    from driftspec.components import Observer as Observer
    from driftspec.components import Record as Record
    from driftspec.components import RunInfo as RunInfo

__getattr__ = moved(__name__, {"driftspec.components": "Observer Record RunInfo"})
