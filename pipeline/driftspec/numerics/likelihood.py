"""log p along an ODE, the instantaneous change of variables, and its maximum-likelihood loss.

    d/dt (x, log p) = (f, -tr ∂f/∂x)      state and log density are solved together
    log p(x) = log p_prior(z) + ∫_{t_data}^{t_prior} tr(∂f/∂x) dt
    loss     = -E log p(x) + λ_K E ∫ ‖f‖² dt + λ_J E ∫ ‖∂f/∂x‖²_F dt

z is the solution at t_prior of the ODE that starts in x at t_data. R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D.
Duvenaud, *Neural Ordinary Differential Equations*, 2018; W. Grathwohl et al., *FFJORD*, 2019; C. Finlay et al., *How to
Train Your Neural ODE: the World of Jacobian and Kinetic Regularization*, 2020. `components.estimator.Trace` estimates
the trace; `accuracy.refinement` chooses the number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from driftspec.accuracy.gradients import watched
from driftspec.accuracy.refinement import BLOCK, Integrator, Solved, by_blocks, refined, smallest
from driftspec.autodiff import pullback
from driftspec.components import FixedSteps, Loss, Solution, Solver, Trace
from driftspec.components.model import Model
from driftspec.errors import RunFailed, SolveFailed
from driftspec.streams import Streams

if TYPE_CHECKING:
    from driftspec.components import Rates

HOPELESS = 100
"""Training stops if the solver error exceeds this many tolerances at `max_steps`: 1 nat with the default tolerance."""


@dataclass(frozen=True)
class LogProb:
    """log p of each point in nats, model units, with its numerical error.

    The numerical error of log p is `error` + `rounding`: that of the solver and that of floating-point arithmetic.
    """

    log_prob: Tensor  # (B,)
    error: Tensor  # (B,), of log p and of z, whichever is larger
    rounding: Tensor  # (B,)
    latent: Tensor  # z (B, d)
    probe_stderr: Tensor | None  # (B,), None for an exact trace and for a single probe
    converged: Tensor  # (B,) bool
    evaluations: int

    @property
    def not_converged(self) -> int:
        """The number of points that did not converge."""
        return int((~self.converged).sum())


def log_prob(
    model: Model, x: Tensor, solver: Integrator, trace: Trace, streams: Streams, compare: bool = True
) -> LogProb:
    """Return log p(x) (B,) of x (B, d). Row i has its own probes, a function of (streams, i), the same for every N.

    Without `compare`, the solver runs once and the error is inf.

    Rounding is in proportion to |log p_prior(z)| + |∫ tr| + ‖x‖_∞ e^{∫ tr/d} ‖∇log p_prior(z)‖. The last term is for
    the state: the flow multiplies a rounding error of x by e^{∫ tr/d} = |det ∂z/∂x|^{1/d}, the mean over directions.
    """
    t_prior, t_data = model.dynamics.times()
    prior = model.prior()
    blocks = (streams.at(block).generator("probes") for block in range(-(-len(x) // BLOCK)))
    drawn = [v for block in blocks if (v := trace.probe(x.new_zeros(BLOCK, model.dim), block)) is not None]
    probes = torch.cat(drawn, 1) if drawn else None  # (K, B or more, d)
    columns = 1 if probes is None or trace.joint_probes else len(probes)

    def solve(using: Integrator, rows: Tensor, steps: int | None) -> tuple[Tensor, int]:
        def one(part: Tensor) -> Solution:
            rates = _rates(model, trace, None if probes is None else probes[:, part], each=not trace.joint_probes)
            return using.solve(model.velocity, x[part], t_data, t_prior, rates, steps)

        path = by_blocks(one, rows)
        z, traces = torch.cat([p.state for p in path]), torch.cat([p.integrals for p in path])
        log_p = prior.log_prob(z)[:, None] + traces
        return torch.cat([log_p.mean(1, keepdim=True), z, log_p], 1), sum(p.evaluations for p in path)

    def summed(value: Tensor, rows: Tensor) -> Tensor:
        at_prior, vjp = pullback(lambda z: prior.log_prob(z)[:, None], value[:, state])
        slope = torch.linalg.vector_norm(vjp(torch.ones_like(at_prior)), dim=1)
        log_det = value[:, 0] - at_prior[:, 0]
        stretched = (x[rows].abs().amax(1).log() + log_det / model.dim + slope.log()).exp()
        return at_prior[:, 0].abs() + log_det.abs() + stretched

    state = slice(1, 1 + model.dim)
    with torch.no_grad():
        # log p and z are compared together: among thousands of points, log p alone agrees by accident for some.
        together = slice(0, 1 + model.dim)
        solved = refined(solve, len(x), solver, together, compare, summed, smallest(x))
    value, z, each = torch.split(solved.value, [1, model.dim, columns], 1)
    stderr = each.std(1) / columns**0.5 if columns > 1 else None
    return LogProb(value[:, 0], solved.error, solved.rounding, z, stderr, solved.converged, solved.evaluations)


def differentiable_log_prob(
    model: Model, x: Tensor, trace: Trace, solver: Solver | None = None, steps: int | None = None
) -> Tensor:
    """Return log p(x) (B,) with a graph, from one solve of N = `steps`; the default solver is that of the trace.

    If the solution of a point is not finite, a solver with N steps gives NaN for it; other solvers raise SolveFailed.
    """
    return _differentiable(model, x, trace, solver or trace.solver, steps)[0]


def _differentiable(
    model: Model, x: Tensor, trace: Trace, solver: Integrator, steps: int | None
) -> tuple[Tensor, Solution]:
    """Return log p(x) (B,) with a graph, and the solve."""
    t_prior, t_data = model.dynamics.times()
    if not trace.exact():
        raise RunFailed(f"{trace.label} has probes: a log p that is differentiated needs an exact trace")
    through_steps = solver.differentiated("backprop") or solver  # nothing here checks an adjoint's gradient
    path = through_steps.solve(model.velocity, x, t_data, t_prior, _rates(model, trace, None), steps)
    if path.status != "non_finite" or solver.start_steps() is None:
        path.require("the log density")
    return model.prior().log_prob(path.state) + path.integrals[:, 0], path


AT_ONCE = 128 * BLOCK
"""Rows times steps in one graph: 0.5 GB for three layers of 64 units in float64."""


def log_prob_and_score(model: Model, x: Tensor, solver: Solver, trace: Trace, compare: bool = True) -> Solved:
    """Return log p(x) and s = ∇log p(x) in one tensor (B, 1 + d), float64 if the device has it, and an error bound.

    s is the gradient of the log p that N steps compute, by backpropagation. N is doubled for each point until log p
    and asinh(s) change by less than the tolerance: this is an absolute difference of s for |s| < 1 and a relative one
    for |s| > 1. A difference e of asinh(s) means |Δs| ≤ √(1 + s²) (exp(e) - 1).
    """
    if x.device.type != "mps":
        model, x = model.double(), x.double()

    def solve(using: Integrator, rows: Tensor, steps: int | None) -> tuple[Tensor, int]:
        def one(part: Tensor) -> Solution:
            with torch.enable_grad():
                at = x[part].detach().requires_grad_()
                value, path = _differentiable(model, at, trace, using, steps)
                (slope,) = torch.autograd.grad(value.sum(), at)
            return Solution(slope, value.detach()[:, None], path.evaluations, path.status)

        paths = by_blocks(one, rows, min(BLOCK, at_once(steps)))
        slope, value = torch.cat([p.state for p in paths]), torch.cat([p.integrals for p in paths])
        return torch.cat([value, slope.asinh(), slope], 1), sum(p.evaluations for p in paths)

    solved = refined(solve, len(x), solver, slice(0, 1 + model.dim), compare, size=smallest(x))
    value, _, slope = torch.split(solved.value, [1, model.dim, model.dim], 1)
    error = solved.error.expm1() * slope.abs().amax(1).square().add(1).sqrt()
    return replace(solved, value=torch.cat([value, slope], 1), error=error)


def at_once(steps: int | None) -> int:
    """Return the number of rows in one graph, a multiple of 16; it depends on N alone."""
    return BLOCK if steps is None else max(16, AT_ONCE // steps // 16 * 16)


def negative_log_likelihood(trace: Trace, model: Model, batch: Tensor, state: Any, streams: Streams) -> Loss:
    """Return the loss -mean log p over the batch (B, d), in nats, plus the penalties of the trace.

    Every `check_every` training steps log p is compared with a finer solve, and N is adapted to the difference.
    """
    steps = state["steps"]

    def solved(using: Solver, rows: Tensor, steps: int | None = steps) -> _Likelihood:
        return _likelihood(trace, model, rows, streams, using, steps)

    solver, now = trace.solver, solved(trace.solver, batch)
    terms = {} if steps is None else {"steps": float(steps)}
    finer = solver.finer() if steps is None else solver
    if finer is not None and (state.get("rising") or streams.step % trace.check_every == 0):
        with torch.no_grad():
            other = solved(finer, batch, None if steps is None else 2 * steps).log_p
        terms["solver_error"] = float((other - now.log_p.detach()).abs().mean())
        if isinstance(solver, FixedSteps):
            _require_accuracy(solver, steps, terms["solver_error"])
            after = solver.adapt(steps, terms["solver_error"])
            state = {**state, "steps": after, "rising": after > steps}  # a rise is checked again in the next step
    loss = Loss(now.loss, {**terms, **now.terms}, state, now.path.evaluations)
    return watched(loss, [now.path], model, solver, batch, lambda using, rows: solved(using, rows).loss)


@dataclass(frozen=True)
class _Likelihood:
    """log p (B,), the loss (), its terms if there are penalties, and the solve."""

    log_p: Tensor
    loss: Tensor
    terms: Mapping[str, float]
    path: Solution


def _likelihood(
    trace: Trace, model: Model, rows: Tensor, streams: Streams, solver: Solver, steps: int | None
) -> _Likelihood:
    """Return -mean log p of the rows (B, d) plus the weighted penalties, with the probes of this training step."""
    t_prior, t_data = model.dynamics.times()
    probe = None if trace.exact() else trace.probe(rows, streams.generator("probes"))
    rates = _rates(model, trace, probe)
    weights = {"kinetic": trace.kinetic, "jacobian": trace.jacobian}
    penalties = {name: weight for name, weight in weights.items() if weight}
    if penalties:
        rates = Penalised(model, rates, tuple(penalties), _signs(rows, streams.generator("jacobian")))
    path = solver.solve(model.velocity, rows, t_data, t_prior, rates, steps, model.parameters())
    path.require("the log density")
    log_p = model.prior().log_prob(path.state) + path.integrals[:, 0]
    # If time runs backwards, dt is negative and so is the integral; a penalty must be positive.
    means = path.integrals[:, 1:].mean(0) * (1 if t_prior > t_data else -1)
    loss, terms = -log_p.mean(), {}
    for weight, mean, name in zip(penalties.values(), means, penalties, strict=True):
        loss, terms[name] = loss + weight * mean, float(mean.detach())
    if penalties:
        terms["log_p"] = float(log_p.detach().mean())
    return _Likelihood(log_p, loss, terms, path)


@dataclass(frozen=True)
class Penalised:
    """The rates of log p, then ‖f‖² and ‖vᵀ ∂f/∂x‖² (B,), whose errors do not control an adaptive solver's steps."""

    model: Model
    rates: Rates
    names: tuple[str, ...]
    sign: Tensor  # v (B, d), E[v vᵀ] = I, held fixed during the solve
    controlled: int = 1

    def __call__(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        value, divergence = self.rates(t, y)
        columns = [divergence]
        if "kinetic" in self.names:
            columns.append(value.square().sum(1, keepdim=True))
        if "jacobian" in self.names:
            v = self.sign.repeat(len(y) // len(self.sign), 1)
            _, vjp = pullback(lambda x: self.model.velocity(t, x), y)
            columns.append(vjp(v).square().sum(1, keepdim=True))
        return value, torch.cat(columns, 1)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return Rademacher vectors (B, d): each component is 1 or -1 with probability ½."""
    return (torch.randint(2, like.shape, generator=generator) * 2 - 1).to(like)


def _require_accuracy(solver: FixedSteps, steps: int, error: float) -> None:
    """Raise SolveFailed if the error is too large at the largest N: the loss is then no likelihood."""
    if steps >= solver.max_steps and error > HOPELESS * solver.tolerance:
        text = f"with {steps} steps, the largest number allowed, the mean error is {error:.1e} nats"
        cure = "raise max_steps, or keep the field smoother by a lower lr"
        raise SolveFailed(f"the log density ended with status not_converged: {text}", "not_converged", cure=cure)


def _rates(model: Model, trace: Trace, probe: Tensor | None, each: bool = False) -> Rates:
    """Return the function (t, y) -> velocity (B, d) and divergence (B, 1); with `each`, one column for each probe.

    y may hold several copies of the batch, one after another.
    """

    def rates(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if probe is None:
            value, divergence = trace.divergence(model.field(t), y)
            return value, divergence[:, None]
        tiled = probe.repeat(1, len(y) // probe.shape[1], 1)
        columns = [trace.divergence(model.field(t), y, v) for v in (tiled[:, None] if each else [tiled])]
        return columns[0][0], torch.stack([divergence for _, divergence in columns], 1)

    return rates


__all__ = ["LogProb", "at_once", "differentiable_log_prob", "log_prob", "log_prob_and_score", "negative_log_likelihood"]
