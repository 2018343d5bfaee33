"""Means and covariances of the run's draws, compared with exact ones or with data: z = (m - m') / √(se² + se'²).

For n independent rows se(mean_j) = s_j/√n and se(cov_jk) = sd((x_j - mean_j)(x_k - mean_k))/√n. For chains with several
draws se comes from the spread of the chains' means, or for a few long chains it is s/√ESS
(`accuracy.convergence.mean_error`). Exact moments have se' = 0: those of a target, or with `predicted` those that the
sampler predicts, with its bias. The value is the largest |z|. Even for perfect draws it is not 0 and grows with the
number of moments (on average 1.5 in 2 dimensions, 2.6 in 10): this is the floor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from driftspec.accuracy.convergence import SHORT, mean_error
from driftspec.components import Distribution, Measured, Metric, PredictsMoments, Setting
from driftspec.components.component import Need
from driftspec.errors import RunFailed
from driftspec_plugins.metrics._chains import chosen, unmoved
from driftspec_plugins.metrics._two_samples import checked

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation

    Estimates = tuple[Tensor, Tensor]  # d means and d(d + 1)/2 covariances, and their standard errors


class Moments(Metric):
    """The largest |z| of the means and covariances of the run's draws, compared with exact ones or with data."""

    type = "moments"
    draws_wanted = "samples"
    reads_chains = True

    samples: int | None = Field(
        None, ge=10, description="number of draws, the first ones in whole chains, and of data rows; null: all"
    )
    of: tuple[str, ...] | None = Field(
        None, min_length=1, description="names of the reported quantities whose moments are compared; null: all"
    )
    predicted: bool = Field(
        False, description="whether to compare with the moments that the sampler predicts, with its bias"
    )

    def needs(self) -> tuple[Need, ...]:
        return (Need("data", ("samples", "log_prob", "energy"), "to compare with"),)

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        law = around.reference
        if self.predicted and around.sampler is not None:
            if around.data is not None or not isinstance(law, Distribution):
                yield "predicted", f"{around.sampler.label} predicts moments of a target only, and the spec has none"
            elif not isinstance(around.sampler, PredictsMoments) or not around.sampler.predicts(law):
                yield "predicted", f"{around.sampler.label} does not predict the moments of its draws from {law.label}"
        elif law is not None and "samples" not in law.offers() and not _known(law):
            yield "of", f"nothing to compare with: the moments of {law.label} are not known, nor can it be drawn from"

    def measure(self, evaluation: Evaluation) -> Measured:
        drawn, names = evaluation.reported(evaluation.chains(self.samples))
        columns = chosen(self, self.of, names)
        drawn, names = drawn[..., columns], tuple(names[column] for column in columns)
        rows = checked(self, drawn.flatten(0, 1), "draws")
        if reason := unmoved(drawn, names) or _too_short(drawn):
            return Measured(None, None, "standard errors", len(rows), {}, reason)
        theirs, against, floor = self._reference(evaluation, columns, len(rows))
        compared = compare(chain_estimates(drawn), theirs, names)
        worst = max(compared, key=lambda name: abs(compared[name].z))
        details = {
            "floor": floor,
            "against": against,
            "worst": worst,
            "moments": {name: asdict(moment) for name, moment in compared.items()},
        }
        reason = "a z-score is already in standard errors; the floor is its value for perfect draws"
        most = compared[worst]
        right = most.reference if abs(most.reference) > 1e-9 * most.stderr else 0.0  # 5e-25 is a rounded 0
        line = f"{worst} is {most.value:.5g} where {right:.5g} is expected: z = {most.z:+.2f}"
        line += f", the largest of {len(compared)}"
        return Measured(largest(compared), None, "standard errors", len(rows), details, reason, line)

    def _reference(
        self, evaluation: Evaluation, columns: list[int], n: int
    ) -> tuple[Estimates, int | str, float | None]:
        """Return the reference moments, what they are (a text, or a number of data rows), and the floor."""
        law, sampler = (
            evaluation.target_alone,
            evaluation.setting.sampler if evaluation.target_alone is not None else None,
        )
        if self.predicted:
            settled = None if sampler is None else sampler.settled(evaluation.setting)
            if law is None or not isinstance(settled, PredictsMoments) or not settled.predicts(law):
                raise RunFailed(f"{self.label}: no sampler predicts the moments of these draws")
            return exact(*settled.predicted(law), columns), f"predicted by {settled.label}", None
        known = None if law is None else law.moments()
        if law is not None and known is not None:
            theirs, fresh = exact(*known, columns), evaluation.fresh(n, "floor first")
            if fresh is None:
                return theirs, f"exact moments of {law.label}", None
            ours = estimates(evaluation.reported(fresh)[0][:, columns])
            return theirs, f"exact moments of {law.label}", largest(compare(ours, theirs, [str(c) for c in columns]))
        names = [str(column) for column in columns]

        def distance(a: Tensor, b: Tensor) -> float:
            first, second = (evaluation.reported(rows)[0][:, columns] for rows in (a, b))
            return largest(moments(first, second, names))

        data = evaluation.reported(checked(self, evaluation.reference(n), "data rows"))[0][:, columns]
        return estimates(data), len(data), evaluation.floor(distance, n)


