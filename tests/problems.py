"""Flows with closed forms in which no term vanishes: path, divergence and its integral, in float64.

Each problem has `f(t, x)` (B, d), `divergence(t, x)` = tr(∂f/∂x) (B,), `flow(x, t0, t1)`, the solution at t1 from x at
t0, and `log_det(x, t0, t1)` = ∫ tr(∂f/∂x) dt along that path = log |∂ flow/∂x|. `t` is () or (B,); the parameters are
tensors, so that closed forms have gradients too. With the prior N(0, I):

    log p(x) = log N(flow(x, t_data, t_prior)) + log_det(x, t_data, t_prior)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


def tensor(*values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I), (B,)."""
    return -(z.square().sum(1) + z.shape[1] * math.log(2 * math.pi)) / 2


def points(n: int, d: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """(n, d) standard normal, from a generator of its own."""
    return scale * torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Problem:
    """What the closed forms share."""

    d: int

    def f(self, t: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError

    def divergence(self, t: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError

    def flow(self, x: Tensor, t0, t1) -> Tensor:
        raise NotImplementedError

    def log_det(self, x: Tensor, t0, t1) -> Tensor:
        raise NotImplementedError

    def rates(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """f and the closed form of its divergence, as a solver's one integrand."""
        return self.f(t, x), self.divergence(t, x)[:, None]

    def log_p(self, x: Tensor, t_prior, t_data) -> Tensor:
        """(B,), with N(0, I) at t_prior."""
        return normal_log_prob(self.flow(x, t_data, t_prior)) + self.log_det(x, t_data, t_prior)


MATRICES = {
    1: tensor([0.7]),
    2: tensor([0.4, 1.3], [-0.6, 0.2]),
    5: tensor(
        [0.5, -1.1, 0.3, 0.0, 0.9],
        [0.2, -0.4, 0.8, 0.6, 0.0],
        [0.0, 0.7, 0.3, -0.9, 0.4],
        [-0.8, 0.1, 0.0, 0.6, 0.5],
        [0.3, 0.0, -0.2, 1.0, -0.3],
    ),
}
"""Neither symmetric nor normal (beyond d = 1), traces 0.7, 0.6 and 0.7."""


@dataclass
class Linear(Problem):
    """f = A x: flow e^{A (t1 - t0)} x, log det (t1 - t0) tr A. Its divergence is constant: no quadrature is tested."""

    a: Tensor

    @property
    def d(self) -> int:
        return len(self.a)

    def f(self, t, x):
        return x @ self.a.T

    def divergence(self, t, x):
        return self.a.trace().expand(len(x))

    def flow(self, x, t0, t1):
        return x @ torch.linalg.matrix_exp(self.a * (t1 - t0)).T

    def log_det(self, x, t0, t1):
        return ((t1 - t0) * self.a.trace()).expand(len(x))


@dataclass
class TimeAffine(Problem):
    """f = A(t) x + b(t) at d = 2, A(t) at different times not commuting, divergence a(t) tr M.

    In the frame that turns with R(t) = exp(ω t J) about a moving centre c(t), y' = a(t) M y:
    A(t) = ω J + a(t) R M Rᵀ,  b = c' - A c,  x(t) = c(t) + R(t) exp(M ∫a) R(t0)ᵀ (x0 - c(t0)).
    """

    m: Tensor = field(default_factory=lambda: MATRICES[2])
    omega: float = 1.7
    d = 2

    def _a(self, t):
        return 1 + 0.8 * torch.cos(3 * t)

    def _integral_of_a(self, t0, t1):
        return (t1 - t0) + 0.8 / 3 * (torch.sin(3 * t1) - torch.sin(3 * t0))

    def _centre(self, t):
        return torch.stack([0.5 * torch.sin(2 * t), 0.3 * t * t], -1)

    def _centre_velocity(self, t):
        return torch.stack([torch.cos(2 * t), 0.6 * t], -1)

    def _turn(self, t, x):
        """R(t) x."""
        c, s = torch.cos(self.omega * t), torch.sin(self.omega * t)
        return torch.stack([c * x[:, 0] - s * x[:, 1], s * x[:, 0] + c * x[:, 1]], 1)

    def f(self, t, x):
        away = x - self._centre(t)
        quarter = torch.stack([-away[:, 1], away[:, 0]], 1)
        turned = self._turn(t, self._turn(-t, away) @ self.m.T)
        return self.omega * quarter + self._a(t)[..., None] * turned + self._centre_velocity(t)

    def divergence(self, t, x):
        return (self._a(t) * self.m.trace()).expand(len(x))

    def flow(self, x, t0, t1):
        t0, t1 = (torch.as_tensor(t, dtype=x.dtype) for t in (t0, t1))
        y = self._turn(-t0, x - self._centre(t0))
        return self._centre(t1) + self._turn(t1, y @ torch.linalg.matrix_exp(self.m * self._integral_of_a(t0, t1)).T)

    def log_det(self, x, t0, t1):
        t0, t1 = (torch.as_tensor(t, dtype=x.dtype) for t in (t0, t1))
        return (self.m.trace() * self._integral_of_a(t0, t1)).expand(len(x))


@dataclass
class Sine(Problem):
    """f = sin x: tan(x1/2) = e^T tan(x0/2), log det T - log(cos²(x0/2) + e^{2T} sin²(x0/2)), T = t1 - t0."""

    d = 1

    def f(self, t, x):
        return torch.sin(x)

    def divergence(self, t, x):
        return torch.cos(x)[:, 0]

    def flow(self, x, t0, t1):
        growth = torch.as_tensor(t1 - t0, dtype=x.dtype).exp()
        turns = torch.round(x / (2 * math.pi)) * 2 * math.pi
        half = (x - turns) / 2
        return turns + 2 * torch.atan2(growth * half.sin(), half.cos())

    def log_det(self, x, t0, t1):
        span, half = torch.as_tensor(t1 - t0, dtype=x.dtype), x[:, 0] / 2
        return span - torch.log(half.cos() ** 2 + (2 * span).exp() * half.sin() ** 2)


@dataclass
class DrivenSine(Sine):
    """f = a(t) sin x, a = 1 + 0.8 cos 3t: `Sine` for the time ∫a. Its divergence depends on t and x together."""

    def f(self, t, x):
        return self._a(t)[..., None] * torch.sin(x)

    def divergence(self, t, x):
        return self._a(t) * torch.cos(x)[:, 0]

    def flow(self, x, t0, t1):
        return super().flow(x, 0, self._integral_of_a(t0, t1))

    def log_det(self, x, t0, t1):
        return super().log_det(x, 0, self._integral_of_a(t0, t1))

    def _a(self, t):
        return 1 + 0.8 * torch.cos(3 * t)

    def _integral_of_a(self, t0, t1):
        t0, t1 = (torch.as_tensor(t, dtype=torch.float64) for t in (t0, t1))
        return (t1 - t0) + 0.8 / 3 * (torch.sin(3 * t1) - torch.sin(3 * t0))


@dataclass
class Cubic(Problem):
    """f = -x³: x1 = x0 / √(1 + 2 x0² T), log det -3/2 log(1 + 2 x0² T), T = t1 - t0."""

    d = 1

    def f(self, t, x):
        return -(x**3)

    def divergence(self, t, x):
        return -3 * x[:, 0] ** 2

    def flow(self, x, t0, t1):
        return x / (1 + 2 * x**2 * (t1 - t0)).sqrt()

    def log_det(self, x, t0, t1):
        return -1.5 * torch.log(1 + 2 * x[:, 0] ** 2 * (t1 - t0))


@dataclass
class Planar(Problem):
    """f = u tanh(s), s = wᵀx + b, so s' = c tanh(s) with c = wᵀu: sinh(s1) = sinh(s0) e^{cT}.

    x1 = x0 + u (s1 - s0)/c and log det = c T + log(cosh(s0)/cosh(s1)), T = t1 - t0.
    """

    u: Tensor = field(default_factory=lambda: tensor(0.9, -0.5, 1.2))
    w: Tensor = field(default_factory=lambda: tensor(0.8, 1.1, 0.6))
    b: float = 0.3

    @property
    def d(self) -> int:
        return len(self.u)

    def _s(self, x):
        return x @ self.w + self.b

    def f(self, t, x):
        return torch.tanh(self._s(x))[:, None] * self.u

    def divergence(self, t, x):
        return (self.w @ self.u) * (1 - torch.tanh(self._s(x)) ** 2)

    def flow(self, x, t0, t1):
        c, s = self.w @ self.u, self._s(x)
        after = torch.asinh(torch.sinh(s) * torch.exp(c * (t1 - t0)))
        return x + ((after - s) / c)[:, None] * self.u

    def log_det(self, x, t0, t1):
        c, s = self.w @ self.u, self._s(x)
        after = torch.asinh(torch.sinh(s) * torch.exp(c * (t1 - t0)))
        return c * (t1 - t0) + torch.log(torch.cosh(s) / torch.cosh(after))


@dataclass
class BlowUp(Problem):
    """f = x²: x1 = x0 / (1 - x0 T), log det -2 log(1 - x0 T); no solution from T = 1/x0 on (x0 > 0)."""

    d = 1

    def f(self, t, x):
        return x * x

    def divergence(self, t, x):
        return 2 * x[:, 0]

    def flow(self, x, t0, t1):
        return x / (1 - x * (t1 - t0))

    def log_det(self, x, t0, t1):
        return -2 * torch.log(1 - x[:, 0] * (t1 - t0))


def regular() -> dict[str, Problem]:
    """Every problem with a solution for all times, by name."""
    return {
        "linear_1": Linear(MATRICES[1]),
        "linear_2": Linear(MATRICES[2]),
        "linear_5": Linear(MATRICES[5]),
        "time_affine": TimeAffine(),
        "sine": Sine(),
        "driven_sine": DrivenSine(),
        "cubic": Cubic(),
        "planar": Planar(),
    }
