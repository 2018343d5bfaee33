"""Noising SDEs with a linear drift: dx = a(t) x dt + g(t) dw from the data at t = 0 to a known prior at t = T.

    p(x_t | x_0) = N(α(t) x_0, σ(t)² I),   a = α'/α,   g² = (σ²)' - 2 a σ²

Backwards in time they generate data: dx = [f - g² s] dt + g dw̄, or the probability-flow ODE dx/dt = f - ½ g² s, both
with s = ∇log p_t. Anderson 1982; Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, *Score-Based Generative Modeling
through Stochastic Differential Equations*, 2021.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from driftspec.components import Distribution
from driftspec_plugins.dynamics.sde import Scored

if TYPE_CHECKING:
    from torch import Tensor, nn


class NoisingSDE(Scored):
    """The base class of noising SDEs with a linear drift; a subclass gives α, σ, a and g, and its prior."""

    default_metrics = ("nll",)

    predicts: Literal["score", "noise", "energy"] = Field(
        "noise", description="the network's output: s, ε with s = -ε/σ(t), or E with s = -∇E"
    )

    def offers(self) -> frozenset[str]:
        return super().offers() | {"noise_kernel", "prior"}

    def drift_coefficient(self, t: Tensor) -> Tensor:
        """Return a(t) = α'/α, of the shape of t, () or (B,)."""
        raise NotImplementedError

    def score(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return s(x, t) (B, d): the network's output, -ε/σ(t) or -∇E, for `predicts` score, noise or energy."""
        if self.predicts == "noise":
            return -module(t, x) / columns(self.kernel(t)[1])
        return super().score(module, t, x)

    def drift(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return f(x, t) = a(t) x (B, d)."""
        return columns(self.drift_coefficient(t)) * x

    def prior_law(self) -> Distribution:
        """Return N(0, s² I), with s = `prior_std()`; by default s = σ(1)."""
        return Distribution.make({"type": "gaussian", "std": self.prior_std()})

    def prior_std(self) -> float:
        """Return the standard deviation of the prior in each coordinate."""
        import torch

        return float(self.kernel(torch.tensor(1.0, dtype=torch.float64))[1])


def columns(value: Tensor) -> Tensor:
    """Return a function of t in a shape that multiplies x (B, d): () stays (), and (B,) becomes (B, 1)."""
    return value if value.dim() == 0 else value[:, None]
