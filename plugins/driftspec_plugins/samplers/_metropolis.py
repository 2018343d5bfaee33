"""Metropolis-Hastings: a proposal y is accepted with probability min(1, r), so that p is exactly kept.

Metropolis, Rosenbluth, Rosenbluth, Teller, Teller 1953; Hastings 1970. A member of the family proposes and says log r.
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
"""Rounding of log p, in nats, above which the ratio of two densities is noise."""


@dataclass(frozen=True)
class Here:
    """What is known where the chains stand."""

    log_p: Tensor  # (B,), up to a constant; float64 of a known law
    slope: Tensor  # (B, d), ∇log p
    log_step: Tensor  # (B,), each chain's own step, of the state's dtype
    number: int  # steps made


class Metropolis(ChainSampler):
    """The loop's step for every method that proposes: accept or reject, and in burn-in adapt each chain's own step."""

    example: ClassVar[Mapping[str, Any]] = {"step": 0.1}
    step: float = Field(gt=0, description="size of a step (mala: η of x + (η/2) s + √η ε; hmc: length of a leapfrog)")
    adapt: bool = Field(
        False,
        description="each chain moves its own step towards the rate `target` during burn_in, "
        "or the first half of `steps`; then it stays",
    )
    target: float = Field(0.574, gt=0, lt=1, description="rate of acceptance that adaptation aims at")

    def needs(self) -> tuple[Need, ...]:
        return (Need("dynamics", ("energy", "log_prob"), "to accept or reject: log p up to a constant"),)

    def offers(self) -> frozenset[str]:
        return super().offers() | {"acceptance"}

    def predicts(self, law: Distribution) -> bool:
        return type(law).moments is not Distribution.moments

    def predicted(self, law: Distribution) -> tuple[Tensor, Tensor]:
        """The target's own: the step has no bias."""
        moments = law.moments()
        if moments is None:
            raise RunFailed(f"{self.label}: the moments of {law.label} are not known")
        return moments

    def adapts(self) -> bool:
        return self.adapt

    def begin(self, model: Model, x: Tensor, asked: int) -> Here:
        """RunFailed where log p has no value at a chain's start: every proposal would be taken, or none."""
        log_p, slope = model.log_density_and_score(x)
        bad = (~(log_p.isfinite() & slope.isfinite().all(1)))[:asked].nonzero().flatten()
        if len(bad):
            where = f"chain {int(bad[0])} begins where log p is {float(log_p[bad[0]])} or has no slope"
            raise RunFailed(f"{self.label}: {where}: give another start", "bad_start", 0)
        return Here(log_p, slope, x.new_full((len(x),), math.log(self.step)), 0)

    def propose(self, model: Model, x: Tensor, here: Here, chance: Noise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(y (B, d), log p(y) (B,), ∇log p(y) (B, d), log r (B,))."""
        raise NotImplementedError

    def advance(self, model: Model, x: Tensor, state: Here, chance: Noise, warming: bool) -> Moved:
        """Accept or reject. A proposal that is no number is rejected, and counted; one of density 0 just rejected."""
        import torch

        y, log_p, slope, log_ratio = self.propose(model, x, state, chance)
        nowhere = log_p == -torch.inf
        broken = ~nowhere & ~(log_p.isfinite() & log_ratio.isfinite() & slope.isfinite().all(1))
        log_ratio = log_ratio.masked_fill(nowhere | broken, -torch.inf)
        accepted = chance.uniform.log() < log_ratio
        log_step = state.log_step
        if self.adapt and warming:  # Robbins and Monro: gains whose sum is infinite and whose squares' sum is not
            log_step = log_step + (state.number + 1) ** -0.6 * (log_ratio.clamp(max=0).exp().to(x) - self.target)
        here = Here(
            torch.where(accepted, log_p, state.log_p),
            torch.where(accepted[:, None], slope, state.slope),
            log_step,
            state.number + 1,
        )
        counts = {"non_finite_proposals": broken.long()}
        if not warming:
            counts |= {"accepted": accepted.long(), "proposed": torch.ones_like(accepted, dtype=torch.long)}
        return Moved(torch.where(accepted[:, None], y, x), here, counts)

    def log_p(self, state: Here) -> Tensor:
        return state.log_p

    def doubts(self, log_p: Tensor | None) -> tuple[Verdict, ...]:
        """Whether rounding of log p shows in the ratio of two densities: a difference of two log p."""
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

    def rates(self, state: Here, counts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Acceptance after burn-in, and the steps that adaptation came to."""
        accepted = {"acceptance": counts["accepted"] / counts["proposed"]} if "proposed" in counts else {}
        return {**accepted, "step": state.log_step.exp()}
