"""Negative log-likelihood (NLL) of the test rows, -E[log p_model(x)] in nats, compared with the truth if it is known.

If log p of the data is known, the mean of log p(x) - log p_model(x) over the test rows estimates KL(p ‖ p_model), with
a much smaller standard error than the difference of two means: NLL = entropy + KL + sampling, where sampling is the
random error mean[-log p(x)] - entropy of these test rows. A KL cannot be negative: if it is, by more than its errors,
the log determinant is wrong. If log p of the data is not known, the NLL of baselines fitted to the training rows is
reported too. For an energy model log p is -E - log Z. `driftspec_plugins.metrics._likelihood` computes log p and its
errors.

The standard error is that of a mean over independent test rows, for a fixed model. ± 1.96 of it cover the truth in 95 %
of cases for 400 rows of a normal distribution and in 93 % for 50 rows: log p is skewed, and heavier tails need more
rows. If the training rows, which a whitening is estimated from, are random too, the coverage is lower for a model that
does not fit. For a model 0.6 times as wide as the data it is 94 % with 8 times as many training rows as test rows, and
90 % with as many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from driftspec.components import Measured
from driftspec_plugins.metrics import _baselines
from driftspec_plugins.metrics._baselines import ALL, Baseline
from driftspec_plugins.metrics._likelihood import Likelihood
from driftspec_plugins.metrics._likelihood_verdicts import below_zero

if TYPE_CHECKING:
    from driftspec.components import Evaluation


class NLL(Likelihood):
    """-mean log p_model(x) over the test rows in nats, data units."""

    type = "nll"

    baselines: tuple[Baseline, ...] | None = Field(
        None,
        description="densities fitted to the training rows for comparison; null: all if log p of the data is not known",
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
            seed = evaluation.streams.number("baselines") % 2**32
            details["baselines"] = _baselines.compare(wanted, evaluation.dataset.train, scored, seed)
        line = f"{_line(value, stderr, details)}; {scored.summary}"
        return Measured(value, stderr, "nats", len(x), details, line=line, verdicts=judged)


def _line(value: float, stderr: float, details: dict[str, Any]) -> str:
    """Return the first part of the metric's line: NLL = entropy + KL (+ sampling), and the baselines."""
    text = f"NLL {value:.3f} ± {stderr:.3f} nats"
    if "kl" in details:
        kl = f"KL {details['kl']:.3f} ± {details['kl_stderr']:.3f}"
        if details["entropy"] is None:
            text += f", {kl}"
        else:
            text += f" = entropy {details['entropy']:.3f} + {kl} (+ sampling {details['sampling']:.3f})"
    if "baselines" in details:
        text += f"; {_baselines.summary(details['baselines'])}"
    return text
