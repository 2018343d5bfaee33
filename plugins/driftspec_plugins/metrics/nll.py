"""Negative log-likelihood of the test rows, -E[log p_model(x)] in nats, and how far it is from the truth.

Where the data component knows its log p, the paired gap mean[log p(x) - log p_model(x)] estimates KL(p ‖ p_model) on
the same points, far sharper than a difference of means: NLL = entropy + KL + sampling, the last being the luck of the
test rows, mean[-log p(x)] - entropy. A KL is never negative: one that is, by more than its errors, shows that the log
determinant is wrong. Where the truth is not known, baselines fitted to the training rows stand beside the number.
Of an energy model log p is -E - log Z.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from driftspec.components import Measured
from driftspec_plugins.metrics._likelihood import Likelihood
from driftspec_plugins.metrics._likelihood_verdicts import below_zero

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.evaluate import Evaluation

FITTED = 5000
"""Training rows that baselines are fitted to: choosing a width for a kernel density takes the square of it."""


class NLL(Likelihood):
    """-mean log p_model(x) over the test rows, in the data's own units; solver error for each point by itself."""

    type = "nll"

    baselines: tuple[Literal["gaussian", "gaussian_mixture", "kde"], ...] | None = Field(
        None, description="densities fitted to the training rows for comparison; null: all where the truth is unknown"
    )

    def measure(self, evaluation: Evaluation) -> Measured:
        scored = self.scored(evaluation)
        x, log_p, details, judged = scored.x, scored.log_p, dict(scored.details), scored.verdicts
        value, stderr = scored.mean(-log_p)
        if evaluation.truth is not None:
            true_log_p = evaluation.truth.log_prob(x)
            entropy, (gap, gap_stderr) = evaluation.truth.entropy(), scored.mean(true_log_p - log_p)
            details |= {"kl": gap, "kl_stderr": gap_stderr, "entropy": entropy}
            details["sampling"] = None if entropy is None else float(-true_log_p.mean()) - entropy
            judged += below_zero(details)
        elif repeated := evaluation.dataset.repeated():
            details["test_rows_in_training"] = repeated
        wanted = self.baselines if self.baselines is not None else ALL if evaluation.truth is None else ()
        if wanted and len(evaluation.dataset.train):
            fit = evaluation.dataset.train[:FITTED]
            details["baselines"] = _baselines(wanted, fit, x, evaluation.streams.number("baselines"))
        line = f"{_line(value, stderr, details)}; {scored.told}"
        return Measured(value, stderr, "nats", len(x), details, line=line, verdicts=judged)


ALL: tuple[Literal["gaussian", "gaussian_mixture", "kde"], ...] = ("gaussian", "gaussian_mixture", "kde")


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


def _line(value: float, stderr: float, details: dict[str, Any]) -> str:
    """NLL = entropy + KL (+ sampling): how the line begins that every run with a likelihood ends with."""
    text = f"NLL {value:.3f} ± {stderr:.3f} nats"
    if "kl" in details:
        kl = f"KL {details['kl']:.3f} ± {details['kl_stderr']:.3f}"
        if details["entropy"] is None:
            text += f", {kl}"
        else:
            text += f" = entropy {details['entropy']:.3f} + {kl} (+ sampling {details['sampling']:.3f})"
    if "baselines" in details:
        text += "; " + ", ".join(f"{name} {base['value']:.3f}" for name, base in details["baselines"].items())
    return text
