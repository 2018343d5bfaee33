"""Prepare data: read them once, split them by a named random stream, fit the transform to model units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePath

import torch
from torch import Tensor

from driftspec.components import Data, Table
from driftspec.components.dataset import Dataset, Transform
from driftspec.errors import Problem, SpecError, blamed
from driftspec.experiment import inspection
from driftspec.experiment.inspection import Fault, Use
from driftspec.source.files import Files
from driftspec.streams import Streams

MEASURED = Use()
"""The use of rows that are measured only: nothing is trained on them and no log p is computed."""


def prepare(
    data: Data,
    files: Files,
    streams: Streams,
    transform: Transform | None = None,
    use: Use = MEASURED,
    columns: Sequence[str] | None = None,
) -> Dataset:
    """Return the data set: rows read and split, and the transform fitted to the training rows unless one is given.

    `columns` are the columns of the run that measures the data. They are found by name, in any order in the file.
    SpecError X304 if the run needs a density and the rows have none, or if the rows cannot be standardised.
    """
    table = _read(data, files, streams, columns)
    n = len(table.values)
    order = torch.randperm(n, generator=streams.generator("split"))
    first, second = round(data.split[0] * n), round((data.split[0] + data.split[1]) * n)
    train, validation, test = (table.values[rows] for rows in (order[:first], order[first:second], order[second:]))
    faults = _faults(train, table, use.density or use.scored or data.standardize != "none")
    if transform is None:
        if len(train) < 2:
            text = f"{data.label} has {n} rows: split {list(data.split)} leaves {len(train)} for training"
            raise SpecError(Problem("X303", text))
        if refused := list(_refused(data, faults, use)):
            raise SpecError(refused)
        transform = Transform.fit(data.standardize, train)
    numbers = order[second:] + table.first
    made = Dataset(train, validation, test, table.columns, transform, table.times, table.digest, numbers)
    return replace(made, verdicts=tuple(inspection.verdicts(made, faults, use)))


def _read(data: Data, files: Files, streams: Streams, columns: Sequence[str] | None) -> Table:
    """Return the table of the data, with these columns if they are given."""
    with blamed(data.label):
        if columns is None:
            return data.read(files, streams.generator("data"))
        return data.with_columns(columns).read(files, streams.generator("data")).with_columns(columns)


def _faults(train: Tensor, table: Table, asked: bool) -> list[Fault]:
    """Return why the training rows (n, d), or the points of trajectories (n, steps, d), have no density."""
    rows = train.reshape(-1, train.shape[-1])
    return inspection.faults(rows, table.columns) if asked and len(rows) > 1 else []


def _refused(data: Data, faults: Sequence[Fault], use: Use) -> Iterator[Problem]:
    """Yield the faults with which the rows cannot be standardised or trained on."""
    file = data.file()
    what = data.label if file is None else PurePath(file).name
    remedy = "" if data.columns_key is None else f" (name the others in '{data.columns_key}')"
    for fault in faults:
        unscaled = data.standardize == "whiten" or (data.standardize == "scale" and fault.constant)
        if fault.near or not (unscaled or use.density):
            continue
        why = f"standardize: {data.standardize} is impossible" if unscaled else NO_DENSITY
        yield Problem("X304", f"{what}: {fault.text}: {why}; leave the column out{remedy}")


NO_DENSITY = "the rows have no density, and their likelihood has no upper bound"
