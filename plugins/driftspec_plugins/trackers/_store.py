"""The base class of trackers that store scalars by step: it writes each scalar once.

A resumed run repeats the steps after its checkpoint, with the same numbers (except the seconds they take). So values
that are already in the store are right and are not written again. Values that a killed process had not yet written to
the store are read from train.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from driftspec.components.observer import Observer

if TYPE_CHECKING:
    from driftspec.components import Measured
    from driftspec.components.observer import Record, RunInfo


def _below(path: str) -> str:
    if PurePath(path).is_absolute() or ".." in PurePath(path).parts:
        raise ValueError("give a path below the current directory, without '..'")
    return path


Place = Annotated[str, Field(min_length=1), AfterValidator(_below)]
"""A path below the current directory: a spec cannot write files elsewhere."""

LOSS = "train/loss"


def outcome(status: str, error: str | None) -> str:
    """Return the status and the error, as in "failed: loss inf"; only the error if it begins with the status."""
    return status if error is None else error if error.startswith(status) else f"{status}: {error}"


class Scalars(Observer):
    """Writes the scalars of each logged step, each metric with its standard error, and the outcome to one store."""

    run: RunInfo

    def started(self, run: RunInfo) -> None:
        self.run, self.now, self.last = run, run.step, 0
        self.known: Collection[str] = ()
        self.open(run)
        if run.resumed:
            self.last, self.known = self.stored()
            for line in run.records():
                self._write_line(line)

    def step(self, record: Record, steps: int) -> None:
        self.now = record.step
        if record.logged:
            self._write_line(record.line())

    def checkpoint(self, step: int, path: Path) -> None:
        self.flush()

    def metric(self, name: str, measured: Measured) -> None:
        values = {f"metric/{name}_stderr": measured.stderr, f"metric/{name}": measured.value}
        named = {self.spelt(key): value for key, value in values.items() if value is not None}
        self.write(self.now, {key: value for key, value in named.items() if key not in self.known})
        self.flush()

    def finished(self, status: str, error: str | None) -> None:
        try:
            self.close(status, error)
        finally:
            self.release()

    def _write_line(self, line: Mapping[str, Any]) -> None:
        """Write a line of train.jsonl, the loss last: a store that has the loss of a step has the whole step."""
        if line["step"] > self.last:
            self.last = line["step"]
            terms = {f"validation_{key}": value for key, value in line.get("validation_terms", {}).items()}
            numbers = {f"train/{key}": value for key, value in {**line, **terms}.items() if type(value) in (int, float)}
            loss = numbers.pop(LOSS)
            del numbers["train/step"]
            self.write(line["step"], {self.spelt(key): float(value) for key, value in {**numbers, LOSS: loss}.items()})

    def spelt(self, name: str) -> str:
        """Return the name as the store accepts it."""
        return name

    def open(self, run: RunInfo) -> None:
        """Open the store, and find the data of this run in it if the run is resumed."""
        raise NotImplementedError

    def stored(self) -> tuple[int, Collection[str]]:
        """Return the last step whose loss is in the store (0 for none), and the names of all its scalars."""
        raise NotImplementedError

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars of one step, at once or at the next `flush`."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write the values that are still in memory."""

    def close(self, status: str, error: str | None) -> None:
        """Write how the run ended."""
        raise NotImplementedError

    def release(self) -> None:
        """Close files and connections."""


def parameters(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for each value of a resolved spec; a list of plain values is one value, as JSON."""
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            yield from parameters(value, f"{path}.{key}" if path else key)
    elif isinstance(data, (list, tuple)) and any(isinstance(item, Mapping) for item in data):
        for index, item in enumerate(data):
            yield from parameters(item, f"{path}.{index}")
    else:
        yield path, data if isinstance(data, (bool, int, float, str)) else json.dumps(data)


__all__ = ["LOSS", "Place", "Scalars", "outcome", "parameters"]
