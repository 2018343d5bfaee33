"""Multilayer perceptron: f(t, x) = W_L h_L + b_L with h_{l+1} = σ(W_l h_l + b_l), from h_0 = [x, τ(t)].

The key `time` selects the time input τ of the first layer: `concat` is τ(t) = t, `fourier` is
τ(t) = (t, sin ω_k t, cos ω_k t) with ω_k = π 2^k for k < K, and `none` is no time input: f(x) does not depend on t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from driftspec.components import Network
from driftspec_plugins.networks._activations import SMOOTHNESS, ActivationName, activation
from driftspec_plugins.networks._linear import refuse_condition, uniform
from driftspec_plugins.networks._trace import chain_trace

if TYPE_CHECKING:
    from torch import Generator, Tensor


class MLP(Network):
    """f(t, x) = W_L σ(... σ(W_0 [x, τ(t)] + b_0) ...) + b_L, row by row."""

    type = "mlp"

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (64, 64, 64), description="widths of the hidden layers; empty for a linear function"
    )
    activation: ActivationName = Field("tanh", description="σ, between the layers")
    time: Literal["concat", "fourier", "none"] = Field(
        "concat", description="the time input of the first layer: t, t with sines and cosines of t, or none"
    )
    frequencies: int = Field(6, ge=1, le=16, description="K of `time: fourier`, whose frequencies are π 2^k for k < K")

    @model_validator(mode="after")
    def _frequencies_have_a_use(self) -> Self:
        if self.time != "fourier" and self.frequencies != type(self).model_fields["frequencies"].default:
            raise ValueError(f"'frequencies' has a use only with time: fourier, not with time: {self.time}")
        return self

    def smoothness(self) -> float:
        return SMOOTHNESS[self.activation] if self.hidden else math.inf

    def parameters(self, d_in: int, d_out: int, generator: Generator) -> dict[str, Tensor]:
        """Return W_l (d_out, d_in) as weight_l and b_l (d_out,) as bias_l, from U(-1/√d_in, 1/√d_in) of each layer."""
        features = {"concat": 1, "fourier": 1 + 2 * self.frequencies, "none": 0}[self.time]
        widths = (d_in + features, *self.hidden, d_out)
        p: dict[str, Tensor] = {}
        for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
            p[f"weight_{layer}"] = uniform(fan_out, fan_in, fan_in=fan_in, generator=generator)
            p[f"bias_{layer}"] = uniform(fan_out, fan_in=fan_in, generator=generator)
        return p

    def apply(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return f(t, x) = W_L h_L + b_L (B, d_out) for x (B, d_in) and t () or (B,); it refuses a condition."""
        from torch.nn.functional import linear

        refuse_condition(self.label, condition)
        sigma = activation(self.activation)[0]
        a = linear(self._inputs(t, x), p["weight_0"], p["bias_0"])
        for layer in range(1, len(self.hidden) + 1):
            a = linear(sigma(a), p[f"weight_{layer}"], p[f"bias_{layer}"])
        return a

    def divergence(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return f (B, d) and tr ∂f/∂x (B,) = tr(W_L D_L ... W_1 D_1 W_0) with D_l = diag σ'(a_l).

        This closed form is exact, and autograd can differentiate it.
        """
        from torch.nn.functional import linear

        weights = [p[f"weight_{layer}"] for layer in range(len(self.hidden) + 1)]
        if len(weights[-1]) != x.shape[1]:
            raise ValueError(f"{self.label} has {x.shape[1]} inputs and {len(weights[-1])} outputs: no divergence")
        sigma, slope = activation(self.activation)
        a = linear(self._inputs(t, x), weights[0], p["bias_0"])
        weights[0] = weights[0][:, : x.shape[1]]
        if not self.hidden:
            return a, weights[0].trace().expand(len(x))
        slopes = []
        for layer in range(1, len(weights)):
            h = sigma(a)
            slopes.append(slope(a, h))
            a = linear(h, weights[layer], p[f"bias_{layer}"])
        return a, chain_trace(weights, slopes)

    def _inputs(self, t: Tensor, x: Tensor) -> Tensor:
        """Return [x, τ(t)] (B, d + features). Angles are computed in the dtype of t."""
        import torch

        if self.time == "none":
            return x
        tau = t[..., None]
        if self.time == "fourier":
            angle = tau * (math.pi * 2.0 ** torch.arange(self.frequencies, dtype=t.dtype, device=t.device))
            tau = torch.cat([tau, angle.sin(), angle.cos()], -1)
        return torch.cat([x, tau.to(x.dtype).expand(len(x), -1)], 1)
