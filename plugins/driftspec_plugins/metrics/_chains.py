"""What the metrics of chains share: the quantities that reports speak of, and their names."""

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
    """A metric over the quantities that reports speak of: the target's own, or the data's columns."""

    of: tuple[str, ...] | None = Field(
        None, min_length=1, description="names of the reported quantities, in constrained coordinates; null: all"
    )

    def quantities(self, evaluation: Evaluation) -> tuple[Tensor, tuple[str, ...]]:
        """(chains, draws, m) float64, with names. RunFailed where a draw is not finite."""
        values, names = evaluation.reported(evaluation.chains())
        broken = int((~values.isfinite()).any(-1).sum())
        if broken:
            raise RunFailed(f"{self.label}: {broken} of {values[..., 0].numel()} draws are not finite", "non_finite")
        columns = chosen(self, self.of, names)
        return values[..., columns], tuple(names[column] for column in columns)


def chosen(metric: Metric, of: Sequence[str] | None, names: Sequence[str]) -> list[int]:
    """Positions of the quantities that a metric is of. RunFailed for a name that is not there."""
    for name in of or ():
        if name not in names:
            text = f"{metric.label}: of: no column '{name}'; one of {', '.join(names)}{nearest(name, names)}"
            raise RunFailed(text)
    return [list(names).index(name) for name in (of or names)]


def as_arrays(values: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Each quantity (chains, draws) by name."""
    return {name: values[..., index].numpy() for index, name in enumerate(names)}


def unmoved(values: Tensor, names: Sequence[str]) -> str | None:
    """Why nothing can be said of chains in which a quantity never moves; None where each does."""
    held = [name for name, x in as_arrays(values, names).items() if still(x)]
    return f"nothing moves within the chains: {', '.join(held)}" if held else None
