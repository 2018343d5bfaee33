"""Dynamics: an ODE or SDE, with its velocity, drift, score, energy or log p."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Self

from driftspec.components.component import Component
from driftspec.components.data import Data

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from driftspec.components.data import Distribution
    from driftspec.components.solver import Rates


class Dynamics(Component):
    """An ODE or SDE, with its velocity, drift, score, energy or log p.

    A dynamics gives the methods of the capabilities that it offers; the others raise NotImplementedError.
    """

    kind = "dynamics"
    default_sampler: ClassVar[str] = ""
    """The sampler of a spec without `sampler`."""
    default_metrics: ClassVar[tuple[str, ...]] = ()
    """The metrics of a spec without `evaluate`."""

    def lowest_noise(self) -> float | None:
        """Return σ of the noise at t_data, without torch; None if there is no noise, or if σ is not known."""
        return None

    def times(self) -> tuple[float, float]:
        """Return (t_prior, t_data), the times of the prior and of the data; (0, 0) for a dynamics without a time."""
        return 0.0, 0.0

    @abstractmethod
    def build(self, dim: int, generator: Generator) -> nn.Module:
        """Return the module whose parameters are trained."""

    def velocity(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return dx/dt (B, d) of the ODE between prior and data. For an SDE with a score the model derives it."""
        raise NotImplementedError

    def drift(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return f(x, t) (B, d) of the SDE dx = f dt + g dw."""
        raise NotImplementedError

    def diffusion(self, t: Tensor) -> Tensor:
        """Return g(t), of the shape of t, () or (B,)."""
        raise NotImplementedError

    def kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return α(t) and σ(t), each () or (B,), of p(x_t | x_0) = N(α x_0, σ² I): the capability `noise_kernel`."""
        raise NotImplementedError

    def score(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return s(x, t) = ∇log p_t(x) (B, d), with p_t the density at time t."""
        raise NotImplementedError

    def energy(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return E(x) (B,): the density is proportional to exp(-E)."""
        raise NotImplementedError

    def log_prob(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return log p(x) (B,) if it is known without an ODE solve, as for a target."""
        raise NotImplementedError

    def prior_law(self) -> Distribution | None:
        """Return the distribution at t_prior; None without a prior."""
        return None

    def target_law(self) -> Data | None:
        """Return the known distribution that replaces the data; None without one.

        By default it is the distribution among its keys, if the dynamics neither trains nor has a prior.
        """
        if not self.offers().isdisjoint({"trainable", "prior"}):
            return None
        return next((one for one in self.nested().values() if isinstance(one, Data)), None)

    def closed_divergence(self, module: nn.Module) -> Rates | None:
        """Return (t, x) -> (f, tr ∂f/∂x), (B, d) and (B,), if the velocity has a closed form; else None."""
        return None

    def ladder(self) -> Tensor | None:
        """Return the times (K,) of its noise levels, the highest σ first; None if every t is a noise level."""
        return None

    def confinement(self) -> float | None:
        """Return c of a term ‖x‖²/(2c²) in its energy; inf if no such term makes Z finite, None if it is not known."""
        return None

    def network_derivatives(self) -> int:
        """Return the order of the derivative of its network in its score: 1 if the network is an energy, else 0."""
        return 0

    def ending_at(self, t_data: float) -> Self | None:
        """Return the same dynamics with this t_data; None if its t_data is fixed."""
        return None

    def smallest_variance(self) -> float | None:
        """Return the smallest variance along any direction if its stationary distribution is normal; else None."""
        return None
