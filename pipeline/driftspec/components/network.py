"""Networks: which function of (t, x, context)?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from driftspec.components.component import Component

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn


class Network(Component):
    """Which function of (t, x, context)? `t` and `context` are optional; context is reserved."""

    kind = "network"

    def smoothness(self) -> float:
        """How many continuous derivatives in x the function has; `math.inf` for analytic activations."""
        return math.inf

    def parameters(self, d_in: int, d_out: int, generator: Generator) -> dict[str, Tensor]:
        """Initial parameters by name, drawn from `generator`."""
        raise NotImplementedError

    def apply(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, d_out), for x (B, d_in) and t () or (B,), row by row."""
        raise NotImplementedError

    def build(self, d_in: int, d_out: int, generator: Generator) -> nn.Module:
        """A module called as `module(t, x)`. By default `apply` bound to `parameters`; any nn.Module will do."""
        from driftspec.numerics.model import Bound

        return Bound(self, self.parameters(d_in, d_out, generator))
