"""The kit's own samplers, which make draws for the metrics under test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Generator, Tensor

from driftspec.components import Course, Draws, Model, Sampler, Setting
from driftspec.errors import RunFailed
from driftspec.numerics.chains import ChainSampler, Moved, Noise

if TYPE_CHECKING:
    from driftspec.components import VectorField

STEP = 0.2


class Push(Sampler):
    """Draws of the prior, transported along the velocity in twenty Euler steps."""

    type = "kit_push"

    def draw_block(self, model: Model, generator: Generator) -> Draws:
        """Return one block of draws."""
        x = model.like(model.prior().sample(self.BLOCK, generator, model.dim))
        t_prior, t_data = model.dynamics.times()
        times = torch.linspace(t_prior, t_data, 21, dtype=torch.float64)
        with torch.no_grad():
            for t, after in pairwise(times):
                x = x + (after - t).to(x) * model.velocity(t.to(x), x)
        return Draws(x[:, None])


class Walk(ChainSampler):
    """Random-walk Metropolis with normal proposals."""

    type = "kit_walk"

    def offers(self) -> frozenset[str]:
        return super().offers() | {"acceptance"}

    def begin(self, model: Model, x: Tensor, asked: int) -> None:
        """Raise RunFailed if log p at the start x (chains, d) is not finite: then p(y)/p(x) is not defined."""
        if not bool(model.log_density(x)[:asked].isfinite().all()):
            raise RunFailed(f"{self.label}: chains begin where log p has no value", "bad_start", 0)

    def advance(self, model: Model, x: Tensor, state: Any, noise: Noise, warming: bool) -> Moved:
        """Propose y = x + 2 √0.2 ε at x (chains, d), accepted with probability min(1, p(y)/p(x))."""
        y = x + 2 * STEP**0.5 * noise.normal
        taken = noise.uniform.log() < model.log_density(y) - model.log_density(x)
        ones = torch.ones(len(x), dtype=torch.long)
        counts = {} if warming else {"accepted": taken.long(), "proposed": ones}
        return Moved(torch.where(taken[:, None], y, x), None, counts)

    def rates(self, state: Any, counts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the fraction (chains,) of accepted proposals."""
        return {"acceptance": counts["accepted"] / counts["proposed"]} if "proposed" in counts else {}


class Steps(ChainSampler):
    """x' = x + (h/2) s(x) + noise √h ε: the Langevin SDE in Euler-Maruyama steps of size h, s the score."""

    type = "kit_steps"
    step: float = Field(STEP, gt=0, description="h")
    noise: float = Field(1.0, ge=0, description="factor of √h ε")

    def offers(self) -> frozenset[str]:
        return super().offers() | ({"motion", "climb"} if self.chains is None else set())

    def course(self, around: Setting) -> Course:
        return Course(self.begins(around), self.step * self.before(), self.before())

    def motion(self, model: Model) -> tuple[VectorField, Callable[[Tensor], Tensor]]:
        """Return drift and diffusion of the SDE: (t, x (B, d)) -> s(x)/2 (B, d), and t -> noise in the shape of t."""

        def drift(t: Tensor, x: Tensor) -> Tensor:
            return model.score(x.new_tensor(model.t_data), x) / 2

        return drift, lambda t: torch.full_like(t, self.noise)

    def halved(self) -> Steps:
        return self.model_copy(update={"step": self.step / 2, "steps": 2 * self.before()})

    def without_noise(self) -> Steps:
        return self.model_copy(update={"noise": 0.0})

    def advance(self, model: Model, x: Tensor, state: Any, noise: Noise, warming: bool) -> Moved:
        """Return x + (h/2) s(x) + noise √h ε (chains, d)."""
        slope = model.score(x.new_tensor(model.t_data), x)
        return Moved(x + self.step / 2 * slope + self.noise * self.step**0.5 * noise.normal)


__all__ = ["Push", "Steps", "Walk"]
