"""The verdict on a run's chains: converged, not converged, or unknown, and why.

Where chains make several draws, they converged if split R-hat is at most 1.01, and bulk and tail ESS at least 400, or
half of the draws if that is less: of every coordinate, and of log p where the chains know it. Chains may be so short
that independent draws exceed 1.01 by chance: then the limit is what they exceed with probability ALPHA.

Where each makes one draw, or many chains make fewer than 20, the means and variances over chains at half of the steps
are compared with those at the end: of many short chains R-hat is large however well all of them together cover the law
(Margossian et al., *Nested R-hat: Assessing the convergence of MCMC when running many short chains*, 2024). The
differences chain by chain are independent, and symmetric once the law stays. So each has a Student t, and ALPHA/k for
each of k comparisons keeps the chance of a false alarm below ALPHA. With the correlation ρ between half and end, what
remains of the start at the end is ρ/(1 - ρ) times what changed since half. Up to ρ = 1/2 that is less than what is
seen; beyond, agreement proves nothing, and the verdict is `unknown`.
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
"""The largest R-hat of chains that converged, but for chance."""
ENOUGH = 400
"""The effective draws that converged chains have, or half of their draws if that is less."""
ALPHA = 5e-4
"""The chance that chains which converged are called bad, by each of the two comparisons."""
CHAINS = 50
"""Chains of one draw below which agreement at half and end says little."""
REMEMBERED = 0.5
"""The largest correlation between half and end of chains that have forgotten where they were."""
LEFT = 0.01
"""The share of chains that may still be at their start."""
NUMBERS, AT_MOST = 40_000, 2_000_000
"""Draws that the verdict reads of one quantity, and of all together."""


@dataclass(frozen=True)
class Seen:
    """What the verdict reads of chains. Quantities are the d coordinates and, where the chains know it, log p."""

    start: Array  # (chains, d), where they began
    half: Array  # (chains, q), at half of the steps before their first draw
    last: Array  # (chains, q), their last draw
    draws: Array  # (some chains, some of their draws, q)
    count: int  # of all draws
    names: tuple[str, ...]  # of the q quantities
    steps: tuple[int, int]  # made at half, and at the last draw
    counts: Mapping[str, float]  # what the sampler counted, over all chains
    epsilon: Array  # (q,), the relative rounding of each quantity


def seen(
    start: Tensor, kept: Sequence[Tensor], log_p: Tensor | None, steps: tuple[int, int], counts: Mapping[str, float]
) -> Seen:
    """From where chains began (chains, d), and stood at half and at each draw, with log p (chains, 1 + draws) there."""
    import numpy as np
    import torch

    def at(which: Sequence[int], chains: slice = slice(None)) -> Array:
        """(chains, len(which), q)."""
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
    """Which chains and which of their draws are read: evenly spaced ones, and no more than a verdict needs."""
    most = min(NUMBERS, AT_MOST // quantities)
    kept = max(1, min(chains, most // SHORT))
    return slice(kept), slice(None, None, max(1, min(draws // SHORT, math.ceil(kept * draws / most))))


def judge(seen: Seen) -> Verdict:
    """Whether the chains converged: `converged`, `not_converged` or `unknown`, and why."""
    if reason := _stuck(seen):
        return _bad(reason)
    if _at_rest(seen):
        return unknown(f"the chains came to rest: nothing moved {_span(seen)}, so they are no draws of a law")
    chains, draws = len(seen.last), seen.draws.shape[1]
    found = _diagnosed(seen) if draws >= SHORT or (draws >= FEWEST and chains < CHAINS) else None
    return found if found is not None else _compared(seen)


def _bad(reason: str) -> Verdict:
    return Verdict("chains", "not_converged", reason, "bad")


def unknown(reason: str) -> Verdict:
    """The verdict of what nothing here can tell."""
    return Verdict("chains", "unknown", reason, "unknown")


def _span(seen: Seen) -> str:
    return f"from step {seen.steps[0]} to step {seen.steps[1]}"


def _stuck(seen: Seen) -> str | None:
    """Why the chains are not on their way at all."""
    proposed, broken = seen.counts.get("proposed", 0), seen.counts.get("non_finite_proposals", 0)
    if proposed and not seen.counts.get("accepted"):
        why = f"; {broken:.0f} proposals were not finite" if broken else ""
        return f"no proposal was accepted, of {proposed:.0f}{why}"
    chains, d = seen.start.shape
    count = int((seen.last[:, :d] == seen.start).all(1).sum())
    return f"{count} of {chains} chains are still at their start" if count > LEFT * chains else None


def _at_rest(seen: Seen) -> bool:
    import numpy as np

    return bool((np.abs(seen.last - seen.half) <= seen.epsilon * _extent(seen)).all())


def _extent(seen: Seen) -> Array:
    """The largest size (q,) that each quantity had: it is rounded to epsilon times that."""
    import numpy as np

    extent: Array = np.abs(np.stack([seen.half, seen.last])).max((0, 1))
    d = seen.start.shape[1]
    extent[:d] = np.maximum(extent[:d], np.abs(seen.start).max(0))
    return extent


def _diagnosed(seen: Seen) -> Verdict | None:
    """By R-hat, and by ESS where chains are long enough. None where they are too short and nothing is wrong so far."""
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
    told = f"R-hat {hats[worst]:.3f} ({worst}) of {len(seen.last)} chain{'s' * (len(seen.last) > 1)}"
    if sizes:
        least, enough = min(sizes, key=sizes.__getitem__), min(ENOUGH, seen.count / 2)
        told += f", {sizes[least]:.0f} effective draws ({least}) of {seen.count}"
        if hats[worst] <= limit and sizes[least] < enough:
            return _bad(f"{told}: it takes {enough:.0f}")
    if hats[worst] > limit:
        return _bad(f"{told}: R-hat is above {limit:.2f}")
    return Verdict("chains", "converged", told, "good") if sizes else None


def _r_hat_limit(chains: int, draws: int, quantities: int) -> float:
    """1.01, or where chains are so short that independent draws exceed it by chance: the quantile of F for these."""
    from scipy.special import fdtri

    halves, n = 2 * chains, draws // 2
    quantile = float(fdtri(halves - 1, halves * (n - 1), 1 - ALPHA / (2 * quantities)))
    return max(R_HAT, math.sqrt((quantile + n - 1) / n))


def _compared(seen: Seen) -> Verdict:
    """By the means and variances over chains, at half of the steps against the last draws."""
    chains, draws = len(seen.last), seen.count // len(seen.last)
    if chains < 2:
        return unknown(f"one chain of {_draws(draws)} is too short to tell")
    labels, before, after, rounding = _pairs(seen)
    z, limit = _changes(before, after, rounding)
    worst = int(abs(z).argmax())
    if abs(z[worst]) > limit:
        text = f"{_span(seen)} {labels[worst]} over {chains} chains went from {before[:, worst].mean():.4g}"
        return _bad(f"{text} to {after[:, worst].mean():.4g}: z = {z[worst]:+.1f}, by chance at most {limit:.1f}")
    if chains < CHAINS:
        return unknown(f"{chains} chains of {_draws(draws)} are too few to tell: it takes {CHAINS}")
    told = f"{_span(seen)} the means and variances over {chains} chains agree (largest |z| {abs(z[worst]):.1f})"
    kept = _correlations(before, after, rounding)
    most = int(kept.argmax())
    if kept[most] > REMEMBERED:
        text = f"the correlation of {seen.names[most % len(seen.names)]} is {kept[most]:.2f}"
        return unknown(f"{told}, but each chain stays near where it was: {text}")
    return Verdict("chains", "converged", f"{told}, and chains forget where they were", "good")


def _draws(count: int) -> str:
    return "1 draw" if count == 1 else f"{count} draws"


def _pairs(seen: Seen) -> tuple[list[str], Array, Array, Array]:
    """What is averaged over chains, before and after (chains, 2q): q values, q squared distances to their mean.

    With their names and their rounding (2q,).
    """
    import numpy as np

    centred = [x - x.mean(0) for x in (seen.half, seen.last)]
    before, after = (np.concatenate([x, c**2], 1) for x, c in zip((seen.half, seen.last), centred, strict=True))
    rounding = seen.epsilon * _extent(seen)
    rounding = np.concatenate([rounding, rounding * np.abs(np.stack(centred)).max((0, 1))])
    return [f"the {what} of {name}" for what in ("mean", "variance") for name in seen.names], before, after, rounding


def _changes(before: Array, after: Array, rounding: Array) -> tuple[Array, float]:
    """z of each mean change, and the largest |z| that chance gives."""
    import numpy as np
    from scipy.special import stdtrit

    change, n = (after - before).mean(0), len(before)
    error = np.maximum((after - before).std(0, ddof=1) / math.sqrt(n), rounding)
    z = np.divide(change, error, out=np.zeros_like(change), where=error > 0)
    return z, float(stdtrit(n - 1, 1 - ALPHA / (2 * len(z))))


def _correlations(before: Array, after: Array, rounding: Array) -> Array:
    """Over chains, of each column; 0 where one varies by no more than rounding."""
    import numpy as np

    a, b = before - before.mean(0), after - after.mean(0)
    spread = a.std(0) * b.std(0)
    varies = (a.std(0) > rounding) & (b.std(0) > rounding)
    return np.divide((a * b).mean(0), spread, out=np.zeros_like(spread), where=varies)


__all__ = ["Seen", "judge", "seen", "unknown"]
