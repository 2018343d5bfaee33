"""Mean and variance of Hutchinson's estimate at fixed points, compared with the exact trace and its variance.

    e = vᵀ A v,   E e = tr A,   A = ∂f/∂x,   S = (A + Aᵀ)/2
    Var e = 2 ‖S‖²_F (Gaussian v),   2 (‖S‖²_F - Σ_i S_ii²) (Rademacher v)

The value is the mean over points of mean_k (e_k - tr A)² / Var e, which is 1. Its standard error is that of independent
draws, from the spread of (e_k - tr A)². The `bias` is the mean of (e_k - tr A)/√Var e, with standard error 1/√n for n
estimates. A point where Var e = 0 is left out. All is in float64, at test rows and t_data, model units.

M. F. Hutchinson 1989; W. Grathwohl et al., *FFJORD*, 2019. ± 1.96 standard errors cover 1 in 94 to 95 % of runs
for 1,000 draws or more at each point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from driftspec.components import Measured, Metric, Setting, Trace
from driftspec.components.component import Need
from driftspec.components.picture import Bars, Line, Panel, Picture, Points
from driftspec_plugins.metrics._unfit import no_flow, no_rows
from driftspec_plugins.metrics.determinant_limit import jacobian

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation

AVERAGED = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of probes K in the picture."""


class TraceSpread(Metric):
    """The measured variance of vᵀ (∂f/∂x) v, divided by that of Hutchinson's formula: 1."""

    type = "trace_spread"
    reads_test_rows: ClassVar[bool] = True

    noise: Literal["rademacher", "gaussian"] = Field(
        "rademacher", description="distribution of v: random signs or N(0, I)"
    )
    points: int = Field(8, ge=2, description="number of test rows, the first ones")
    draws: int = Field(4096, ge=128, description="number of estimates at each row, each with one probe v")

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("velocity",), "to differentiate"),
            Need("dynamics", ("smooth",), "the trace is of a derivative of the velocity: its activation must be C1"),
            Need("data", ("samples",), "to have test rows"),
        )

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        yield from no_rows(around)
        yield from no_flow(around)
        if self.noise == "rademacher" and around.data is not None and around.data.dim() == 1:
            yield "noise", "in one dimension random signs give the trace itself, without a spread: take noise: gaussian"

    def measure(self, evaluation: Evaluation) -> Measured:
        import torch

        model = evaluation.model.double()
        x = evaluation.rows(evaluation.test(self.points)).double()
        field = model.field(x.new_tensor(model.t_data))
        each = x.repeat(self.draws, 1)
        by = Trace.make({"type": "hutchinson", "noise": self.noise})
        probe = by.probe(each, evaluation.streams.generator("probes"))
        estimates = by.divergence(field, each, probe)[1].detach().view(self.draws, -1)
        j = jacobian(field, x)
        trace = j.diagonal(dim1=1, dim2=2).sum(1)
        variance = formula(j, self.noise)
        spread = variance > 1e-12 * torch.linalg.matrix_norm(j).square()
        if not bool(spread.any()):
            return Measured(None, None, "", len(x), {}, "the formula gives variance 0 at every row: nothing to compare")
        off, expected = (estimates - trace)[:, spread], variance[spread]
        value, stderr = ratio(off, expected)
        bias, bias_stderr = float((off / expected.sqrt()).mean()), off.numel() ** -0.5
        details = {
            "bias": {"value": bias, "stderr": bias_stderr, "unit": "deviations of one estimate"},
            "z": bias / bias_stderr,
            "deviation": {"mean": float(expected.sqrt().mean()), "largest": float(expected.sqrt().max())},
            "trace": {"mean": float(trace.mean()), "largest": float(trace.abs().max())},
            "draws": self.draws,
        }
        line = f"Hutchinson's variance is {value:.3f} ± {stderr:.3f} times the formula's; "
        line += f"its bias has z = {bias / bias_stderr:+.1f}"
        picture = _picture(estimates[:, spread][:, 0], float(trace[spread][0]), off, expected)
        return Measured(value, stderr, "", int(spread.sum()), details, line=line, pictures={"spread": picture})


def formula(j: Tensor, noise: str) -> Tensor:
    """Return Var vᵀ J v (n,) for J (n, d, d): 2 ‖S‖²_F, less 2 Σ_i S_ii² for Rademacher probes."""
    s = (j + j.mT) / 2
    diagonal = s.diagonal(dim1=1, dim2=2).square().sum(1) if noise == "rademacher" else 0
    return 2 * (s.square().sum((1, 2)) - diagonal)


def ratio(off: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return the mean of off² / expected over points, and its standard error.

    `off` (N, n) are N estimates less the exact value at n points, `expected` (n,) their variance by the formula.
    """
    squares = off.square() / expected
    draws, points = squares.shape
    return float(squares.mean()), float((squares.var(0) / draws).sum().sqrt()) / points


def _picture(estimates: Tensor, trace: float, off: Tensor, expected: Tensor) -> Picture:
    """Return the estimates (N,) of one point about its trace; and the spread of means of K estimates `off` (N, n)."""
    import numpy as np

    heights, edges = np.histogram(estimates.cpu().numpy(), 40)
    density = heights / heights.sum() / np.diff(edges)
    bars = Bars(edges.tolist(), density.tolist(), "estimates")
    exact = Line([trace, trace], [0.0, 1.05 * float(density.max())], "exact trace")
    counts = [k for k in AVERAGED if len(off) // k >= 32]
    spread, errors = [], []
    for k in counts:
        means = off[: len(off) // k * k].view(-1, k, off.shape[1]).mean(1)
        square, error = means.square().mean(0), means.square().var(0) / len(means)
        spread.append(math.sqrt(float(square.mean())))
        errors.append(math.sqrt(float(error.sum())) / off.shape[1] / (2 * spread[-1]))
    one = math.sqrt(float(expected.mean()))
    curve = Line(counts, [one / math.sqrt(k) for k in counts], "formula, 1/√K")
    marks: list[Line | Points] = [Points(counts, spread, "measured", errors), curve]
    caption = (
        "Left: estimates of the trace at one point, each by one probe, and the exact trace. Right: the deviation of "
        "the mean of K probes, over all points, and by the formula for the variance; the bars are one standard error."
    )
    panels = [Panel([bars, exact], "vᵀ (∂f/∂x) v, 1/time", "density"),
              Panel(marks, "K, probes", "deviation, 1/time", log="xy")]  # fmt: skip
    return Picture(panels, caption)
