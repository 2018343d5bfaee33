"""Models with energy ½ xᵀKx, as energies or as scores -Kx: every loss of score matching has a closed form for them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import problems
import torch
from torch import Tensor, nn

from driftspec.components import Dynamics, Estimator, Model
from driftspec.numerics.model import BoundModel
from driftspec.streams import Streams

STREAMS = Streams(5).under("test").at(1)


class Quadratic(nn.Module):
    """-Kx (B, d), or ½ xᵀKx (B, 1); the same at every t."""

    def __init__(self, k: Tensor, predicts: str):
        super().__init__()
        self.k, self.predicts = k, predicts

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        y = x @ self.k.T
        return -y if self.predicts == "score" else (x * y).sum(1, keepdim=True) / 2


def model(k: Tensor, predicts: str = "score", **dynamics: object) -> Model:
    """The Langevin dynamics of a quadratic energy, or another dynamics that predicts."""
    confine = {"confine": "none"} if predicts == "energy" else {}
    body = dynamics or {"type": "langevin", "network": "mlp", **confine}
    return BoundModel(Dynamics.make({**body, "predicts": predicts}), Quadratic(k, predicts), len(k))


def data(d: int, n: int = 40) -> tuple[Tensor, Tensor]:
    """(x (n, d), M̂ (d, d)): correlated, not centred; M̂ = Σ xxᵀ/n."""
    mix = torch.eye(d, dtype=torch.float64) + 0.4 * problems.points(d, d, seed=2)
    x = problems.points(n, d, seed=1) @ mix.T + 0.3
    return x, x.T @ x / n


def symmetric(d: int) -> Tensor:
    """A symmetric positive definite K that is no optimum."""
    a = problems.points(d, d, seed=3)
    return torch.eye(d, dtype=torch.float64) + 0.2 * (a + a.T)


def signs(d: int) -> Tensor:
    """All sign vectors (2^d, d)."""
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=d)), dtype=torch.float64)


def sigma_points(d: int) -> Tensor:
    """±√d e_i (2d, d): mean zero, covariance I."""
    e = torch.eye(d, dtype=torch.float64) * d**0.5
    return torch.cat([e, -e])


def value(estimator: Estimator, model: Model, x: Tensor, streams: Streams = STREAMS) -> Tensor:
    return estimator.loss(model, x, estimator.start(model, streams), streams).value


def minimiser(loss: Callable[[Tensor], Tensor], k: Tensor) -> Tensor:
    """Of a quadratic loss in K: one Newton step from k (d, d), the shortest where K is not determined."""
    flat = k.flatten()
    gradient = torch.autograd.functional.jacobian(lambda v: loss(v.view_as(k)), flat)
    hessian = torch.autograd.functional.hessian(lambda v: loss(v.view_as(k)), flat)
    return (flat - torch.linalg.pinv(hessian, rtol=1e-10, hermitian=True) @ gradient).view_as(k)


def fitted(estimator: Estimator, x: Tensor, k: Tensor, predicts: str = "score", **dynamics: object) -> Tensor:
    """The K that minimises an estimator's loss on x."""
    return minimiser(lambda now: value(estimator, model(now, predicts, **dynamics), x), k)
