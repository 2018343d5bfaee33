"""A general SDE whose score is learned: dx = f(x, t) dt + g(t) dw from the data at t = 0 to a prior at t = 1.

A plugin derives from `SDE` and gives only f (`drift`) and g (`diffusion`). Without a kernel p(x_t|x_0) it is trained by
implicit score matching on x_t, which is simulated forward from the data; denoising needs the kernel and is refused.
Backwards in time it generates data: dx = [f - g² s] dt + g dw̄ (Anderson 1982), or the probability flow f - ½ g² s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from driftspec.components import Distribution, Dynamics, Network
from driftspec.components.component import default
from driftspec_plugins.dynamics._smooth import smooth

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn


class Scored(Dynamics):
    """The base class of SDEs with a time and a network for the score."""

    default_sampler = "euler_maruyama"

    network: Network = default("mlp", "the trained network, a function of (t, x)")
    predicts: str = Field("score", description="the network's output; a subclass lists the possible values")
    t_data: float = Field(
        1e-3, ge=0, lt=1, description="the time at which the model has the data's distribution; at 0 s may be infinite"
    )

    def offers(self) -> frozenset[str]:
        return frozenset({"drift", "score", "trainable"}) | smooth(self.network, self.predicts)

    def times(self) -> tuple[float, float]:
        return 1.0, self.t_data

    def ending_at(self, t_data: float) -> Self:
        return self.model_copy(update={"t_data": t_data})

    def network_derivatives(self) -> int:
        return int(self.predicts == "energy")

    def build(self, dim: int, generator: Generator) -> nn.Module:
        return self.network.build(dim, 1 if self.predicts == "energy" else dim, generator)

    def score(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return s(x, t) (B, d): the network, or -∇E if the network predicts an energy E."""
        from driftspec.autodiff import gradient

        if self.predicts == "score":
            return module(t, x)
        return -gradient(lambda y: module(t, y).squeeze(-1), x)[1]


class SDE(Scored):
    """dx = f(x, t) dt + g(t) dw; a subclass in a plugin adds `drift` and `diffusion`."""

    predicts: Literal["score", "energy"] = Field("score", description="the network's output: s, or E with s = -∇E")
    prior: Distribution = default("gaussian", "the distribution at t = 1, as close as possible to that of the SDE")

    def offers(self) -> frozenset[str]:
        known = "log_prob" in self.prior.offers()
        return super().offers() | ({"prior"} if known else set())

    def prior_law(self) -> Distribution:
        return self.prior
