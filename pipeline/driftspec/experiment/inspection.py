"""What the rows of a data set alone decide: whether they can have a density, and what their user should know of them.

Where a column is constant or follows from the columns before it, the law of the rows has no density, and the likelihood
of a model that closes in on their plane has no upper bound. Let u be the columns, centred and of deviation 1, and
u = Q R. Then |R_jj| / √n is the share of its deviation that column j has beside the earlier ones (G. Golub, C. F. Van
Loan, *Matrix Computations*, 4th edition, 2013, section 5.3). Relations that are not linear are not looked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from driftspec.components import EPSILON, Verdict
from driftspec.errors import shown

if TYPE_CHECKING:
    from driftspec.components.dataset import Dataset

EXACT = 1e-5
"""A column with a smaller share of its deviation beside the earlier ones follows from them: 100 ε of float32."""
NEAR = 1e-2
"""A smaller share is worth a warning: along that direction a flow has to contract space a hundredfold, by 4.6 nats."""
FEW = 10.0
"""Fewer equally likely values than this are worth a warning. Measured on N(0, I) in 2-D with one column rounded to
steps of h deviations, by a flow of 2 x 64 units after 500 steps: at h = 1 (3.7 equally likely values) its test NLL is
0.15 nats below that of the rows before they were rounded, at h = 1/2 (7.2) and less it is not, nor after 2000 steps."""
WIDE, NARROW, FAR = 10.0, 1 / 30, 100.0
"""Deviations above and below, and means beyond, are worth a warning in model units. Measured as above, on N(m, s²):
with s = 10 and s = 1/30 the flow is 0.03 nats behind the Gaussian fitted to the rows, with s = 30 it is 0.4 and with
s = 1/100 0.13 behind; with m = 100 it is not."""
LOST = 0.01
"""Rounding of the numbers, as a share of their deviation, that leaves too little of it."""
MEMORISED = 0.01
"""A share of the test rows that are training rows too and that is worth a warning."""
LOOKED_AT = 5000
"""Rows in which repeated values are counted."""
NAMED = 5
"""Columns that one message names."""


@dataclass(frozen=True)
class Use:
    """What a run does with its rows, as far as they must be fit for it."""

    density: bool = False  # it trains by a loss that has no lower bound without a density
    scored: bool = False  # it trains or measures a likelihood
    dtype: str = "float32"  # of the rows as the model sees them


@dataclass(frozen=True)
class Fault:
    """Why rows cannot have a density, or nearly so."""

    text: str
    constant: bool = False  # no scale can be taken of the column
    near: bool = False  # there is a density, in a layer about the plane


def faults(x: Tensor, names: Sequence[str]) -> list[Fault]:
    """Why rows x (n, d) have no density: columns that are constant, and those that follow from earlier ones."""
    still = (x.std(0, correction=0) <= 1e-12 * x.abs().amax(0)).tolist()
    found = []
    if fixed := [f"{shown(name)} ({value:g})" for name, value, one in zip(names, (x[0] + 0.0).tolist(), still) if one]:
        verb = "column {} is" if len(fixed) == 1 else "columns {} are"
        found.append(Fault(f"{verb.format(_some(fixed))} constant in all {len(x)} training rows", constant=True))
    moving = [j for j, one in enumerate(still) if not one]
    if len(moving) >= len(x):
        found.append(Fault(f"{len(x)} training rows of {len(moving)} columns lie in a plane: more rows are needed"))
    elif moving:
        found += _related(x[:, moving], [names[j] for j in moving])
    return found


def _related(x: Tensor, names: Sequence[str]) -> Iterator[Fault]:
    """The columns of x (n, d), none constant, that follow from earlier ones, exactly or nearly."""
    u = (x - x.mean(0)) / x.std(0, correction=0)
    r = torch.linalg.qr(u, mode="r").R / math.sqrt(len(u))
    share = r.diagonal().abs()
    free = share >= EXACT
    for j in (share < NEAR).nonzero().flatten().tolist():
        earlier = free[:j].nonzero().flatten()
        weights = torch.linalg.lstsq(r[:, earlier], r[:, j : j + 1]).solution.flatten().abs()
        of = earlier[weights > 0.01 * weights.max()].tolist()
        listed = _some([shown(names[i]) for i in of])
        if len(of) == 1 and torch.equal(x[:, j], x[:, of[0]]):
            yield Fault(f"column {shown(names[j])} repeats column {listed}")
        else:
            text = f"column {shown(names[j])} is a linear function of column{'' if len(of) == 1 else 's'} {listed}"
            left = f", but for {float(share[j]):.1g} of its deviation" if free[j] else ""
            yield Fault(text + left, near=bool(free[j]))


def verdicts(dataset: Dataset, found: Sequence[Fault], use: Use) -> Iterator[Verdict]:
    """What is worth a word of a data set, whose training rows have these faults."""
    if use.scored:
        yield from _density(found)
        yield from _values(dataset)
    yield from _scale(dataset, use)
    yield from memorised(dataset)


def _density(found: Sequence[Fault]) -> Iterator[Verdict]:
    if exact := [one.text for one in found if not one.near]:
        text = f"{_some(exact, '; ')}: the rows have no density, so the model's NLL has no lower bound"
        yield Verdict("columns", "without_density", text, "warning")
    elif found:
        text = f"{_some([one.text for one in found], '; ')}: the density is as thin as that layer, and hard to learn"
        yield Verdict("columns", "nearly_dependent", text, "warning")


def _values(dataset: Dataset) -> Iterator[Verdict]:
    """Columns of few different values: at each of them a density can rise without bound."""
    rows = dataset.train[:LOOKED_AT]
    if rows.dim() != 2 or len(rows) < 2:
        return
    few: list[str] = []
    whole = True
    for name, column in zip(dataset.columns, rows.T):
        values, counts = column.unique(return_counts=True)
        if len(values) > 1 and _equally_likely(counts) < FEW:
            few.append(f"{shown(name)} ({len(values)})")
            whole = whole and bool((values == values.round()).all())
    if few:
        which = f"column {few[0]} has" if len(few) == 1 else f"columns {_some(few)} have"
        text = (
            f"{which} few different {'whole numbers' if whole else 'values'} in {len(rows)} rows: at each a density "
            "can rise without bound, and NLL has no floor; spread them by noise as wide as a step, or leave them out"
        )
        yield Verdict("values", "repeated", text, "warning")


def _equally_likely(counts: Tensor) -> float:
    """1 / P(two rows agree): how many values, equally likely, would agree as often. counts (K,) are the values' own."""
    n = float(counts.sum())
    agree = float((counts.double() * (counts.double() - 1)).sum()) / (n * (n - 1))
    return 1 / agree if agree else math.inf


