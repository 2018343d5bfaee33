"""Data made ready: read once, split by a named stream, and the map between the data's own units and model units."""

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
"""Rows that are neither trained on nor scored."""


def prepare(
    data: Data,
    files: Files,
    streams: Streams,
    transform: Transform | None = None,
    use: Use = MEASURED,
    columns: Sequence[str] | None = None,
) -> Dataset:
    """Read, split and fit the transform, unless one is given: then the data are measured only, not learnt from.

    `columns` are those of the run that measures them: bound by name, whatever their order in the file. SpecError X304
    for data that have no density where the run needs one, or that cannot be standardised.
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
    """The rows, with these columns where they are given."""
    with blamed(data.label):
        if columns is None:
            return data.read(files, streams.generator("data"))
        return data.with_columns(columns).read(files, streams.generator("data")).with_columns(columns)


def _faults(train: Tensor, table: Table, asked: bool) -> list[Fault]:
    """Why the training rows have no density; of trajectories, why their points have none."""
    rows = train.reshape(-1, train.shape[-1])
    return inspection.faults(rows, table.columns) if asked and len(rows) > 1 else []


def _refused(data: Data, faults: Sequence[Fault], use: Use) -> Iterator[Problem]:
    """The faults that the data cannot be trained on or standardised with."""
    file = data.file()
    what = data.label if file is None else PurePath(file).name
    remedy = "" if data.columns_key is None else f" (name the others in '{data.columns_key}')"
    for fault in faults:
        unscaled = data.standardize == "whiten" or (data.standardize == "scale" and fault.constant)
        if fault.near or not (unscaled or use.density):
            continue
        why = f"standardize: {data.standardize} is impossible" if unscaled else NO_DENSITY
        yield Problem("X304", f"{what}: {fault.text}: {why}; leave the column out{remedy}")


NO_DENSITY = "the rows have no density, and a likelihood of them no upper bound"
