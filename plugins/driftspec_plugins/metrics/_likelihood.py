"""log p of the test rows in nats and data units, with its errors, for the likelihood metrics.

log p of a flow comes from an ODE solve. It is checked by the error of each point, by another solver, and by a round
trip to the prior and back. log p of an energy model is -E - log Z, with the error of log Z.
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
from driftspec_plugins.metrics._unfit import no_rows

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from driftspec.components import Evaluation, Model
    from driftspec.numerics.likelihood import LogProb

STEPS = 100
"""The number of Euler-Maruyama steps from t_data to t_prior, for an SDE without a noise kernel."""


@dataclass(frozen=True)
class Scored:
    """log p (n,) float64 of rows x (n, d), its numerical error (n,), and the details of its computation."""

    x: Tensor
    log_p: Tensor
    error: Tensor
    details: dict[str, Any]
    summary: str  # the last part of the metric's line
    verdicts: tuple[Verdict, ...] = ()
    common: float = 0.0  # a standard error that all rows share: that of log Z

    def mean(self, values: Tensor) -> tuple[float, float]:
        """Return the mean of values (n,) that contain log p, and its standard error, with that of log Z."""
        value, stderr = mean(values)
        return value, math.hypot(stderr, self.common)


class Likelihood(Metric):
    """A metric of log p_model at the test rows."""

    reads_test_rows: ClassVar[bool] = True
    in_float64 = frozenset({"confirm"})

    solver: Solver = default("lobatto", "solves the ODE for log p")
    trace: Trace = default("exact_trace", "estimates the divergence; with probes each point has a standard error")
    points: int | None = Field(None, ge=2, description="number of test rows, the first ones; null: all")
    confirm: Solver = default(
        {"type": "dopri8", "rtol": 1e-8, "atol": 1e-8}, "solves the 1 % of points with the largest errors in float64"
    )
    t_data: float | None = Field(
        None, gt=0, description="the time at which log p of an SDE model is computed; null: t_data of its dynamics"
    )
    log_z: Integral = Field(Integral(), description="how log Z of an energy model is computed")

    def offers(self) -> frozenset[str]:
        return frozenset({"log_prob"})

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("log_prob", "energy"), "to score data"),
            Need(
                "dynamics",
                ("smooth",),
                "log p contains a derivative of the network: its activation must be C1",
                unless="energy",
            ),
            Need("data", ("samples",), "to have test rows"),
        )

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        yield from no_rows(around)
        for _, text in self.log_z.unfit(around):
            yield "log_z", text
        if self.t_data is not None and around.dynamics.ending_at(self.t_data) is None:
            yield "t_data", f"{around.dynamics.label} has no t_data of its own: its times are fixed"
        if "energy" not in around.dynamics.offers() and self.trace.probe_count() == 1:
            text = f"with one probe of {self.trace.label} log p of a point is random and has no standard error"
            yield "trace.probes", f"{text}: take 2 or more, or an exact trace"

    def scored(self, evaluation: Evaluation) -> Scored:
        """Return log p of the first `points` test rows, with its errors and verdicts."""
        evaluation, x = self._read_at(evaluation), evaluation.test(self.points)
        u = evaluation.rows(x)
        if "energy" in evaluation.model.own:
            return self._by_energy(evaluation, x, u)
        with evaluation.naming_rows():
            return self._with_errors(evaluation, x, self._solved(evaluation, u))

    def log_prob(self, evaluation: Evaluation, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(x) (n,) of rows x (n, d), nats and data units, and its numerical error (n,), both float64."""
        evaluation = self._read_at(evaluation)
        u = evaluation.rows(x)
        if "energy" in evaluation.model.own:
            found = self._by_energy(evaluation, x, u)
            return found.log_p, found.error
        scored = self._solved(evaluation, u)
        return _in_data_units(evaluation, scored), _numerical_error(scored)

    def log_prob_gradient(self, evaluation: Evaluation, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ∇log p(x) (n, d) of rows x (n, d), data units, and its error (n,).

        The ODE solve is differentiated, or the energy. If this metric's trace is random, the model's trace is used.
        """
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
        """Return the evaluation with the model's t_data replaced by that of this metric, if it is given."""
        if self.t_data is None:
            return evaluation
        dynamics = evaluation.model.dynamics.ending_at(self.t_data)
        return (
            evaluation if dynamics is None else replace(evaluation, model=replace(evaluation.model, dynamics=dynamics))
        )

    def _by_energy(self, evaluation: Evaluation, x: Tensor, u: Tensor) -> Scored:
        """Return log p(x) = -E(u) - log Z (n,) of rows x (n, d) in data units, which are u (n, d) in model units."""
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
        return Scored(x, log_p, error, details, log_z.summary(), log_z.verdicts(), log_z.stderr or 0.0)

    def _solved(self, evaluation: Evaluation, u: Tensor) -> LogProb:
        """Return log p of rows u (n, d), model units, by the instantaneous change of variables."""
        from driftspec.numerics import likelihood

        return likelihood.log_prob(evaluation.model, u, self.solver, self.trace, evaluation.streams)

    def _with_errors(self, evaluation: Evaluation, x: Tensor, scored: LogProb) -> Scored:
        """Return log p of rows x (n, d) in data units, with the errors of the solve and their verdicts."""
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
        return Scored(x, log_p, _numerical_error(scored), details, _summary(details, self.confirm.type), tuple(judged))

    def _confirmed(self, evaluation: Evaluation, x: Tensor, scored: LogProb) -> dict[str, Any]:
        """Return the largest difference to another solver in float64 at the 1 % of points with the largest errors.

        If that solver fails, its status is returned.
        """
        from driftspec.accuracy import refinement
        from driftspec.numerics import likelihood

        if not self.trace.exact():  # the difference would depend on the probes
            return {"points": 0, "difference": None, "status": "random trace"}
        order = _numerical_error(scored).argsort(descending=True, stable=True)
        hardest = order[: math.ceil(len(x) / 100)]
        # The rows are in float64: the difference includes the error of rounding them to float32.
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
    """Return log p (n,) float64 in data units, from that in model units."""
    return scored.log_prob.double().cpu() + evaluation.transform.log_det()


def _numerical_error(scored: LogProb) -> Tensor:
    """Return the sum of the solver's error and the rounding error (n,) float64."""
    return (scored.error + scored.rounding).double().cpu()


def ends_of_time(evaluation: Evaluation, latent: Tensor | None = None) -> dict[str, float]:
    """Return the errors of an SDE's likelihood at its two ends of time, in model units.

    At t_data the model's density is that of α x + σ ε, not of x; α and σ are returned. At t_prior the prior replaces
    the density p_T of the SDE: KL(p_T ‖ prior) ≈ E_{p_T}[log N(x; m, S) - log p_prior(x)], with m and S the moments of
    p_T, is estimated from noised training rows. For an SDE without a noise kernel the rows are simulated in time steps,
    and the error of the simulation is returned too. The largest |log N(z; m, S) - log p_prior(z)| over `latent` z (n,
    d), the solutions from the test rows at t_prior, is the error at a single point, to about 10 %.
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
    """Return the result of `ends_of_time` for an SDE without a noise kernel, by simulation from rows u (n, d)."""
    from driftspec.numerics.sde import simulated

    t_prior, t_data = model.dynamics.times()
    x, error = simulated(model, u, u.new_full((len(u),), t_prior), STEPS, generator, compare=True)
    found = _mismatch(model, x, x.mean(0), (x - x.mean(0)).T @ (x - x.mean(0)) / len(x), latent)
    return {"t_prior": t_prior, "t_data": t_data, **found, "path_steps": STEPS, "path_error": error}


def _mismatch(model: Model, x: Tensor, m: Tensor, covariance: Tensor, latent: Tensor | None) -> dict[str, float]:
    """Return E[log N(x; m, S) - log p_prior(x)] over x (n, d), its standard error, and the largest |.| at `latent`."""
    import torch

    def gap(z: Tensor) -> Tensor:
        solved = torch.linalg.solve(covariance, (z - m).T).T
        log_normal = -((z - m) * solved).sum(1) / 2 - torch.logdet(2 * math.pi * covariance) / 2
        return log_normal - model.prior().log_prob(z)

    value, stderr = mean(gap(x))
    found = {"prior_mismatch": value, "prior_mismatch_stderr": stderr}
    return found if latent is None else {**found, "prior_mismatch_max": float(gap(latent.double()).abs().max())}


def mean(values: Tensor) -> tuple[float, float]:
    """Return the mean of values (n,) and its standard error."""
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def _known(error: Tensor) -> float | None:
    """Return a numerical error () as a number; None if it is inf or NaN."""
    return float(error) if bool(error.isfinite()) else None


def _summary(details: dict[str, Any], confirm: str) -> str:
    """Return the line's part on probes, the solver error, the rounding error if it is larger, and the round trip."""
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
    """Return the line's part on the comparison with the solver `confirm`."""
    if check["difference"] is None:
        return "" if not check["points"] else f", {confirm} ended with {check['status']}"
    return f", {confirm} {'agrees' if check['difference'] <= AGREES else 'differs by ' + short(check['difference'])}"
