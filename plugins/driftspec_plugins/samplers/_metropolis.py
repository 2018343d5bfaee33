"""Metropolis-Hastings: a proposal y is accepted with probability min(1, r), so that p is exactly invariant.

Metropolis, Rosenbluth, Rosenbluth, Teller, Teller 1953; Hastings 1970. A subclass computes y and log r.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from driftspec.components import Distribution, Verdict
from driftspec.components.component import Need
from driftspec.errors import RunFailed
from driftspec.numerics.chains import ChainSampler, Moved, Noise

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Model


ROUNDED = 0.1
"""The largest rounding error of log p, in nats, without a warning."""


@dataclass(frozen=True)
class Current:
    """log p and ∇log p of the chains' current states, and the step size of each chain."""

    log_p: Tensor  # (B,), up to a constant; float64 if nothing is trained
    slope: Tensor  # (B, d), ∇log p
    log_step: Tensor  # (B,), log of the step size, with the dtype of the state
    number: int  # the number of steps made


class Metropolis(ChainSampler):
    """A sampler that accepts or rejects proposals. It can adapt the step size of each chain during burn-in."""

    example: ClassVar[Mapping[str, Any]] = {"step": 0.1}
    step: float = Field(
        gt=0, description="step size (mala: η of x + (η/2) s + √η ε; hmc: h, the length of a leapfrog step)"
    )
    adapt: bool = Field(
        False,
        description="whether each chain adapts its step size to the acceptance rate `target`, during burn_in or the "
        "first half of `steps`; then the step size is constant",
    )
    target: float = Field(0.574, gt=0, lt=1, description="acceptance rate to which `adapt` tunes the step size")

    def needs(self) -> tuple[Need, ...]:
        return (Need("dynamics", ("energy", "log_prob"), "to accept or reject: log p up to a constant"),)

    def offers(self) -> frozenset[str]:
        return super().offers() | {"acceptance"}

    def predicts(self, law: Distribution) -> bool:
        return type(law).moments is not Distribution.moments

    def predicted(self, law: Distribution) -> tuple[Tensor, Tensor]:
        """Return mean (d,) and covariance (d, d) of the draws, which are those of the target."""
        moments = law.moments()
        if moments is None:
            raise RunFailed(f"{self.label}: the moments of {law.label} are not known")
        return moments

    def adapts(self) -> bool:
        return self.adapt

    def begin(self, model: Model, x: Tensor, asked: int) -> Current:
        """Return log p and ∇log p at the starts x (B, d). Raise RunFailed if they are not finite."""
        log_p, slope = model.log_density_and_score(x)
        bad = (~(log_p.isfinite() & slope.isfinite().all(1)))[:asked].nonzero().flatten()
        if len(bad):
            where = f"chain {int(bad[0])} begins where log p is {float(log_p[bad[0]])} or has no gradient"
            raise RunFailed(f"{self.label}: {where}: give another start", "bad_start", 0)
        return Current(log_p, slope, x.new_full((len(x),), math.log(self.step)), 0)

    def propose(self, model: Model, x: Tensor, at: Current, noise: Noise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the proposals y (B, d), log p(y) (B,), ∇log p(y) (B, d) and log r (B,), from x (B, d)."""
        raise NotImplementedError

    def advance(self, model: Model, x: Tensor, state: Current, noise: Noise, warming: bool) -> Moved:
        """Return y for each chain with probability min(1, r), else x (B, d), with counts.

        A proposal is rejected if its density is 0, or if a value is not finite; the second case is counted.
        """
        import torch

        y, log_p, slope, log_ratio = self.propose(model, x, state, noise)
        nowhere = log_p == -torch.inf
        broken = ~nowhere & ~(log_p.isfinite() & log_ratio.isfinite() & slope.isfinite().all(1))
        log_ratio = log_ratio.masked_fill(nowhere | broken, -torch.inf)
        accepted = noise.uniform.log() < log_ratio
        log_step = state.log_step
        if self.adapt and warming:  # Robbins-Monro: Σ gain is infinite, Σ gain² is finite
            log_step = log_step + (state.number + 1) ** -0.6 * (log_ratio.clamp(max=0).exp().to(x) - self.target)
        current = Current(
            torch.where(accepted, log_p, state.log_p),
            torch.where(accepted[:, None], slope, state.slope),
            log_step,
            state.number + 1,
        )
        counts = {"non_finite_proposals": broken.long()}
        if not warming:
            counts |= {"accepted": accepted.long(), "proposed": torch.ones_like(accepted, dtype=torch.long)}
        return Moved(torch.where(accepted[:, None], y, x), current, counts)

    def log_p(self, state: Current) -> Tensor:
        """Return log p (B,) of the current states, up to a constant."""
        return state.log_p

    def doubts(self, log_p: Tensor | None) -> tuple[Verdict, ...]:
        """Return a warning if rounding of log p (chains, draws) changes log r, which is a difference of two log p."""
        import torch

        if log_p is None:
            return ()
        largest = float(log_p.abs().max())
        off = torch.finfo(log_p.dtype).eps * largest
        if off <= ROUNDED:
            return ()
        text = f"|log p| of the draws reaches {largest:.3g}, which {str(log_p.dtype).removeprefix('torch.')} rounds"
        reason = f"{text} by {off:.2g}: acceptance is partly noise; shift the energy, or take runtime.dtype: float64"
        return (Verdict("rounding", "metropolis_ratio_rounded", reason, "warning"),)

    def rates(self, state: Current, counts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return each chain's acceptance rate after burn-in (chains,), and its step size (chains,)."""
        accepted = {"acceptance": counts["accepted"] / counts["proposed"]} if "proposed" in counts else {}
        return {**accepted, "step": state.log_step.exp()}
