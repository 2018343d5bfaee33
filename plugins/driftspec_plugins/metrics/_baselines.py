"""Baselines: simple densities fitted to the training rows, whose NLL is compared with that of the model.

There are three: a Gaussian; a mixture of Gaussians with full covariances, fitted by expectation-maximisation (A.
Dempster, N. Laird, D. Rubin, 1977); a kernel density with normal kernels of one width, after each column was divided by
its deviation. The number of components and the width are chosen by the mean log-likelihood of held-out rows in three
folds. Candidates are tried in order until two in a row are worse than the best. If the best is nevertheless the last
one tried, `edge` states it, and a better baseline may exist. The comparison is the mean over rows of the model's NLL
minus the baseline's, with the standard error of this paired difference.

The amount of work is limited, not the time, so that a result does not depend on the machine: 5,000 training rows, and
2 n d² times the sum of all numbers of components tried is at most 1e9. For 5,000 rows of 15 columns that allows 140
components; if 41 are the best, all three baselines take 11 s of CPU time.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from driftspec.errors import cause
from driftspec_plugins.metrics._likelihood import Scored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]
    LogDensity = Callable[[Array], Array]

Baseline = Literal["gaussian", "gaussian_mixture", "kde"]
ALL: tuple[Baseline, ...] = ("gaussian", "gaussian_mixture", "kde")

FITTED = 5000
"""The largest number of training rows for a fit. The cost of choosing a kernel's width grows with its square."""
FOLDS, PATIENCE = 3, 2
WORK = 1e9
"""The limit of 2 n d² times the sum of components: about the operations of one iteration of all fits."""
WIDER, WIDTHS = 1.25, 24
"""The ratio of one width to the next, and the number of widths that are tried on either side of the first."""


def compare(wanted: Iterable[Baseline], train: Tensor, scored: Scored, seed: int) -> dict[str, dict[str, Any]]:
    """Return for each baseline its test NLL, the model's NLL minus it (nats, data units), and details of its fit.

    A baseline that cannot be fitted has null and a reason. `train` (n, d) float64 are the training rows; the first
    FITTED are used.
    """
    return {name: _compared(name, train, scored, seed) for name in wanted}


def _compared(name: Baseline, train: Tensor, scored: Scored, seed: int) -> dict[str, Any]:
    """Return the entry of one baseline."""
    rows = train[:FITTED]
    mean, deviation = rows.mean(0), rows.std(0)
    still = (deviation <= 1e-12 * rows.abs().amax(0)).nonzero().flatten().tolist()
    none = {"value": None, "stderr": None, "difference": None, "difference_stderr": None}
    if len(rows) < 2 * FOLDS:
        return {**none, "reason": f"{len(rows)} training rows are too few to choose by"}
    if still:
        return {**none, "reason": f"column {still[0] + 1} is constant in the training rows"}
    fit, test = ((x - mean).div(deviation).numpy() for x in (rows, scored.x))
    try:
        with warnings.catch_warnings():  # `how` states whether the fit converged
            warnings.simplefilter("ignore")
            log_density, how = FITS[name](fit, seed)
            log_p = log_density(test)
    except Exception as error:  # a baseline that fails must not fail the metric
        return {**none, "reason": f"it cannot be fitted: {cause(error)}"}
    import torch

    baseline = torch.from_numpy(log_p) - deviation.log().sum()
    stderr = float(baseline.std()) / math.sqrt(len(baseline))
    difference, spread = scored.mean(baseline - scored.log_p)
    return {
        "value": float(-baseline.mean()), "stderr": stderr, "difference": difference, "difference_stderr": spread,
        "fitted_on": len(rows), "training_rows": len(train), **how,
    }  # fmt: skip


def _gaussian(rows: Array, seed: int) -> tuple[LogDensity, dict[str, Any]]:
    from sklearn.mixture import GaussianMixture

    return GaussianMixture(1, reg_covar=1e-6, random_state=seed).fit(rows).score_samples, {}


def _mixture(rows: Array, seed: int) -> tuple[LogDensity, dict[str, Any]]:
    """Return a Gaussian mixture with the number of components that is best on held-out rows."""
    from sklearn.mixture import GaussianMixture

    def fitted(size: int, part: Array) -> Any:
        return GaussianMixture(size, reg_covar=1e-4, random_state=seed).fit(part)

    def held_out(size: int) -> float:
        return sum(float(fitted(size, fit).score(test)) * len(test) for fit, test in _folds(rows)) / len(rows)

    scores, fell = _until_it_falls(_sizes(*rows.shape), held_out)
    best = max(scores, key=scores.__getitem__)
    final = fitted(best, rows)
    edge = None if fell or best != max(scores) else f"{best} components, the most that were tried"
    return final.score_samples, {"components": best, "converged": bool(final.converged_), "edge": edge}


