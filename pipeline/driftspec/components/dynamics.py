"""Dynamics: which ODE or SDE, and what it offers?"""

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
    """Which ODE or SDE, and what it offers."""

    kind = "dynamics"
    default_sampler: ClassVar[str]
    """The sampler of a spec that names none."""
    default_metrics: ClassVar[tuple[str, ...]] = ()
    """What a spec without `evaluate` measures."""

    def lowest_noise(self) -> float | None:
        """σ at the end of time where the data are, known without torch; None where there is none, or none is known."""
        return None

    def times(self) -> tuple[float, float]:
        """(t_prior, t_data): the ends of time where the prior is, and where the data are; both 0 without a time."""
        return 0.0, 0.0

    @abstractmethod
    def build(self, dim: int, generator: Generator) -> nn.Module:
        """What is trained."""

    def velocity(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """dx/dt (B, d) of the ODE between the prior and the data. An SDE with a score has one without saying so."""
        raise NotImplementedError

    def drift(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """f(x, t) (B, d) of the SDE dx = f dt + g dw."""
        raise NotImplementedError

    def diffusion(self, t: Tensor) -> Tensor:
        """g(t), in t's shape."""
        raise NotImplementedError

    def kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(α(t), σ(t)) in t's shape: the SDE takes data x to N(α x, σ² I) by time t. Offered as `noise_kernel`."""
        raise NotImplementedError

    def score(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """s(x, t) (B, d), ∇ log of the density at time t."""
        raise NotImplementedError

    def energy(self, module: nn.Module, x: Tensor) -> Tensor:
        """E(x) (B,): the density is exp(-E) up to its constant."""
        raise NotImplementedError

    def log_prob(self, module: nn.Module, x: Tensor) -> Tensor:
        """log p(x) (B,), where it is known without a solve (a target's)."""
        raise NotImplementedError

    def prior_law(self) -> Distribution | None:
        """The law at t_prior."""
        return None

    def target_law(self) -> Data | None:
        """Return the known distribution that it holds in the place of data; None without one.

        By default the distribution among its keys, if it neither trains nor has a prior.
        """
        if not self.offers().isdisjoint({"trainable", "prior"}):
            return None
        return next((one for one in self.nested().values() if isinstance(one, Data)), None)

    def closed_divergence(self, module: nn.Module) -> Rates | None:
        """Return (t, x) -> (f, tr ∂f/∂x), (B, d) and (B,), if the velocity has a closed form; else None."""
        return None

    def ladder(self) -> Tensor | None:
        """Return the times (K,) of its noise levels, highest σ first, if there are finitely many; else None."""
        return None

    def confinement(self) -> float | None:
        """Return c of a term ‖x‖²/(2c²) in its energy; inf if nothing keeps Z finite, None if that is not known."""
        return None

    def network_derivatives(self) -> int:
        """Return how often its score differentiates its network: 1 for a network that is an energy, else 0."""
        return 0

    def ending_at(self, t_data: float) -> Self | None:
        """Return the same dynamics with its data at this time; None if that end of time is fixed."""
        return None

    def smallest_variance(self) -> float | None:
        """Of a stationary law that is known to be normal, the smallest variance along any direction; else None."""
        return None
