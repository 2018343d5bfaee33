"""Baselines: densities fitted to the training rows, for the likelihood of a model to be compared with.

A Gaussian; a mixture of Gaussians with full covariances, fitted by expectation-maximisation (A. Dempster, N. Laird,
D. Rubin, 1977); a kernel density with normal kernels of one width in all columns, each divided by its deviation first.
How many components, and how wide, is chosen by the mean log-likelihood of held-out rows in three folds. Sizes are tried
one after the other until two in a row are worse than the best, so that the choice is seldom the last one tried; where
it is, `edge` says so, and a better baseline may exist. The model is compared row by row: its NLL less the baseline's,
with the standard error of the paired difference.

Work is bounded, not time, so that a result does not depend on the machine: 5,000 training rows, and mixtures until
2 n d² times the sum of the components tried exceeds 1e9. On 5,000 rows of 15 columns the bound is 140 components; where
41 are the best, all three take 11 s of CPU.
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
"""Training rows that baselines are fitted to: choosing a width for a kernel density takes the square of it."""
FOLDS, PATIENCE = 3, 2
WORK = 1e9
"""2 n d² times the components tried in all: floating-point operations of one iteration of every fit, about."""
WIDER, WIDTHS = 1.25, 24
"""Ratio of one width to the next, and how many are tried on either side of the first."""


def compare(wanted: Iterable[Baseline], train: Tensor, scored: Scored, seed: int) -> dict[str, dict[str, Any]]:
    """Each baseline's test NLL (nats, data units), the model's less it, and how it was fitted; or null and the reason.

    `train` (n, d) float64 are the training rows, of which the first are taken.
    """
    return {name: _compared(name, train, scored, seed) for name in wanted}


def _compared(name: Baseline, train: Tensor, scored: Scored, seed: int) -> dict[str, Any]:
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
        with warnings.catch_warnings():  # a fit that has not converged says so in `how`
            warnings.simplefilter("ignore")
            log_density, how = FITS[name](fit, seed)
            log_p = log_density(test)
    except Exception as error:  # what goes wrong with a baseline must not cost the model its number
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
    """As many components as held-out rows ask for."""
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
    """1, 2, 3, 5, 8, 12, ...: half as many again, within `WORK`, and no more than half the rows of a fold's fit."""
    size, tried = 1, 0
    while size == 1 or (size <= n // 3 and 2 * n * d * d * (tried + size) <= WORK):
        yield size
        tried, size = tried + size, math.ceil(1.5 * size)


def _kernels(rows: Array, seed: int) -> tuple[LogDensity, dict[str, Any]]:
    """Kernels as wide as held-out rows ask for, from Scott's width n^(-1/(d + 4)) both ways."""
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
    """‖x_i - row_j‖² (B, n)."""
    from scipy.spatial.distance import cdist

    return cdist(x, rows, "sqeuclidean")


def _kernel_log_p(squares: Array, width: float, d: int) -> Array:
    """log of the mean over rows of N(x; row, h² I), (B,), from ‖x_i - row_j‖² (B, n)."""
    from scipy.special import logsumexp

    constant = math.log(squares.shape[1]) + d / 2 * math.log(2 * math.pi * width**2)
    result: Array = logsumexp(squares / (-2 * width**2), axis=1) - constant
    return result


def _folds(rows: Array) -> Iterator[tuple[Array, Array]]:
    """(rows to fit, rows to score), each row scored once. The rows are in random order already."""
    import numpy as np

    for held in np.array_split(np.arange(len(rows)), FOLDS):
        yield np.delete(rows, held, axis=0), rows[held]


def _until_it_falls(
    candidates: Iterable[int], score: Callable[[int], float], best: float = -math.inf
) -> tuple[dict[int, float], bool]:
    """The scores of candidates, in order, until `PATIENCE` in a row are below the best; whether they ended by that."""
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
    "kde": _kernels,
}


def told(found: dict[str, dict[str, Any]]) -> str:
    """Each baseline's NLL and the model's less it, in one line; and on how many rows they were fitted if not on all."""
    reasons = {one.get("reason") for one in found.values()}
    if len(found) > 1 and len(reasons) == 1 and None not in reasons:
        return f"no baselines ({reasons.pop()})"
    parts = ", ".join(_told(name, one) for name, one in found.items())
    few = [one for one in found.values() if one.get("fitted_on", 0) < one.get("training_rows", 0)]
    return parts + (f", fitted to {few[0]['fitted_on']} of {few[0]['training_rows']} training rows" if few else "")


def _told(name: str, one: dict[str, Any]) -> str:
    if one["value"] is None:
        return f"no {name} ({one['reason']})"
    at_edge = f", at {one['edge']}" if one.get("edge") else ""
    return f"{name} {one['value']:.3f} (model {one['difference']:+.3f} ± {one['difference_stderr']:.3f}{at_edge})"


__all__ = ["ALL", "Baseline", "compare", "told"]