def _scale(dataset: Dataset, use: Use) -> Iterator[Verdict]:
    """Columns far from 0, or from deviation 1, in model units: of the training rows, or without them the test rows."""
    rows = dataset.rows()
    u = dataset.transform.to_model(rows.reshape(-1, rows.shape[-1]))
    mean, deviation = u.mean(0), u.std(0, correction=0)
    moving = deviation > 0
    size = torch.maximum(mean.abs(), deviation)
    far = moving & ((deviation > WIDE) | (deviation < NARROW) | (mean.abs() > FAR))
    lost = moving & (EPSILON[use.dtype] * size > LOST * deviation)
    which = (lost if lost.any() else far).nonzero().flatten().tolist()
    if which:
        listed = [f"{shown(dataset.columns[j])} (mean {mean[j]:.4g}, deviation {deviation[j]:.4g})" for j in which]
        text = f"column{'' if len(which) == 1 else 's'} {_some(listed)} in model units, which should be near 0 and 1"
        text += f"; {use.dtype} rounds away what differs from row to row" if lost.any() else ""
        remedy = "are the units those of training?" if rows is dataset.test else "set 'standardize: scale' in data"
        yield Verdict("units", "off_scale", f"{text}: {remedy}", "bad" if lost.any() else "warning")


def memorised(dataset: Dataset) -> Iterator[Verdict]:
    """Test rows that are training rows too: a model scores well there by learning them by heart."""
    repeated, n = dataset.repeated(), len(dataset.test)
    if repeated > MEMORISED * n:
        text = f"{repeated} of {n} test rows are training rows too, which makes a model look better than it is"
        yield Verdict("rows", "memorised", text, "warning")


def _some(words: Sequence[str], between: str = ", ") -> str:
    """The first few, and how many more there are."""
    more = [f"{len(words) - NAMED} more"] if len(words) > NAMED else []
    return between.join([*words[:NAMED], *more])


__all__ = ["Fault", "Use", "faults", "memorised", "verdicts"]
