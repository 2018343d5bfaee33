"""log p of a flow and its gradient, for metrics and for chains.

For a metric each point has its own number of solver steps N, as in `likelihood.log_prob`. Chains use differences of
log p and its gradient, and both must belong to one function. So all chains use one N in all their steps, and the
gradient is that of the log p which N steps compute. N is found at pilot points; at the last states of the chains the
result is compared with that of 2N steps.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from driftspec.autodiff import gradient
from driftspec.components import Draws, FixedSteps, Solver, Trace, Verdict
from driftspec.components.model import Model
from driftspec.errors import RunFailed, SolveFailed
from driftspec.numerics import likelihood
from driftspec.streams import Streams


def log_density(model: Model, x: Tensor) -> Tensor:
    """Return log p(x) (B,), nats. If autograd records, it has a graph, and one N is used for all points."""
    solver, trace = solving(model)
    if model.pilot is None and not torch.is_grad_enabled():
        return likelihood.log_prob(model, x, solver, trace, Streams(0)).log_prob
    steps = enough_steps(model, x.detach()) if model.pilot is None else pilot_steps(model)
    return likelihood.differentiable_log_prob(model, x, trace, solver, steps)


def log_density_and_score(model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p(x) (B,) and ∇log p(x) (B, d), with the pilot's N, or else an N for each point.

    If autograd records, both have a graph, as in `log_density`.
    """
    if torch.is_grad_enabled():
        return gradient(lambda y: log_density(model, y), x)
    if model.pilot is not None:
        return _by_parts(model, x, *solving(model), pilot_steps(model))
    value = likelihood.log_prob_and_score(model, x, *solving(model)).value.to(x)
    return value[:, 0], value[:, 1:]


def score_and_error(model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ∇log p(x) (B, d), with an N for each point, and a bound (B,) of the numerical error of a component."""
    solved = likelihood.log_prob_and_score(model, x, *solving(model))
    return solved.value[:, 1:], solved.error


def solving(model: Model) -> tuple[Solver, Trace]:
    """Return the solver and the trace that compute log p from the velocity. Raise RunFailed if there is no trace."""
    if model.trace is None:
        text = f"{model.dynamics.label}: log p needs a trace, and neither the estimator nor a metric has one"
        raise RunFailed(text, cure="add a metric that computes log p to 'evaluate'")
    return model.solver or model.trace.solver, model.trace


def pilot_steps(model: Model) -> int | None:
    """Return the number of solver steps for log p in chains; it is found at the first call."""
    pilot = model.pilot
    if pilot is None:
        return None
    if not pilot.needed:
        pilot.steps, pilot.needed = enough_steps(model, pilot.points), True
    return pilot.steps


def enough_steps(model: Model, x: Tensor) -> int | None:
    """Return the first of 2N, 4N, ... steps that agrees with half as many at every row of x (B, d).

    Two results agree if log p and asinh ∇log p differ by no more than the tolerance. N is the solver's first number of
    steps. Return None for a solver that chooses its own steps.
    """
    solver, trace = solving(model)
    steps = solver.start_steps()
    if steps is None or not isinstance(solver, FixedSteps):
        return steps
    before = _compared(model, x, solver, trace, steps)
    while 2 * steps <= solver.max_steps:
        steps *= 2
        after = _compared(model, x, solver, trace, steps)
        if bool(_agree(solver, after, before).all()):
            break
        before = after
    return steps


def with_error(model: Model, draws: Draws) -> Draws:
    """Return the draws with the numerical error of the log p that the chains used, if an ODE solve computed it.

    The error is the difference of log p and its gradient to twice the steps, or to a finer solver, at the last draws.
    """
    if model.pilot is None or not model.pilot.needed or not draws.values.numel():
        return draws
    error, accurate = _against_finer(model, draws.values[:, -1])
    known = {"density_error": error, "density_steps": pilot_steps(model)}
    stats = {name: value for name, value in known.items() if value is not None and math.isfinite(value)}
    doubts = () if accurate else (_doubt(solving(model)[0], pilot_steps(model), error),)
    return replace(draws, stats={**draws.stats, **stats}, verdicts=(*draws.verdicts, *doubts))


def _against_finer(model: Model, x: Tensor) -> tuple[float | None, bool]:
    """Return the largest error of log p and asinh ∇log p at x (B, d), or None, and whether all are allowed."""
    solver, trace = solving(model)
    steps = pilot_steps(model)
    finer = solver.finer() if steps is None else solver
    if finer is None:
        return None, False
    one = _compared(model, x, solver, trace, steps)
    try:
        other = _compared(model, x, finer, trace, steps and 2 * steps)
    except SolveFailed:  # the finer solver may exceed its budget of evaluations
        return None, False
    error = float((one - other).abs().nan_to_num(nan=torch.inf).max())
    return error, bool(_agree(solver, one, other).all())


def _doubt(solver: Solver, steps: int | None, error: float | None) -> Verdict:
    """Return the verdict that the chains used an inaccurate log p, or that its error is not known."""
    by, cure = f"by {solver.label}", "lower the solver's tolerances"
    if steps is not None:
        by, cure = f"in {steps} steps", "raise the solver's max_steps, or make the field smoother"
    if error is None:
        reason = f"the chains used log p {by}, and there is no finer solver to compare it with"
        return Verdict("solver", "chain_density_unknown", reason, "unknown")
    found = f"log p and its gradient {by} are off by up to {error:.1e} where the chains end"
    return Verdict("solver", "chain_density_inaccurate", f"{found}, more than the solver allows: {cure}", "bad")


def _compared(model: Model, x: Tensor, solver: Solver, trace: Trace, steps: int | None) -> Tensor:
    """Return log p and asinh ∇log p (B, 1 + d), in float64 if the device has it, so that rounding is negligible."""
    if x.device.type != "mps":
        model, x = model.double(), x.double()
    with torch.no_grad():
        value, slope = _by_parts(model, x, solver, trace, steps)
    return torch.cat([value[:, None], slope.asinh()], 1)


def _agree(solver: Solver, one: Tensor, other: Tensor) -> Tensor:
    """Return where two results differ by no more than the solver's tolerance; False where one of them is NaN."""
    return (one - other).abs() <= solver.allowed(one)


def _by_parts(model: Model, x: Tensor, solver: Solver, trace: Trace, steps: int | None) -> tuple[Tensor, Tensor]:
    """Return log p (B,) and its gradient (B, d) without a graph; for many steps, in small batches."""

    def log_p(y: Tensor) -> Tensor:
        return likelihood.differentiable_log_prob(model, y, trace, solver, steps)

    parts = torch.split(x, likelihood.at_once(steps)) if steps is not None else [x]
    values, slopes = zip(*(gradient(log_p, part) for part in parts), strict=True)
    return torch.cat(values), torch.cat(slopes)


__all__ = ["enough_steps", "log_density", "log_density_and_score", "score_and_error", "solving", "with_error"]
