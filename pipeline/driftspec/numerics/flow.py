"""What follows from a velocity and a prior: transport along the ODE, log p, and its maximum-likelihood loss.

    log p(x) = log p_prior(z) + ∫_{t_data}^{t_prior} tr(∂f/∂x) dt      (Chen et al. 2018; Grathwohl et al. 2019)

A number of steps is an accuracy knob: the difference between N and 2N predicts the error. Points are scored in blocks
of one fixed size and each decides by its own differences whether its N is doubled: no point's value depends on another.
What no number of steps removes, the rounding of what was summed, is estimated beside that difference.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from driftspec.components import FixedSteps, Loss, Path, Solver, Trace
from driftspec.errors import RunFailed, SolveFailed
from driftspec.numerics.gradients import watched
from driftspec.numerics.model import Model, pullback
from driftspec.streams import Streams

if TYPE_CHECKING:
    from driftspec.components import Gradient, Rates, VectorField

BLOCK = 256
"""Rows solved together. Always whole, padded by repetition: the same shapes give a row the same bits in any company."""


HOPELESS = 100
"""Tolerances by which training may miss its own for want of steps: a nat, by default."""

BY_CHANCE = 64
"""How much smaller than the difference before it a difference may be, to be believed.

Doubling N divides a difference by 16 for a method of order 4: one that falls to less than a quarter of that may agree
by chance, as 1 point in 3,000 does where N is small.
"""

SMALL = 2.0**-10
"""The size of a state, model units, below which an absolute tolerance, made for a size of 1, may hide all of it."""


@dataclass(frozen=True)
class Solved:
    """Row by row: the result, its errors, and what it took.

    `error` is the difference to the next finer solve. `rounding` is ε/2 √E s: each of E evaluations rounds what is
    summed, of size s, by up to half the dtype's ε, and errors of random sign grow as √E (Higham, *Accuracy and
    Stability of Numerical Algorithms*, 2002, sections 2.2 and 2.8). A row whose error is below its rounding has
    converged: more steps would make it no better.
    """

    value: Tensor  # (B, k)
    error: Tensor  # (B,)
    rounding: Tensor  # (B,)
    converged: Tensor  # (B,) bool
    evaluations: int

    @property
    def not_converged(self) -> int:
        return int((~self.converged).sum())


@dataclass(frozen=True)
class LogProb:
    """log p of each point in model units, the error its solver makes in it or in z, and the latent z it came from.

    The numerical error of log p is the sum of both: `error` of the solver, and `rounding` of the numbers' format.
    """

    log_prob: Tensor  # (B,)
    error: Tensor  # (B,)
    rounding: Tensor  # (B,)
    latent: Tensor  # (B, d)
    probe_stderr: Tensor | None  # (B,), None for an exact trace and for a single probe
    converged: Tensor  # (B,) bool
    evaluations: int

    @property
    def not_converged(self) -> int:
        return int((~self.converged).sum())


@dataclass(frozen=True)
class Resolving:
    """A solver with its absolute tolerances in units u of the state: it solves dy/dt = f(t, u y)/u for y = x/u.

    u is a power of two, so that the change of units rounds nothing.
    """

    solver: Solver
    unit: float

    def solve(
        self,
        f: VectorField,
        x: Tensor,
        t0: float | Tensor,
        t1: float | Tensor,
        rates: Rates | None = None,
        steps: int | None = None,
    ) -> Path:
        def scaled(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            value, integrands = rates(t, u * y)  # type: ignore[misc]
            return value / u, integrands

        u = self.unit
        asked = None if rates is None else scaled
        path = self.solver.solve(lambda t, y: f(t, u * y) / u, x / u, t0, t1, asked, steps)
        return replace(path, state=u * path.state)

    def start_steps(self) -> int | None:
        return self.solver.start_steps()

    def differentiated(self, by: Gradient) -> Resolving | None:
        found = self.solver.differentiated(by)
        return None if found is None else replace(self, solver=found)


Integrator = Solver | Resolving


def resolving(solver: Solver, size: float) -> Integrator:
    """The solver, its absolute tolerances in units of the state where that is as small as `size`, below SMALL.

    A solver that chooses its own steps sees no error in a state below its absolute tolerance, and neither does a finer
    one: from data of size e^-40 both take a few long steps, and agree to all digits. One of N steps has no such
    tolerance, and is left as it is.
    """
    if solver.start_steps() is not None or size >= SMALL:
        return solver
    return Resolving(solver, 2.0 ** math.floor(math.log2(size)))


def smallest(x: Tensor) -> float:
    """The size of the smallest row of x (B, d) that is not zero; inf where there is none."""
    sizes = x.abs().amax(1)
    sizes = sizes[(sizes > 0) & sizes.isfinite()]
    return float(sizes.min()) if len(sizes) else math.inf


def transport(model: Model, x: Tensor, t0: float, t1: float, solver: Solver) -> Solved:
    """x (B, d) at t0 carried along dx/dt = velocity(t, x) to t1."""

    def summed(y: Tensor, rows: Tensor) -> Tensor:
        return torch.cat([x[rows], y], 1).abs().amax(1)

    def solve(using: Integrator, rows: Tensor, steps: int | None) -> tuple[Tensor, int]:
        path = _by_blocks(lambda part: using.solve(model.velocity, x[part], t0, t1, steps=steps), rows)
        return torch.cat([p.state for p in path]), sum(p.evaluations for p in path)

    with torch.no_grad():
        return _refined(solve, len(x), solver, slice(None), True, summed, smallest(x))


def log_prob(
    model: Model, x: Tensor, solver: Integrator, trace: Trace, streams: Streams, compare: bool = True
) -> LogProb:
    """log p(x) (B,) for x (B, d). Point i has its own probes, a function of (streams, i): the same for N and 2N.

    Without `compare` the solver runs once as it stands, and the error is left open (inf).

    What is summed, for its rounding, is |log p_prior(z)| + |∫ tr| + ‖x‖_∞ e^{∫ tr/d} ‖∇log p_prior(z)‖: the last term
    is the state, the given one included, whose rounding the flow stretches by e^{∫ tr/d} = |det ∂z/∂x|^{1/d} on its
    way to z, in the mean over directions.
    """
    t_prior, t_data = model.dynamics.times()
    prior = model.prior()
    blocks = (streams.at(block).generator("probes") for block in range(-(-len(x) // BLOCK)))
    drawn = [v for block in blocks if (v := trace.probe(x.new_zeros(BLOCK, model.dim), block)) is not None]
    probes = torch.cat(drawn, 1) if drawn else None  # (K, B or more, d)
    columns = 1 if probes is None or trace.joint_probes else len(probes)

    def solve(using: Integrator, rows: Tensor, steps: int | None) -> tuple[Tensor, int]:
        def one(part: Tensor) -> Path:
            rates = _rates(model, trace, None if probes is None else probes[:, part], each=not trace.joint_probes)
            return using.solve(model.velocity, x[part], t_data, t_prior, rates, steps)

        path = _by_blocks(one, rows)
        z, traces = torch.cat([p.state for p in path]), torch.cat([p.integrals for p in path])
        log_p = prior.log_prob(z)[:, None] + traces
        return torch.cat([log_p.mean(1, keepdim=True), z, log_p], 1), sum(p.evaluations for p in path)

    def summed(value: Tensor, rows: Tensor) -> Tensor:
        at_prior, pull = pullback(lambda z: prior.log_prob(z)[:, None], value[:, state])
        slope = torch.linalg.vector_norm(pull(torch.ones_like(at_prior)), dim=1)
        log_det = value[:, 0] - at_prior[:, 0]
        stretched = (x[rows].abs().amax(1).log() + log_det / model.dim + slope.log()).exp()
        return at_prior[:, 0].abs() + log_det.abs() + stretched

    state = slice(1, 1 + model.dim)
    with torch.no_grad():
        # log p and z together: of thousands of points some agree in log p alone by chance, far from converged.
        together = slice(0, 1 + model.dim)
        solved = _refined(solve, len(x), solver, together, compare, summed, smallest(x))
    value, z, each = torch.split(solved.value, [1, model.dim, columns], 1)
    stderr = each.std(1) / columns**0.5 if columns > 1 else None
    return LogProb(value[:, 0], solved.error, solved.rounding, z, stderr, solved.converged, solved.evaluations)


def trajectory(
    model: Model, z: Tensor, times: Tensor, solver: Solver, params: Sequence[Tensor] = ()
) -> tuple[Tensor, list[Path]]:
    """z(t_k) (K, B, d) from z (B, d) at times[0] along the ODE, and the K-1 solves, from each time to the next.

    Gradients reach z, θ, the times, and what else the field closes over: `params`.
    """
    states, paths = [z], []
    for before, after in itertools.pairwise(times):
        path = solver.solve(model.velocity, states[-1], before, after, params=(*model.parameters(), *params))
        states.append(path.require("the trajectory").state)
        paths.append(path)
    return torch.stack(states), paths


def along(model: Model, z: Tensor, times: Tensor, solver: Solver) -> Solved:
    """z(t_k) at every one of K times, (B, K d), from z (B, d) at the first; each row's error is the largest of all."""

    def solve(using: Integrator, rows: Tensor, steps: int | None) -> tuple[Tensor, int]:
        def one(part: Tensor) -> Path:
            paths = [Path(z[part], z.new_zeros(len(part), 0), 0)]
            for before, after in itertools.pairwise(times):
                paths.append(using.solve(model.velocity, paths[-1].state, before, after, steps=steps))
            status = next((path.status for path in paths if path.status != "ok"), "ok")
            states, evaluations = torch.cat([path.state for path in paths], 1), sum(path.evaluations for path in paths)
            return Path(states, paths[0].integrals, evaluations, status)

        found = _by_blocks(one, rows)
        return torch.cat([path.state for path in found]), sum(path.evaluations for path in found)

    def summed(states: Tensor, rows: Tensor) -> Tensor:
        return states.abs().amax(1)

    with torch.no_grad():
        return _refined(solve, len(z), solver, slice(None), True, summed, smallest(z))


