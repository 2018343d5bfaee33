"""Functions for the metrics of chains: the reported quantities and their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from driftspec.accuracy.convergence import still
from driftspec.components import Metric
from driftspec.errors import RunFailed, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation


class OfQuantities(Metric):
    """A metric of the reported quantities: those that the target defines, or the columns of the data."""

    of: tuple[str, ...] | None = Field(
        None, min_length=1, description="names of the reported quantities, in constrained coordinates; null: all"
    )

    def quantities(self, evaluation: Evaluation) -> tuple[Tensor, tuple[str, ...]]:
        """Return the quantities (chains, draws, m) float64, and their names. Raise RunFailed if one is not finite."""
        values, names = evaluation.reported(evaluation.chains())
        broken = int((~values.isfinite()).any(-1).sum())
        if broken:
            raise RunFailed(f"{self.label}: {broken} of {values[..., 0].numel()} draws are not finite", "non_finite")
        columns = chosen(self, self.of, names)
        return values[..., columns], tuple(names[column] for column in columns)


def chosen(metric: Metric, of: Sequence[str] | None, names: Sequence[str]) -> list[int]:
    """Return the positions of the quantities named in `of`, all if it is None. Raise RunFailed for an unknown name."""
    for name in of or ():
        if name not in names:
            text = f"{metric.label}: of: no column '{name}'; one of {', '.join(names)}{nearest(name, names)}"
            raise RunFailed(text)
    return [list(names).index(name) for name in (of or names)]


def as_arrays(values: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Return each quantity of values (chains, draws, m) as an array (chains, draws) under its name."""
    return {name: values[..., index].numpy() for index, name in enumerate(names)}


def unmoved(values: Tensor, names: Sequence[str]) -> str | None:
    """Return a reason if some quantity of values (chains, draws, m) is constant in every chain, else None."""
    held = [name for name, x in as_arrays(values, names).items() if still(x)]
    return f"nothing moves within the chains: {', '.join(held)}" if held else None
