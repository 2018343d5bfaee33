"""An old import path, see `_moved`: its names are in source.files now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driftspec._moved import moved

if TYPE_CHECKING:
    from driftspec.source.files import Files as Files

__getattr__ = moved(__name__, {"driftspec.source.files": "Files"})
