"""Data: which distribution? Samples, log p, or both."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from driftspec.components.component import Component
from driftspec.errors import Problem, SpecError, nearest, shown

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from driftspec.source.files import Files


@dataclass(frozen=True)
class Table:
    """Data as read: `values` (n, d) float64, or (n, K, d) for trajectories observed at `times` (K,)."""

    values: Tensor
    columns: tuple[str, ...]
    times: Tensor | None = None
    digest: str | None = None  # sha256 of the file it came from
    named: bool = True  # the source names its columns; else they are numbered
    first: int = 1  # the number of the first row, as the source counts
    condition: Tensor | None = None  # (n, k) float64: what each row is given, such as a label

    def with_columns(self, names: Sequence[str]) -> Table:
        """The same rows with these columns alone, in this order. SpecError X304 names each one that is missing.

        Columns that are only numbered are taken by position, if there are as many.
        """
        if not self.named and len(self.columns) == len(names):
            return replace(self, columns=tuple(names))
        if not self.named:
            text = f"the data have {len(self.columns)} columns, the model was trained on {len(names)}: "
            raise SpecError(Problem("X304", text + ", ".join(map(shown, names))))
        if missing := [name for name in names if name not in self.columns]:
            there = ", ".join(self.columns)
            texts = [f"no column {shown(name)}{nearest(name, self.columns)}: the data have {there}" for name in missing]
            raise SpecError([Problem("X304", text) for text in texts])
        order = [self.columns.index(name) for name in names]
        return replace(self, values=self.values[..., order], columns=tuple(names))


class Data(Component):
    """Which distribution: samples, log p, or both?"""

    kind = "data"
    hard_edges: ClassVar[bool] = False
    """The density jumps: implicit score matching has no minimum there."""
    file_key: ClassVar[str | None] = None
    """The key that names the file it reads, of data that come from one."""
    columns_key: ClassVar[str | None] = None
    """The key that chooses columns of that file by name, a list of names or null for all of them."""
    formats: ClassVar[tuple[str, ...]] = ()
    """Ends of file names, such as `.csv`, that it reads without other keys: `evaluate --data` then takes such files."""

    split: tuple[float, float, float] = Field(
        (0.8, 0.1, 0.1), description="fractions for training, validation and test; they sum to 1"
    )
    standardize: Literal["none", "scale", "whiten"] = Field(
        "none", description="model units: as given, each column to mean 0 and deviation 1, or covariance I"
    )

    def dim(self) -> int | None:
        """d, or None while it is open (a file not read yet, a law that fits any d)."""
        return None

    def offers(self) -> frozenset[str]:
        return frozenset({"samples"})

    def rows(self) -> int | None:
        """How many rows `read` returns, or None while that is open: a file that is not read yet."""
        return None

    def file(self) -> str | None:
        """The file it reads, as the spec names it; None if it reads none."""
        return None if self.file_key is None else str(getattr(self, self.file_key))

    def with_columns(self, names: Sequence[str]) -> Self:
        """The same data, of which `read` returns these columns in this order; as they are where none can be chosen."""
        return self if self.columns_key is None else self.model_copy(update={self.columns_key: tuple(names)})

    def noise_floor(self) -> float | None:
        """Return the mean squared error, data units, that a perfect prediction of its trajectories has; else None."""
        return None

    @abstractmethod
    def read(self, files: Files, generator: Generator) -> Table:
        """Every row there is, in the data's own units. SpecError X304 for a bad file."""


class Distribution(Data):
    """A law that can be drawn from; most also know their log p. As a `target`, `prior` or `start` it is a law alone."""

    unused_nested = frozenset({"samples", "split", "standardize"})

    normalized: ClassVar[bool] = True
    """Whether `log_prob` integrates to one; without, it holds up to a constant and the law offers an energy alone."""

    samples: int = Field(10000, ge=1, description="rows drawn, before the split")

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """(n, d) float64, drawn from `generator` alone. `dim` is d where `dim()` leaves it open."""
        raise NotImplementedError

    def log_prob(self, x: Tensor) -> Tensor:
        """(B,) nats, for x (B, d) in the units `sample` draws in."""
        raise NotImplementedError

    def score(self, x: Tensor) -> Tensor:
        """∇log p(x) (B, d): by differentiating `log_prob`, until a law says it in closed form."""
        from driftspec.autodiff import gradient

        return gradient(self.log_prob, x)[1]

    def entropy(self) -> float | None:
        """-E[log p] in nats, by closed form or quadrature; None if unknown."""
        return None

    def columns(self) -> tuple[str, ...]:
        """Names of the d coordinates."""
        return tuple(f"x{i + 1}" for i in range(self.dim() or 0))

    def reported(self, x: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """The quantities (n, m) that reports speak of, with their names: constrained where x (n, d) is not."""
        return x, self.columns() or tuple(f"x{i + 1}" for i in range(x.shape[1]))

    def in_dimensions(self, d: int) -> Self:
        """The same law over d dimensions, of one that `dim` leaves open."""
        return self

    def moments(self) -> tuple[Tensor, Tensor] | None:
        """Exact mean (m,) and covariance (m, m) of the reported quantities, float64; None if unknown."""
        return None

    def normals(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Weights (K,), means (K, d) and covariances (K, d, d), float64, of a mixture of normal laws; else None."""
        return None

    def mode_of(self, x: Tensor) -> Tensor:
        """The mode (B,) that each row of x (B, d) lies near, -1 for none; of laws with separate modes."""
        raise NotImplementedError

    def smallest_variance(self) -> float | None:
        """Of a normal law the smallest variance along any direction, known without torch; None of every other law."""
        return None

    def offers(self) -> frozenset[str]:
        offered = {"samples"} if type(self).sample is not Distribution.sample else set()
        if type(self).log_prob is not Distribution.log_prob:
            offered.add("log_prob" if self.normalized else "energy")
        return frozenset(offered)

    def rows(self) -> int | None:
        return self.samples if type(self).read is Distribution.read else None

    def read(self, files: Files, generator: Generator) -> Table:
        values = self.sample(self.samples, generator)
        return Table(values, self.columns() or tuple(f"x{i + 1}" for i in range(values.shape[1])))


class StandardNormal(Distribution):
    """N(0, I): where chains begin if nothing else says where."""

    type = "standard_normal"

    dimensions: int | None = Field(None, ge=1, description="d; null: any")

    def dim(self) -> int | None:
        return self.dimensions

    def in_dimensions(self, d: int) -> Self:
        return self.model_copy(update={"dimensions": d})

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        import torch

        return torch.randn(n, self.dimensions or dim or 1, generator=generator, dtype=torch.float64)

    def log_prob(self, x: Tensor) -> Tensor:
        """-½ ‖x‖² - (d/2) log 2π."""
        return -(x.square().sum(1) + x.shape[1] * math.log(2 * math.pi)) / 2

    def moments(self) -> tuple[Tensor, Tensor] | None:
        """0 and I; None while d is open."""
        import torch

        d = self.dimensions
        return None if d is None else (torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))
