"""Activations: a function σ, its derivative σ', and how many continuous derivatives σ has.

The closed-form divergence of a network needs σ', given here as a function of a and h = σ(a).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    Value: TypeAlias = Callable[[Tensor], Tensor]
    Slope: TypeAlias = Callable[[Tensor, Tensor], Tensor]

ActivationName: TypeAlias = Literal[
    "tanh", "silu", "softplus", "gelu", "mish", "sigmoid", "elu", "relu", "leaky_relu", "selu"
]

SMOOTHNESS: dict[ActivationName, float] = {
    "tanh": math.inf,
    "silu": math.inf,
    "softplus": math.inf,
    "gelu": math.inf,
    "mish": math.inf,
    "sigmoid": math.inf,
    "elu": 1,
    "relu": 0,
    "leaky_relu": 0,
    "selu": 0,
}
"""The number of continuous derivatives of σ: infinite for an analytic σ."""


@functools.cache
def activation(name: ActivationName) -> tuple[Value, Slope]:
    """Return the functions σ(a) and σ'(a, h) with h = σ(a), which act on each element."""
    import torch
    from torch.nn import functional as F

    leak, alpha, scale = 0.01, 1.6732632423543772, 1.0507009873554805

    def normal_cdf(a: Tensor) -> Tensor:
        return (1 + torch.erf(a * math.sqrt(0.5))) / 2

    def normal_pdf(a: Tensor) -> Tensor:
        return torch.exp(-a * a / 2) / math.sqrt(2 * math.pi)

    def silu_slope(a: Tensor, h: Tensor) -> Tensor:
        s = torch.sigmoid(a)
        return s + h * (1 - s)

    def mish_slope(a: Tensor, h: Tensor) -> Tensor:
        w = torch.tanh(F.softplus(a))
        return w + a * torch.sigmoid(a) * (1 - w * w)

    table: dict[str, tuple[Value, Slope]] = {
        "tanh": (torch.tanh, lambda a, h: 1 - h * h),
        "silu": (F.silu, silu_slope),
        "softplus": (F.softplus, lambda a, h: torch.sigmoid(a)),
        "gelu": (F.gelu, lambda a, h: normal_cdf(a) + a * normal_pdf(a)),
        "mish": (F.mish, mish_slope),
        "sigmoid": (torch.sigmoid, lambda a, h: h * (1 - h)),
        "elu": (F.elu, lambda a, h: torch.where(a > 0, 1.0, h + 1)),
        "relu": (F.relu, lambda a, h: (a > 0).to(a.dtype)),
        "leaky_relu": (lambda a: F.leaky_relu(a, leak), lambda a, h: torch.where(a > 0, 1.0, torch.full_like(a, leak))),
        "selu": (F.selu, lambda a, h: torch.where(a > 0, scale, h + scale * alpha)),
    }
    return table[name]
