"""The interface of a model, in model units: its velocity, drift and score at a time t, and its log p.

Estimators train a model, samplers draw from it, metrics measure it. `driftspec.numerics.model` implements it.
"""

from __future__ import annotations

import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from driftspec.errors import RunFailed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from driftspec.components.data import Distribution
    from driftspec.components.dynamics import Dynamics
    from driftspec.components.estimator import Loss, Trace
    from driftspec.components.solver import Solver
    from driftspec.streams import Streams


@dataclass(frozen=True)
class VelocityAt:
    """The velocity y -> f(t, y) (B, d) at a fixed t, which a trace estimator differentiates.

    `divergence` is y -> (f, tr ∂f/∂y) if a closed form is known, else None.
    """

    velocity: Callable[[Tensor, Tensor], Tensor]
    t: Tensor
    divergence: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

    def __call__(self, y: Tensor) -> Tensor:
        return self.velocity(self.t, y)


@dataclass(eq=False)
class Pilot:
    """The points (n, d) at which chains find the one number of steps N of all their solves, and N once it is found."""

    points: Tensor
    steps: int | None = None
    needed: bool = False


@dataclass(frozen=True)
class Model(ABC):
    """A dynamics, the module that holds its parameters, and the dimension d."""

    dynamics: Dynamics
    module: nn.Module
    dim: int
    times: Tensor | None = None  # (K,) if the data are trajectories
    trace: Trace | None = None  # estimates tr ∂f/∂x where log p follows from the velocity
    rows: Callable[[], Tensor] | None = None  # returns the training rows (n, d)
    solver: Solver | None = None  # integrates log p with `trace`; None: the solver of `trace`
    pilot: Pilot | None = None  # for chains: fixes the number of steps of their solves

    @abstractmethod
    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        """Return dx/dt (B, d) at x (B, d), t () or (B,), of the ODE, or of an SDE's probability flow f - ½ g² s."""

    @abstractmethod
    def score(self, t: Tensor, x: Tensor) -> Tensor:
        """Return s(x, t) = ∇log p_t(x) (B, d), from the dynamics or as the gradient of its log p."""

    @abstractmethod
    def log_density(self, x: Tensor) -> Tensor:
        """Return log p(x) (B,) in nats, up to a constant if the dynamics offers an energy."""

    @abstractmethod
    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(x) (B,) and ∇log p(x) (B, d) from one evaluation; log p is float64 if nothing is trained."""

    @abstractmethod
    def score_and_error(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ∇log p(x) (B, d) at t_data, and a bound (B,) of the numerical error of its components."""

    @abstractmethod
    def field(self, t: Tensor) -> VelocityAt:
        """Return the velocity x (B, d) -> f(t, x) (B, d) at a fixed t, with a divergence if it has a closed form."""

    @abstractmethod
    def negative_log_likelihood(self, trace: Trace, batch: Tensor, state: Any, streams: Streams) -> Loss:
        """Return the loss of maximum likelihood: the mean of -log p over a batch (B, d), and penalties of `trace`."""

    @abstractmethod
    def double(self) -> Self:
        """Return a copy in float64, for checks that need more precision than the run has."""

    @abstractmethod
    def given(self, condition: Tensor) -> Self:
        """Return the same model with a condition c (B, k): row i of a batch has the condition in row i of c."""

    @functools.cached_property
    def own(self) -> frozenset[str]:
        """The capabilities that the dynamics itself offers; the model derives the others."""
        return self.dynamics.offers()

    @property
    def solved(self) -> bool:
        """Whether log p needs an ODE solve: the dynamics offers neither an energy nor a log p."""
        return self.own.isdisjoint({"energy", "log_prob"})

    @property
    def t_data(self) -> float:
        """The time t_data, at which the distribution is that of the data."""
        return self.dynamics.times()[1]

    def drift(self, t: Tensor, x: Tensor) -> Tensor:
        """Return f(x, t) (B, d) of dx = f dt + g dw."""
        return self.dynamics.drift(self.module, t, x)

    def prior(self) -> Distribution:
        """Return the distribution at t_prior. RunFailed if the dynamics has none."""
        prior = self.dynamics.prior_law()
        if prior is None:
            raise RunFailed(f"{self.dynamics.label} has no prior")
        return prior

    def observed_at(self) -> Tensor:
        """Return the times (K,) at which trajectories were observed. RunFailed if the data are not trajectories."""
        if self.times is None:
            raise RunFailed("the data have no times: they are no trajectories")
        return self.times

    def parameters(self) -> tuple[nn.Parameter, ...]:
        """Return the trained parameters."""
        return tuple(self.module.parameters())

    def like(self, x: Tensor) -> Tensor:
        """Return x (..., d) in the dtype and on the device of the module."""
        first = next(itertools.chain(self.module.parameters(), self.module.buffers()), None)
        return x if first is None else x.to(device=first.device, dtype=first.dtype)

    def at_pilot(self, points: Tensor) -> Self:
        """Return the model for chains: all solves for log p take one number of steps, found at the points (n, d)."""
        return replace(self, pilot=Pilot(points)) if self.solved else self


__all__ = ["Model", "Pilot", "VelocityAt"]
