"""Data made ready: read once, split by a named stream, and the map between the data's own units and model units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from driftspec.components import Data
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
        """`none`: identity; `scale`: each column to mean 0 and deviation 1; `whiten`: covariance I (symmetric root)."""
        d = x.shape[-1]
        if how == "none":
            return cls.identity(d)
        rows = x.reshape(-1, d)
        shift, covariance = rows.mean(0), torch.atleast_2d(torch.cov(rows.T, correction=0))
        if how == "scale":
            covariance = covariance.diag().diag()
        values, vectors = torch.linalg.eigh(covariance)
        if values.min() <= 1e-12 * values.max():
            constant = ", ".join(str(i + 1) for i in (covariance.diag() <= 1e-12 * values.max()).nonzero().flatten().tolist())
            what = f"column {constant} is constant" if constant else "the columns are linearly dependent"
            raise SpecError(Problem("X304", f"standardize: {how} is impossible: {what}"))
        return cls(shift, vectors @ (values**-0.5).diag() @ vectors.T)

    def to_model(self, x: Tensor) -> Tensor:
        """u (..., d) float64 for x in the data's units. Row by row, so that a row's bits depend on no other."""
        return ((x.double() - self.shift)[..., None, :] * self.matrix).sum(-1)

    def to_data(self, u: Tensor) -> Tensor:
        """x (..., d) float64 for u in model units."""
        inverse = torch.linalg.inv(self.matrix)
        return (u.double()[..., None, :] * inverse).sum(-1) + self.shift

    def log_det(self) -> float:
        """log |det du/dx|: log p of x is log p of u plus this."""
        return float(torch.linalg.slogdet(self.matrix).logabsdet)

    def tree(self) -> dict[str, Any]:
        return {"shift": self.shift, "matrix": self.matrix}


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

    @property
    def dim(self) -> int:
        return self.train.shape[-1]


def prepare(data: Data, files: Files, streams: Streams) -> Dataset:
    """Read, split and fit the transform. SpecError if the data cannot be read or are too few to split."""
    table = data.read(files, streams.generator("data"))
    n = len(table.values)
    order = torch.randperm(n, generator=streams.generator("split"))
    first, second = round(data.split[0] * n), round((data.split[0] + data.split[1]) * n)
    train, validation, test = (table.values[order[part]] for part in (slice(first), slice(first, second), slice(second, n)))
    if len(train) < 2:
        raise SpecError(Problem("X303", f"{data.label} has {n} rows: split {list(data.split)} leaves {len(train)} for training"))
    transform = Transform.fit(data.standardize, train)
    return Dataset(train, validation, test, table.columns, transform, table.times, table.digest)
