"""Data made ready: read once, split by a named stream, and the map between the data's own units and model units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from driftspec.components import Data, Verdict
from driftspec.errors import Problem, SpecError
from driftspec.files import Files
from driftspec.streams import Streams


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

        W = diag(1/σ), and R^{-1/2} diag(1/σ) with R the correlations: a column's unit makes no difference.
        """
        rows = x.reshape(-1, x.shape[-1])
        if how == "none":
            return cls.identity(rows.shape[1])
        shift, deviation = rows.mean(0), rows.std(0, correction=0)
        constant = (deviation <= 1e-12 * rows.abs().amax(0)).nonzero().flatten().tolist()
        if constant:
            which = ", ".join(str(i + 1) for i in constant)
            raise SpecError(Problem("X304", f"standardize: {how} is impossible: column {which} is constant"))
        if how == "scale":
            return cls(shift, (1 / deviation).diag())
        scaled = (rows - shift) / deviation
        values, vectors = torch.linalg.eigh(scaled.T @ scaled / len(rows))
        if values[0] <= 1e-10:
            raise SpecError(Problem("X304", f"standardize: {how} is impossible: the columns are linearly dependent"))
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

    def repeated(self) -> int:
        """Test rows that stand among the training rows too: they make a density model look better than it is."""
        seen = {row.tobytes() for row in self.train.numpy()}
        return sum(row.tobytes() in seen for row in self.test.numpy())


def prepare(data: Data, files: Files, streams: Streams, transform: Transform | None = None) -> Dataset:
    """Read, split and fit the transform, unless one is given: then the data are measured only, not learnt from."""
    table = data.read(files, streams.generator("data"))
    n = len(table.values)
    order = torch.randperm(n, generator=streams.generator("split"))
    first, second = round(data.split[0] * n), round((data.split[0] + data.split[1]) * n)
    train, validation, test = (table.values[rows] for rows in (order[:first], order[first:second], order[second:]))
    if transform is None:
        if len(train) < 2:
            text = f"{data.label} has {n} rows: split {list(data.split)} leaves {len(train)} for training"
            raise SpecError(Problem("X303", text))
        transform = Transform.fit(data.standardize, train)
    numbers = order[second:] + table.first
    return Dataset(train, validation, test, table.columns, transform, table.times, table.digest, numbers)
