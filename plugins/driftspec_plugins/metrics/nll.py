"""Negative log-likelihood of the test rows, -E[log p_model(x)] in nats, and how far it is from the truth.

Where the data component knows its log p, the paired gap mean[log p(x) - log p_model(x)] estimates KL(p ‖ p_model) on the
same points, far sharper than a difference of means: NLL = entropy + KL + sampling, the last being the luck of the test
rows, mean[-log p(x)] - entropy. Where it does not, baselines fitted to the training rows stand beside the number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from driftspec.component import Need, default
from driftspec.components import Measured, Metric, Solver, Trace

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.evaluate import Evaluation
    from driftspec.flow import LogProb

AGREES = 1e-3
"""Nats within which the confirming solver counts as agreeing: a tenth of what a KL of 0.01 would show."""


class NLL(Metric):
    """-mean log p_model(x) over the test rows, in the data's own units; solver error for each point by itself."""

    type = "nll"

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

        x = evaluation.test(self.points)
        u = evaluation.experiment.rows(x)
        scored = flow.log_prob(evaluation.model, u, self.solver, self.trace, evaluation.streams)
        log_p = scored.log_prob.double().cpu() + evaluation.transform.log_det()
        back = evaluation.transform.to_data(flow.round_trip(evaluation.model, u[:1000], self.solver).cpu())
        trip = torch.linalg.vector_norm(back - x[:1000], dim=1)
        value, stderr = _mean(-log_p)
        details: dict[str, Any] = {
            "solver_error": {"mean": float(scored.error.mean()), "max": float(scored.error.max())},
            "not_converged": int((~scored.converged).sum()),
            "evaluations_per_point": scored.evaluations / len(x),
            "confirmed": self._confirmed(evaluation, u, scored),
            "round_trip": {"mean": float(trip.mean()), "max": float(trip.max())},
        }
        if scored.probe_stderr is not None:
            details["probe_stderr"] = _rms_of_mean(scored.probe_stderr)
        if evaluation.truth is not None:
            true_log_p = evaluation.truth.log_prob(x)
            entropy, (gap, gap_stderr) = evaluation.truth.entropy(), _mean(true_log_p - log_p)
            details |= {"kl": gap, "kl_stderr": gap_stderr, "entropy": entropy}
            details["sampling"] = None if entropy is None else float(-true_log_p.mean()) - entropy
        wanted = self.baselines if self.baselines is not None else ALL if evaluation.truth is None else ()
        if wanted:
            details["baselines"] = _baselines(wanted, evaluation.dataset.train, x, evaluation.streams.number("baselines"))
        reason = "fewer than two test rows" if not math.isfinite(stderr) else None
        line = _line(value, stderr, details, self.confirm.type)
        return Measured(value, None if reason else stderr, "nats", len(x), details, reason, line)

    def _confirmed(self, evaluation: Evaluation, u: Tensor, scored: LogProb) -> dict[str, Any]:
        """The hardest 1 % by another solver in float64, with the exact trace: the largest difference."""
        from driftspec import flow

        hardest = scored.error.argsort(descending=True)[: math.ceil(len(u) / 100)]
        if not self.trace.exact():  # other probes would differ by chance
            return {"solver": self.confirm.type, "points": 0, "difference": None}
        other = flow.log_prob(
            evaluation.model.double(), u[hardest].double(), self.confirm, self.trace, evaluation.streams, compare=False
        )
        difference = (other.log_prob - scored.log_prob[hardest].double()).abs().max()
        return {"solver": self.confirm.type, "points": len(hardest), "difference": float(difference)}


ALL: tuple[Literal["gaussian", "gaussian_mixture", "kde"], ...] = ("gaussian", "gaussian_mixture", "kde")


def _mean(values: Tensor) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def _rms_of_mean(errors: Tensor) -> float:
    """Standard error of the mean of independent values with these standard errors."""
    return float(errors.double().square().sum().sqrt()) / len(errors)


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
        result[name] = {"value": float(-log_p.mean()), "stderr": float(log_p.std(ddof=1) / math.sqrt(len(log_p)))}
    return result


def _line(value: float, stderr: float, details: dict[str, Any], confirm: str) -> str:
    """NLL = entropy + KL (+ sampling); solver error; round trip: the line every run with a likelihood ends with."""
    text = f"NLL {value:.3f} ± {stderr:.3f} nats"
    if details.get("kl") is not None:
        kl = f"KL {details['kl']:.3f} ± {details['kl_stderr']:.3f}"
        if details["entropy"] is None:
            text += f", {kl}"
        else:
            text += f" = entropy {details['entropy']:.3f} + {kl} (+ sampling {details['sampling']:.3f})"
    elif "baselines" in details:
        text += "; " + ", ".join(f"{name} {base['value']:.3f}" for name, base in details["baselines"].items())
    if "probe_stderr" in details:
        text += f"; probes ± {details['probe_stderr']:.1e}"
    error, difference = details["solver_error"], details["confirmed"]["difference"]
    verdict = "" if difference is None else f", {confirm} agrees" if difference <= AGREES else f", {confirm} differs by {difference:.1e}"
    text += f"; solver error {error['mean']:.0e} (max {error['max']:.0e}{verdict})"
    if details["not_converged"]:
        text += f", {details['not_converged']} points not converged"
    return text + f"; round trip {details['round_trip']['mean']:.0e}"
