"""Eight schools: effects of coaching in a hierarchy (Rubin 1981; Gelman et al., Bayesian Data Analysis, section 5.5).

    y_i ~ N(θ_i, σ_i²),   θ_i = μ + τ z_i,   z_i ~ N(0, 1),   μ ~ N(0, 5²),   τ ~ half-Cauchy(0, 5)

The posterior of the non-centred coordinates x = (μ, log τ, z_1, ..., z_J), up to a constant:

    log p(x) = -μ²/2·5² - log(1 + τ²/5²) + log τ - ½ Σ z_i² - ½ Σ (y_i - μ - τ z_i)²/σ_i²

where + log τ is from the Jacobian of τ = exp(log τ). Given τ, all is normal, with v_i = σ_i² + τ² and w_i = τ²/v_i,

    p(τ | y) ∝ p(τ) √V Π v_i^{-½} exp(½ m²/V - ½ Σ y_i²/v_i),   1/V = 1/5² + Σ 1/v_i,   m = V Σ y_i/v_i
    μ | τ ~ N(m, V),   θ_i | μ, τ ~ N(w_i y_i + (1 - w_i) μ, w_i σ_i²)

Only the integral over log τ is numerical. It gives mean ± standard deviation 4.397 ± 3.318 for μ, 3.598 ± 3.220 for τ.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field, ValidationInfo, field_validator

from driftspec.components import Distribution
from driftspec_plugins.data._values import check_positive

if TYPE_CHECKING:
    from torch import Tensor

STEP = 0.02  # step of the trapezoidal rule in log τ, whose integrand is analytic for |Im log τ| < π/2
REACH = 40.0  # how far the grid extends past the scales of the problem, where the integrand falls like exp(-|log τ|)


class EightSchools(Distribution):
    """The posterior of a normal hierarchy in (mu, log_tau, z_i); reports show mu, tau and theta_i = mu + tau z_i."""

    type = "eight_schools"
    normalized = False

    y: tuple[float, ...] = Field(
        (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0), min_length=2, description="y_i, estimated effect in each school"
    )
    sigma: tuple[float, ...] = Field(
        (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0),
        validate_default=True,
        description="σ_i, standard error of each estimate",
    )
    mu_std: float = Field(5.0, gt=0, description="standard deviation of the normal prior of mu")
    tau_scale: float = Field(5.0, gt=0, description="scale of the half-Cauchy prior of tau")

    @field_validator("sigma")
    @classmethod
    def _check_sigma(cls, sigma: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        check_positive(sigma)
        y = info.data.get("y")
        if y is not None and len(sigma) != len(y):
            raise ValueError(f"sigma has {len(sigma)} numbers, y has {len(y)}: give one for each school")
        return sigma

    def dim(self) -> int:
        return len(self.y) + 2

    def columns(self) -> tuple[str, ...]:
        return ("mu", "log_tau", *(f"z_{i + 1}" for i in range(len(self.y))))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) (B,), up to a constant, for x = (μ, log τ, z_1, ..., z_J) (B, J + 2)."""
        import torch

        mu, log_tau, z = x[:, 0], x[:, 1], x[:, 2:]
        residual = (x.new_tensor(self.y) - _effects(x)) / x.new_tensor(self.sigma)
        twice = 2 * (log_tau - math.log(self.tau_scale))
        prior = -(mu / self.mu_std).square() / 2 - torch.logaddexp(twice, torch.zeros_like(twice)) + log_tau
        return prior - z.square().sum(1) / 2 - residual.square().sum(1) / 2

    def reported(self, x: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """Return mu, tau, theta_1, ..., theta_J (B, J + 2) for x (B, J + 2), and these names."""
        import torch

        names = ("mu", "tau", *(f"theta_{i + 1}" for i in range(len(self.y))))
        return torch.cat([x[:, :1], x[:, 1:2].exp(), _effects(x)], 1), names

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean (m,) and covariance (m, m) of the reported quantities, m = J + 2, by an integral over τ.

        The mean is E[M(τ)] and the covariance E[C(τ)] + cov(M(τ)), with M and C the mean and covariance given τ.
        """
        import torch

        y, variance = (torch.tensor(a, dtype=torch.float64) for a in (self.y, [s**2 for s in self.sigma]))
        scales = [self.tau_scale, self.mu_std, *self.sigma, *(abs(a) for a in self.y if a)]
        low, high = math.log(min(scales)) - REACH, math.log(max(scales)) + REACH
        tau = torch.arange(low, high, STEP, dtype=torch.float64).exp()[:, None]  # (K, 1)
        v = variance + tau**2  # (K, J)
        own = tau**2 / v  # w
        spread = 1 / (1 / self.mu_std**2 + (1 / v).sum(1))  # V (K,)
        centre = spread * (y / v).sum(1)  # m (K,)
        log_p = tau[:, 0].log() - torch.log1p((tau[:, 0] / self.tau_scale) ** 2)
        log_p = log_p + (spread.log() + centre**2 / spread - (v.log() + y**2 / v).sum(1)) / 2
        weight = torch.softmax(log_p, 0)

        given = torch.cat([centre[:, None], tau, own * y + (1 - own) * centre[:, None]], 1)  # M (K, J + 2)
        along_mu = torch.cat([torch.ones_like(tau), torch.zeros_like(tau), 1 - own], 1)  # d/dμ of E[· | μ, τ]
        alone = torch.cat([torch.zeros(2, dtype=torch.float64), weight @ (own * variance)])
        mean = weight @ given
        centred = given - mean
        covariance = centred.T @ (weight[:, None] * centred) + along_mu.T @ ((weight * spread)[:, None] * along_mu)
        return mean, covariance + alone.diag()


def _effects(x: Tensor) -> Tensor:
    """Return θ = μ + τ z (B, J)."""
    return x[:, :1] + x[:, 1:2].exp() * x[:, 2:]


__all__ = ["EightSchools"]
