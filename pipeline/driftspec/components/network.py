"""Networks: which function of (t, x, condition)?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from driftspec.components.component import Component

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    Divergence = Callable[[Mapping[str, Tensor], Tensor, Tensor], tuple[Tensor, Tensor]]


class Network(Component):
    """Which function of (t, x, condition)? t and condition are optional."""

    kind = "network"

    @classmethod
    def lacking(cls) -> list[str]:
        """A network gives `parameters` and `apply`, or `build` alone."""
        pair = (cls.parameters is Network.parameters and "parameters", cls.apply is Network.apply and "apply")
        missing = [name for name in pair if name] if cls.build is Network.build else []
        return [*super().lacking(), *missing]

    def smoothness(self) -> float:
        """How many continuous derivatives in x the function has; `math.inf` for analytic activations."""
        return math.inf

    def parameters(self, d_in: int, d_out: int, generator: Generator) -> dict[str, Tensor]:
        """Initial parameters by name, drawn from `generator`."""
        raise NotImplementedError

    def apply(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return f (B, d_out) for x (B, d_in), t () or (B,) and condition (B, k) or None, row by row."""
        raise NotImplementedError

    def divergence(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return f (B, d) and tr ∂f/∂x (B,), where d_in = d_out; for networks that know a closed form."""
        raise NotImplementedError

    def closed_divergence(self) -> Divergence | None:
        """Return `divergence` if the network gives one, else None."""
        return None if type(self).divergence is Network.divergence else self.divergence

    def build(self, d_in: int, d_out: int, generator: Generator) -> nn.Module:
        """A module called as `module(t, x)`. By default `apply` bound to `parameters`; any nn.Module will do."""
        from driftspec.components._bound import Bound

        return Bound(self, self.parameters(d_in, d_out, generator))
