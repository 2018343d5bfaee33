"""Classifier two-sample test: how often a classifier tells the run's draws from data. ½ where it cannot.

    accuracy = mean 1[class guessed = class],   over rows the classifier was not fitted to (k folds)

Lopez-Paz, Oquab, *Revisiting Classifier Two-Sample Tests*, 2017. No classifier passes the best one, for which it is
½ + ½ TV(P, Q): a value above ½ shows a difference, one at ½ shows that this classifier found none. The standard error
is that of a share of independent rows; folds share most of what they are fitted to, which it leaves out.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from driftspec.components import Measured
from driftspec_plugins.metrics._two_samples import TwoSamples

if TYPE_CHECKING:
    from torch import Tensor

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
        drawn, data = self.paired(evaluation)
        seed = evaluation.streams.number("classifier") % 2**32
        value, stderr = accuracy(drawn, data, self.classifier, self.folds, seed)
        details = {"floor": 0.5, "against": len(data), "z": (value - 0.5) / stderr}
        line = f"a classifier tells draws from data in {value:.1%} ± {stderr:.1%} of cases (50 %: it cannot)"
        return Measured(value, stderr, "", len(drawn), details, line=line)


def accuracy(x: Tensor, y: Tensor, classifier: str, folds: int, seed: int) -> tuple[float, float]:
    """(share of rows guessed right, its standard error) between x and y (n, d)."""
    import numpy as np
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, n = np.concatenate([x.numpy(), y.numpy()]), len(x)
    classes = np.repeat([0, 1], [n, len(y)])
    order = np.random.RandomState(seed).permutation(len(rows))
    made: dict[str, Any] = {
        "mlp": MLPClassifier((32, 32), alpha=1e-3, learning_rate_init=5e-3, max_iter=60, random_state=seed),
        "knn": KNeighborsClassifier(max(1, math.isqrt(len(rows)) // 2 * 2 + 1)),
    }
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its fit could go on
        guessed = cross_val_predict(
            make_pipeline(StandardScaler(), made[classifier]), rows[order], classes[order], cv=split
        )
    right = float((guessed == classes[order]).mean())
    return right, math.sqrt(max(right * (1 - right), 1 / len(rows)) / len(rows))
