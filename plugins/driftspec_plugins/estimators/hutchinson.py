"""Maximum likelihood with a random estimate of the divergence, by K vector-Jacobian products in any dimension d.

    tr(A) = E[vᵀ A v],  E[v vᵀ] = I;    tr(∂f/∂x) ≈ 1/K Σ_k v_kᵀ (∂f/∂x) v_k
    variance of one probe, S = (A + Aᵀ)/2:  2 ‖S‖²_F (Gaussian),  2 (‖S‖²_F - Σ_i S_ii²) (Rademacher)

Each row has its own v, drawn once for each solve and fixed during it; with new noise at each evaluation the equation
would not be an ODE. log p, the integral of the estimate along a trajectory, is in `driftspec.numerics.likelihood`.
M. F. Hutchinson 1989; W. Grathwohl, R. T. Q. Chen, J. Bettencourt, I. Sutskever, D. Duvenaud, FFJORD, 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from driftspec.components import Trace

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Hutchinson(Trace):
    """tr(∂f/∂x) ≈ 1/K Σ_k v_kᵀ (∂f/∂x) v_k, with v_k fixed during a solve. Hutchinson 1989; Grathwohl et al. 2019."""

    type = "hutchinson"

    probes: int = Field(1, ge=1, description="K, probe vectors averaged")
    noise: Literal["rademacher", "gaussian"] = Field(
        "rademacher", description="distribution of v: random signs (less variance) or N(0, I)"
    )

    def probe_count(self) -> int:
        return self.probes

    def probe(self, x: Tensor, generator: Generator) -> Tensor:
        """Return v (K, B, d) in the dtype of x (B, d), drawn with `generator`."""
        import torch

        v = torch.empty(self.probes, *x.shape, dtype=x.dtype, device=generator.device)
        if self.noise == "gaussian":
            v.normal_(generator=generator)
        else:
            v.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
        return v.to(x.device)

    def divergence(
        self, f: Callable[[Tensor], Tensor], x: Tensor, probe: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return f(x) (B, d) and the mean over k of v_kᵀ (∂f/∂x) v_k (B,), for the probes v (K, B, d)."""
        import torch

        from driftspec.autodiff import pullback

        if probe is None:
            raise ValueError(f"{self.label} needs the vectors that probe(x, generator) draws")
        value, vjp = pullback(f, x)
        return value, torch.stack([(vjp(v) * v).sum(-1) for v in probe]).mean(0)
