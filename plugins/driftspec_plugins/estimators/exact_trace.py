"""Maximum likelihood with the exact divergence: tr(∂f/∂x) = Σ_i e_iᵀ (∂f/∂x) e_i, by d vector-Jacobian products.

    ∂p/∂t = -∇·(f p)                        the continuity equation of dx/dt = f(t, x)
    d log p(x(t))/dt = -tr(∂f/∂x)           the same along a trajectory: the instantaneous change of variables
    log det(I + hJ) = h tr J + O(h²)        the same for one step x' = x + h f, J = ∂f/∂x

The determinant of a discrete flow costs O(d³); in the limit of small steps it becomes a trace. log p, the integral of
the trace along a trajectory, is in `driftspec.numerics.likelihood`.
T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, Neural Ordinary Differential Equations, 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from driftspec.components import Trace

if TYPE_CHECKING:
    from torch import Tensor


class ExactTrace(Trace):
    """tr(∂f/∂x) = Σ_i ∂f_i/∂x_i, by d backward passes or a closed form of the network. Chen et al. 2018."""

    type = "exact_trace"

    def exact(self) -> bool:
        return True

    def divergence(
        self, f: Callable[[Tensor], Tensor], x: Tensor, probe: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return f(x) (B, d) and tr(∂f/∂x) (B,), by the closed form if f is a `VelocityAt` that has one."""
        import torch

        from driftspec.autodiff import pullback
        from driftspec.components.model import VelocityAt

        if isinstance(f, VelocityAt) and f.divergence is not None:
            return f.divergence(x)
        value, vjp = pullback(f, x)
        unit = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        diagonal = [vjp(e.expand_as(x))[:, i] for i, e in enumerate(unit)]
        return value, torch.stack(diagonal).sum(0)
