"""run.json and sweep.json as records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from driftspec.components.verdict import Judged
from driftspec.errors import DriftspecError, RunFailed
from driftspec.file_record import FileRecord

LISTED = {
    "status": str, "name": str, "started": str, "argv": list, "digests": dict, "verdicts": list, "git": dict | None,
    "evaluated": dict, "seconds": dict, "samples": dict, "every_row": bool,
    "error": dict | None,
}  # fmt: skip
"""The types of some keys. If run.json has a value of another type, it is damaged."""
WITHIN: dict[str, dict[str, type]] = {
    "git": {"commit": str, "dirty": bool}, "evaluated": {"weights": str, "step": int, "best": bool},
    "error": {"message": str},
}  # fmt: skip
"""The same for the entries of some mappings, where these are not empty."""
NEEDED = {"root": str, "stages": list, "columns": list, "data_digest": str | None, "data_seed": int}
"""The keys, with their types, that a run needs in order to be resumed or measured."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RunRecord(FileRecord):
    """The entries of run.json: the state of the run, what made it, what it read and what it wrote."""

    status: str  # running, finished, failed or interrupted
    id: str = ""
    name: str | None = None
    argv: Sequence[str] = ()
    seed: int | None = None
    started: str | None = None  # UTC
    finished: str | None = None
    device: str | None = None
    threads: int | None = None
    pid: int | None = None
    host: str | None = None
    machine: str | None = None  # processor, cores, system
    python: str | None = None
    torch: str | None = None
    driftspec: str | None = None
    plugins: Mapping[str, str] | None = None  # versions by distribution, sha256 by file
    git: Mapping[str, Any] | None = None
    stages: Sequence[str] = ()
    spec_digest: str | None = None
    data_digest: str | None = None
    root: str = ""  # the folder to which paths in the spec are relative
    written: Sequence[str] | None = None  # the keys that the spec gives, without the defaults
    dim: int | None = None
    columns: Sequence[str] = ()
    parameters: int | None = None
    parent: str | None = None  # the run that trained the model
    allow_outside: bool = False
    data_seed: int = 0  # the seed with which the data were drawn and split
    every_row: bool = False  # whether all rows are measured, without a split
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage
    cpu_seconds: float | None = None  # of this process, all stages together
    verdicts: Sequence[Mapping[str, Any]] = ()
    failed_observers: Sequence[Mapping[str, str]] = ()
    evaluated: Mapping[str, Any] = field(default_factory=dict)  # which weights were evaluated, and their step
    samples: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)  # sha256 of the outputs
    error: Mapping[str, Any] | None = None
    resumed: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def listed(cls, found: Any, file: Path) -> Self:
        """Return the record of a run that is only listed or shown. RunFailed for entries that no run writes."""
        try:
            record = cls.read(found)
        except DriftspecError as error:
            raise damaged(file, error) from error
        _check_types(found, LISTED, file)
        return record

    @classmethod
    def opened(cls, found: Any, file: Path) -> Self:
        """Return the record of a run that is resumed or measured. RunFailed also if a key of NEEDED is missing."""
        record = cls.listed(found, file)
        for key in NEEDED:
            if key not in found:
                raise damaged(file, f"it has no '{key}'")
        _check_types(found, NEEDED, file)
        return record

    def judged(self) -> list[Judged]:
        """Return the verdicts. RunFailed if one is damaged."""
        return [Judged.read(entry) for entry in self.verdicts]


@dataclass(frozen=True, kw_only=True, eq=False)
class SweepRecord(FileRecord):
    """The entries of sweep.json: the state of the sweep, what made it, and its points."""

    status: str  # running, finished, failed or interrupted
    name: str | None = None
    spec: str | None = None  # the spec's file
    root: str
    argv: Sequence[str]
    started: str | None = None  # UTC
    finished: str | None = None
    spec_digest: str | None = None
    stages: Sequence[str]
    allow_outside: bool
    jobs: int
    pid: int | None = None
    points: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def opened(cls, found: Any, file: Path) -> Self:
        """Return the record of a sweep that is resumed. RunFailed if a key that this needs is missing."""
        try:
            return cls.read(found)
        except DriftspecError as error:
            raise damaged(file, error) from error


def damaged(file: Path, why: object) -> RunFailed:
    """Return the error for a damaged file of a run."""
    return RunFailed(f"{file} is damaged ({why}); restore it from a copy, or run the spec again")


def _check_types(found: Mapping[str, Any], types: Mapping[str, Any], file: Path) -> None:
    """Raise RunFailed if an entry with a key of `types` has another type than the one given there."""
    for key, kind in types.items():
        if key in found and not isinstance(found[key], kind):
            raise damaged(file, f"the value of '{key}' has the wrong type")
        for name, inner in WITHIN.get(key, {}).items() if found.get(key) else ():
            if not isinstance(found[key].get(name), inner):
                raise damaged(file, f"the value of '{key}.{name}' has the wrong type")


__all__ = ["RunRecord", "SweepRecord", "damaged"]
