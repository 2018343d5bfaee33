"""Modules that call a network component with fixed parameters, or with a fixed condition."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from driftspec.components.network import Network
    from driftspec.components.solver import Rates


class Bound(nn.Module):
    """The module (t, x) -> f(t, x; θ) (B, d_out): the `apply` of a network component with its parameters θ."""

    def __init__(self, network: Network, parameters: Mapping[str, Tensor]):
        super().__init__()
        self.network = network
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return f(t, x; θ) (B, d_out) for x (B, d_in), t () or (B,), and a condition (B, k) or None."""
        return self.network.apply(self._named(), t, x, condition)

    def closed_divergence(self) -> Rates | None:
        """Return (t, x) -> (f, tr ∂f/∂x) if the network has a closed form; else None."""
        closed = self.network.closed_divergence()
        return None if closed is None else functools.partial(closed, self._named())

    def _named(self) -> dict[str, Tensor]:
        """Return the parameters by name. The search in `named_parameters` would take 1 % of a training step."""
        return self._parameters  # type: ignore[return-value]  # torch types it as Parameter | None


class Given(nn.Module):
    """The module (t, x) -> module(t, x, c): row i of the condition c (B, k) belongs to row i of x.

    If a solver stacks several copies of a batch in x, then c is repeated as many times.
    """

    def __init__(self, module: nn.Module, condition: Tensor):
        super().__init__()
        self.module, self.condition = module, condition

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Return module(t, x, c) (B, d_out) for x (B, d_in) and t () or (B,)."""
        return self.module(t, x, self.condition.repeat(len(x) // len(self.condition), 1))


def closed_divergence(module: nn.Module) -> Rates | None:
    """Return (t, x) -> (f, tr ∂f/∂x) if the module is a `Bound` network with a closed form; else None."""
    return module.closed_divergence() if isinstance(module, Bound) else None


__all__ = ["Bound", "Given", "closed_divergence"]
