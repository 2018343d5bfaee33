"""Contrastive divergence: lower the energy at the data and raise it at the model's own samples, with no need of Z.

    ∇_θ E_π[-log p] = E_π[∇_θ E] - E_p[∇_θ E],   L = mean E(x) - mean E(x̃) + λ mean (E(x)² + E(x̃)²)

x̃ follows from a few steps of a sampler, from the batch itself (CD-k), or from persistent chains that go on where the
last step left them (PCD): then a batch of them moves at a time, and a fraction of those begins anew. L is no likelihood
and its value says little: watch another metric (`train.monitor`).
Hinton, *Training Products of Experts by Minimizing Contrastive Divergence*, 2002; Tieleman, *Training Restricted
Boltzmann Machines using Approximations to the Likelihood Gradient*, 2008; restarts and λ: Du, Mordatch, *Implicit
Generation and Modeling with Energy-Based Models*, 2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from driftspec.components import Estimator, Loss
from driftspec.components.component import Need, default
from driftspec.numerics.chains import ChainSampler, Start, starts

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from driftspec.components import Dynamics, Model
    from driftspec.streams import Streams


class Persistent(BaseModel):
    """Chains that outlive the step: the estimator's state, in the checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)

    chains: int = Field(2000, ge=1, description="chains kept; a batch of them, drawn at random, moves each step")
    restart: float = Field(0.05, ge=0, le=1, description="probability that a chain begins anew before it moves")
    start: Start = Field("data", description="where chains begin, and begin anew: training rows, or a law (noise)")


def _a_few(body: Any) -> Any:
    """A sampler of 20 steps where the spec says no number."""
    keys = {"type": body} if isinstance(body, str) else body
    return {"steps": 20, **keys} if isinstance(keys, dict) else body


class ContrastiveDivergence(Estimator):
    """Mean energy of the batch less that of samples of the model, with L2 on both."""

    type = "contrastive_divergence"

    sampler: Annotated[ChainSampler, BeforeValidator(_a_few)] = default(
        {"type": "langevin", "step": 0.02}, "moves the chains, `steps` (default 20) at a time"
    )
    persistent: Persistent | None = Field(None, description="chains kept from step to step; null: from the batch anew")
    energy_l2: float = Field(0.0, ge=0, description="λ of λ mean(E²), which holds the level of E that p does not see")

    @model_validator(mode="after")
    def _no_burn_in(self) -> Self:
        if self.sampler.adapts():
            raise ValueError("'adapt' has no use in the sampler of an estimator: its chains never burn in")
        return self

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("data", ("samples",), "to learn from"),
            Need("dynamics", ("energy",), "to lower at the data and raise at samples"),
        )

    def needs_density(self, dynamics: Dynamics) -> bool:
        return True

    def start(self, model: Model, streams: Streams) -> Any:
        if self.persistent is None:
            return {}
        return {
            "chains": starts(model, self.persistent.start, self.persistent.chains, streams)[: self.persistent.chains]
        }

    def loss(self, model: Model, batch: Tensor, state: Any, streams: Streams) -> Loss:
        import torch

        with torch.no_grad():
            if self.persistent is None:
                moved = self.sampler.carry(model, batch, streams)
                samples = moved.flat()
            else:
                chains, generator = model.like(state["chains"]), streams.generator("chains")
                chosen = torch.randperm(len(chains), generator=generator)[: len(batch)]
                begun = self._restarted(self.persistent, model, chains[chosen], generator, streams)
                moved = self.sampler.carry(model, begun, streams)
                samples = moved.flat()
                state = {**state, "chains": chains.index_copy(0, chosen.to(chains.device), samples)}
        data, own = model.dynamics.energy(model.module, batch), model.dynamics.energy(model.module, samples)
        terms = {"energy_data": float(data.detach().mean()), "energy_samples": float(own.detach().mean())}
        if moved.stats.get("proposed"):
            terms["acceptance"] = moved.stats["accepted"] / moved.stats["proposed"]
        value = data.mean() - own.mean() + self.energy_l2 * (data.square().mean() + own.square().mean())
        return Loss(value, terms, state)

    def _restarted(
        self, persistent: Persistent, model: Model, x: Tensor, generator: Generator, streams: Streams
    ) -> Tensor:
        """The chains x (n, d), some of them begun anew."""
        import torch

        anew = torch.rand(len(x), generator=generator) < persistent.restart
        if not bool(anew.any()):
            return x
        fresh = starts(model, persistent.start, len(x), streams.under("restart"))[: len(x)]
        return torch.where(anew[:, None].to(x.device), fresh, x)
