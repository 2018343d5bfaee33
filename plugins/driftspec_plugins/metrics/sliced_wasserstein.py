"""Sliced Wasserstein distance: SW_p(P, Q) = (E_θ W_p^p(θᵀX, θᵀY))^(1/p), θ uniform on the sphere; zero only for P = Q.

Rabin, Peyré, Delon, Bernot, *Wasserstein barycenter and its application to texture mixing*, 2011; Bonneel, Rabin,
Peyré, Pfister, *Sliced and Radon Wasserstein barycenters of measures*, 2015. In one dimension the optimal transport
pairs the sorted values: W_p^p is the mean of |u_(i) - v_(i)|^p.

The standard error is for the draws, the data and the directions. A small change of mass changes SW_p^p by the dual
potentials f, g averaged over the directions, so Var = Var f/n + Var g/n + Var_θ(W_p^p)/L (del Barrio, Loubes, *Central
limit theorems for empirical transportation cost in general dimension*, 2019). Near the floor the potentials are mostly
random, and the standard error is about 1.4 times too large (± 1.96 of it cover 98 %, elsewhere 95 %). It does not
include the bias: the distance of two finite samples of one distribution is not 0; its mean is the floor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from driftspec_plugins.metrics._two_samples import TwoSamples, by_chain, root

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from driftspec.components import Evaluation, Measured

CHUNK = 2_000_000  # largest number of elements of an array


class SlicedWasserstein(TwoSamples):
    """SW_p between the run's draws and data, in data units (a length); it is W_p for d = 1."""

    type = "sliced_wasserstein"

    directions: int = Field(200, ge=2, description="L, number of random directions; for d = 1 there is only one")
    p: Literal[1, 2] = Field(2, description="p, the power of the distance in the transport cost")

    def measure(self, evaluation: Evaluation) -> Measured:
        both = self.paired(evaluation)
        theta = random_directions(self.directions, both.x.shape[1], evaluation.streams.generator("directions"))
        sliced = sliced_wasserstein(both.x, both.y, theta, self.p, both.parts)
        details = {
            "floor": evaluation.floor(lambda a, b: sliced_wasserstein(a, b, theta, self.p).value, len(both.x)),
            "directions": len(theta),
            "stderr_points": both.stated(sliced.stderr_points),
            "stderr_directions": both.stated(sliced.stderr_directions),
        }
        stderr = math.hypot(sliced.stderr_points, sliced.stderr_directions)
        return both.measured(sliced.value, stderr, "data units", details)


@dataclass(frozen=True)
class Sliced:
    """SW_p, and its standard errors from the rows and from the directions."""

    value: float
    stderr_points: float
    stderr_directions: float


def random_directions(count: int, d: int, generator: Generator) -> Tensor:
    """Return θ (L, d), uniform on the unit sphere; (1, 1) for d = 1."""
    import torch

    if d == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    return torch.nn.functional.normalize(torch.randn(count, d, generator=generator, dtype=torch.float64), dim=1)


def sliced_wasserstein(x: Tensor, y: Tensor, theta: Tensor, p: int, parts: int | None = None) -> Sliced:
    """Return SW_p of x and y (n, d) over the directions θ (L, d); x has `parts` independent parts (None: n)."""
    import torch

    n, count = len(x), len(theta)
    costs, f, g = [], torch.zeros(n, dtype=x.dtype), torch.zeros(n, dtype=x.dtype)
    for some in torch.split(theta, max(1, CHUNK // n)):
        (u, order_x), (v, order_y) = (some @ x.T).sort(dim=1), (some @ y.T).sort(dim=1)
        cost = (u - v).abs() ** p
        potential_x = _potential(u, v, cost, p)
        f += torch.zeros_like(cost).scatter_(1, order_x, potential_x).sum(0) / count
        g += torch.zeros_like(cost).scatter_(1, order_y, cost - potential_x).sum(0) / count
        costs.append(cost.mean(1))
    each = torch.cat(costs)
    power = float(each.mean())
    of_draws = by_chain(f, parts or n)
    value, stderr_points = root(power, float(of_draws.var() / len(of_draws) + g.var() / n), p)
    stderr_directions = root(power, float(each.var()) / count, p)[1] if count > 1 else 0.0
    return Sliced(value, stderr_points, stderr_directions)


def _potential(u: Tensor, v: Tensor, cost: Tensor, p: int) -> Tensor:
    """Return the dual potential f (L, n) at the sorted u, for the plan that pairs u_(i) with v_(i); g is cost - f.

    f_i + g_j ≤ |u_i - v_j|^p, with equality for i = j, gives a lower and an upper bound of f_(i+1) - f_i. Their mean is
    used.
    """
    import torch

    most = (u[:, 1:] - v[:, :-1]).abs() ** p - cost[:, :-1]
    least = cost[:, 1:] - (u[:, :-1] - v[:, 1:]).abs() ** p
    f = torch.nn.functional.pad(((most + least) / 2).cumsum(1), (1, 0))
    return f - f.mean(1, keepdim=True)
