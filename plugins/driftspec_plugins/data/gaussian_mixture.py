"""A mixture of isotropic normal distributions: p(x) = Σ_k w_k N(x; m_k, σ_k² I)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from driftspec.components import Distribution
from driftspec_plugins.data._values import Numbers, check_positive, listed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Generator, Tensor

    Array = NDArray[np.float64]


class GaussianMixture(Distribution):
    """K isotropic Gaussians with log p in closed form: log Σ_k w_k N(x; m_k, σ_k² I)."""

    type = "gaussian_mixture"
    example: ClassVar[Mapping[str, Any]] = {"means": [[-2.0, 0.0], [2.0, 0.0], [0.0, 2.0]], "std": 0.5}

    means: tuple[tuple[float, ...], ...] = Field(description="m_k: K rows of d numbers")
    std: Numbers = Field(1.0, description="σ_k: one standard deviation for every component, or a list of K")
    weights: tuple[float, ...] | None = Field(
        None, description="w_k: K positive numbers that sum to 1; equal if absent"
    )

    @field_validator("means")
    @classmethod
    def _check_means(cls, means: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
        lengths = sorted({len(row) for row in means})
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"rows of one length, not of {' and '.join(map(str, lengths)) or 'none'}")
        return means

    @field_validator("std")
    @classmethod
    def _check_std(cls, std: Numbers, info: ValidationInfo) -> Numbers:
        check_positive(listed(std))
        if isinstance(std, tuple):
            _one_each(std, info, "std")
        return std

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, weights: tuple[float, ...] | None, info: ValidationInfo) -> tuple[float, ...] | None:
        if weights is not None:
            check_positive(weights)
            _one_each(weights, info, "weights")
            if abs(sum(weights) - 1) > 1e-6:
                raise ValueError(f"weights sum to 1, these to {sum(weights):.6g}")
        return weights

    def dim(self) -> int:
        return len(self.means[0])

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """Return n samples (n, d): k ~ w, then m_k + σ_k ε."""
        from driftspec_plugins.data import _mixture

        return _mixture.sample(n, generator, *_arrays(self.means, self.std, self.weights))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log Σ_k w_k N(x; m_k, σ_k² I) (B,) for x (B, d)."""
        from driftspec_plugins.data import _mixture

        return _mixture.log_prob(x, *_arrays(self.means, self.std, self.weights))

    def score(self, x: Tensor) -> Tensor:
        """Return ∇log p(x) = Σ_k r_k (m_k - x)/σ_k² (B, d), with r_k component k's share of p(x)."""
        from driftspec_plugins.data import _mixture

        return _mixture.score(x, *_arrays(self.means, self.std, self.weights))

    def entropy(self) -> float | None:
        """Return the entropy in nats, by quadrature for d = 1 and 2; else None."""
        return _entropy(self.means, self.std, self.weights)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean m = Σ w_k m_k (d,) and the covariance Σ w_k ((m_k - m)(m_k - m)ᵀ + σ_k² I) (d, d)."""
        from driftspec_plugins.data import _mixture

        return _mixture.moments(*_arrays(self.means, self.std, self.weights))

    def normals(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weights w_k (K,), means m_k (K, d) and covariances σ_k² I (K, d, d)."""
        from driftspec_plugins.data import _mixture

        return _mixture.normals(*_arrays(self.means, self.std, self.weights))

    def mode_of(self, x: Tensor) -> Tensor:
        """Return the component k (B,) with the smallest ‖x - m_k‖/σ_k, or -1 if that is above √d + 2, for x (B, d)."""
        from driftspec_plugins.data import _mixture

        return _mixture.mode_of(x, *_arrays(self.means, self.std, self.weights))


def _one_each(given: tuple[float, ...], info: ValidationInfo, key: str) -> None:
    means = info.data.get("means")
    if means is not None and len(given) != len(means):
        raise ValueError(f"{key} has {len(given)} numbers, means has {len(means)} rows")


@functools.cache
def _arrays(
    means: tuple[tuple[float, ...], ...], std: float | tuple[float, ...], weights: tuple[float, ...] | None
) -> tuple[Array, Array, Array]:
    """Return m (K, d), σ (K,) or (1,), and w (K,) with sum 1."""
    import numpy as np

    w = np.ones(len(means)) if weights is None else np.array(weights)
    return np.array(means), np.atleast_1d(np.array(std)), w / w.sum()


@functools.cache
def _entropy(
    means: tuple[tuple[float, ...], ...], std: float | tuple[float, ...], weights: tuple[float, ...] | None
) -> float | None:
    from driftspec_plugins.data import _mixture

    return _mixture.entropy(*_arrays(means, std, weights))


__all__ = ["GaussianMixture"]
