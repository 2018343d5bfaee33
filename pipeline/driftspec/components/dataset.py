"""The data of a run: the rows of each part, and the map from the data's own units x to model units u.

u = (x - shift) Wᵀ,   log |det du/dx| = log |det W|
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from driftspec.components.verdict import Verdict


@dataclass(frozen=True)
class Transform:
    """The map u = (x - shift) Wᵀ, with log |det du/dx| = log |det W|, fitted on the training rows, float64."""

    shift: Tensor  # (d,)
    matrix: Tensor  # (d, d)

    @classmethod
    def identity(cls, d: int) -> Transform:
        return cls(torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))

    @classmethod
    def fit(cls, how: str, x: Tensor) -> Transform:
        """Return the map fitted to rows x (..., d): `none` (identity), `scale` (deviations 1), `whiten` (covariance I).

        `scale` has W = diag(1/σ), and `whiten` has W = R^{-1/2} diag(1/σ) with R the correlation matrix, so that the
        units of the columns do not matter. No column may be constant, and for `whiten` no column may be a linear
        function of others.
        """
        rows = x.reshape(-1, x.shape[-1])
        if how == "none":
            return cls.identity(rows.shape[1])
        shift, deviation = rows.mean(0), rows.std(0, correction=0)
        if how == "scale":
            return cls(shift, (1 / deviation).diag())
        scaled = (rows - shift) / deviation
        values, vectors = torch.linalg.eigh(scaled.T @ scaled / len(rows))
        return cls(shift, vectors @ (values**-0.5).diag() @ vectors.T / deviation)

    def to_model(self, x: Tensor) -> Tensor:
        """Return u (..., d) float64 for x (..., d) in the data's own units."""
        return _applied(self.matrix, x.double() - self.shift)

    def to_data(self, u: Tensor) -> Tensor:
        """Return x (..., d) float64 for u (..., d) in model units."""
        return _applied(torch.linalg.inv(self.matrix), u.double()) + self.shift

    def log_det(self) -> float:
        """Return log |det du/dx|: log p of x is log p of u plus this."""
        return float(torch.linalg.slogdet(self.matrix).logabsdet)

    def gradient_to_data(self, slope: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
        """Return ∇_x = Wᵀ ∇_u (B, d) float64 and a bound (B,) of its components' errors, from ∇_u and its bound."""
        return _applied(self.matrix.T, slope.double()), error.double() * _stretch(self.matrix.T)

    def error_to_data(self, error: Tensor) -> Tensor:
        """Return a bound (B,) of the errors of the components of x, from a bound (B,) for those of u."""
        return error.double() * _stretch(torch.linalg.inv(self.matrix))

    def tree(self) -> dict[str, Any]:
        return {"shift": self.shift, "matrix": self.matrix}


def _applied(matrix: Tensor, x: Tensor) -> Tensor:
    """Return x Wᵀ (..., d), summed over columns in their order, so that the bits of a row depend on no other row."""
    if torch.equal(matrix, matrix.diag().diag()):
        return x * matrix.diag()
    return torch.stack([(x * row).sum(-1) for row in matrix], -1)


def _stretch(matrix: Tensor) -> float:
    """Return the ∞-norm of a matrix: the largest factor by which it increases the largest component of a vector."""
    return float(torch.linalg.matrix_norm(matrix, torch.inf))


@dataclass(frozen=True)
class Dataset:
    """The rows (n, ...) of each part of the data, float64, in their own units, and the map fitted on `train`."""

    train: Tensor
    validation: Tensor
    test: Tensor
    columns: tuple[str, ...]
    transform: Transform
    times: Tensor | None = None
    digest: str | None = None
    numbers: Tensor | None = None  # the number of each test row in the source
    verdicts: tuple[Verdict, ...] = ()  # whether a model can be learnt from these rows

    @property
    def dim(self) -> int:
        return self.train.shape[-1]

    def rows(self) -> Tensor:
        """Return the training rows (n, ...); the test rows if the training rows are not known."""
        return self.train if len(self.train) > 1 else self.test

    def repeated(self) -> int:
        """Return how many test rows are exactly equal to a training row."""
        train, test = ((rows.flatten(1) + 0.0).numpy() for rows in (self.train, self.test))  # -0.0 + 0.0 is 0.0
        seen = {hash(row.tobytes()) for row in train}
        return sum(hash(row.tobytes()) in seen for row in test)


__all__ = ["Dataset", "Transform"]
