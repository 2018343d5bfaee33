"""What likelihood metrics share: log p of the test rows, in nats and the data's own units, and its errors.

A flow's log p comes from a solve, which each point's own error, another solver and the way back vouch for; an energy
model's is -E - log Z, as good as its Z.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from driftspec.components import Metric, Setting, Solver, Trace, Verdict
from driftspec.components.component import Need, default
from driftspec.errors import SolveFailed
from driftspec_plugins.metrics import _likelihood_verdicts as verdicts
from driftspec_plugins.metrics._likelihood_verdicts import AGREES, short
from driftspec_plugins.metrics._log_z import Integral
from driftspec_plugins.metrics._round_trip import distances

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from driftspec.components import Evaluation, Model
    from driftspec.numerics.likelihood import LogProb

STEPS = 100
"""Euler-Maruyama steps from the data to p_T, for an SDE without a noise kernel."""


@dataclass(frozen=True)
class Scored:
    """log p (n,) float64 of rows x (n, d), its numerical error (n,), and how it was found."""

    x: Tensor
    log_p: Tensor
    error: Tensor
    details: dict[str, Any]
    told: str  # the end of a line
    verdicts: tuple[Verdict, ...] = ()
    common: float = 0.0  # a standard error that all rows share: that of log Z

    def mean(self, values: Tensor) -> tuple[float, float]:
        """Mean of what log p enters (n,), and its standard error."""
        value, stderr = mean(values)
        return value, math.hypot(stderr, self.common)


class Likelihood(Metric):
    """A metric of log p_model at test rows."""

    reads_test_rows: ClassVar[bool] = True
    in_float64 = frozenset({"confirm"})

    solver: Solver = default("lobatto", "integrates log p")
    trace: Trace = default("exact_trace", "the divergence's estimate; probes give each point a standard error")
    points: int | None = Field(None, ge=2, description="test rows scored; null: all")
    confirm: Solver = default(
        {"type": "dopri8", "rtol": 1e-8, "atol": 1e-8}, "scores the hardest 1 % again, in float64"
    )
    t_data: float | None = Field(
        None, gt=0, description="the end of time at which an SDE's model is read; null: where its dynamics says"
    )
    log_z: Integral = Field(Integral(), description="how Z of an energy model is found")

    def offers(self) -> frozenset[str]:
        return frozenset({"log_prob"})

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("log_prob", "energy"), "to score data"),
            Need(
                "dynamics",
                ("smooth",),
                "log p holds a derivative of the network: its activation must be C1",
                unless="energy",
            ),
            Need("data", ("samples",), "to have test rows"),
        )

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        for _, text in self.log_z.unfit(around):
            yield "log_z", text
        if self.t_data is not None and around.dynamics.ending_at(self.t_data) is None:
            yield "t_data", f"{around.dynamics.label} has no t_data of its own: its data have one end of time alone"
        if "energy" not in around.dynamics.offers() and self.trace.probe_count() == 1:
            text = f"one probe of {self.trace.label} gives a point no standard error, and other probes another log p"
            yield "trace.probes", f"{text}: take 2 or more, or an exact trace"

    def scored(self, evaluation: Evaluation) -> Scored:
        """log p of the first `points` test rows, and all that vouches for it."""
        evaluation, x = self._read_at(evaluation), evaluation.test(self.points)
        u = evaluation.rows(x)
        if "energy" in evaluation.model.own:
            return self._by_energy(evaluation, x, u)
        with evaluation.naming_rows():
            return self._vouched_for(evaluation, x, self._solved(evaluation, u))

    def log_prob(self, evaluation: Evaluation, x: Tensor) -> tuple[Tensor, Tensor]:
        evaluation = self._read_at(evaluation)
        u = evaluation.rows(x)
        if "energy" in evaluation.model.own:
            found = self._by_energy(evaluation, x, u)
            return found.log_p, found.error
        scored = self._solved(evaluation, u)
        return _in_data_units(evaluation, scored), _numerical_error(scored)

    def log_prob_gradient(self, evaluation: Evaluation, x: Tensor) -> tuple[Tensor, Tensor]:
        """By differentiating the solve, or the energy; in place of a random trace an exact one is differentiated."""
        import torch

        from driftspec.numerics import likelihood

        evaluation = self._read_at(evaluation)
        model, u = evaluation.model, evaluation.rows(x)
        if "energy" in model.own:
            double = model.double()
            slope = double.score(u.new_tensor(model.t_data).double(), u.double())
            error = torch.zeros(len(u), dtype=torch.float64)
        else:
            trace = self.trace if self.trace.exact() or model.trace is None else model.trace
            solved = likelihood.log_prob_and_score(model, u, self.solver, trace)
            slope, error = solved.value[:, 1:], solved.error
        return evaluation.transform.gradient_to_data(slope.cpu(), error.cpu())

    def solves_with(self) -> tuple[Trace, Solver]:
        return self.trace, self.solver

    def _read_at(self, evaluation: Evaluation) -> Evaluation:
        """The model read at this metric's own end of time, where it has one."""
        if self.t_data is None:
            return evaluation
        dynamics = evaluation.model.dynamics.ending_at(self.t_data)
        return (
            evaluation if dynamics is None else replace(evaluation, model=replace(evaluation.model, dynamics=dynamics))
        )

    def _by_energy(self, evaluation: Evaluation, x: Tensor, u: Tensor) -> Scored:
        """-E - log Z."""
        import torch

        model = evaluation.model.double()
        log_z = self.log_z.of(model, evaluation.streams.under("log_z"))
        with torch.no_grad():
            log_p = torch.cat(
                [-model.dynamics.energy(model.module, part) for part in torch.split(u.double(), 8192)]
            ).cpu()
        log_p = log_p - log_z.value + evaluation.transform.log_det()
        details = {"log_z": {"value": log_z.value, "stderr": log_z.stderr, **log_z.details}}
        error = torch.full_like(log_p, log_z.stderr or log_z.details.get("error", math.nan))
        return Scored(x, log_p, error, details, log_z.told(), log_z.verdicts(), log_z.stderr or 0.0)

    def _solved(self, evaluation: Evaluation, u: Tensor) -> LogProb:
        """By the instantaneous change of variables."""
        from driftspec.numerics import likelihood

        return likelihood.log_prob(evaluation.model, u, self.solver, self.trace, evaluation.streams)

    def _vouched_for(self, evaluation: Evaluation, x: Tensor, scored: LogProb) -> Scored:
        """With what says how far a solve can be trusted."""
        log_p = _in_data_units(evaluation, scored)
        trip, _ = distances(evaluation, x[:1000], self.solver)
        details: dict[str, Any] = {
            "solver_error": {"mean": _known(scored.error.mean()), "max": _known(scored.error.max())},
            "rounding": {"mean": _known(scored.rounding.mean()), "max": _known(scored.rounding.max())},
            "not_converged": scored.not_converged,
            "evaluations_per_point": scored.evaluations / len(x),
            "confirmed": self._confirmed(evaluation, x, scored),
            "round_trip": {"mean": float(trip.mean()), "max": float(trip.max())},
        }
        if scored.probe_stderr is not None:
            details["probe_stderr"] = float(scored.probe_stderr.double().square().sum().sqrt()) / len(x)
        if "drift" in evaluation.model.own:
            details["ends_of_time"] = ends_of_time(evaluation, scored.latent)
        dtype = evaluation.setting.dtype
        judged = verdicts.of_solve(details, mean(log_p)[1], evaluation.transform.to_model(x), dtype, self.confirm.type)
        return Scored(x, log_p, _numerical_error(scored), details, _told(details, self.confirm.type), tuple(judged))

    def _confirmed(self, evaluation: Evaluation, x: Tensor, scored: LogProb) -> dict[str, Any]:
        """The hardest 1 % by another solver in float64: the largest difference, or the status it ended with."""
        from driftspec.accuracy import refinement
        from driftspec.numerics import likelihood

        if not self.trace.exact():  # other probes would differ by chance
            return {"points": 0, "difference": None, "status": "random trace"}
        order = _numerical_error(scored).argsort(descending=True, stable=True)
        hardest = order[: math.ceil(len(x) / 100)]
        # From the data as they are: that float32 rounds them before it starts is a part of its error.
        model, rows = evaluation.model.double(), evaluation.transform.to_model(x[hardest]).to(scored.latent.device)
        solver = refinement.resolving(self.confirm, refinement.smallest(rows))
        checked = {"points": len(hardest), "rounding": _known(scored.rounding[hardest].max())}
        try:
            other = likelihood.log_prob(model, rows, solver, self.trace, evaluation.streams, compare=False)
        except SolveFailed as error:
            return {**checked, "difference": None, "status": error.status}
        difference = (other.log_prob - scored.log_prob[hardest].double()).abs().max()
        return {**checked, "difference": float(difference), "status": "ok"}


