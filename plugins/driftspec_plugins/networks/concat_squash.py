"""ConcatSquash layers: a_l = (W_l h_l + b_l) · sigmoid(g_l t + c_l) + v_l t, with h_0 = x and h_{l+1} = σ(a_l).

In every layer the time t scales and shifts the output. Will Grathwohl, Ricky T. Q. Chen, Jesse Bettencourt, Ilya
Sutskever, David Duvenaud, "FFJORD: Free-form continuous dynamics for scalable reversible generative models", 2019.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from driftspec.components import Network
from driftspec_plugins.networks._activations import SMOOTHNESS, ActivationName, activation
from driftspec_plugins.networks._linear import refuse_condition, uniform

if TYPE_CHECKING:
    from torch import Generator, Tensor


class ConcatSquash(Network):
    """Layers (W h + b) · sigmoid(g t + c) + v t, with the activation σ between them and not after the last one."""

    type = "concat_squash"

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (64, 64, 64), description="widths of the hidden layers; empty for one layer"
    )
    activation: ActivationName = Field("softplus", description="σ, between the layers")

    def smoothness(self) -> float:
        return SMOOTHNESS[self.activation] if self.hidden else math.inf

    def parameters(self, d_in: int, d_out: int, generator: Generator) -> dict[str, Tensor]:
        """Return W_l (out, in) and b_l, g_l, c_l, v_l (out,) as weight_l, bias_l, gate_l, gate_bias_l, shift_l.

        They are drawn as by torch.nn.Linear, with maps (B, in) -> (B, out) and fan-in 1 for the last three.
        """
        widths = (d_in, *self.hidden, d_out)
        p: dict[str, Tensor] = {}
        for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
            p[f"weight_{layer}"] = uniform(fan_out, fan_in, fan_in=fan_in, generator=generator)
            p[f"bias_{layer}"] = uniform(fan_out, fan_in=fan_in, generator=generator)
            for name in ("gate", "gate_bias", "shift"):
                p[f"{name}_{layer}"] = uniform(fan_out, fan_in=1, generator=generator)
        return p

    def apply(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return f(t, x) (B, d_out) for x (B, d_in) and t () or (B,); it refuses a condition."""
        from torch import sigmoid
        from torch.nn.functional import linear

        refuse_condition(self.label, condition)
        sigma = activation(self.activation)[0]
        time = t.to(x.dtype)[..., None]  # (1,) or (B, 1)
        h = x
        for layer in range(len(self.hidden) + 1):
            gate = sigmoid(time * p[f"gate_{layer}"] + p[f"gate_bias_{layer}"])
            a = linear(h, p[f"weight_{layer}"], p[f"bias_{layer}"]) * gate + time * p[f"shift_{layer}"]
            h = sigma(a)
        return a
