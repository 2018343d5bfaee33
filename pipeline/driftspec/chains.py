"""An old import path, see `_moved`: its names are in numerics.chains now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driftspec._moved import moved

if TYPE_CHECKING:
    from driftspec.numerics.chains import ChainSampler as ChainSampler
    from driftspec.numerics.chains import Moved as Moved
    from driftspec.numerics.chains import Noise as Noise
    from driftspec.numerics.chains import noise as noise
    from driftspec.numerics.chains import padded as padded

__getattr__ = moved(__name__, {"driftspec.numerics.chains": "ChainSampler Moved Noise noise padded"})