def _too_short(drawn: Tensor) -> str | None:
    """Return why draws (chains, draws, m) give no standard error, or None."""
    chains, draws, _ = drawn.shape
    text = f"one chain of {draws} draws is too short for a standard error: {SHORT} are needed, or several chains"
    return text if chains == 1 and 1 < draws < SHORT else None


def _known(law: object) -> bool:
    return isinstance(law, Distribution) and type(law).moments is not Distribution.moments


@dataclass(frozen=True)
class Moment:
    """A moment of the draws, that of the reference, the standard error of their difference, and z."""

    value: float
    reference: float
    stderr: float
    z: float


def moments(x: Tensor, reference: Tensor, names: Sequence[str]) -> dict[str, Moment]:
    """Return the moments of x (n, d) and reference (m, d) under `mean x1`, `variance x1`, `covariance x1 x2`, ..."""
    return compare(estimates(x), estimates(reference), names)


def compare(first: Estimates, second: Estimates, names: Sequence[str]) -> dict[str, Moment]:
    """Return the moments of two estimates, of the draws and of the reference, under their names."""
    (ours, our_error), (theirs, their_error) = first, second
    stderr = (our_error.square() + their_error.square()).sqrt()
    z = (ours - theirs) / stderr
    labels = [f"mean {name}" for name in names]
    for i, name in enumerate(names):
        labels += [f"variance {name}", *(f"covariance {name} {other}" for other in names[i + 1 :])]
    rows = zip(labels, ours.tolist(), theirs.tolist(), stderr.tolist(), z.tolist(), strict=True)
    return {label: Moment(*numbers) for label, *numbers in rows}


def estimates(x: Tensor) -> Estimates:
    """Return the d means and the d(d + 1)/2 covariances of x (n, d), upper triangle by rows, with standard errors."""
    import torch

    n, d = x.shape
    centred = x - x.mean(0)
    products = centred.T @ centred / n
    spread = (centred.square().T @ centred.square() / n - products.square()).clamp_min(0) / (n - 1)
    above = torch.triu_indices(d, d).unbind()
    values = torch.cat((x.mean(0), (products * n / (n - 1))[above]))
    return values, torch.maximum(torch.cat((x.std(0) / n**0.5, spread.sqrt()[above])), _rounding(x))


def _rounding(x: Tensor) -> Tensor:
    """Return the rounding errors of the means and covariances of x (n, d): their least standard errors."""
    import torch

    size = x.abs().amax(0)
    first, second = torch.triu_indices(x.shape[1], x.shape[1]).unbind()
    limits = torch.finfo(x.dtype)
    return limits.eps * torch.cat((size, size[first] * size[second])) + limits.tiny


def chain_estimates(x: Tensor) -> Estimates:
    """Return the means and covariances of chains x (chains, draws, d), with standard errors for dependent draws."""
    import torch

    rows = x.flatten(0, 1)
    values, errors = estimates(rows)
    if x.shape[1] == 1:
        return values, errors
    centred = x - rows.mean(0)
    first, second = torch.triu_indices(x.shape[-1], x.shape[-1]).unbind()
    averaged = torch.cat((centred, centred[..., first] * centred[..., second]), -1).numpy()
    each = [mean_error(averaged[..., column]) for column in range(averaged.shape[-1])]
    if None in each:
        raise ValueError(_too_short(x))
    return values, torch.maximum(torch.tensor(each, dtype=torch.float64), _rounding(rows))


def exact(mean: Tensor, covariance: Tensor, columns: list[int]) -> Estimates:
    """Return the exact moments of some columns of mean (d,) and covariance (d, d), with standard errors 0."""
    import torch

    above = torch.triu_indices(len(columns), len(columns)).unbind()
    values = torch.cat((mean[columns], covariance[columns][:, columns][above]))
    return values, torch.zeros_like(values)


def largest(compared: dict[str, Moment]) -> float:
    """Return the largest |z| of the moments."""
    return max(abs(moment.z) for moment in compared.values())
