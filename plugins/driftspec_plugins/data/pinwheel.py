"""A pinwheel: Gaussian arms, bent by a rotation that increases with the distance, in the units of FFJORD.

    x = 2 R(-θ) f,   f = (r, s) = (1 + σ_r ε₁, σ_t ε₂),   θ = 2πk/K + α exp(r),   k uniform in 0, ..., K - 1

R(φ) is the rotation by φ; K = 5, α = 0.25, σ_r = 0.3, σ_t = 0.1. Johnson, Duvenaud, Wiltschko, Datta, Adams 2016;
Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud 2019. Entropy 2.320 nats.

For each arm, a point x has a preimage (r, s) for every root of r = (R(θ(r)) x/2)₁. The map multiplies areas by
|det dx/df| = 4 |1 + α exp(r) s|:

    p(x) = Σ_roots N(r; 1, σ_r²) N(s; 0, σ_t²) / (4 K |1 + α exp(r) s|)

The map folds where α exp(r) s = -1, a curve on which p is infinite. With FFJORD's numbers |ε| ≥ 5.9 there (probability
1e-8); values for which a fold has |ε| < 4 are refused.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from pydantic import Field, ValidationInfo, field_validator

from driftspec.components import Distribution

if TYPE_CHECKING:
    from torch import Generator, Tensor

SCALE = 2.0
CELLS = 256  # number of cells of the circle; at most one root is computed in each
STEEP = 30.0  # α exp(r) is constant above this r
FOLD = 4.0  # the smallest |ε| at which the map may fold


class Pinwheel(Distribution):
    """x = 2 R(-2πk/K - α exp(r)) (r, s), r ~ N(1, σ_r²), s ~ N(0, σ_t²); FFJORD's units (entropy 2.320 nats)."""

    type = "pinwheel"

    arms: int = Field(5, ge=1, le=50, description="K, number of arms")
    rate: float = Field(0.25, gt=0, description="α of the rotation angle α exp(r)")
    radial_std: float = Field(0.3, ge=0.01, le=1, description="σ_r, standard deviation along an arm, before x 2")
    tangential_std: float = Field(
        0.1, ge=0.01, le=1, validate_default=True, description="σ_t, standard deviation across an arm, before x 2"
    )

    @field_validator("tangential_std")
    @classmethod
    def _check_fold(cls, tangential_std: float, info: ValidationInfo) -> float:
        rate, radial_std = info.data.get("rate"), info.data.get("radial_std")
        if rate is not None and radial_std is not None:
            along = [step / 20 for step in range(int(20 * FOLD) + 1)]
            across = [math.exp(-1 - radial_std * e) / (rate * tangential_std) for e in along]
            nearest = min(map(math.hypot, along, across))
            if nearest < FOLD:
                raise ValueError(
                    f"with rate {rate:g} and radial_std {radial_std:g} the arms fold {nearest:.2g} deviations "
                    f"from their centre, nearer than {FOLD:g}: lower one of the three"
                )
        return tangential_std

    def dim(self) -> int:
        return 2

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """Return n samples (n, 2): k uniform in 0, ..., K - 1, f = (1 + σ_r ε₁, σ_t ε₂), then x = 2 R(-θ) f.

        R is a rotation; its angle θ depends on the arm k and on f₁, as at the top of this file.
        """
        import torch

        arm = torch.randint(self.arms, (n,), generator=generator, device=generator.device)
        noise = torch.randn(2, n, generator=generator, dtype=torch.float64, device=generator.device)
        r, s = 1 + self.radial_std * noise[0], self.tangential_std * noise[1]
        return self._spin(r, s, arm)

    def _spin(self, r: Tensor, s: Tensor, arm: Tensor) -> Tensor:
        """Return x = 2 R(-θ) f (n, 2), for f = (r, s) and the number k of the arm, each (n,)."""
        import torch

        angle = 2 * math.pi / self.arms * arm + self.rate * torch.exp(r)
        cos, sin = torch.cos(angle), torch.sin(angle)
        return SCALE * torch.stack([r * cos + s * sin, s * cos - r * sin], 1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) (B,) for x (B, 2), from the sum over preimages. It is computed in float64."""
        import torch

        from driftspec_plugins.data import _mixture

        return torch.cat([self._block(rows / SCALE) for rows in _mixture.chunks(x, 4 * CELLS)]).to(x.dtype)

    def entropy(self) -> float:
        return _entropy(self.arms, self.rate, self.radial_std, self.tangential_std)

    def moments(self) -> tuple[Tensor, Tensor] | None:
        """Return the mean 0 (2,) and covariance ½ E|x|² I, E|x|² = 4 (1 + σ_r² + σ_t²), by symmetry; None for K < 3."""
        import torch

        if self.arms < 3:
            return None
        variance = SCALE**2 * (1 + self.radial_std**2 + self.tangential_std**2) / 2
        return torch.zeros(2, dtype=torch.float64), variance * torch.eye(2, dtype=torch.float64)

    def _block(self, y: Tensor) -> Tensor:
        """Return log p(x) (B,) for x = 2y. Roots are found without gradients; the last two Newton steps have them."""
        import torch

        psi, arm, roots = self._isolate(y.detach())
        length = torch.linalg.vector_norm(y, dim=1, keepdim=True)
        y1 = y[:, :1] * torch.cos(arm) - y[:, 1:] * torch.sin(arm)
        y2 = y[:, :1] * torch.sin(arm) + y[:, 1:] * torch.cos(arm)

        def at(r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Return f₁ and f₂ of f = R(θ(r)) y, and the derivative of r - f₁, which is also det dy/df."""
            angle = self._angle(r)
            s = y1 * torch.sin(angle) + y2 * torch.cos(angle)
            slope = 1 + angle * s
            return y1 * torch.cos(angle) - y2 * torch.sin(angle), s, slope.where(slope.abs() > 1e-6, 1e-6)

        def newton(r: Tensor) -> Tensor:
            f1, _, slope = at(r)
            return r - (r - f1) / slope

        with torch.no_grad():
            r = newton(newton(newton(length * torch.cos(psi))))
        r = newton(newton(r))
        _, s, slope = at(r)
        alone = self._log_normal(r, s) - slope.abs().log() - math.log(self.arms)
        # Far from 0 a cell has many roots: together they have the weight of the cell's share of the circle.
        crowded = self._log_normal(length * torch.cos(psi), length * torch.sin(psi)) - math.log(CELLS)
        log_p = torch.where(roots > 1, crowded, alone).where(roots > 0, -math.inf)
        return torch.logsumexp(log_p, -1) - 2 * math.log(SCALE)

    def _isolate(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the angle ψ of f, the angle of its arm and the number of roots, (B, M), for the M likeliest cells.

        With y = ρ (cos φ, sin φ) and f = ρ (cos ψ, sin ψ), a root is where ψ - θ(ρ cos ψ) - φ is a multiple of 2π/K.
        """
        import torch

        grid = torch.linspace(-math.pi, math.pi, CELLS + 1, dtype=y.dtype, device=y.device)
        length = torch.linalg.vector_norm(y, dim=1, keepdim=True)
        step = 2 * math.pi / self.arms
        turns = (grid - self._angle(length * grid.cos()) - torch.atan2(y[:, 1:], y[:, :1])) / step
        low, high = torch.minimum(turns[:, 1:], turns[:, :-1]), torch.maximum(turns[:, 1:], turns[:, :-1])
        roots = high.floor() - low.floor()
        middle = (grid[1:] + grid[:-1]) / 2
        height = self._log_normal(length * middle.cos(), length * middle.sin())
        kept = height.where(roots > 0, -math.inf).topk(min(CELLS, 2 * self.arms + 6)).indices
        roots, first, last = roots.gather(1, kept), turns.gather(1, kept), turns.gather(1, kept + 1)
        index = torch.minimum(first, last).floor() + 1
        part = ((index - first) / (last - first)).where(roots == 1, 0.5)
        return grid[kept] + part * (grid[1] - grid[0]), index * step, roots

    def _angle(self, r: Tensor) -> Tensor:
        """Return θ(r) = α exp(r), which is also θ'(r)."""
        return self.rate * r.clamp(max=STEEP).exp()

    def _log_normal(self, r: Tensor, s: Tensor) -> Tensor:
        """Return log N(r; 1, σ_r²) + log N(s; 0, σ_t²)."""
        scale = math.log(2 * math.pi * self.radial_std * self.tangential_std)
        return -((r - 1) / self.radial_std).square() / 2 - (s / self.tangential_std).square() / 2 - scale


@functools.cache
def _entropy(arms: int, rate: float, radial_std: float, tangential_std: float) -> float:
    """Return -E[log p] by the trapezoidal rule over ε₁ and ε₂, for one arm, because all arms give the same."""
    import torch

    data = Pinwheel(arms=arms, rate=rate, radial_std=radial_std, tangential_std=tangential_std)
    z = torch.linspace(-8, 8, 97, dtype=torch.float64)
    first, second = torch.cartesian_prod(z, z).T
    with torch.no_grad():
        log_p = data.log_prob(data._spin(1 + radial_std * first, tangential_std * second, torch.zeros_like(first)))
    weight = torch.exp(-(first.square() + second.square()) / 2)
    return -float((weight * log_p).sum() / weight.sum())


__all__ = ["Pinwheel"]