def drift(model: Model, x: Tensor, solver: Solver) -> Tensor:
    """‖x_back - x‖ (B,), x carried to the other end of time and back by the solver as it stands.

    From the first observation to the last where the data have times of their own, else from t_data to t_prior.
    """
    if model.times is not None:
        start, end = float(model.times[0]), float(model.times[-1])
    else:
        end, start = model.dynamics.times()
    with torch.no_grad():
        there = solver.solve(model.velocity, x, start, end).require("the ODE").state
        back = solver.solve(model.velocity, there, end, start).require("the ODE").state
    return torch.linalg.vector_norm(back - x, dim=1)


def round_trip(model: Model, x: Tensor, solver: Solver) -> Solved:
    """x (B, d) carried from t_data to t_prior and back: what came back, and whether both ways were accurate."""
    t_prior, t_data = model.dynamics.times()
    there = transport(model, x, t_data, t_prior, solver)
    back = transport(model, there.value, t_prior, t_data, solver)
    error, rounding = there.error.maximum(back.error), there.rounding.maximum(back.rounding)
    evaluations = there.evaluations + back.evaluations
    return Solved(back.value, error, rounding, there.converged & back.converged, evaluations)


def differentiable_log_prob(
    model: Model, x: Tensor, trace: Trace, solver: Solver | None = None, steps: int | None = None
) -> Tensor:
    """log p(x) (B,) with a graph behind it, in one solve of N = `steps`; by default the trace's solver as it stands.

    Of a solver that takes a number of steps a point whose path is not finite is NaN; of others the solve fails.
    """
    return _differentiable(model, x, trace, solver or trace.solver, steps)[0]


