"""Classifier two-sample test: how often a classifier tells the run's draws from data. ½ where it cannot.

    accuracy = mean 1[class guessed = class],   over rows the classifier was not fitted to (k folds)

Lopez-Paz, Oquab, *Revisiting Classifier Two-Sample Tests*, 2017. No classifier passes the best one, for which it is
½ + ½ TV(P, Q): a value above ½ shows a difference, one at ½ shows that this classifier found none. The draws of one
chain stand in one fold.

The standard error is √2 times that of a share of independent rows, or of the chains' shares. Rows that are guessed are
also fitted to in the other folds, and no estimate of the variance of cross-validation is without bias (Bengio,
Grandvalet, *No Unbiased Estimator of the Variance of K-Fold Cross-Validation*, 2004). As if a row counted once, the
standard error was measured to be too small by 0.7 to 0.9, for either classifier, 2 to 20 folds, 2 and 10 dimensions:
1.96 of it covered 82 to 92 %. As if a row counted twice, once as tested and once as learnt, they cover 97 %.
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
    """Cross-validated accuracy of a small classifier between the run's draws and as many rows of data."""

    type = "c2st"

    samples: int = Field(1000, ge=50, description="draws compared, the run's first ones, with as many data")
    classifier: Literal["mlp", "knn"] = Field(
        "mlp", description="a network of two layers of 32, or the nearest √n neighbours"
    )
    folds: int = Field(5, ge=2, le=20, description="k: each row is guessed by a classifier fitted to k - 1 parts")

    def measure(self, evaluation: Evaluation) -> Measured:
        both = self.paired(evaluation)
        seed = evaluation.streams.number("classifier") % 2**32
        value, stderr = accuracy(both.x, both.y, self.classifier, self.folds, seed, both.parts)
        stated = both.stated(stderr)
        details = {"floor": 0.5, "z": (value - 0.5) / stated}
        line = f"a classifier tells draws from data in {value:.1%} ± {stated:.1%} of cases (50% is chance)"
        return both.measured(value, stderr, "", details, line)


def accuracy(
    x: Tensor, y: Tensor, classifier: str, folds: int, seed: int, parts: int | None = None
) -> tuple[float, float]:
    """(share of rows guessed right, its standard error) between x in so many independent parts and y (n, d)."""
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
        warnings.simplefilter("ignore")  # that its fit could go on
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
    """Of the mean of hits: of so many draws in so many independent parts, then of rows of data.

    With q the share of draws among the rows, Var = 2 (q² Var(mean of draws) + (1 - q)² Var(mean of data)).
    """
    right, rows, data = float(hits.mean()), len(hits), hits[draws:]
    variance = max(right * (1 - right), 1 / rows) / rows
    if parts < draws:
        share = draws / rows
        of_draws, of_data = by_chain(hits[:draws], parts).var() / parts, data.var() / len(data)
        variance = max(float(share**2 * of_draws + (1 - share) ** 2 * of_data), variance)
    return math.sqrt(2 * variance)
