"""An old import path, see `_moved`: its names are in autodiff, components, numerics.model now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driftspec._moved import moved

if TYPE_CHECKING:
    from driftspec.autodiff import gradient as gradient
    from driftspec.autodiff import pullback as pullback
    from driftspec.components import Model as Model
    from driftspec.numerics.model import build_model as build_model

__getattr__ = moved(
    __name__,
    {
        "driftspec.autodiff": "gradient pullback",
        "driftspec.components": "Model",
        "driftspec.numerics.model": "build_model",
    },
)
