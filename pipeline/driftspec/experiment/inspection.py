"""Inspect the rows of a data set: whether they can have a density, and what to warn the user about.

If a column is constant, or a linear function of earlier columns, the rows lie in a plane: their distribution has no
density, and a model that concentrates on the plane has a likelihood without upper bound. Let u be the columns, centred
and scaled to standard deviation 1, and u = Q R. Then |R_jj| / √n is the part of the standard deviation of column j that
earlier columns do not explain (G. Golub, C. F. Van Loan, *Matrix Computations*, 4th edition, 2013, section 5.3).
Relations that are not linear are not found.
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
"""If a smaller part of a column is unexplained, it is a linear function of the earlier ones: 100 ε of float32."""
NEAR = 1e-2
"""A smaller part gives a warning: a flow has to contract space 100 times in that direction, by 4.6 nats."""
FEW = 10.0
"""Fewer equally likely values than this give a warning. This was measured on N(0, I) in 2-D with one column rounded to
multiples of h standard deviations, with a flow of 2 x 64 units after 500 steps. At h = 1 (3.7 equally likely values)
its test NLL is 0.15 nats below that of the rows that are not rounded. At h = 1/2 (7.2 values) or less, and also after
2000 steps, it is not."""
WIDE, NARROW, FAR = 10.0, 1 / 30, 100.0
"""In model units, a standard deviation above WIDE or below NARROW, or a mean beyond FAR, gives a warning. This was
measured with the same flow on N(m, s²), against the Gaussian fitted to the rows. The flow's NLL is worse by 0.03 nats
at s = 10 and s = 1/30, by 0.4 at s = 30 and by 0.13 at s = 1/100; at m = 100 it is not worse."""
LOST = 0.01
"""The rounding error of a column, as a part of its standard deviation, above which its digits are lost."""
MEMORISED = 0.01
"""The part of the test rows that may also be training rows without a warning."""
LOOKED_AT = 5000
"""The number of rows in which repeated values are counted."""
NAMED = 5
"""The number of columns that one message names."""


@dataclass(frozen=True)
class Use:
    """What a run does with its data rows; this decides what the rows are checked for."""

    density: bool = False  # the run trains with a loss that has no lower bound if the rows have no density
    scored: bool = False  # the run trains or measures a likelihood
    dtype: str = "float32"  # the dtype of the rows that the model reads


@dataclass(frozen=True)
class Fault:
    """A reason why rows have no density, or nearly none."""

    text: str
    constant: bool = False  # the column has no scale to divide by
    near: bool = False  # the rows have a density, in a thin layer around a plane


def faults(x: Tensor, names: Sequence[str]) -> list[Fault]:
    """Return why rows x (n, d) have no density: constant columns, and linear functions of earlier columns."""
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
    """Yield the columns of x (n, d) that are linear functions of earlier ones, exactly or nearly; none is constant."""
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
            left = f", up to {float(share[j]):.1g} of its standard deviation" if free[j] else ""
            yield Fault(text + left, near=bool(free[j]))


def verdicts(dataset: Dataset, found: Sequence[Fault], use: Use) -> Iterator[Verdict]:
    """Yield the verdicts on a data set whose training rows have these faults."""
    if use.scored:
        yield from _density(found)
        yield from _values(dataset)
    yield from _scale(dataset, use)
    yield from memorised(dataset)


def _density(found: Sequence[Fault]) -> Iterator[Verdict]:
    """Yield the verdict on rows that have no density, or nearly none."""
    if exact := [one.text for one in found if not one.near]:
        text = f"{_some(exact, '; ')}: the rows have no density, so the model's NLL has no lower bound"
        yield Verdict("columns", "without_density", text, "warning")
    elif found:
        text = f"{_some([one.text for one in found], '; ')}: the rows lie in a thin layer, which is hard to learn"
        yield Verdict("columns", "nearly_dependent", text, "warning")


def _values(dataset: Dataset) -> Iterator[Verdict]:
    """Yield the verdict on columns with few different values: a density can rise without bound at each value."""
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
            f"{which} few different {'whole numbers' if whole else 'values'} in {len(rows)} rows: a density can rise "
            "without bound at each, so NLL has no lower bound; add noise as wide as a step, or leave the column out"
        )
        yield Verdict("values", "repeated", text, "warning")


def _equally_likely(counts: Tensor) -> float:
    """Return 1 / P(two rows have the same value), from counts (K,) of the K values: K if all are equally likely."""
    n = float(counts.sum())
    agree = float((counts.double() * (counts.double() - 1)).sum()) / (n * (n - 1))
    return 1 / agree if agree else math.inf


def _scale(dataset: Dataset, use: Use) -> Iterator[Verdict]:
    """Yield the verdict on columns whose mean is far from 0, or whose standard deviation is far from 1, in model units.

    They are columns of the training rows, or of the test rows if there are no training rows.
    """
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
        text += f"; {use.dtype} rounds away the differences between rows" if lost.any() else ""
        remedy = "are the units those of training?" if rows is dataset.test else "set 'standardize: scale' in data"
        yield Verdict("units", "off_scale", f"{text}: {remedy}", "bad" if lost.any() else "warning")


def memorised(dataset: Dataset) -> Iterator[Verdict]:
    """Yield the verdict on test rows that are also training rows: a model that memorised them scores too well."""
    repeated, n = dataset.repeated(), len(dataset.test)
    if repeated > MEMORISED * n:
        text = f"{repeated} of {n} test rows are also training rows, which makes a model look better than it is"
        yield Verdict("rows", "memorised", text, "warning")


def _some(words: Sequence[str], between: str = ", ") -> str:
    """Return the first words, joined, and the number of the others: "a, b, 3 more"."""
    more = [f"{len(words) - NAMED} more"] if len(words) > NAMED else []
    return between.join([*words[:NAMED], *more])


__all__ = ["Fault", "Use", "faults", "memorised", "verdicts"]
