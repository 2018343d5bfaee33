"""Networks: functions of (t, x, condition)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from driftspec.components.component import Component

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    Divergence = Callable[[Mapping[str, Tensor], Tensor, Tensor], tuple[Tensor, Tensor]]


class Network(Component):
    """A function of (t, x, condition) with parameters; it may ignore t and the condition."""

    kind = "network"

    @classmethod
    def lacking(cls) -> list[str]:
        """Return the methods that are missing: a network needs `parameters` and `apply`, or only `build`."""
        pair = (cls.parameters is Network.parameters and "parameters", cls.apply is Network.apply and "apply")
        missing = [name for name in pair if name] if cls.build is Network.build else []
        return [*super().lacking(), *missing]

    def smoothness(self) -> float:
        """Return how many continuous derivatives in x the function has; `math.inf` for analytic activations."""
        return math.inf

    def parameters(self, d_in: int, d_out: int, generator: Generator) -> dict[str, Tensor]:
        """Return initial parameters by name, for inputs (B, d_in) and outputs (B, d_out), drawn with `generator`."""
        raise NotImplementedError

    def apply(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return f (B, d_out), row by row, for x (B, d_in), t () or (B,), and a condition (B, k) or None."""
        raise NotImplementedError

    def divergence(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return f (B, d) and tr ∂f/∂x (B,) by a closed form, for d_in = d_out; only some networks have one."""
        raise NotImplementedError

    def closed_divergence(self) -> Divergence | None:
        """Return `divergence` if the network has it, else None."""
        return None if type(self).divergence is Network.divergence else self.divergence

    def build(self, d_in: int, d_out: int, generator: Generator) -> nn.Module:
        """Return a module called as `module(t, x)`: by default `apply` with `parameters`; any nn.Module is allowed."""
        from driftspec.components._bound import Bound

        return Bound(self, self.parameters(d_in, d_out, generator))
