"""Data as a run uses them: split, with the map between the data's own units and model units.

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
    """u = (x - shift) Wᵀ, with log |det du/dx| = log |det W|; fitted on the training rows. float64."""

    shift: Tensor  # (d,)
    matrix: Tensor  # (d, d)

    @classmethod
    def identity(cls, d: int) -> Transform:
        return cls(torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))

    @classmethod
    def fit(cls, how: str, x: Tensor) -> Transform:
        """`none`: identity; `scale`: each column to mean 0 and deviation 1; `whiten`: covariance I.

        W = diag(1/σ), and R^{-1/2} diag(1/σ) with R the correlations: a column's unit makes no difference. No column
        may be constant, and to whiten none may follow from others.
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
        """u (..., d) float64 for x in the data's units."""
        return _applied(self.matrix, x.double() - self.shift)

    def to_data(self, u: Tensor) -> Tensor:
        """x (..., d) float64 for u in model units."""
        return _applied(torch.linalg.inv(self.matrix), u.double()) + self.shift

    def log_det(self) -> float:
        """log |det du/dx|: log p of x is log p of u plus this."""
        return float(torch.linalg.slogdet(self.matrix).logabsdet)

    def gradient_to_data(self, slope: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
        """∇_x = Wᵀ ∇_u (B, d) float64 of a gradient ∇_u, with bounds (B,) of the largest error of a component."""
        return _applied(self.matrix.T, slope.double()), error.double() * _stretch(self.matrix.T)

    def error_to_data(self, error: Tensor) -> Tensor:
        """Bounds (B,) of the largest error of x's components, from those of u's."""
        return error.double() * _stretch(torch.linalg.inv(self.matrix))

    def tree(self) -> dict[str, Any]:
        return {"shift": self.shift, "matrix": self.matrix}


def _applied(matrix: Tensor, x: Tensor) -> Tensor:
    """x Wᵀ by sums over columns in their order: a row's bits depend on no other row."""
    if torch.equal(matrix, matrix.diag().diag()):
        return x * matrix.diag()
    return torch.stack([(x * row).sum(-1) for row in matrix], -1)


def _stretch(matrix: Tensor) -> float:
    """By how much a map enlarges the largest component of a vector at most: its norm induced by that of maxima."""
    return float(torch.linalg.matrix_norm(matrix, torch.inf))


@dataclass(frozen=True)
class Dataset:
    """Rows (n, ...) float64 in the data's own units, split; and the transform fitted on `train`."""

    train: Tensor
    validation: Tensor
    test: Tensor
    columns: tuple[str, ...]
    transform: Transform
    times: Tensor | None = None
    digest: str | None = None
    numbers: Tensor | None = None  # of the test rows, as their source counts its rows
    verdicts: tuple[Verdict, ...] = ()  # what the rows themselves say of what can be learnt from them

    @property
    def dim(self) -> int:
        return self.train.shape[-1]

    def rows(self) -> Tensor:
        """The training rows; the test rows where the training rows are not known."""
        return self.train if len(self.train) > 1 else self.test

    def repeated(self) -> int:
        """How many test rows are training rows too, number for number."""
        train, test = ((rows.flatten(1) + 0.0).numpy() for rows in (self.train, self.test))  # -0.0 + 0.0 is 0.0
        seen = {hash(row.tobytes()) for row in train}
        return sum(hash(row.tobytes()) in seen for row in test)


__all__ = ["Dataset", "Transform"]
