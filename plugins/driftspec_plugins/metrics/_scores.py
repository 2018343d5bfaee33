"""Functions for the metrics of scores: the model's score at many rows.

For x in data units and u = (x - shift) Wᵀ in model units, ∇_x log p = Wᵀ ∇_u log p.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from driftspec.components import Metric, Solver, Trace
from driftspec.errors import RunFailed

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation, Model

BLOCK = 4096  # rows in one graph
SOLVES = "write nll with a finer 'solver' in 'evaluate': the score follows from its log p"
"""What to change if a score that follows from log p of a flow fails."""


def with_trace(model: Model) -> Model:
    """Return the model of a smooth flow, if it has no trace for log p, with the trace and the solver of `nll`."""
    if model.trace is not None or "smooth" not in model.own:
        return model
    return replace(model, trace=Trace.make("exact_trace"), solver=Solver.make("lobatto"))


def score_at(model: Model, u: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Return the score s(u) (n, d) at t_data and u (n, d), model units, float64 on the CPU, and details.

    The details have the error of the score if an ODE solve computed it.
    """
    import torch

    model = with_trace(model)
    parts = [model.score_and_error(part) for part in torch.split(model.like(u), BLOCK)]
    score, error = (torch.cat(values).double().cpu() for values in zip(*parts, strict=True))
    return score, {"score_error": stated(error)} if bool(error.any()) else {}


def jacobian(model: Model, u: Tensor) -> Tensor:
    """Return J_ij = ∂s_i/∂u_j (n, d, d) of the model's score at t_data and u (n, d)."""
    import torch

    with torch.enable_grad():
        u = u.detach().requires_grad_()
        s = model.score(u.new_tensor(model.t_data), u)
        rows = [torch.autograd.grad(one.sum(), u, retain_graph=True)[0] for one in s.unbind(1)]
    return torch.stack(rows, 1)


def score_and_trace(evaluation: Evaluation, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return s(x) (n, d) and tr ∂s/∂x (n,) of the model at t_data, float64 on the CPU, for x (n, d); all in data units.

    In model units u = (x - shift) Wᵀ, s(x) = Wᵀ s(u) and tr ∂s/∂x = tr(∂s/∂u W Wᵀ).
    """
    import torch

    model, matrix = with_trace(evaluation.model.double()), evaluation.transform.matrix
    u = model.like(evaluation.transform.to_model(x))
    with torch.no_grad():
        score = [model.score(part.new_tensor(model.t_data), part).cpu() for part in torch.split(u, BLOCK)]
    slope = torch.cat([jacobian(model, part).cpu() for part in torch.split(u, BLOCK)])
    return torch.cat(score) @ matrix, torch.einsum("nij,ji->n", slope, matrix @ matrix.T)


def stated(error: Tensor) -> dict[str, float | None]:
    """Return the mean and the largest of errors (n,); None if one is inf or NaN."""
    known = bool(error.isfinite().all())
    return {"mean": float(error.mean()), "max": float(error.max())} if known else {"mean": None, "max": None}


def finite(metric: Metric, values: Tensor, what: str) -> Tensor:
    """Return values (n, d) unchanged. Raise RunFailed if one is not finite."""
    bad = int((~values.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise RunFailed(f"{metric.label}: {what} is not finite at {bad} of {len(values)} rows", "non_finite")
    return values


def mean(values: Tensor) -> tuple[float, float]:
    """Return the mean of values (n,) and its standard error."""
    return float(values.mean()), float(values.std()) / len(values) ** 0.5
