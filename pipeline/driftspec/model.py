"""A dynamics with its parameters: what estimators train, samplers draw from and metrics measure. Model units throughout."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from driftspec.errors import RunFailed

if TYPE_CHECKING:
    from driftspec.components import Distribution, Dynamics, Network

    Rates = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# Without it MKL rounds a row of a matrix product by where in memory the row starts: by its place in the batch. Costs
# nothing. Read at the process's first product, so it comes too late where one was made before this import.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


class Bound(nn.Module):
    """A network component's `apply`, bound to its parameters."""

    def __init__(self, network: Network, parameters: Mapping[str, Tensor]):
        super().__init__()
        self.network = network
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.network.apply(dict(self.named_parameters()), t, x, context)

    def closed_divergence(self) -> Rates | None:
        """(t, x) -> (f, tr ∂f/∂x) where the network knows its divergence in closed form."""
        own = getattr(self.network, "divergence", None)
        return None if own is None else functools.partial(own, dict(self.named_parameters()))


@dataclass(frozen=True)
class Field:
    """y -> f(t, y) at a fixed t: what a trace estimator differentiates, or asks for (f, tr ∂f/∂y) where that is known."""

    velocity: Callable[[Tensor, Tensor], Tensor]
    t: Tensor
    divergence: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

    def __call__(self, y: Tensor) -> Tensor:
        return self.velocity(self.t, y)


@dataclass(frozen=True)
class Model:
    """A dynamics, its trained module and d."""

    dynamics: Dynamics
    module: nn.Module
    dim: int
    times: Tensor | None = None  # (K,), of data that are trajectories

    def observed_at(self) -> Tensor:
        """The times (K,) at which the data were observed."""
        if self.times is None:
            raise RunFailed("the data have no times: they are no trajectories")
        return self.times

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        """dx/dt (B, d) at x (B, d), t () or (B,)."""
        return self.dynamics.velocity(self.module, t, x)

    def field(self, t: Tensor) -> Field:
        """The velocity at a fixed t, with its divergence where the dynamics knows it in closed form."""
        known = getattr(self.dynamics, "closed_divergence", None)
        own = None if known is None else known(self.module)
        return Field(self.velocity, t, None if own is None else functools.partial(own, t))

    def prior(self) -> Distribution:
        """The law at t_prior."""
        law = self.dynamics.prior_law()
        if law is None:
            raise RunFailed(f"{self.dynamics.label} has no prior")
        return law

    def parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(self.module.parameters())

    def like(self, x: Tensor) -> Tensor:
        """`x` in the module's dtype and on its device."""
        first = next(self.module.parameters(), None)
        return x if first is None else x.to(device=first.device, dtype=first.dtype)

    def double(self) -> Model:
        """A float64 copy, for checks beyond the run's own precision."""
        return replace(self, module=copy.deepcopy(self.module).double())


def build_model(dynamics: Dynamics, dim: int, seed: int, dtype: torch.dtype, device: torch.device) -> Model:
    """The dynamics with fresh parameters, a function of `seed` alone."""
    with torch.random.fork_rng(devices=[]):  # nn.Linear and dropout draw from the global generator whatever is passed
        torch.manual_seed(seed)
        module = dynamics.build(dim, torch.Generator().manual_seed(seed))
    return Model(dynamics, module.to(device=device, dtype=dtype), dim)


__all__ = ["Bound", "Field", "Model", "build_model"]
