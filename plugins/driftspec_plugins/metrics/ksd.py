"""Kernel Stein discrepancy (KSD): the difference between the distribution of rows and that with the score s.

    KSD² = E u(x, y),   u = s(x)ᵀs(y) k + s(x)ᵀ∇_y k + s(y)ᵀ∇_x k + tr ∇_x∇_yᵀ k,   k = (c² + ‖x - y‖²)^(-1/2)

It is zero only if both are equal, and needs only the score of the second. With this kernel, the inverse multiquadric,
it also detects draws that escape to infinity. Liu, Lee, Jordan, *A Kernelized Stein Discrepancy for Goodness-of-fit
Tests*, 2016; Gorham, Mackey, *Measuring Sample Quality with Kernels*, 2017. Like the score, it hardly depends on the
weights of modes that are far apart.

The value is the U-statistic of KSD², without bias, so it may be negative. `_u_statistics` computes its standard error;
for draws of the distribution itself it is 1.8 times the true one, which is `chance`. A chain counts as one row: u
between two chains is the mean over pairs of their draws. All is in model units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from driftspec.components import Metric, Setting
from driftspec.components.component import Need
from driftspec_plugins.metrics._scores import finite, score_at
from driftspec_plugins.metrics._two_samples import Compared, checked
from driftspec_plugins.metrics._u_statistics import jackknife, pairs, standard_error
from driftspec_plugins.metrics._unfit import no_rows

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Data, Evaluation, Measured


class KSD(Metric):
    """KSD² of the run's draws, or of test rows, with the score of the model or of the target."""

    type = "ksd"
    draws_wanted = "samples"

    of: Literal["draws", "data"] = Field(
        "draws", description="draws: the run's draws, to check the sampler; data: test rows, to check a model"
    )
    samples: int = Field(2000, ge=10, description="number of rows, the first ones")
    width: float = Field(1.0, gt=0, description="c of the kernel, model units")

    def needs(self) -> tuple[Need, ...]:
        data = (Need("data", ("samples",), "to have test rows"),) if self.of == "data" else ()
        return (Need("dynamics", ("score",), "to compare with"), *data)

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        if self.of == "data":
            yield from no_rows(around)

    def wanted(self) -> int:
        return 0 if self.of == "data" else self.samples

    def reads_rows(self, data: Data) -> bool:
        return self.of == "data"

    def measure(self, evaluation: Evaluation) -> Measured:
        test = evaluation.test(self.samples)[:, None] if self.of == "data" else None
        chains = evaluation.transform.to_model(evaluation.chains(self.samples) if test is None else test)
        u = checked(self, evaluation.model.like(chains.flatten(0, 1)).double().cpu(), "rows")
        score, stated = score_at(evaluation.model, u)
        s = finite(self, score, "the score")
        rows = Compared(u, u[:0], len(chains))
        value, stderr, chance = ksd(u, s, self.width, rows.parts)
        line = f"KSD² {value:.4g} ± {rows.stated(stderr):.2g} ({self.of}); by chance alone ± {chance:.2g}"
        return rows.measured(value, stderr, "1/model units³", {"of": self.of, "chance": chance, **stated}, line)


def ksd(x: Tensor, s: Tensor, width: float, parts: int | None = None) -> tuple[float, float, float]:
    """Return KSD², its standard error, and its standard error if x are draws of the distribution with score s.

    x and s are (n, d); x has `parts` independent parts of equal length (None: n).
    """
    import torch

    d = x.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return stein(a[:, :d], a[:, d:], b[:, :d], b[:, d:], width)

    found = pairs(kernel, torch.cat([x, s], 1), parts or len(x))
    chance = math.sqrt(2 * float(found.squares)) / (found.n * (found.n - 1))
    return float(found.mean), standard_error(jackknife(found.without), found.second), chance


def stein(x: Tensor, sx: Tensor, y: Tensor, sy: Tensor, width: float) -> Tensor:
    """Return u(x_i, y_j) (n, m) of x (n, d) and y (m, d) with scores sx, sy; q = c² + ‖x - y‖², k = q^(-1/2)."""
    d = x.shape[1]
    r = x[:, None] - y
    square = r.square().sum(-1)
    q = width**2 + square
    drift = ((sx[:, None] - sy) * r).sum(-1)  # s(x)ᵀ∇_y k + s(y)ᵀ∇_x k = q^(-3/2) (s(x) - s(y))ᵀ(x - y)
    return (sx @ sy.T) * q**-0.5 + (drift + d) * q**-1.5 - 3 * square * q**-2.5
