"""Noising SDEs with a linear drift: dx = a(t) x dt + g(t) dw from the data at t = 0 to a known prior at t = T.

    p(x_t | x_0) = N(α(t) x_0, σ(t)² I),   a = α'/α,   g² = (σ²)' - 2 a σ²

Run backwards they generate: dx = [f - g² s] dt + g dw̄, or the probability-flow ODE dx/dt = f - ½ g² s, both with
s = ∇log p_t. Anderson 1982; Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, *Score-Based Generative Modeling through
Stochastic Differential Equations*, 2021.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from driftspec.components import Distribution
from driftspec_plugins.dynamics.sde import Scored

if TYPE_CHECKING:
    from torch import Tensor, nn


class NoisingSDE(Scored):
    """What the family shares; a member gives α, σ, a and g, and its prior."""

    default_metrics = ("nll",)

    predicts: Literal["score", "noise", "energy"] = Field(
        "noise", description="the network's output: s, ε with s = -ε/σ(t), or E with s = -∇E"
    )

    def offers(self) -> frozenset[str]:
        return super().offers() | {"noise_kernel", "prior"}

    def pull(self, t: Tensor) -> Tensor:
        """a(t) = α'/α, in t's shape."""
        raise NotImplementedError

    def score(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """s(x, t) (B, d), from what the network predicts."""
        if self.predicts == "noise":
            return -module(t, x) / columns(self.kernel(t)[1])
        return super().score(module, t, x)

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
