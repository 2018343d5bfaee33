"""Noising SDEs with a linear drift: dx = a(t) x dt + g(t) dw from the data at t = 0 to a known prior at t = T.

    p(x_t | x_0) = N(α(t) x_0, σ(t)² I),   a = α'/α,   g² = (σ²)' - 2 a σ²

Run backwards they generate: dx = [f - g² s] dt + g dw̄, or the probability-flow ODE dx/dt = f - ½ g² s, both with
s = ∇log p_t. Anderson 1982; Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, *Score-Based Generative Modeling through
Stochastic Differential Equations*, 2021.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from driftspec.component import default
from driftspec.components import Distribution, Dynamics, Network

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn


class NoisingSDE(Dynamics):
    """What the family shares; a member gives α, σ, a and g, and its prior."""

    default_sampler = "euler_maruyama"
    default_metrics = ("nll",)

    network: Network = default("mlp", "what is trained, a function of (t, x)")
    predicts: Literal["score", "noise", "energy"] = Field(
        "noise", description="the network's output: s, ε with s = -ε/σ(t), or E with s = -∇E"
    )
    t_data: float = Field(
        1e-3, ge=0, lt=1, description="the end of time at which the model is read; at 0 itself s may have no limit"
    )

    def offers(self) -> frozenset[str]:
        smooth = self.network.smoothness() >= (2 if self.predicts == "energy" else 1)
        return frozenset({"drift", "score", "noise_kernel", "prior", "trainable", *(["smooth"] if smooth else [])})

    def times(self) -> tuple[float, float]:
        return 1.0, self.t_data

    def build(self, dim: int, generator: Generator) -> nn.Module:
        return self.network.build(dim, 1 if self.predicts == "energy" else dim, generator)

    def pull(self, t: Tensor) -> Tensor:
        """a(t) = α'/α, in t's shape."""
        raise NotImplementedError

    def score(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """s(x, t) (B, d), from what the network predicts."""
        if self.predicts == "score":
            return module(t, x)
        if self.predicts == "noise":
            return -module(t, x) / columns(self.kernel(t)[1])
        from driftspec.model import gradient

        return -gradient(lambda y: module(t, y).squeeze(-1), x)[1]

    def drift(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """a(t) x."""
        return columns(self.pull(t)) * x

    def prior_law(self) -> Distribution:
        """N(0, v I), v the variance that data of variance 0 would end with."""
        return Distribution.make({"type": "gaussian", "std": self.prior_std()})

    def prior_std(self) -> float:
        import torch

        return float(self.kernel(torch.tensor(1.0, dtype=torch.float64))[1])


def columns(value: Tensor) -> Tensor:
    """A function of t as a factor of x: () stays, (B,) becomes (B, 1)."""
    return value if value.dim() == 0 else value[:, None]
