"""A known ODE with closed solutions, which is not trained: dz/dt = c M φ(z), φ_i(z) = sign(z_i) |z_i|^p.

Picard's theorem: if f is uniformly Lipschitz in z and continuous in t, there is one solution from each z(t_0). The
exponent p decides whether f is:

    p = 1    Lipschitz                       z(t) = e^{cMt} z(0)
    p < 1    not Lipschitz at 0              |z(t)|^{1-p} = |z(0)|^{1-p} + (1-p) c t    for M = I
    p > 1    Lipschitz in a bounded set      the same, also for M = I

At t* = |z(0)|^{1-p} / ((p-1) c), if it is positive, the right-hand side is 0. For p > 1 and c > 0 the solution is then
infinite. For p < 1 and c < 0 it has arrived at 0 and stays there, so that 0 has many pasts.

The divergence is c p Σ_i M_ii |z_i|^{p-1}; f is continuously differentiable for p ≥ 1. É. Picard 1890.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from driftspec.components import Distribution, Dynamics, Setting
from driftspec.components.component import default

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from driftspec.components import Rates


class Power(Dynamics):
    """dz/dt = c M sign(z) |z|^p, from a prior draw z at t_prior to a data point x at t_data. Nothing is trained."""

    type = "power"
    default_sampler = "ode"
    default_metrics = ("round_trip",)

    exponent: float = Field(1.0, gt=0, description="p; 1 is a linear field, below 1 it is not Lipschitz at 0")
    rate: float = Field(1.0, description="c")
    matrix: tuple[tuple[float, ...], ...] | None = Field(None, description="M, d rows of d numbers; null: I")
    prior: Distribution = default("gaussian", "distribution at t_prior; N(0, I) by default")
    time: tuple[float, float] = Field((0.0, 1.0), description="[t_prior, t_data]")

    @field_validator("time")
    @classmethod
    def _some_time(cls, time: tuple[float, float]) -> tuple[float, float]:
        if time[0] == time[1]:
            raise ValueError("t_prior and t_data must differ")
        return time

    @field_validator("matrix")
    @classmethod
    def _square(cls, matrix: tuple[tuple[float, ...], ...] | None) -> tuple[tuple[float, ...], ...] | None:
        if matrix is not None and (not matrix or any(len(row) != len(matrix) for row in matrix)):
            raise ValueError("a square matrix has d rows of d numbers")
        return matrix

    def offers(self) -> frozenset[str]:
        prior = {"prior"} if "log_prob" in self.prior.offers() else set[str]()
        return frozenset({"velocity"}) | prior | ({"smooth"} if self.exponent >= 1 else set())

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        d = None if around.data is None else around.data.dim()
        if self.matrix is not None and d is not None and len(self.matrix) != d:
            yield "matrix", f"'matrix' is for {len(self.matrix)} dimensions, and the data have {d}"

    def times(self) -> tuple[float, float]:
        return self.time

    def build(self, dim: int, generator: Generator) -> nn.Module:
        """Return a module without parameters, whose buffer `field` is c M (d, d)."""
        import torch

        known = torch.nn.Module()
        matrix = torch.eye(dim) if self.matrix is None else torch.tensor(self.matrix, dtype=torch.float64)
        known.register_buffer("field", self.rate * matrix.double(), persistent=False)
        return known

    def velocity(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return c M φ(x) (B, d)."""
        shaped = x if self.exponent == 1 else x.sign() * x.abs() ** self.exponent
        return shaped @ module.get_buffer("field").T

    def closed_divergence(self, module: nn.Module) -> Rates:
        """Return (t, x) -> (f, c p Σ_i M_ii |x_i|^{p-1})."""

        def rates(t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            slope = self.exponent * x.abs() ** (self.exponent - 1)
            return self.velocity(module, t, x), slope @ module.get_buffer("field").diagonal()

        return rates

    def prior_law(self) -> Distribution:
        return self.prior