def _in_data_units(evaluation: Evaluation, scored: LogProb) -> Tensor:
    """log p (n,) float64 of x, from that of u."""
    return scored.log_prob.double().cpu() + evaluation.transform.log_det()


def _numerical_error(scored: LogProb) -> Tensor:
    """(n,) float64: the solver's error and the rounding."""
    return (scored.error + scored.rounding).double().cpu()


def ends_of_time(evaluation: Evaluation, latent: Tensor | None = None) -> dict[str, float]:
    """What an SDE's likelihood leaves out at its two ends, model units.

    At t_data the model is read as the law of α x + σ ε, not of x. At t_prior the prior stands for the law p_T:
    KL(p_T ‖ prior) ≈ E_{p_T}[log N(x; m, S) - log p_prior(x)], m and S its moments, over a noised copy of the rows;
    without a kernel over a copy carried there in steps, whose own moments are taken and whose error is told. What the
    mean hides of a single point, |log N(z; m, S) - log p_prior(z)|, is given as its largest over `latent` z (n, d),
    where the scored rows arrive; a normal law in the place of p_T gives it to about a tenth.
    """
    import torch

    model = evaluation.model
    u = evaluation.rows(evaluation.dataset.rows()).double()
    if "noise_kernel" not in model.own:
        return _simulated_end(model.double(), u, evaluation.streams.generator("p_T"), latent)
    ends = [model.dynamics.kernel(torch.tensor(t, dtype=torch.float64)) for t in model.dynamics.times()]
    (alpha, sigma), (alpha_data, sigma_data) = ends
    normal = torch.randn(u.shape, generator=evaluation.streams.generator("p_T"), dtype=torch.float64)
    centred, d = u - u.mean(0), u.shape[1]
    covariance = alpha**2 * centred.T @ centred / len(u) + sigma**2 * torch.eye(d, dtype=u.dtype, device=u.device)
    return {
        "t_prior": model.dynamics.times()[0], "t_data": model.dynamics.times()[1],
        "alpha_at_t_data": float(alpha_data), "sigma_at_t_data": float(sigma_data),
        **_mismatch(model, alpha * u + sigma * normal.to(u.device), alpha * u.mean(0), covariance, latent),
    }  # fmt: skip