def _differentiable(
    model: Model, x: Tensor, trace: Trace, solver: Integrator, steps: int | None
) -> tuple[Tensor, Path]:
    t_prior, t_data = model.dynamics.times()
    if not trace.exact():
        raise RunFailed(f"{trace.label} has probes: a log p that is differentiated needs an exact trace")
    through_steps = solver.differentiated("backprop") or solver  # here nothing looks whether a way back was right
    path = through_steps.solve(model.velocity, x, t_data, t_prior, _rates(model, trace, None), steps)
    if path.status != "non_finite" or solver.start_steps() is None:
        path.require("the log density")
    return model.prior().log_prob(path.state) + path.integrals[:, 0], path


AT_ONCE = 128 * BLOCK
"""Rows times steps whose graph is held at a time, 0.5 GB of three layers of 64 units in float64."""


def log_prob_and_score(model: Model, x: Tensor, solver: Solver, trace: Trace, compare: bool = True) -> Solved:
    """log p(x) and behind it s = ∇log p(x), (B, 1 + d), float64 where the device has it, and a bound of their errors.

    s is the gradient of the log p that N steps give, by backpropagation. A point's N is doubled until its log p and
    asinh(s) hold: of a component below 1 the difference counts as it is, above 1 in proportion to its size. From a
    difference e in asinh(s) follows |Δs| ≤ √(1 + s²) (exp(e) - 1).
    """
    if x.device.type != "mps":
        model, x = model.double(), x.double()

    def solve(using: Integrator, rows: Tensor, steps: int | None) -> tuple[Tensor, int]:
        def one(part: Tensor) -> Path:
            with torch.enable_grad():
                at = x[part].detach().requires_grad_()
                value, path = _differentiable(model, at, trace, using, steps)
                (slope,) = torch.autograd.grad(value.sum(), at)
            return Path(slope, value.detach()[:, None], path.evaluations, path.status)

        paths = _by_blocks(one, rows, min(BLOCK, at_once(steps)))
        slope, value = torch.cat([p.state for p in paths]), torch.cat([p.integrals for p in paths])
        return torch.cat([value, slope.asinh(), slope], 1), sum(p.evaluations for p in paths)

    solved = _refined(solve, len(x), solver, slice(0, 1 + model.dim), compare, size=smallest(x))
    value, _, slope = torch.split(solved.value, [1, model.dim, model.dim], 1)
    error = solved.error.expm1() * slope.abs().amax(1).square().add(1).sqrt()
    return replace(solved, value=torch.cat([value, slope], 1), error=error)


