"""Neural ODE: dz/dt = f(z, t; θ), f a network.

With a prior at t_prior it is a continuous normalizing flow: its log p is in `driftspec.numerics.likelihood`.
Chen, Rubanova, Bettencourt, Duvenaud, *Neural Ordinary Differential Equations*, 2018.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from driftspec.components import Distribution, Dynamics, Network
from driftspec.components.component import Need, default
from driftspec_plugins.dynamics._smooth import smooth

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from driftspec.components import Rates


class NeuralODE(Dynamics):
    """dz/dt = f(z, t; θ), from a prior draw z at t_prior to a data point x at t_data."""

    type = "neural_ode"
    default_sampler = "ode"
    default_metrics = ("nll",)

    network: Network = default("mlp", "the velocity f(z, t; θ)")
    prior: Distribution = default("gaussian", "distribution at t_prior; N(0, I) by default")
    time: tuple[float, float] = Field((0.0, 1.0), description="[t_prior, t_data]")
    predicts: Literal["velocity"] = Field("velocity", description="what the network's output is")

    @field_validator("time")
    @classmethod
    def _some_time(cls, time: tuple[float, float]) -> tuple[float, float]:
        if time[0] == time[1]:
            raise ValueError("t_prior and t_data must differ")
        return time

    def offers(self) -> frozenset[str]:
        prior = {"prior"} if "log_prob" in self.prior.offers() else set[str]()
        return frozenset({"velocity", "trainable"}) | prior | smooth(self.network, self.predicts)

    def needs(self) -> tuple[Need, ...]:
        return ()

    def times(self) -> tuple[float, float]:
        return self.time

    def build(self, dim: int, generator: Generator) -> nn.Module:
        return self.network.build(dim, dim, generator)

    def velocity(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return f(x, t; θ) (B, d)."""
        return module(t, x)

    def closed_divergence(self, module: nn.Module) -> Rates | None:
        """Return (t, x) -> (f, tr ∂f/∂x) if the network has a closed form; else None."""
        from driftspec.components._bound import closed_divergence

        return closed_divergence(module)

    def prior_law(self) -> Distribution:
        return self.prior
