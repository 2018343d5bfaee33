"""Contrastive divergence: lower the energy at the data and raise it at the model's own draws. Z is not needed.

    ∇_θ E_π[-log p] = E_π[∇_θ E] - E_p[∇_θ E],   L = mean E(x) - mean E(x̃) + λ mean (E(x)² + E(x̃)²)

x̃ is the result of a few steps of a sampler. They start from the batch (CD-k), or from persistent chains that continue
from their last states (PCD): in each training step a batch of these chains moves, and some of them restart first. L is
not a likelihood and its value is no measure of progress: monitor another metric (`train.monitor`).
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
    """Chains that continue from one training step to the next; they are the state of the estimator, in checkpoints."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)

    chains: int = Field(2000, ge=1, description="number of chains; a random batch of them moves in each step")
    restart: float = Field(0.05, ge=0, le=1, description="probability that a chain restarts before it moves")
    start: Start = Field("data", description="where chains start and restart: training rows, or a distribution")


def _a_few(body: Any) -> Any:
    """Return the keys of a sampler, with 20 steps if the spec gives no number."""
    keys = {"type": body} if isinstance(body, str) else body
    return {"steps": 20, **keys} if isinstance(keys, dict) else body


class ContrastiveDivergence(Estimator):
    """The mean energy of the batch minus that of draws from the model, with an L2 penalty on both."""

    type = "contrastive_divergence"

    sampler: Annotated[ChainSampler, BeforeValidator(_a_few)] = default(
        {"type": "langevin", "step": 0.02}, "moves the chains, by `steps` (default 20) steps in each training step"
    )
    persistent: Persistent | None = Field(None, description="chains that continue; null: they start from each batch")
    energy_l2: float = Field(0.0, ge=0, description="λ of λ mean(E²), which fixes the additive constant of E")

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
        """Return mean E(x) - mean E(x̃) + λ mean (E(x)² + E(x̃)²), for a batch x (B, d) and draws x̃ (B, d)."""
        import torch

        with torch.no_grad():
            if self.persistent is None:
                moved = self.sampler.carry(model, batch, streams)
                samples = moved.flat()
            else:
                chains, generator = model.like(state["chains"]), streams.generator("chains")
                chosen = torch.randperm(len(chains), generator=generator)[: len(batch)]
                first = self._restarted(self.persistent, model, chains[chosen], generator, streams)
                moved = self.sampler.carry(model, first, streams)
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
        """Return the chains x (n, d), of which a random part is restarted."""
        import torch

        chosen = torch.rand(len(x), generator=generator) < persistent.restart
        if not bool(chosen.any()):
            return x
        fresh = starts(model, persistent.start, len(x), streams.under("restart"))[: len(x)]
        return torch.where(chosen[:, None].to(x.device), fresh, x)
