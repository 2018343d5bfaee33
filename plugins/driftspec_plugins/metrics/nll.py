"""Negative log-likelihood of the test rows, -E[log p_model(x)] in nats, and how far it is from the truth.

Where the data component knows its log p, the paired gap mean[log p(x) - log p_model(x)] estimates KL(p ‖ p_model) on
the same points, far sharper than a difference of means: NLL = entropy + KL + sampling, the last being the luck of the
test rows, mean[-log p(x)] - entropy. Where it does not, baselines fitted to the training rows stand beside the number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from driftspec.component import Need, default
from driftspec.components import Measured, Metric, Solver, Trace
from driftspec.errors import SolveFailed

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.evaluate import Evaluation
    from driftspec.flow import LogProb

AGREES = 1e-3
"""Nats within which the confirming solver counts as agreeing: a tenth of what a KL of 0.01 would show."""
FITTED = 5000
"""Training rows that baselines are fitted to: choosing a width for a kernel density takes the square of it."""


class NLL(Metric):
    """-mean log p_model(x) over the test rows, in the data's own units; solver error for each point by itself."""

    type = "nll"
    reads_test_rows: ClassVar[bool] = True

    solver: Solver = default("lobatto", "integrates log p")
    trace: Trace = default("exact_trace", "the divergence's estimate; probes give each point a standard error")
    points: int | None = Field(None, ge=2, description="test rows scored; null: all")
    confirm: Solver = default(
        {"type": "dopri8", "rtol": 1e-8, "atol": 1e-8}, "scores the hardest 1 % again, in float64"
    )
    baselines: tuple[Literal["gaussian", "gaussian_mixture", "kde"], ...] | None = Field(
        None, description="densities fitted to the training rows for comparison; null: all where the truth is unknown"
    )

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("log_prob",), "to score data"),
            Need("dynamics", ("smooth",), "log p holds a derivative of the network: its activation must be C1"),
            Need("data", ("samples",), "to have test rows"),
        )

    def measure(self, evaluation: Evaluation) -> Measured:
        import torch

        from driftspec import flow

        x, model = evaluation.test(self.points), evaluation.model
        u = evaluation.experiment.rows(x)
        scored = flow.log_prob(model, u, self.solver, self.trace, evaluation.streams)
        log_p = scored.log_prob.double().cpu() + evaluation.transform.log_det()
        t_prior, t_data = model.dynamics.times()
        back = flow.transport(model, scored.latent[:1000], t_prior, t_data, self.solver).value
        trip = torch.linalg.vector_norm(evaluation.transform.to_data(back.cpu()) - x[:1000], dim=1)
        value, stderr = _mean(-log_p)
        details: dict[str, Any] = {
            "solver_error": {"mean": _known(scored.error.mean()), "max": _known(scored.error.max())},
            "not_converged": scored.not_converged,
            "evaluations_per_point": scored.evaluations / len(x),
            "confirmed": self._confirmed(evaluation, u, scored),
            "round_trip": {"mean": float(trip.mean()), "max": float(trip.max())},
        }
        if scored.probe_stderr is not None:
            details["probe_stderr"] = float(scored.probe_stderr.double().square().sum().sqrt()) / len(x)
        if evaluation.truth is not None:
            true_log_p = evaluation.truth.log_prob(x)
            entropy, (gap, gap_stderr) = evaluation.truth.entropy(), _mean(true_log_p - log_p)
            details |= {"kl": gap, "kl_stderr": gap_stderr, "entropy": entropy}
            details["sampling"] = None if entropy is None else float(-true_log_p.mean()) - entropy
        elif repeated := evaluation.dataset.repeated():
            details["test_rows_in_training"] = repeated
        wanted = self.baselines if self.baselines is not None else ALL if evaluation.truth is None else ()
        if wanted and len(evaluation.dataset.train):
            fit = evaluation.dataset.train[:FITTED]
            details["baselines"] = _baselines(wanted, fit, x, evaluation.streams.number("baselines"))
        line = _line(value, stderr, details, self.confirm.type)
        return Measured(value, stderr, "nats", len(x), details, line=line)

    def _confirmed(self, evaluation: Evaluation, u: Tensor, scored: LogProb) -> dict[str, Any]:
        """The hardest 1 % by another solver in float64: the largest difference, or the status it ended with."""
        from driftspec import flow

        if not self.trace.exact():  # other probes would differ by chance
            return {"points": 0, "difference": None, "status": "random trace"}
        hardest = scored.error.argsort(descending=True, stable=True)[: math.ceil(len(u) / 100)]
        model, rows = evaluation.model.double(), u[hardest].double()
        try:
            other = flow.log_prob(model, rows, self.confirm, self.trace, evaluation.streams, compare=False)
        except SolveFailed as error:
            return {"points": len(hardest), "difference": None, "status": error.status}
        difference = (other.log_prob - scored.log_prob[hardest].double()).abs().max()
        return {"points": len(hardest), "difference": float(difference), "status": "ok"}


