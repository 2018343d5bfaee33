"""Rows of numbers from a user's file: CSV with a header row, or NPY holding one array (n, d).

CSV is UTF-8 text with commas and quotes as in RFC 4180. Its rows are numbered as in a spreadsheet, where the header is
row 1; blank lines at the end are ignored. The columns of an NPY file are named x1 ... xd, and its rows are numbered
from 1. Every number must be finite: the user fills in missing values or leaves the rows out.
"""

from __future__ import annotations

import csv
import io
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from driftspec.components import Data, Table
from driftspec.errors import Problem, SpecError, nearest, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Generator

    from driftspec.source.files import Files

    Array = NDArray[np.float64]

SHOWN = 5
"""The number of mistakes of one file that are shown; the others are only counted."""


class TableFile(Data):
    """All rows of a CSV or NPY file, with all its columns or the given ones, in the given order."""

    type = "table"
    file_key = "path"
    columns_key = "columns"
    formats = (".csv", ".npy")

    path: str = Field(min_length=1, description="a .csv or .npy file, relative to the spec's file")
    columns: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None, min_length=1, description="names of the columns to model, in this order; null: every column of the file"
    )

    @field_validator("path")
    @classmethod
    def _known_format(cls, path: str) -> str:
        if _suffix(path) not in READERS:
            raise ValueError(f"{shown(path)} ends in none of {', '.join(READERS)}: save the table as one of them")
        return path

    @field_validator("columns")
    @classmethod
    def _named_once(cls, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if twice := _repeated(columns or ()):
            raise ValueError(f"{twice} more than once: name each column once")
        return columns

    def dim(self) -> int | None:
        return None if self.columns is None else len(self.columns)

    def with_columns(self, names: Sequence[str]) -> TableFile:
        return self if _suffix(self.path) == ".npy" else super().with_columns(names)  # no names: by position

    def read(self, files: Files, generator: Generator) -> Table:
        """Return all rows of the file, and its sha256, without random numbers. SpecError X304 lists its mistakes."""
        import torch

        content, digest = files.read(files.find(self.path))
        name = PurePosixPath(self.path).name
        if not content:
            raise _wrong(name, "the file is empty")
        columns, values = READERS[_suffix(self.path)](name, content, self.columns)
        if len(values) < 2:
            raise _wrong(name, f"{_counted(len(values), 'row')} of numbers: a model learns from 2 at least")
        named = _suffix(self.path) != ".npy" or self.columns is not None
        header = _suffix(self.path) == ".csv"  # counted as row 1
        return Table(torch.from_numpy(values), columns, digest=digest, first=2 if header else 1, named=named)


# ------------------------------------------------------------------------------------------------------------ reading


def _from_csv(name: str, content: bytes, wanted: Sequence[str] | None) -> tuple[tuple[str, ...], Array]:
    """Return the names of the columns, and the values (n, d)."""
    import numpy as np

    rows = _rows(name, content)
    header = _header(name, next(rows, []))
    columns = _selected(name, header, wanted)
    at = [header.index(column) for column in columns]
    numbers, mistakes = array("d"), _Mistakes()
    for row, cells in enumerate(rows, 2):
        if len(cells) != len(header):
            has = f"has {_counted(len(cells), 'cell')}" if cells else "is blank"
            mistakes.add(f"row {row} {has}, the header {len(header)}: give every row a cell for each column")
            continue
        for column, i in zip(columns, at):
            cell = cells[i].strip()
            numbers.append(_number(cell))
            if not math.isfinite(numbers[-1]):
                mistakes.add(f"row {row}, column {shown(column)}: {_fault(cell)}; {REMEDY}", column)
    mistakes.check(name)
    return columns, np.array(numbers).reshape(-1, len(columns))


def _from_npy(name: str, content: bytes, wanted: Sequence[str] | None) -> tuple[tuple[str, ...], Array]:
    """Return the names of the columns, and the values (n, d). The header is checked first; nothing is unpickled."""
    import numpy as np

    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(stream)
    except Exception as error:  # the header is Python source; damaged, it can raise any error
        raise _wrong(name, f"it is no NPY file ({error}): save it with numpy.save") from error
    if dtype.kind not in "iuf":
        what = "Python objects, which are never loaded" if dtype.hasobject else f"of dtype {dtype}"
        raise _wrong(name, f"its values are {what}: save them as floats or integers")
    if len(shape) != 2 or 0 in shape[1:]:
        raise _wrong(name, f"its shape is {shape}: save n rows of d columns, (n, d)")
    if math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise _wrong(name, f"its length does not fit its shape {shape} of {dtype}: save it again")
    stored: Any = np.ndarray(shape, dtype, content, stream.tell(), order="F" if fortran else "C")
    names = [f"x{i + 1}" for i in range(shape[1])]
    columns = _selected(name, names, wanted)
    values = stored[:, [names.index(column) for column in columns]].astype(np.float64)
    mistakes = _Mistakes()
    for row, i in np.argwhere(~np.isfinite(values)):
        fault = f"{values[row, i]} is not finite; {REMEDY}"
        mistakes.add(f"row {row + 1}, column {shown(columns[i])}: {fault}", columns[i])
    mistakes.check(name)
    return columns, values


READERS: dict[str, Callable[[str, bytes, Sequence[str] | None], tuple[tuple[str, ...], Array]]] = {
    ".csv": _from_csv,
    ".npy": _from_npy,
}
"""The function that reads a file, by the suffix of its name."""


def _rows(name: str, content: bytes) -> Iterator[list[str]]:
    """Yield the rows of a CSV text, without the blank ones at its end."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _wrong(name, f"line {line} is not UTF-8 text: save the file with that encoding") from error
    reader = csv.reader(io.StringIO(text.rstrip(), newline=""), strict=True, skipinitialspace=True)
    try:
        yield from reader
    except csv.Error as error:
        raise _wrong(name, f"line {reader.line_num} is no CSV: {error}") from error


def _header(name: str, cells: Sequence[str]) -> list[str]:
    """Return the names of the columns, after checking them."""
    header = [cell.strip() for cell in cells]
    if not any(header) or not any(math.isnan(_number(cell)) for cell in header):
        row = ", ".join(header[:3]) if any(header) else "blank"
        raise _wrong(name, f"no header: the first row is {shown(row)}, and it must name the columns")
    if len(header) == 1 and (other := next((sign for sign in ";\t|" if sign in header[0]), None)):
        raise _wrong(name, f"its cells are separated by {shown(other)}: separate them by commas")
    if twice := _repeated(cell for cell in header if cell):
        raise _wrong(name, f"the header has {twice} more than once: give each column a name of its own")
    return header


def _selected(name: str, header: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the columns to read: the `wanted` ones, which the file must have, or all, which must have names."""
    if wanted is None:
        if "" in header:
            raise _wrong(name, f"column {header.index('') + 1} has no name: give it one, or choose others by 'columns'")
        return tuple(header)
    known = [column for column in header if column]
    some = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    unknown = [column for column in wanted if column not in known]
    if unknown:
        raise _wrong(name, *(f"no column {shown(one)}{nearest(one, known)}: it has {some}" for one in unknown))
    return tuple(wanted)


# ----------------------------------------------------------------------------------------------------------- mistakes

REMEDY = "leave the row out or fill it in"


class _Mistakes:
    """Collects the messages for the first few mistakes, and the number of mistakes in each column."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self.count: Counter[str | None] = Counter()  # by column; None: a whole row

    def add(self, text: str, column: str | None = None) -> None:
        if len(self.first) < SHOWN:
            self.first.append(text)
        self.count[column] += 1

    def check(self, name: str) -> None:
        """Raise SpecError with the first mistakes, and the number of all, if there is any."""
        if self.count.total() > SHOWN:
            most = self.count.most_common(SHOWN)
            where = ", ".join(f"{n} of {'whole rows' if c is None else f'column {shown(c)}'}" for c, n in most)
            self.first.append(f"{self.count.total()} mistakes in all, the first {SHOWN} are shown: {where}")
        if self.first:
            raise _wrong(name, *self.first)


def _number(cell: str) -> float:
    """Return the number in a cell; NaN if it is not a number. Python's `1_000` is not accepted."""
    try:
        return math.nan if "_" in cell else float(cell)
    except ValueError:
        return math.nan


def _fault(cell: str) -> str:
    """Return what is wrong with a cell."""
    if not cell:
        return "it is empty"
    return f"{shown(cell)} is {'not finite' if math.isinf(_number(cell)) else 'no number'}"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _repeated(names: Iterable[str]) -> str:
    """Return the names that occur more than once, for a message."""
    return ", ".join(shown(name) for name, n in Counter(names).items() if n > 1)


def _wrong(name: str, *texts: str) -> SpecError:
    return SpecError([Problem("X304", f"{name}: {text}") for text in texts])


__all__ = ["TableFile"]
