"""The verdict on a run's chains: converged, not converged, or unknown, and why.

Chains that make several draws converged if split R-hat is at most 1.01, and bulk and tail ESS are at least 400, or half
of the number of draws if that is less. This holds for every coordinate, and for log p if the sampler computes it. For
short chains even independent draws often exceed 1.01; the limit is then the R-hat that they exceed with probability
ALPHA.

If each chain makes one draw, or if many chains make fewer than 20, the means and variances over the chains after half
of the steps are compared with those at the end. R-hat cannot be used here: it is large for short chains, even if all
chains together cover the distribution (Margossian et al., *Nested R-hat: Assessing the convergence of MCMC when running
many short chains*, 2024). The differences of separate chains are independent, and symmetric if the distribution does
not change any more. So each comparison is a t test, and a level of ALPHA/k for each of k tests keeps the probability of
a false alarm below ALPHA. Let ρ be the correlation between half and end. Then the part of the start that remains at the
end is ρ/(1 - ρ) times the change since half. For ρ ≤ 1/2 it is smaller than that change, which the test sees; for
larger ρ the test proves nothing, and the verdict is `unknown`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driftspec.accuracy.convergence import FEWEST, SHORT, folded, larger_r_hat, scores, size, split, tail
from driftspec.components.verdict import Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

R_HAT = 1.01
"""The largest R-hat of chains that converged, if they are not very short."""
ENOUGH = 400
"""The effective sample size of chains that converged is at least this, or half of the number of draws."""
ALPHA = 5e-4
"""The probability that chains which converged get the verdict `not_converged`, for each of the two methods."""
CHAINS = 50
"""The smallest number of one-draw chains whose means and variances are a sufficient test."""
REMEMBERED = 0.5
"""The largest correlation between half and end for which that test is sufficient."""
LEFT = 0.01
"""The largest share of chains that may still be at their start."""
NUMBERS, AT_MOST = 40_000, 2_000_000
"""The largest number of draws that the verdict reads, for one quantity and for all together."""


@dataclass(frozen=True)
class Seen:
    """The input of the verdict. The q quantities are the d coordinates and, if the sampler computes it, log p."""

    start: Array  # (chains, d), the first states
    half: Array  # (chains, q), after half of the steps before the first draw
    last: Array  # (chains, q), the last draws
    draws: Array  # (some of the chains, some of their draws, q)
    count: int  # the number of all draws
    names: tuple[str, ...]  # of the q quantities
    steps: tuple[int, int]  # the step numbers of `half` and `last`
    counts: Mapping[str, float]  # the sampler's counts, summed over chains
    epsilon: Array  # (q,), the relative rounding error of each quantity


def seen(
    start: Tensor, kept: Sequence[Tensor], log_p: Tensor | None, steps: tuple[int, int], counts: Mapping[str, float]
) -> Seen:
    """Return the input of the verdict.

    `start` (chains, d) are the first states; `kept` are the states (chains, d) after half of the steps and at each
    draw; `log_p` (chains, 1 + draws) belongs to `kept`; `steps` are the step numbers of half and of the last draw.
    """
    import numpy as np
    import torch

    def at(which: Sequence[int], chains: slice = slice(None)) -> Array:
        """Return the quantities (chains, len(which), q) at some of the kept states."""
        values = torch.stack([kept[index][chains] for index in which], 1).double()
        if log_p is not None:
            values = torch.cat([values, log_p[chains, list(which), None].to(values)], -1)
        return values.cpu().numpy()

    chains, d = start.shape
    draws, names = len(kept) - 1, tuple(f"x{i + 1}" for i in range(d)) + ("log p",) * (log_p is not None)
    some, each = _enough(chains, draws, len(names))
    half, last = at([0, draws]).swapaxes(0, 1)
    read = at(range(1, draws + 1)[each], some)
    epsilon = np.array([torch.finfo(start.dtype).eps] * d + ([] if log_p is None else [torch.finfo(log_p.dtype).eps]))
    return Seen(start.double().cpu().numpy(), half, last, read, chains * draws, names, steps, counts, epsilon)


def _enough(chains: int, draws: int, quantities: int) -> tuple[slice, slice]:
    """Return which chains the verdict reads, the first ones, and which of their draws, evenly spaced."""
    most = min(NUMBERS, AT_MOST // quantities)
    kept = max(1, min(chains, most // SHORT))
    return slice(kept), slice(None, None, max(1, min(draws // SHORT, math.ceil(kept * draws / most))))


def judge(seen: Seen) -> Verdict:
    """Return the verdict on the chains: `converged`, `not_converged` or `unknown`, with the reason."""
    if reason := _stuck(seen):
        return _bad(reason)
    if _at_rest(seen):
        return unknown(f"the chains came to rest: nothing moved {_span(seen)}, so they are no draws of a distribution")
    chains, draws = len(seen.last), seen.draws.shape[1]
    found = _diagnosed(seen) if draws >= SHORT or (draws >= FEWEST and chains < CHAINS) else None
    return found if found is not None else _compared(seen)


def _bad(reason: str) -> Verdict:
    return Verdict("chains", "not_converged", reason, "bad")


def unknown(reason: str) -> Verdict:
    """Return the verdict `unknown` with this reason."""
    return Verdict("chains", "unknown", reason, "unknown")


def _span(seen: Seen) -> str:
    return f"from step {seen.steps[0]} to step {seen.steps[1]}"


def _stuck(seen: Seen) -> str | None:
    """Return the reason if no proposal was accepted or too many chains are still at their start, else None."""
    proposed, broken = seen.counts.get("proposed", 0), seen.counts.get("non_finite_proposals", 0)
    if proposed and not seen.counts.get("accepted"):
        why = f"; {broken:.0f} proposals were not finite" if broken else ""
        return f"no proposal was accepted, of {proposed:.0f}{why}"
    chains, d = seen.start.shape
    count = int((seen.last[:, :d] == seen.start).all(1).sum())
    return f"{count} of {chains} chains are still at their start" if count > LEFT * chains else None


def _at_rest(seen: Seen) -> bool:
    """Return whether no quantity changed from half to end by more than rounding."""
    import numpy as np

    return bool((np.abs(seen.last - seen.half) <= seen.epsilon * _extent(seen)).all())


def _extent(seen: Seen) -> Array:
    """Return the largest absolute value (q,) of each quantity; its rounding error is epsilon times that."""
    import numpy as np

    extent: Array = np.abs(np.stack([seen.half, seen.last])).max((0, 1))
    d = seen.start.shape[1]
    extent[:d] = np.maximum(extent[:d], np.abs(seen.start).max(0))
    return extent


def _diagnosed(seen: Seen) -> Verdict | None:
    """Return the verdict by R-hat and ESS; None if the chains are too short for ESS and R-hat is within its limit."""
    chains, each, quantities = seen.draws.shape
    hats: dict[str, float] = {}
    sizes: dict[str, float] = {}
    for column, name in enumerate(seen.names):
        x = seen.draws[..., column]
        halves = split(x)
        ranked = scores(halves)
        value = larger_r_hat(ranked, folded(halves))
        if value is None:
            return _bad(f"nothing moves within the chains: {name}")
        hats[name] = value
        if each >= SHORT:
            sizes |= {f"bulk, {name}": size(ranked), f"tail, {name}": tail(x)}
    worst, limit = max(hats, key=hats.__getitem__), _r_hat_limit(chains, each, quantities)
    text = f"R-hat {hats[worst]:.3f} ({worst}) of {len(seen.last)} chain{'s' * (len(seen.last) > 1)}"
    if sizes:
        least, enough = min(sizes, key=sizes.__getitem__), min(ENOUGH, seen.count / 2)
        text += f", {sizes[least]:.0f} effective draws ({least}) of {seen.count}"
        if hats[worst] <= limit and sizes[least] < enough:
            return _bad(f"{text}: at least {enough:.0f} are needed")
    if hats[worst] > limit:
        return _bad(f"{text}: R-hat is above {limit:.2f}")
    return Verdict("chains", "converged", text, "good") if sizes else None


def _r_hat_limit(chains: int, draws: int, quantities: int) -> float:
    """Return 1.01, or for short chains the R-hat that independent draws exceed with probability ALPHA (an F quantile).

    ALPHA is divided among the quantities.
    """
    from scipy.special import fdtri

    halves, n = 2 * chains, draws // 2
    quantile = float(fdtri(halves - 1, halves * (n - 1), 1 - ALPHA / (2 * quantities)))
    return max(R_HAT, math.sqrt((quantile + n - 1) / n))


def _compared(seen: Seen) -> Verdict:
    """Return the verdict by the means and variances over chains: those at half of the steps against the last draws."""
    chains, draws = len(seen.last), seen.count // len(seen.last)
    if chains < 2:
        return unknown(f"one chain of {_draws(draws)} is too short for a verdict")
    labels, before, after, rounding = _pairs(seen)
    z, limit = _changes(before, after, rounding)
    worst = int(abs(z).argmax())
    if abs(z[worst]) > limit:
        text = f"{_span(seen)} {labels[worst]} over {chains} chains went from {before[:, worst].mean():.4g}"
        return _bad(f"{text} to {after[:, worst].mean():.4g}: z = {z[worst]:+.1f}, by chance at most {limit:.1f}")
    if chains < CHAINS:
        return unknown(f"{chains} chains of {_draws(draws)} are too few for a verdict: at least {CHAINS} are needed")
    agree = f"{_span(seen)} the means and variances over {chains} chains agree (largest |z| {abs(z[worst]):.1f})"
    kept = _correlations(before, after, rounding)
    most = int(kept.argmax())
    if kept[most] > REMEMBERED:
        text = f"the correlation of {seen.names[most % len(seen.names)]} is {kept[most]:.2f}"
        return unknown(f"{agree}, but each chain stays near where it was: {text}")
    return Verdict("chains", "converged", f"{agree}, and chains forget where they were", "good")


def _draws(count: int) -> str:
    return "1 draw" if count == 1 else f"{count} draws"


def _pairs(seen: Seen) -> tuple[list[str], Array, Array, Array]:
    """Return the names of 2q statistics, their terms (chains, 2q) at half and at the end, and their rounding (2q,).

    A statistic is a mean over chains: of a quantity, or of its squared distance to that mean.
    """
    import numpy as np

    centred = [x - x.mean(0) for x in (seen.half, seen.last)]
    before, after = (np.concatenate([x, c**2], 1) for x, c in zip((seen.half, seen.last), centred, strict=True))
    rounding = seen.epsilon * _extent(seen)
    rounding = np.concatenate([rounding, rounding * np.abs(np.stack(centred)).max((0, 1))])
    return [f"the {what} of {name}" for what in ("mean", "variance") for name in seen.names], before, after, rounding


def _changes(before: Array, after: Array, rounding: Array) -> tuple[Array, float]:
    """Return z (2q,) of each change of a mean, and the largest |z| that is expected without a change."""
    import numpy as np
    from scipy.special import stdtrit

    change, n = (after - before).mean(0), len(before)
    error = np.maximum((after - before).std(0, ddof=1) / math.sqrt(n), rounding)
    z = np.divide(change, error, out=np.zeros_like(change), where=error > 0)
    return z, float(stdtrit(n - 1, 1 - ALPHA / (2 * len(z))))


def _correlations(before: Array, after: Array, rounding: Array) -> Array:
    """Return the correlation over chains of each column (2q,); 0 where a column varies by no more than rounding."""
    import numpy as np

    a, b = before - before.mean(0), after - after.mean(0)
    spread = a.std(0) * b.std(0)
    varies = (a.std(0) > rounding) & (b.std(0) > rounding)
    return np.divide((a * b).mean(0), spread, out=np.zeros_like(spread), where=varies)


__all__ = ["Seen", "judge", "seen", "unknown"]
