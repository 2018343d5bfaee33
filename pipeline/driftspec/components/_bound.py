"""Modules that call a network component with parameters, and with a condition, already given."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from driftspec.components.network import Network
    from driftspec.components.solver import Rates


class Bound(nn.Module):
    """(t, x) -> f(t, x; θ) (B, d_out): a network component's `apply` with its parameters θ."""

    def __init__(self, network: Network, parameters: Mapping[str, Tensor]):
        super().__init__()
        self.network = network
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.network.apply(self._named(), t, x, condition)

    def closed_divergence(self) -> Rates | None:
        """Return (t, x) -> (f, tr ∂f/∂x) if the network has a closed form; else None."""
        own = self.network.closed_divergence()
        return None if own is None else functools.partial(own, self._named())

    def _named(self) -> dict[str, Tensor]:
        """Its parameters by name, without the search of `named_parameters`, which takes 1 % of a training step."""
        return self._parameters  # type: ignore[return-value]


class Given(nn.Module):
    """(t, x) -> module(t, x, c): row i of a condition c (B, k) belongs to row i of x.

    Solvers stack whole copies of a batch: c is repeated as often.
    """

    def __init__(self, module: nn.Module, condition: Tensor):
        super().__init__()
        self.module, self.condition = module, condition

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.module(t, x, self.condition.repeat(len(x) // len(self.condition), 1))


def closed_divergence(module: nn.Module) -> Rates | None:
    """Return (t, x) -> (f, tr ∂f/∂x) of a module that binds a network with a closed form; else None."""
    return module.closed_divergence() if isinstance(module, Bound) else None


__all__ = ["Bound", "Given", "closed_divergence"]
