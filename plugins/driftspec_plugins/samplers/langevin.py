"""Langevin dynamics, the lecture's step: x' = x + (η/2) ∇log p(x) + √η ε, ε ~ N(0, I).

It is the Euler-Maruyama step of the Langevin SDE with dt = η, so its stationary distribution is only approximately p.
For p = N(0, Σ) the stationary covariance is Σ (I - (η/4) Σ⁻¹)⁻¹, and for η ≥ 4 σ²_min the chain diverges. With a
temperature τ the noise is √(τη) ε, and the distribution is p^{1/τ} up to a constant; with τ = 0 the chain goes to a
mode. Roberts, Tweedie 1996; Welling, Teh 2011. Many libraries call η/2 the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from driftspec.components import Course, Distribution, Setting, beginning
from driftspec.components.component import Need
from driftspec.errors import RunFailed
from driftspec.numerics.chains import ChainSampler, Moved, Noise

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Model, VectorField


class Langevin(ChainSampler):
    """The unadjusted Langevin algorithm (ULA)."""

    type = "langevin"
    example: ClassVar[Mapping[str, Any]] = {"step": 0.05}

    step: float = Field(gt=0, description="η of x + (η/2) s + √η ε, model units squared")
    temperature: float = Field(1.0, ge=0, description="τ: draws are from p^{1/τ}; with 0 each chain goes to a mode")

    def offers(self) -> frozenset[str]:
        return super().offers() | ({"motion", "climb"} if self.chains is None else set())

    def needs(self) -> tuple[Need, ...]:
        return (Need("dynamics", ("score",), "to climb"),)

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        yield from super().problems(around)
        smallest = around.dynamics.smallest_variance()
        if smallest is not None and self.step >= 4 * smallest:
            text = f"'step' is {self.step:g}: on a normal distribution of smallest variance {smallest:.6g}"
            yield "step", f"{text} it diverges from {4 * smallest:.6g} on (4 σ²_min): take a smaller one"

    def course(self, around: Setting) -> Course:
        """Return where the chains begin, the time k η of k steps, and k."""
        return Course(self.begins(around), self.step * self.before(), self.before())

    def motion(self, model: Model) -> tuple[VectorField, Callable[[Tensor], Tensor]]:
        """Return the drift ½ s(x) (B, d) and the diffusion √τ (), for the time k η."""
        import torch

        g = math.sqrt(self.temperature)
        return lambda t, x: model.score(x.new_tensor(model.t_data), x) / 2, lambda t: torch.full_like(t, g)

    def no_law(self) -> str | None:
        """Return why there is no stationary distribution at τ = 0, else None."""
        text = "at temperature 0 each chain goes to a mode, so the last states are no draws of a distribution"
        return text if self.temperature == 0 else None

    def halved(self) -> Self:
        return self.model_copy(update={"step": self.step / 2, "steps": 2 * self.before()})

    def without_noise(self) -> Self:
        return self.model_copy(update={"temperature": 0.0})

    def predicts(self, law: Distribution) -> bool:
        return law.smallest_variance() is not None

    def predicted(self, law: Distribution) -> tuple[Tensor, Tensor]:
        """Return the mean m (d,) and covariance V = τ Σ (I - (η/4) Σ⁻¹)⁻¹ (d, d) of draws from a normal target N(m, Σ).

        After k steps from a start with mean m₀ and covariance V₀ they are m + Aᵏ (m₀ - m) and V + Aᵏ (V₀ - V) Aᵏ, with
        A = I - (η/2) Σ⁻¹. This is used for chains of one draw if m₀ and V₀ are known; the default start is N(0, I).
        """
        import torch

        moments = law.moments()
        if moments is None or not self.predicts(law):
            raise RunFailed(f"{self.label} predicts the moments of a normal target only, not of {law.label}")
        mean, covariance = moments
        unit, inverse = torch.eye(len(mean), dtype=torch.float64), torch.linalg.inv(covariance)
        balance = self.temperature * torch.linalg.inv(unit - self.step / 4 * inverse) @ covariance
        start = beginning(self.start)
        first = start.in_dimensions(len(mean)).moments() if isinstance(start, Distribution) else None
        if self.chains is not None or first is None:
            return mean, balance
        power = torch.linalg.matrix_power(unit - self.step / 2 * inverse, self.before())
        return mean + power @ (first[0] - mean), balance + power @ (first[1] - balance) @ power

    def advance(self, model: Model, x: Tensor, state: Any, noise: Noise, warming: bool) -> Moved:
        """Return x' = x + (η/2) s(x) + √(τη) ε (B, d)."""
        slope = model.score(x.new_tensor(model.t_data), x)
        return Moved(x + self.step / 2 * slope + math.sqrt(self.temperature * self.step) * noise.normal)