def _simulated_end(model: Model, u: Tensor, generator: Generator, latent: Tensor | None) -> dict[str, float]:
    """The same of an SDE without a kernel: its data go as they are into the first of the steps."""
    from driftspec.numerics.sde import simulated

    t_prior, t_data = model.dynamics.times()
    x, error = simulated(model, u, u.new_full((len(u),), t_prior), STEPS, generator, compare=True)
    told = _mismatch(model, x, x.mean(0), (x - x.mean(0)).T @ (x - x.mean(0)) / len(x), latent)
    return {"t_prior": t_prior, "t_data": t_data, **told, "path_steps": STEPS, "path_error": error}


def _mismatch(model: Model, x: Tensor, m: Tensor, covariance: Tensor, latent: Tensor | None) -> dict[str, float]:
    """E[log N(x; m, S) - log p_prior(x)] over x (n, d), its standard error, and the largest size over `latent`."""
    import torch

    def gap(z: Tensor) -> Tensor:
        solved = torch.linalg.solve(covariance, (z - m).T).T
        log_normal = -((z - m) * solved).sum(1) / 2 - torch.logdet(2 * math.pi * covariance) / 2
        return log_normal - model.prior().log_prob(z)

    value, stderr = mean(gap(x))
    told = {"prior_mismatch": value, "prior_mismatch_stderr": stderr}
    return told if latent is None else {**told, "prior_mismatch_max": float(gap(latent.double()).abs().max())}


def mean(values: Tensor) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def _known(error: Tensor) -> float | None:
    """A numerical error; null where it is not known, or beyond all numbers."""
    return float(error) if bool(error.isfinite()) else None


def _told(details: dict[str, Any], confirm: str) -> str:
    """Probes; solver error; rounding where it is the larger one and counts; round trip."""
    text = f"probes ± {short(details['probe_stderr'])}; " if "probe_stderr" in details else ""
    error, check, rounding = details["solver_error"], details["confirmed"], details["rounding"]
    if error["max"] is None:
        text += "solver error unknown"
    else:
        text += f"solver error {short(error['mean'])} (max {short(error['max'])}{_verdict(confirm, check)})"
    if details["not_converged"]:
        text += f", {details['not_converged']} points not converged"
    if verdicts.size(rounding["mean"]) > max(AGREES, error["mean"] or 0.0):
        text += f"; rounding {short(verdicts.size(rounding['mean']))} (max {short(verdicts.size(rounding['max']))})"
    return text + f"; round trip {short(details['round_trip']['mean'])}"


def _verdict(confirm: str, check: dict[str, Any]) -> str:
    if check["difference"] is None:
        return "" if not check["points"] else f", {confirm} ended with {check['status']}"
    return f", {confirm} {'agrees' if check['difference'] <= AGREES else 'differs by ' + short(check['difference'])}"
