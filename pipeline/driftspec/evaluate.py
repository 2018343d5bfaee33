"""An old import path, see `_moved`: its names are in components and experiment.evaluate now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driftspec._moved import moved

if TYPE_CHECKING:
    from driftspec.components import Evaluation as Evaluation

__getattr__ = moved(
    __name__,
    {"driftspec.components": "Evaluation", "driftspec.experiment.evaluate": "evaluate sample once as_json"},
)
