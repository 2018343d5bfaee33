"""The normal distribution N(m, Σ).

log p(x) = -½ (x - m)ᵀ Σ⁻¹ (x - m) - ½ log det Σ - (d/2) log 2π,    entropy (d/2) log 2πe + ½ log det Σ.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

from pydantic import Field, ValidationInfo, field_validator

from driftspec.components import Distribution
from driftspec.errors import Problem, SpecError
from driftspec_plugins.data._symmetric import smallest_eigenvalue
from driftspec_plugins.data._values import Numbers, check_positive, listed

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Gaussian(Distribution):
    """N(m, Σ), with Σ = diag(std²) or a full covariance; without lists it has any dimension."""

    type = "gaussian"

    mean: Numbers = Field(0.0, description="m: one number for every coordinate, or a list of d")
    std: Numbers | None = Field(
        None, description="standard deviation: one number for all, or a list of d; 1 if covariance is absent too"
    )
    covariance: tuple[tuple[float, ...], ...] | None = Field(
        None, description="Σ, d rows of d numbers, symmetric and positive definite; not together with std"
    )

    @field_validator("std")
    @classmethod
    def _check_std(cls, std: Numbers | None, info: ValidationInfo) -> Numbers | None:
        if std is not None:
            check_positive(listed(std))
        if isinstance(std, tuple):
            _same_length(info, len(std), "std")
        return std

    @field_validator("covariance")
    @classmethod
    def _check_covariance(
        cls, covariance: tuple[tuple[float, ...], ...] | None, info: ValidationInfo
    ) -> tuple[tuple[float, ...], ...] | None:
        if covariance is None:
            return None
        if info.data.get("std") is not None:
            raise ValueError("covariance and std exclude each other; give one")
        d = len(covariance)
        if d == 0 or any(len(row) != d for row in covariance):
            raise ValueError(f"a square matrix, not {d} rows of {', '.join(str(len(row)) for row in covariance) or 0}")
        _same_length(info, d, "covariance")
        if not all(math.isclose(covariance[i][j], covariance[j][i]) for i in range(d) for j in range(i)):
            raise ValueError("a covariance is symmetric, this matrix is not")
        smallest = smallest_eigenvalue(covariance)
        if smallest <= 1e-14 * max(abs(entry) for row in covariance for entry in row):
            raise ValueError(f"a covariance is positive definite, this one has the eigenvalue {smallest:.6g}")
        return covariance

    def dim(self) -> int | None:
        if self.covariance is not None:
            return len(self.covariance)
        return next((len(given) for given in (self.mean, self.std) if isinstance(given, tuple)), None)

    def in_dimensions(self, d: int) -> Self:
        return self if self.dim() is not None else self.model_copy(update={"mean": d * (listed(self.mean)[0],)})

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """Return n samples m + L ε (n, d), with Σ = L Lᵀ."""
        import torch

        d = self.dim() or dim
        if d is None:
            raise SpecError(Problem("X302", f"{self.label} has numbers that fit any dimension: give mean as a list"))
        noise = torch.randn(n, d, generator=generator, dtype=torch.float64, device=generator.device)
        mean, root = self._moments(noise)
        return mean + (noise @ root.T if root.ndim == 2 else noise * root)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return -½ |L⁻¹(x - m)|² - log det L - (d/2) log 2π (B,) for x (B, d)."""
        import torch

        mean, root = self._moments(x)
        if root.ndim == 2:
            z = torch.linalg.solve_triangular(root, (x - mean).T, upper=False).T
            log_det = root.diagonal().log().sum()
        else:
            z = (x - mean) / root
            log_det = root.log().sum()
        return -z.square().sum(-1) / 2 - log_det - x.shape[-1] / 2 * math.log(2 * math.pi)

    def entropy(self) -> float | None:
        import torch

        d = self.dim()
        if d is None:
            return None
        _, root = self._moments(torch.empty(0, d, dtype=torch.float64))
        log_det = (root.diagonal() if root.ndim == 2 else root).log().sum()
        return d / 2 * (1 + math.log(2 * math.pi)) + float(log_det)

    def moments(self) -> tuple[Tensor, Tensor] | None:
        """Return m (d,) and Σ (d, d); None if d is not known."""
        import torch

        d = self.dim()
        if d is None:
            return None
        mean, root = self._moments(torch.empty(0, d, dtype=torch.float64))
        return mean.clone(), root @ root.T if root.ndim == 2 else root.square().diag()

    def normals(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return the weight 1 (K,), m (K, d) and Σ (K, d, d) of K = 1 component; None if d is not known."""
        known = self.moments()
        return None if known is None else (known[0].new_ones(1), known[0][None], known[1][None])

    def smallest_variance(self) -> float | None:
        """Return the smallest eigenvalue of Σ."""
        if self.covariance is not None:
            return smallest_eigenvalue(self.covariance)
        return min(listed(1.0 if self.std is None else self.std)) ** 2

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return m (d,), and L: lower triangular (d, d), or only its diagonal (d,) if Σ is diagonal."""
        import torch

        mean = like.new_tensor(self.mean).expand(like.shape[-1])
        if self.covariance is not None:
            exact = torch.tensor(self.covariance, dtype=torch.float64, device=like.device)
            return mean, torch.linalg.cholesky(exact).to(like.dtype)
        return mean, like.new_tensor(1.0 if self.std is None else self.std).expand(like.shape[-1])


def _same_length(info: ValidationInfo, d: int, key: str) -> None:
    mean = info.data.get("mean")
    if isinstance(mean, tuple) and len(mean) != d:
        raise ValueError(f"{key} is for {d} coordinates, mean has {len(mean)}")


__all__ = ["Gaussian"]
