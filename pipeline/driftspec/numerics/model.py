"""A dynamics with its parameters: its fields, its log p, and their derivatives, in model units.

energy      log p = -E + const,  s = -∇E
log p       s = ∇log p, by automatic differentiation
velocity    log p by an ODE solve: `likelihood`, `density`
f, g and s  dx/dt = f - ½ g² s, the probability flow: `sde`
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from driftspec.autodiff import gradient
from driftspec.components._bound import Given
from driftspec.components.model import Model, VelocityAt
from driftspec.numerics import density, likelihood, sde

if TYPE_CHECKING:
    from driftspec.components import Dynamics, Loss, Trace
    from driftspec.streams import Streams


@dataclass(frozen=True)
class BoundModel(Model):
    """The model of a dynamics and the module that it built."""

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        if "velocity" in self.own:
            return self.dynamics.velocity(self.module, t, x)
        return sde.probability_flow(self.drift(t, x), self.dynamics.diffusion(t), self.score(t, x))

    def score(self, t: Tensor, x: Tensor) -> Tensor:
        if "score" in self.own:
            return self.dynamics.score(self.module, t, x)
        return self.log_density_and_score(x)[1]

    def log_density(self, x: Tensor) -> Tensor:
        if "energy" in self.own:
            return -self.dynamics.energy(self.module, x)
        if "log_prob" in self.own:
            return self.dynamics.log_prob(self.module, x)
        return density.log_density(self, x)

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.solved:
            return density.log_density_and_score(self, x)
        if self.parameters() or x.device.type == "mps":  # which has no float64
            return gradient(self.log_density, x)
        # A ratio of densities is a difference of two log p: near 1e8 float32 has no digits for it.
        value, slope = gradient(self._in_double.log_density, x.double())
        return value, slope.to(x)

    @functools.cached_property
    def _in_double(self) -> Self:
        return self.double()

    def score_and_error(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if "score" not in self.own and self.solved:
            return density.score_and_error(self, x)
        with torch.no_grad():
            return self.score(x.new_tensor(self.t_data), x), x.new_zeros(len(x))

    def field(self, t: Tensor) -> VelocityAt:
        known = self.dynamics.closed_divergence(self.module)
        return VelocityAt(self.velocity, t, None if known is None else functools.partial(known, t))

    def negative_log_likelihood(self, trace: Trace, batch: Tensor, state: Any, streams: Streams) -> Loss:
        return likelihood.negative_log_likelihood(trace, self, batch, state, streams)

    def double(self) -> Self:
        return replace(self, module=copy.deepcopy(self.module).double())

    def given(self, condition: Tensor) -> Self:
        return replace(self, module=Given(self.module, condition))


def build_model(dynamics: Dynamics, dim: int, seed: int, dtype: torch.dtype, device: torch.device) -> BoundModel:
    """Return the model of a dynamics with new parameters, which are a function of `seed` alone."""
    with torch.random.fork_rng(devices=[]):  # nn.Linear and dropout draw from the global generator whatever is passed
        torch.manual_seed(seed)
        module = dynamics.build(dim, torch.Generator().manual_seed(seed))
    return BoundModel(dynamics, module.to(device=device, dtype=dtype), dim)


__all__ = ["BoundModel", "build_model"]
