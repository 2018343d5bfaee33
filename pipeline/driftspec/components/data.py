"""Data: a distribution, given by samples, by log p, or by both."""

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
    """The rows that are read: `values` (n, d) float64, or (n, K, d) for trajectories observed at `times` (K,)."""

    values: Tensor
    columns: tuple[str, ...]
    times: Tensor | None = None
    digest: str | None = None  # sha256 of the file it came from
    named: bool = True  # the source names its columns; if not, they are numbered
    first: int = 1  # the number of the first row in the source
    condition: Tensor | None = None  # (n, k) float64: the condition of each row, such as a label

    def with_columns(self, names: Sequence[str]) -> Table:
        """Return the table with only these columns, in this order. SpecError X304 names each missing column.

        If the source does not name its columns, all are taken by position, and there must be as many as names.
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
    """A distribution, given by samples, by log p, or by both."""

    kind = "data"
    hard_edges: ClassVar[bool] = False
    """Whether the density has jumps: implicit score matching then has no minimum."""
    file_key: ClassVar[str | None] = None
    """The key that names the file it reads; None if it reads no file."""
    columns_key: ClassVar[str | None] = None
    """The key that chooses columns of that file: a list of names, or null for all; None if there is no such key."""
    formats: ClassVar[tuple[str, ...]] = ()
    """Suffixes, such as `.csv`, of files that need no other key: `evaluate --data` then accepts such files."""

    split: tuple[float, float, float] = Field(
        (0.8, 0.1, 0.1), description="fractions for training, validation and test; they sum to 1"
    )
    standardize: Literal["none", "scale", "whiten"] = Field(
        "none", description="map to model units: none, each column to mean 0 and deviation 1, or covariance I"
    )

    def dim(self) -> int | None:
        """Return d; None if it is not known (a file that is not read yet, a distribution for any d)."""
        return None

    def offers(self) -> frozenset[str]:
        return frozenset({"samples"})

    def rows(self) -> int | None:
        """Return how many rows `read` gives; None if it is not known (a file that is not read yet)."""
        return None

    def file(self) -> str | None:
        """Return the file that it reads, as the spec names it; None if it reads no file."""
        return None if self.file_key is None else str(getattr(self, self.file_key))

    def with_columns(self, names: Sequence[str]) -> Self:
        """Return the same data with only these columns, in this order; itself if its columns cannot be chosen."""
        return self if self.columns_key is None else self.model_copy(update={self.columns_key: tuple(names)})

    def noise_floor(self) -> float | None:
        """Return the mean squared error of a perfect prediction of its trajectories, in data units; None if unknown."""
        return None

    @abstractmethod
    def read(self, files: Files, generator: Generator) -> Table:
        """Return all rows, in the data's own units. SpecError X304 for a bad file."""


class Distribution(Data):
    """A distribution that can be sampled or whose log p is known, most often both.

    As a `target`, `prior` or `start` it takes no key of a data set (`samples`, `split`, `standardize`). If it gives no
    `sample` or no `log_prob`, that method raises NotImplementedError.
    """

    unused_nested = frozenset({"samples", "split", "standardize"})

    normalized: ClassVar[bool] = True
    """Whether exp(`log_prob`) integrates to 1; if not, log p has an unknown constant, and only an energy is offered."""

    @classmethod
    def lacking(cls) -> list[str]:
        """A distribution gives `sample`, `log_prob` or both, or reads its rows itself."""
        known = (cls.sample, Distribution.sample), (cls.log_prob, Distribution.log_prob), (cls.read, Distribution.read)
        neither = all(own is base for own, base in known)
        return [*super().lacking(), *(["sample or log_prob"] if neither else [])]

    samples: int = Field(10000, ge=1, description="rows drawn, before the split")

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """Return n samples (n, d) float64, drawn with `generator`. The argument `dim` is d if `dim()` is None."""
        raise NotImplementedError

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) (B,) in nats, for x (B, d) in the units of `sample`."""
        raise NotImplementedError

    def score(self, x: Tensor) -> Tensor:
        """Return ∇log p(x) (B, d) for x (B, d), by differentiating `log_prob` unless a subclass has a closed form."""
        from driftspec.autodiff import gradient

        return gradient(self.log_prob, x)[1]

    def entropy(self) -> float | None:
        """Return the entropy -E[log p] in nats, by a closed form or quadrature; None if unknown."""
        return None

    def columns(self) -> tuple[str, ...]:
        """Return the names of the d coordinates."""
        return tuple(f"x{i + 1}" for i in range(self.dim() or 0))

    def reported(self, x: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """Return the quantities (n, m) that reports show for x (n, d), with their names: such as τ if x has log τ."""
        return x, self.columns() or tuple(f"x{i + 1}" for i in range(x.shape[1]))

    def in_dimensions(self, d: int) -> Self:
        """Return the same distribution in d dimensions if `dim()` is None; else itself."""
        return self

    def moments(self) -> tuple[Tensor, Tensor] | None:
        """Return the exact mean (m,) and covariance (m, m) of the reported quantities, float64; None if unknown."""
        return None

    def normals(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return weights (K,), means (K, d) and covariances (K, d, d), float64, of a Gaussian mixture; else None."""
        return None

    def mode_of(self, x: Tensor) -> Tensor:
        """Return the number (B,) of the mode that each row of x (B, d) is near, -1 for none, if modes are separate."""
        raise NotImplementedError

    def smallest_variance(self) -> float | None:
        """Return the smallest variance of a normal distribution along any direction, without torch; else None."""
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
    """N(0, I): the default distribution in which chains start."""

    type = "standard_normal"

    dimensions: int | None = Field(None, ge=1, description="d; null: any")

    def dim(self) -> int | None:
        return self.dimensions

    def in_dimensions(self, d: int) -> Self:
        return self.model_copy(update={"dimensions": d})

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """Return n samples (n, d) from N(0, I), float64."""
        import torch

        return torch.randn(n, self.dimensions or dim or 1, generator=generator, dtype=torch.float64)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return -½ ‖x‖² - (d/2) log 2π (B,) for x (B, d)."""
        return -(x.square().sum(1) + x.shape[1] * math.log(2 * math.pi)) / 2

    def moments(self) -> tuple[Tensor, Tensor] | None:
        """Return the mean 0 (d,) and the covariance I (d, d); None if d is not known."""
        import torch

        d = self.dimensions
        return None if d is None else (torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))
