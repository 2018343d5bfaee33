"""What trackers that keep scalars by step have in common: what is told, and that nothing is told twice.

A resumed run repeats the steps after its checkpoint, to the same numbers (save the seconds they take). What the store
holds already is therefore right and is not told again; what a killed process had not handed over yet stands in
train.jsonl and is told from there.
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
        raise ValueError("a place below the current directory, without '..'")
    return path


Place = Annotated[str, Field(min_length=1), AfterValidator(_below)]
"""A path relative to the current directory that does not lead out of it: a spec writes nowhere else."""

LOSS = "train/loss"


def outcome(status: str, error: str | None) -> str:
    """How the run ended and why, as in "failed: loss inf"; a message that begins with the status alone."""
    return status if error is None else error if error.startswith(status) else f"{status}: {error}"


class Scalars(Observer):
    """Each logged step's scalars, each metric with its standard error, and the outcome, into one store."""

    run: RunInfo

    def started(self, run: RunInfo) -> None:
        self.run, self.now, self.last = run, run.step, 0
        self.known: Collection[str] = ()
        self.open(run)
        if run.resumed:
            self.last, self.known = self.held()
            for line in run.records():
                self._told(line)

    def step(self, record: Record, steps: int) -> None:
        self.now = record.step
        if record.logged:
            self._told(record.line())

    def checkpoint(self, step: int, path: Path) -> None:
        self.flush()

    def metric(self, name: str, measured: Measured) -> None:
        values = {f"metric/{name}_stderr": measured.stderr, f"metric/{name}": measured.value}
        told = {self.spelt(key): value for key, value in values.items() if value is not None}
        self.write(self.now, {key: value for key, value in told.items() if key not in self.known})
        self.flush()

    def finished(self, status: str, error: str | None) -> None:
        try:
            self.close(status, error)
        finally:
            self.release()

    def _told(self, line: Mapping[str, Any]) -> None:
        """A line of train.jsonl. The loss comes last: where a store holds it, it holds the whole step."""
        if line["step"] > self.last:
            self.last = line["step"]
            numbers = {f"train/{key}": value for key, value in line.items() if type(value) in (int, float)}
            loss = numbers.pop(LOSS)
            del numbers["train/step"]
            self.write(line["step"], {self.spelt(key): float(value) for key, value in {**numbers, LOSS: loss}.items()})

    def spelt(self, name: str) -> str:
        """The name as the store takes it."""
        return name

    def open(self, run: RunInfo) -> None:
        """Open the store, or go on with what it holds of this run."""
        raise NotImplementedError

    def held(self) -> tuple[int, Collection[str]]:
        """The last step whose loss the store holds, 0 for none, and the names of all scalars there."""
        raise NotImplementedError

    def write(self, step: int, values: Mapping[str, float]) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        """Hand over what is still in memory."""

    def close(self, status: str, error: str | None) -> None:
        """Say how the run ended."""
        raise NotImplementedError

    def release(self) -> None:
        """Let go of files and connections."""


def parameters(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a resolved spec by its dotted key; a list of plain values is one, as JSON."""
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            yield from parameters(value, f"{path}.{key}" if path else key)
    elif isinstance(data, (list, tuple)) and any(isinstance(item, Mapping) for item in data):
        for index, item in enumerate(data):
            yield from parameters(item, f"{path}.{index}")
    else:
        yield path, data if isinstance(data, (bool, int, float, str)) else json.dumps(data)


__all__ = ["LOSS", "Place", "Scalars", "outcome", "parameters"]
