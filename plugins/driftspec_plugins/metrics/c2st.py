"""Classifier two-sample test: how often a classifier tells the run's draws from data. ½ where it cannot.

    accuracy = mean 1[class guessed = class],   over rows the classifier was not fitted to (k folds)

Lopez-Paz, Oquab, *Revisiting Classifier Two-Sample Tests*, 2017. No classifier passes the best one, for which it is
½ + ½ TV(P, Q): a value above ½ shows a difference, one at ½ shows that this classifier found none. The draws of one
chain stand in one fold. The standard error is that of a share of independent rows, or of the chains' shares; folds
share most of what they are fitted to, which it leaves out.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from driftspec_plugins.metrics._two_samples import TwoSamples, by_chain

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Measured
    from driftspec.evaluate import Evaluation


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
        details = {"floor": 0.5, "z": (value - 0.5) / stderr}
        line = f"a classifier tells draws from data in {value:.1%} ± {stderr:.1%} of cases (50% is chance)"
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
    right = float(hits.mean())
    binomial = max(right * (1 - right), 1 / len(rows)) / len(rows)
    if n == len(x):
        return right, math.sqrt(binomial)
    of_chains, of_data = by_chain(hits[: len(x)], n).var() / n, hits[len(x) :].var() / len(y)
    share = len(x) / len(rows)
    return right, math.sqrt(max(float(share**2 * of_chains + (1 - share) ** 2 * of_data), binomial))