ALL: tuple[Literal["gaussian", "gaussian_mixture", "kde"], ...] = ("gaussian", "gaussian_mixture", "kde")


def _mean(values: Tensor) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def _known(error: Tensor) -> float | None:
    """A solver's error; null for a solver that has no finer one to be compared with."""
    return float(error) if bool(error.isfinite()) else None


def _baselines(wanted: tuple[str, ...], train: Tensor, test: Tensor, seed: int) -> dict[str, dict[str, float]]:
    """Test NLL (nats, data units) of densities fitted to the training rows; size and width by 3-fold likelihood."""
    import numpy as np
    from sklearn.mixture import GaussianMixture
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KernelDensity

    state = np.random.RandomState(seed % 2**32)
    mean, std = train.mean(0), train.std(0)
    fit, score = ((rows - mean).div(std).numpy() for rows in (train, test))
    models = {
        "gaussian": GaussianMixture(1, reg_covar=1e-6, random_state=state),
        "gaussian_mixture": GridSearchCV(
            GaussianMixture(reg_covar=1e-4, random_state=state), {"n_components": [2, 3, 5, 8]}, cv=3
        ),
        "kde": GridSearchCV(KernelDensity(), {"bandwidth": np.geomspace(0.05, 1.0, 12)}, cv=3),
    }
    result = {}
    for name in wanted:
        fitted = models[name].fit(fit)
        best = getattr(fitted, "best_estimator_", fitted)
        log_p = best.score_samples(score) - float(std.log().sum())
        stderr = float(log_p.std(ddof=1)) / math.sqrt(len(log_p))
        result[name] = {"value": float(-log_p.mean()), "stderr": stderr, "fitted_on": len(fit)}
    return result


def _line(value: float, stderr: float, details: dict[str, Any], confirm: str) -> str:
    """NLL = entropy + KL (+ sampling); solver error; round trip: the line every run with a likelihood ends with."""
    text = f"NLL {value:.3f} ± {stderr:.3f} nats"
    if "kl" in details:
        kl = f"KL {details['kl']:.3f} ± {details['kl_stderr']:.3f}"
        if details["entropy"] is None:
            text += f", {kl}"
        else:
            text += f" = entropy {details['entropy']:.3f} + {kl} (+ sampling {details['sampling']:.3f})"
    if "baselines" in details:
        text += "; " + ", ".join(f"{name} {base['value']:.3f}" for name, base in details["baselines"].items())
    if "probe_stderr" in details:
        text += f"; probes ± {_short(details['probe_stderr'])}"
    error, check = details["solver_error"], details["confirmed"]
    if error["max"] is None:
        text += "; solver error unknown"
    else:
        text += f"; solver error {_short(error['mean'])} (max {_short(error['max'])}{_verdict(confirm, check)})"
    if details["not_converged"]:
        text += f", {details['not_converged']} points not converged"
    return text + f"; round trip {_short(details['round_trip']['mean'])}"


def _verdict(confirm: str, check: dict[str, Any]) -> str:
    if check["difference"] is None:
        return "" if not check["points"] else f", {confirm} ended with {check['status']}"
    return f", {confirm} {'agrees' if check['difference'] <= AGREES else 'differs by ' + _short(check['difference'])}"


def _short(value: float) -> str:
    """One digit and the power of ten: 4e-6."""
    digit, power = f"{value:.0e}".split("e")
    return f"{digit}e{int(power)}" if value else "0"
