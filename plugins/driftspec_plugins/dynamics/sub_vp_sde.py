"""The sub-VP SDE: dx = -½ β(t) x dt + √(β(t) (1 - e^{-2 ∫β})) dw, whose variance stays below the VP SDE's at every t.

    α(t) = exp(-½ ∫_0^t β),   σ(t) = 1 - α(t)²,   prior N(0, I)

Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, *Score-Based Generative Modeling through SDEs*, 2021.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from driftspec_plugins.dynamics.vp_sde import VPSDE

if TYPE_CHECKING:
    from torch import Tensor


class SubVPSDE(VPSDE):
    """dx = -½ β x dt + √(β (1 - e^{-2∫β})) dw."""

    type = "sub_vp_sde"

    def diffusion(self, t: Tensor) -> Tensor:
        """Return g(t) = √(β(t) (1 - e^{-2 ∫β})), of the shape of t, () or (B,)."""
        import torch

        return (-self.rate(t) * torch.expm1(-2 * self.total(t))).sqrt()

    def kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return α(t) = exp(-½ ∫β) and σ(t) = 1 - α(t)², of the shape of t, () or (B,)."""
        import torch

        total = self.total(t)
        return torch.exp(-total / 2), -torch.expm1(-total)

    def lowest_noise(self) -> float:
        return super().lowest_noise() ** 2
