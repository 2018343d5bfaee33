"""Means and covariances of the run's draws against those of data, each as a z-score: z = (m - m') / √(se² + se'²).

se(mean_j) = s_j/√n and se(cov_jk) = sd((x_j - mean_j)(x_k - mean_k))/√n, for independent rows. The value is the largest
|z| of all. By chance alone it grows with the moments compared (on average 1.5 in 2 dimensions, 2.6 in 10): the floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from driftspec.components import Measured
from driftspec.errors import RunFailed, nearest
from driftspec_plugins.metrics._two_samples import TwoSamples

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.evaluate import Evaluation


class Moments(TwoSamples):
    """The largest |z| over the means and covariances of the run's draws, against data."""

    type = "moments"

    of: tuple[str, ...] | None = Field(
        None, min_length=1, description="names of the columns whose moments are compared; null: all"
    )

    def measure(self, evaluation: Evaluation) -> Measured:
        drawn, data = self.compared(evaluation)
        names, columns = self._chosen(evaluation.dataset.columns)
        compared = moments(drawn[:, columns], data[:, columns], names)
        worst = max(compared, key=lambda name: abs(compared[name].z))
        details = {
            "floor": evaluation.floor(lambda a, b: largest(moments(a[:, columns], b[:, columns], names)), len(drawn)),
            "against": len(data),
            "worst": worst,
            "moments": {name: asdict(moment) for name, moment in compared.items()},
        }
        reason = "a z-score is measured in standard errors already; its floor is what chance gives"
        return Measured(largest(compared), None, "standard errors", len(drawn), details, reason)

    def _chosen(self, columns: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
        """Names and positions of the columns compared. RunFailed for a name that is not there."""
        chosen = tuple(columns) if self.of is None else self.of
        for name in chosen:
            if name not in columns:
                text = f"{self.label}: of: no column '{name}'; one of {', '.join(columns)}{nearest(name, columns)}"
                raise RunFailed(text)
        return chosen, [list(columns).index(name) for name in chosen]


@dataclass(frozen=True)
class Moment:
    """One moment of the draws, the same of the reference, the standard error of their difference, and z."""

    value: float
    reference: float
    stderr: float
    z: float


def moments(x: Tensor, reference: Tensor, names: Sequence[str]) -> dict[str, Moment]:
    """`mean x1`, ..., `variance x1`, ..., `covariance x1 x2`, ... for x (n, d) and reference (m, d)."""
    (ours, our_error), (theirs, their_error) = estimates(x), estimates(reference)
    stderr = (our_error.square() + their_error.square()).sqrt()
    z = (ours - theirs) / stderr
    labels = [f"mean {name}" for name in names]
    for i, name in enumerate(names):
        labels += [f"variance {name}", *(f"covariance {name} {other}" for other in names[i + 1 :])]
    rows = zip(labels, ours.tolist(), theirs.tolist(), stderr.tolist(), z.tolist(), strict=True)
    return {label: Moment(*numbers) for label, *numbers in rows}


def estimates(x: Tensor) -> tuple[Tensor, Tensor]:
    """The d means and d(d + 1)/2 covariances of x (n, d), the upper triangle by rows, and standard errors."""
    import torch

    n, d = x.shape
    size = x.abs().amax(0)
    rounding, tiny = torch.finfo(x.dtype).eps, torch.finfo(x.dtype).tiny  # all that is left where a column is constant
    centred = x - x.mean(0)
    products = centred.T @ centred / n
    spread = (centred.square().T @ centred.square() / n - products.square()).clamp_min(0) / (n - 1)
    above = torch.triu_indices(d, d).unbind()
    means_error = torch.maximum(x.std(0) / n**0.5, rounding * size + tiny)
    covariances_error = torch.maximum(spread.sqrt(), rounding * size[:, None] * size + tiny)
    values = torch.cat((x.mean(0), (products * n / (n - 1))[above]))
    return values, torch.cat((means_error, covariances_error[above]))


def largest(compared: dict[str, Moment]) -> float:
    """max |z|."""
    return max(abs(moment.z) for moment in compared.values())