def _sizes(n: int, d: int) -> Iterator[int]:
    """Yield numbers of components 1, 2, 3, 5, 8, 12, ..., each 1.5 times the last, up to n/3 and within `WORK`."""
    size, tried = 1, 0
    while size == 1 or (size <= n // 3 and 2 * n * d * d * (tried + size) <= WORK):
        yield size
        tried, size = tried + size, math.ceil(1.5 * size)


def _kernels(rows: Array) -> tuple[LogDensity, dict[str, Any]]:
    """Return a kernel density with the width that is best on held-out rows, near Scott's width n^(-1/(d + 4))."""
    n, d = rows.shape
    distances = [(_squares(test, fit), len(test)) for fit, test in _folds(rows)]

    def held_out(step: int) -> float:
        width = first * WIDER**step
        return sum(float(_kernel_log_p(squares, width, d).mean()) * m for squares, m in distances) / n

    first = n ** (-1 / (d + 4))
    down, fell_down = _until_it_falls(range(0, -WIDTHS - 1, -1), held_out)
    up, fell_up = _until_it_falls(range(1, WIDTHS + 1), held_out, max(down.values()))
    scores = down | up
    best = max(scores, key=scores.__getitem__)
    edge = None
    if (best == min(scores) and not fell_down) or (best == max(scores) and not fell_up):
        edge = f"a width of {first * WIDER**best:.3g} deviations, the {'least' if best < 0 else 'most'} that was tried"

    def log_density(x: Array) -> Array:
        import numpy as np

        parts = np.array_split(x, math.ceil(len(x) / 1000))
        return np.concatenate([_kernel_log_p(_squares(part, rows), first * WIDER**best, d) for part in parts])

    return log_density, {"width": first * WIDER**best, "edge": edge}


def _squares(x: Array, rows: Array) -> Array:
    """Return ‖x_i - row_j‖² (B, n)."""
    from scipy.spatial.distance import cdist

    return cdist(x, rows, "sqeuclidean")


def _kernel_log_p(squares: Array, width: float, d: int) -> Array:
    """Return log of the mean over rows of N(x; row, h² I) (B,), from ‖x_i - row_j‖² (B, n), h = `width`."""
    from scipy.special import logsumexp

    constant = math.log(squares.shape[1]) + d / 2 * math.log(2 * math.pi * width**2)
    result: Array = logsumexp(squares / (-2 * width**2), axis=1) - constant
    return result


def _folds(rows: Array) -> Iterator[tuple[Array, Array]]:
    """Yield (rows to fit, rows to score); each row is scored once. The rows are already in random order."""
    import numpy as np

    for held in np.array_split(np.arange(len(rows)), FOLDS):
        yield np.delete(rows, held, axis=0), rows[held]


def _until_it_falls(
    candidates: Iterable[int], score: Callable[[int], float], best: float = -math.inf
) -> tuple[dict[int, float], bool]:
    """Return the scores of the candidates, in order, until `PATIENCE` in a row are below the best, and whether so."""
    scores: dict[int, float] = {}
    below = 0
    for candidate in candidates:
        scores[candidate] = score(candidate)
        below = below + 1 if scores[candidate] < best else 0
        best = max(best, scores[candidate])
        if below == PATIENCE:
            return scores, True
    return scores, False


FITS: dict[Baseline, Callable[[Array, int], tuple[LogDensity, dict[str, Any]]]] = {
    "gaussian": _gaussian,
    "gaussian_mixture": _mixture,
    "kde": lambda rows, seed: _kernels(rows),
}


def summary(found: dict[str, dict[str, Any]]) -> str:
    """Return one line: each baseline's NLL, the model's NLL minus it, and the rows of the fit if not all."""
    reasons = {one.get("reason") for one in found.values()}
    if len(found) > 1 and len(reasons) == 1 and None not in reasons:
        return f"no baselines ({reasons.pop()})"
    parts = ", ".join(_part(name, one) for name, one in found.items())
    few = [one for one in found.values() if one.get("fitted_on", 0) < one.get("training_rows", 0)]
    return parts + (f", fitted to {few[0]['fitted_on']} of {few[0]['training_rows']} training rows" if few else "")


def _part(name: str, one: dict[str, Any]) -> str:
    """Return the part of the line for one baseline."""
    if one["value"] is None:
        return f"no {name} ({one['reason']})"
    at_edge = f", at {one['edge']}" if one.get("edge") else ""
    return f"{name} {one['value']:.3f} (model {one['difference']:+.3f} ± {one['difference_stderr']:.3f}{at_edge})"


__all__ = ["ALL", "Baseline", "compare", "summary"]
