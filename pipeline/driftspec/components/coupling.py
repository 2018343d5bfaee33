"""Couplings: which prior point z is paired with which data row x of a batch?

    π(z, x) with the marginals p_prior(z) and p_data(x); independent: π = p_prior p_data

A loss that connects z and x of each pair by a path uses a coupling. No section of a spec names one yet.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from driftspec.components.component import Component

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.streams import Streams


class Coupling(Component):
    """Pairs prior points with data rows. It holds no state: its methods take the state and return the next one."""

    kind = "coupling"

    def start(self, rows: Tensor, streams: Streams) -> Any:
        """Return the state before the first step, for training rows (n, d)."""
        return {}

    @abstractmethod
    def pair(self, z: Tensor, x: Tensor, condition: Tensor | None, state: Any, streams: Streams) -> tuple[Tensor, Any]:
        """Return a permutation (B,) and the next state: z[i] is paired with row permutation[i] of x and its condition.

        z and x are (B, d), the condition (B, k) or None.
        """


__all__ = ["Coupling"]
