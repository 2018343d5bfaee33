"""How the log determinant of a discrete flow's step becomes a trace for small steps.

    r(h) = |log |det(I + h J)| / h - tr J| = C h^p,   p = 1,   C = ½ |tr J²|,   J = ∂f/∂x

x' = x + h f(x) is one layer of a discrete flow, with log p(x') = log p(x) - log |det(I + h J)|. J is taken at test rows
and t_data; the determinant is computed from the matrix J, and the trace by the estimator `exact_trace`. The value is p,
fitted to the means of r over rows for h = h_0, h_0/2, h_0/4, ..., with h_0 = 0.1 / max ‖J‖_F. With `draws`, the details
have the mean of w = N(x'; 0, I)/p(x') over draws x of p = N(0, I), for h = 5 h_0, with its standard error. It is 1, the
integral of N(x'; 0, I), if p(x') is the density of x'. All is in float64, model units.
Chen et al., *Neural Ordinary Differential Equations*, 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from driftspec.components import Measured, Metric, Setting, Trace
from driftspec.components.component import Need
from driftspec.components.picture import Line, Panel, Picture, Points
from driftspec_plugins.metrics._slopes import exponent, line
from driftspec_plugins.metrics._unfit import no_flow, no_rows

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation


class DeterminantLimit(Metric):
    """The exponent p of |log |det(I + hJ)| / h - tr J| = C h^p, which is 1, for J = ∂f/∂x at test rows."""

    type = "determinant_limit"
    reads_test_rows: ClassVar[bool] = True

    points: int = Field(100, ge=2, description="number of test rows, the first ones")
    halvings: int = Field(8, ge=1, le=20, description="how often h is halved")
    draws: int | None = Field(None, ge=2, description="number of draws for `normalisation`; null: it is left out")

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("velocity",), "to differentiate"),
            Need("dynamics", ("smooth",), "J is a derivative of the velocity: its activation must be C1"),
            Need("data", ("samples",), "to have test rows"),
        )

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        yield from no_rows(around)
        yield from no_flow(around)

    def measure(self, evaluation: Evaluation) -> Measured:
        import torch

        model = evaluation.model.double()
        x = evaluation.rows(evaluation.test(self.points)).double()
        field = model.field(x.new_tensor(model.t_data))
        j, trace = jacobian(field, x), Trace.make("exact_trace").divergence(field, x)[1].detach()
        size = float(torch.linalg.matrix_norm(j).max())
        if not size > 0:
            return Measured(None, None, "", len(x), {}, "J = 0 at every row: there is no slope to fit")
        steps = [0.1 / size / 2**k for k in range(self.halvings + 1)]
        unit = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        errors = [float((torch.linalg.slogdet(unit + h * j).logabsdet / h - trace).abs().mean()) for h in steps]
        constant = float((j @ j).diagonal(dim1=1, dim2=2).sum(1).abs().mean()) / 2
        details: dict[str, Any] = {
            "steps": steps,
            "differences": errors,
            "constant": constant,
            "constant_ratio": errors[-1] / steps[-1] / constant if constant > 0 else None,
            "trace": {"mean": float(trace.mean()), "largest": float(trace.abs().max())},
        }
        if self.draws is not None:
            generator = evaluation.streams.generator("draws")
            drawn = torch.randn(self.draws, x.shape[1], dtype=x.dtype, generator=generator).to(x.device)
            weights = layer_weights(field, drawn, 5 * steps[0])
            value, stderr = float(weights.mean()), float(weights.std()) / math.sqrt(self.draws)
            details["normalisation"] = {"value": value, "stderr": stderr}
        if min(errors) == 0:
            return Measured(
                None, None, "", len(x), details, "the determinants are the traces: there is no slope to fit"
            )
        slope = exponent(steps, errors)
        reason = "deterministic for these rows"
        return Measured(slope, None, "", len(x), details, reason, pictures={"limit": _picture(steps, errors, slope)})


def layer_weights(field: Callable[[Tensor], Tensor], x: Tensor, h: float) -> Tensor:
    """Return N(x'; 0, I)/p(x') (n,) for x (n, d) of p = N(0, I), x' = x + h f(x), p(x') = p(x)/|det(I + h J)|."""
    import torch

    moved = x + h * field(x).detach()
    unit = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    log_det = torch.linalg.slogdet(unit + h * jacobian(field, x)).logabsdet
    return ((x.square() - moved.square()).sum(1) / 2 + log_det).exp()


def jacobian(field: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return J_ij = ∂f_i/∂x_j (n, d, d) at x (n, d), by d vector-Jacobian products."""
    import torch

    from driftspec.autodiff import pullback

    _, vjp = pullback(field, x)
    return torch.stack([vjp(e.expand_as(x)) for e in torch.eye(x.shape[1], dtype=x.dtype, device=x.device)], 1).detach()


def _picture(steps: list[float], errors: list[float], slope: float) -> Picture:
    """Return the differences against h, with the fitted slope."""
    marks: list[Line | Points] = [
        Points(steps, errors, "mean over test rows"),
        line(steps, errors, slope, f"slope {slope:.3f}"),
    ]
    caption = (
        "The log determinant of one step x + h f(x), divided by h, differs from the trace of ∂f/∂x by an amount in "
        "proportion to h: in the limit of small steps the determinant is a trace."
    )
    return Picture([Panel(marks, "h, step (time)", "|log |det(I + hJ)| / h - tr J|, 1/time", log="xy")], caption)