def at_once(steps: int | None) -> int:
    """Rows whose gradient is taken at a time, a multiple of 16 and a function of N alone."""
    return BLOCK if steps is None else max(16, AT_ONCE // steps // 16 * 16)


def negative_log_likelihood(trace: Trace, model: Model, batch: Tensor, state: Any, streams: Streams) -> Loss:
    """-mean log p over the batch (B, d); every `check_every` steps compared with a finer solve, which moves N."""
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
            _still_a_likelihood(solver, steps, terms["solver_error"])
            after = solver.adapt(steps, terms["solver_error"])
            state = {**state, "steps": after, "rising": after > steps}  # a rise is looked at again in the next step
    loss = Loss(now.loss, {**terms, **now.terms}, state, now.path.evaluations)
    return watched(loss, [now.path], model, solver, batch, lambda using, rows: solved(using, rows).loss)


@dataclass(frozen=True)
class _Likelihood:
    """log p (B,), the loss (), what it is made of where there is more than log p, and the solve."""

    log_p: Tensor
    loss: Tensor
    terms: Mapping[str, float]
    path: Path


def _likelihood(
    trace: Trace, model: Model, rows: Tensor, streams: Streams, solver: Solver, steps: int | None
) -> _Likelihood:
    """-mean log p of the rows (B, d) and the weighted penalties, with the probes of this step."""
    t_prior, t_data = model.dynamics.times()
    probe = None if trace.exact() else trace.probe(rows, streams.generator("probes"))
    rates = _rates(model, trace, probe)
    penalties = {name: weight for name in PENALTIES if (weight := getattr(trace, name))}
    if penalties:
        rates = Penalised(model, rates, tuple(penalties), _signs(rows, streams.generator("jacobian")))
    path = solver.solve(model.velocity, rows, t_data, t_prior, rates, steps, model.parameters())
    path.require("the log density")
    log_p = model.prior().log_prob(path.state) + path.integrals[:, 0]
    # Of a time that runs backwards an integral has the sign of dt, a penalty has not.
    means = path.integrals[:, 1:].mean(0) * (1 if t_prior > t_data else -1)
    loss, terms = -log_p.mean(), {}
    for weight, mean, name in zip(penalties.values(), means, penalties, strict=True):
        loss, terms[name] = loss + weight * mean, float(mean.detach())
    if penalties:
        terms["log_p"] = float(log_p.detach().mean())
    return _Likelihood(log_p, loss, terms, path)


PENALTIES = ("kinetic", "jacobian")
"""What a trace's loss may hold beside log p, by its keys."""


@dataclass(frozen=True)
class Penalised:
    """The rates of log p, and behind them ‖f‖² and ‖vᵀ ∂f/∂x‖² (B,): they choose no step of an adaptive solver."""

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
            _, pull = pullback(lambda x: self.model.velocity(t, x), y)
            columns.append(pull(v).square().sum(1, keepdim=True))
        return value, torch.cat(columns, 1)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Rademacher vectors (B, d)."""
    return (torch.randint(2, like.shape, generator=generator) * 2 - 1).to(like)


def _still_a_likelihood(solver: FixedSteps, steps: int, error: float) -> None:
    """Training on what its steps cannot resolve lowers a loss that is no likelihood: at the largest N it ends."""
    if steps >= solver.max_steps and error > HOPELESS * solver.tolerance:
        text = f"with {steps} steps, the largest number allowed, the mean error is {error:.1e} nats"
        cure = "raise max_steps, or keep the field smoother by a lower lr"
        raise SolveFailed(f"the log density ended with status not_converged: {text}", "not_converged", cure=cure)


def _rates(model: Model, trace: Trace, probe: Tensor | None, each: bool = False) -> Rates:
    """(t, y) -> velocity and divergence; with `each`, one column a probe. Solvers stack whole copies of the batch."""

    def rates(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if probe is None:
            value, divergence = trace.divergence(model.field(t), y)
            return value, divergence[:, None]
        tiled = probe.repeat(1, len(y) // probe.shape[1], 1)
        columns = [trace.divergence(model.field(t), y, v) for v in (tiled[:, None] if each else [tiled])]
        return columns[0][0], torch.stack([divergence for _, divergence in columns], 1)

    return rates


def _by_blocks(solve: Callable[[Tensor], Path], rows: Tensor, block: int = BLOCK) -> list[Path]:
    """Solve rows in whole blocks, the last one padded with copies of its last row, and cut the padding off."""
    paths = []
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        whole = torch.cat([part, part[-1:].expand(block - len(part))])
        path = solve(whole)
        if path.status not in ("ok", "non_finite"):  # a non-finite row may still be another N's good row
            path.require()
        paths.append(Path(path.state[: len(part)], path.integrals[: len(part)], path.evaluations * len(part)))
    return paths


Solve = Callable[[Integrator, Tensor, int | None], tuple[Tensor, int]]
"""(solver, rows, steps) -> the value of these rows (n, k), and the evaluations it took."""


def _refined(
    solve: Solve,
    n: int,
    solver: Integrator,
    compared: slice,
    compare: bool = True,
    summed: Callable[[Tensor, Tensor], Tensor] = lambda value, rows: value.new_zeros(len(rows)),
    size: float = math.inf,
) -> Solved:
    """Every row by N and 2N steps, doubled until its own difference is small; or by a solver and a finer one.

    `summed` gives the size (n,) of what was summed to a value (n, k) of certain rows; `size` is that of the smallest
    state that is given.
    """
    steps, rows = solver.start_steps(), torch.arange(n)
    value, evaluations = solve(solver, rows, steps)

    def rounding(value: Tensor, rows: Tensor, evaluations: int) -> Tensor:
        each = evaluations / max(1, len(rows))
        return torch.finfo(value.dtype).eps / 2 * math.sqrt(each) * summed(value, rows)

    error, converged = value.new_full((n,), torch.inf), torch.full((n,), steps is None)
    found = Solved(value, error, rounding(value, rows, evaluations), converged, evaluations)
    if compare and isinstance(solver, Solver):
        found = (
            _against_finer(solve, solver, found, compared, size)
            if steps is None
            else _doubled(solve, solver, steps, found, compared, rounding)
        )
    bad = (~found.value.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:  # a solver that chooses its steps gives up a whole block for one of its points
        text = f"the ODE solve of {len(bad)} of {n} points ended with status non_finite"
        raise SolveFailed(text, "non_finite", rows=() if steps is None and n > 1 else bad)
    return found


def _against_finer(solve: Solve, solver: Solver, found: Solved, compared: slice, size: float) -> Solved:
    """With the difference to a finer solver for the error; inf where that one cannot reach the end."""
    finer = solver.finer()
    if finer is None:
        return found
    try:
        other, more = solve(resolving(finer, size), torch.arange(len(found.value)), None)
    except SolveFailed:
        return replace(found, converged=torch.zeros_like(found.converged))
    apart = _apart(found.value, other, compared)
    allowed = solver.allowed(found.value)[:, compared].maximum(found.rounding[:, None])
    converged = ((apart <= allowed) & apart.isfinite()).all(1).cpu()
    return replace(found, error=apart.amax(1), converged=converged, evaluations=found.evaluations + more)


def _doubled(
    solve: Solve,
    solver: Solver,
    steps: int,
    found: Solved,
    compared: slice,
    rounding: Callable[[Tensor, Tensor, int], Tensor],
) -> Solved:
    """With twice the steps, and twice those for each row whose last two differences do not show that it converged."""
    value, error, rounded, converged = found.value, found.error, found.rounding, found.converged
    rows, evaluations = torch.arange(len(value)), found.evaluations
    half, more = solve(solver, rows, max(1, steps // 2))
    before, evaluations = _apart(half, value, compared).amax(1), evaluations + more
    while len(rows):
        steps *= 2
        finer_value, more = solve(solver, rows, steps)
        apart = _apart(finer_value, value[rows], compared).amax(1)
        error[rows], before[rows] = apart.maximum(before[rows] / BY_CHANCE), apart
        value[rows], rounded[rows] = finer_value, rounding(finer_value, rows, more)
        allowed = solver.allowed(finer_value)[:, compared].amin(1)
        converged[rows] = ((error[rows] <= allowed.maximum(rounded[rows])) & error[rows].isfinite()).cpu()
        evaluations += more
        if 2 * steps > getattr(solver, "max_steps", 2 * steps):
            break
        rows = rows[~converged[rows]]
    return Solved(value, error, rounded, converged, evaluations)


def _apart(one: Tensor, other: Tensor, compared: slice) -> Tensor:
    """|one - other| of the columns that are compared; inf for NaN."""
    return (one - other)[:, compared].abs().nan_to_num(nan=torch.inf)
