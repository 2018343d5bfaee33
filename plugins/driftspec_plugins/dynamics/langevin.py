"""The Langevin SDE, whose stationary density is p: dx = ½ ∇log p(x) dt + dw, that is f = ½ s and g = 1.

The Fokker-Planck equation is ∂p/∂t = -∇·(½ s p) + ½ Δp = 0 for s = ∇log p. The score comes from a network, from an
energy network (p ∝ e^{-E}, s = -∇E, which does not need Z), or from a known target, which needs no training. For a
likelihood `driftspec_plugins.metrics._log_z` computes log Z.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from driftspec.components import Distribution, Dynamics, Network
from driftspec_plugins.dynamics._smooth import smooth

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn


class Langevin(Dynamics):
    """dx = ½ s(x) dt + dw, with the score s of a network, an energy or a target. The step size η is dt."""

    type = "langevin"
    example: ClassVar[Mapping[str, Any]] = {"network": "mlp"}
    default_sampler = "langevin"

    network: Network | None = Field(None, description="the trained network; not together with target")
    target: Distribution | None = Field(None, description="a known distribution, in its own units; without network")
    predicts: Literal["score", "energy"] = Field("score", description="what the network's output is")
    confine: float | Literal["none"] | None = Field(
        None,
        description="c of E(x) = net(x) + ‖x‖²/(2c²), model units (default 3); none: Z may be infinite; energies only",
    )

    @field_validator("confine")
    @classmethod
    def _positive(cls, confine: float | str | None) -> float | str | None:
        if isinstance(confine, float) and confine <= 0:
            raise ValueError("must be more than 0, or none")
        return confine

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.network is None) == (self.target is None):
            raise ValueError("a langevin dynamics has either a network or a target")
        if self.confine is not None and (self.network is None or self.predicts != "energy"):
            raise ValueError("confine has a use only for a network that predicts energy")
        return self

    def offers(self) -> frozenset[str]:
        if self.target is not None:
            return frozenset({"drift", "score"}) | (self.target.offers() & {"log_prob", "energy"})
        own = frozenset({"drift", "score", "trainable", self.predicts})
        return own if self.network is None else own | smooth(self.network, self.predicts)

    def build(self, dim: int, generator: Generator) -> nn.Module:
        """Return the network; for a target, a module with only a buffer that holds the dtype and device."""
        if self.network is None:
            import torch

            known = torch.nn.Module()
            known.register_buffer("unit", torch.ones(()), persistent=False)
            return known
        return self.network.build(dim, 1 if self.predicts == "energy" else dim, generator)

    def confinement(self) -> float | None:
        """Return c, or inf for `none`; None for a target and for a network that predicts a score."""
        if self.network is None or self.predicts != "energy":
            return None
        return math.inf if self.confine == "none" else 3.0 if self.confine is None else float(self.confine)

    def network_derivatives(self) -> int:
        return int(self.predicts == "energy")

    def energy(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return E(x) = net(x) + ‖x‖²/(2c²) (B,), or -log p(x) of a target."""
        if self.target is not None:
            return -self.target.log_prob(x)
        t, c = x.new_zeros(()), self.confinement()
        value = module(t, x).squeeze(-1)
        return value if c is None or c == math.inf else value + x.square().sum(-1) / (2 * c * c)

    def log_prob(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return log p(x) (B,) of the target."""
        return -self.energy(module, x)

    def score(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return s(x) (B, d): the score of the target, the network's output, or -∇E. It does not depend on t."""
        from driftspec.autodiff import gradient

        if self.target is not None:
            return self.target.score(x)
        if self.predicts == "score":
            return module(x.new_zeros(()), x)
        return -gradient(lambda y: self.energy(module, y), x)[1]

    def drift(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return f(x) = ½ s(x) (B, d)."""
        return self.score(module, t, x) / 2

    def diffusion(self, t: Tensor) -> Tensor:
        """Return g(t) = 1, of the shape of t, () or (B,)."""
        import torch

        return torch.ones_like(t)

    def target_law(self) -> Distribution | None:
        return self.target

    def smallest_variance(self) -> float | None:
        """Return the smallest variance of a normal target; else None."""
        return None if self.target is None else self.target.smallest_variance()
