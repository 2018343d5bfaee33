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
    """The model of a dynamics and of the module with its parameters."""

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        """Return dx/dt (B, d): the dynamics' own, or the probability flow f - ½ g² s."""
        if "velocity" in self.own:
            return self.dynamics.velocity(self.module, t, x)
        return sde.probability_flow(self.drift(t, x), self.dynamics.diffusion(t), self.score(t, x))

    def score(self, t: Tensor, x: Tensor) -> Tensor:
        """Return s(x, t) (B, d): the dynamics' own, or ∇log p(x)."""
        if "score" in self.own:
            return self.dynamics.score(self.module, t, x)
        return self.log_density_and_score(x)[1]

    def log_density(self, x: Tensor) -> Tensor:
        """Return log p(x) (B,): -E(x), the dynamics' own, or the result of an ODE solve."""
        if "energy" in self.own:
            return -self.dynamics.energy(self.module, x)
        if "log_prob" in self.own:
            return self.dynamics.log_prob(self.module, x)
        return density.log_density(self, x)

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(x) (B,) and ∇log p(x) (B, d)."""
        if self.solved:
            return density.log_density_and_score(self, x)
        if self.parameters() or x.device.type == "mps":  # mps has no float64
            return gradient(self.log_density, x)
        # Metropolis uses differences of log p: if log p is near 1e8, float32 rounds them away.
        value, slope = gradient(self._in_double.log_density, x.double())
        return value, slope.to(x)

    @functools.cached_property
    def _in_double(self) -> Self:
        return self.double()

    def score_and_error(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ∇log p(x) (B, d) at t_data and an error bound (B,), which is 0 if no ODE solve is needed."""
        if "score" not in self.own and self.solved:
            return density.score_and_error(self, x)
        with torch.no_grad():
            return self.score(x.new_tensor(self.t_data), x), x.new_zeros(len(x))

    def field(self, t: Tensor) -> VelocityAt:
        """Return y -> f(t, y) for a fixed t () or (B,)."""
        known = self.dynamics.closed_divergence(self.module)
        return VelocityAt(self.velocity, t, None if known is None else functools.partial(known, t))

    def negative_log_likelihood(self, trace: Trace, batch: Tensor, state: Any, streams: Streams) -> Loss:
        """Return the loss -mean log p over the batch (B, d), plus the penalties of `trace`."""
        return likelihood.negative_log_likelihood(trace, self, batch, state, streams)

    def double(self) -> Self:
        return replace(self, module=copy.deepcopy(self.module).double())

    def given(self, condition: Tensor) -> Self:
        """Return the model conditioned on c (B, k), one row for each row of a batch."""
        return replace(self, module=Given(self.module, condition))


def build_model(dynamics: Dynamics, dim: int, seed: int, dtype: torch.dtype, device: torch.device) -> BoundModel:
    """Return the model of a dynamics with new parameters, which are a function of `seed` alone."""
    with torch.random.fork_rng(devices=[]):  # nn.Linear and dropout draw from the global generator whatever is passed
        torch.manual_seed(seed)
        module = dynamics.build(dim, torch.Generator().manual_seed(seed))
    return BoundModel(dynamics, module.to(device=device, dtype=dtype), dim)


__all__ = ["BoundModel", "build_model"]
