"""Classifier two-sample test: the accuracy of a classifier that separates the draws of a run from data.

    accuracy = mean 1[class guessed = class],   over rows that the classifier was not fitted to (k folds)

Lopez-Paz, Oquab, *Revisiting Classifier Two-Sample Tests*, 2017. The best possible accuracy is ½ + ½ TV(P, Q). A value
above ½ shows a difference; ½ shows only that this classifier found none. All draws of a chain are in one fold.

The standard error is √2 times that of a mean over independent rows, or over chains. Each row is a test row of one fold
and a training row of the others, and there is no unbiased estimate of the variance of cross-validation (Bengio,
Grandvalet, *No Unbiased Estimator of the Variance of K-Fold Cross-Validation*, 2004). Without the √2 the standard error
was 0.7 to 0.9 of the true one, for both classifiers, 2 to 20 folds, and 2 and 10 dimensions: ± 1.96 of it covered 82 to
92 %. With the √2 it covers 97 %.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from driftspec_plugins.metrics._two_samples import TwoSamples, by_chain

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation, Measured


class C2ST(TwoSamples):
    """Cross-validated accuracy of a small classifier that separates the run's draws from equally many data rows."""

    type = "c2st"

    samples: int = Field(1000, ge=50, description="number of draws, the first ones of the run, and of data rows")
    classifier: Literal["mlp", "knn"] = Field(
        "mlp", description="mlp: a network with two layers of 32 units; knn: the √n nearest neighbours"
    )
    folds: int = Field(5, ge=2, le=20, description="k: a row is classified after a fit to the other k - 1 folds")

    def measure(self, evaluation: Evaluation) -> Measured:
        both = self.paired(evaluation)
        seed = evaluation.streams.number("classifier") % 2**32
        value, stderr = accuracy(both.x, both.y, self.classifier, self.folds, seed, both.parts)
        stated = both.stated(stderr)
        details = {"floor": 0.5, "z": (value - 0.5) / stated}
        line = f"a classifier separates draws from data in {value:.1%} ± {stated:.1%} of cases (50% is a guess)"
        return both.measured(value, stderr, "", details, line)


def accuracy(
    x: Tensor, y: Tensor, classifier: str, folds: int, seed: int, parts: int | None = None
) -> tuple[float, float]:
    """Return the accuracy and its standard error, for x (n, d) in `parts` independent parts (None: n) and y (m, d)."""
    import numpy as np
    import torch
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = np.concatenate([x.numpy(), y.numpy()])
    classes = np.repeat([0, 1], [len(x), len(y)])
    order = np.random.RandomState(seed).permutation(len(rows))
    made: dict[str, Any] = {
        "mlp": MLPClassifier((32, 32), alpha=1e-3, learning_rate_init=5e-3, max_iter=60, random_state=seed),
        "knn": KNeighborsClassifier(max(1, math.isqrt(len(rows)) // 2 * 2 + 1)),
    }
    n = parts or len(x)
    groups = np.concatenate([np.repeat(np.arange(n), len(x) // n), n + np.arange(len(y))])
    split = (StratifiedKFold if n == len(x) else StratifiedGroupKFold)(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns that the fit has not converged
        guessed = cross_val_predict(
            make_pipeline(StandardScaler(), made[classifier]),
            rows[order],
            classes[order],
            cv=split,
            groups=groups[order],
        )
    hits = torch.zeros(len(rows), dtype=torch.float64)
    hits[torch.as_tensor(order)] = torch.as_tensor(guessed == classes[order]).double()
    return float(hits.mean()), standard_error(hits, len(x), n)


def standard_error(hits: Tensor, draws: int, parts: int) -> float:
    """Return the standard error of the mean of hits (rows,), 1 for a row that is classified correctly, else 0.

    The first `draws` rows are draws in `parts` independent parts; the others are data rows.

    With q the share of draws among the rows, Var = 2 (q² Var(mean over draws) + (1 - q)² Var(mean over data)).
    """
    right, rows, data = float(hits.mean()), len(hits), hits[draws:]
    variance = max(right * (1 - right), 1 / rows) / rows
    if parts < draws:
        share = draws / rows
        of_draws, of_data = by_chain(hits[:draws], parts).var() / parts, data.var() / len(data)
        variance = max(float(share**2 * of_draws + (1 - share) ** 2 * of_data), variance)
    return math.sqrt(2 * variance)
