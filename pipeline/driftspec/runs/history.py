"""Past runs, read from their files: all runs below a folder, one run in detail, the differences between two.

No spec is checked again, so a run whose plugin is not installed, or one with a damaged file, is listed too.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from driftspec import source
from driftspec.errors import DriftspecError, RunFailed
from driftspec.runs.records import RunRecord, damaged
from driftspec.runs.run_dir import METRICS, RECORDS, RESOLVED, RUN, RunDir
from driftspec.source.document import dotted, leaves

DEAD, DAMAGED = "killed", "damaged"
"""Two states that run.json never has: the process died while the run was running; the run cannot be read."""
VERSIONS = ("driftspec", "python", "torch", "plugins", "git", "host", "device", "threads")


@dataclass(frozen=True)
class FoundRun:
    """A run as read from its files. If run.json is damaged, `record` has no keys and `problem` names the damage."""

    path: Path
    status: str
    record: RunRecord
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    problem: str | None = None

    @property
    def name(self) -> str:
        """The name of the run, or of its folder if run.json has none."""
        return str(self.record.name or self.path.parent.name)

    @property
    def resumable(self) -> bool:
        """Whether `resume` can continue the run."""
        return self.status in ("interrupted", "failed", DEAD) and (self.path / RESOLVED).exists()

    @property
    def plugins(self) -> list[str]:
        """The one-file plugins that its command line named."""
        words = [str(word) for word in self.record.argv]
        after = [value for word, value in itertools.pairwise(words) if word == "--plugin"]
        return after + [word.partition("=")[2] for word in words if word.startswith("--plugin=")]


def look(path: str | Path) -> FoundRun:
    """Return the run in a directory, even if it is damaged. UsageError if there is none."""
    return _entry(RunDir.open(path))


def listed(root: Path) -> list[FoundRun]:
    """Return every run below a folder, the newest last; runs without a start time come first."""
    entries = [_entry(RunDir(path)) for path in _runs(root)] if root.is_dir() else []
    return sorted(entries, key=lambda entry: (entry.record.started or "", str(entry.path)))


def _runs(root: Path) -> Iterator[Path]:
    """Yield the directories of runs, also of damaged ones; folders inside a run are not searched."""

    def refuse(error: OSError) -> None:
        raise RunFailed(f"{error.filename} cannot be read: {error.strerror}") from error

    for folder, below, files in os.walk(root, onerror=refuse):
        if not {RUN, RESOLVED, RECORDS}.isdisjoint(files):
            below.clear()
            yield Path(folder)
        below[:] = sorted(name for name in below if not name.startswith("."))


def _entry(directory: RunDir) -> FoundRun:
    """Return the run in a directory; its status is `damaged` if a file cannot be read."""
    record = RunRecord(status=DAMAGED)
    try:
        record = RunRecord.listed(directory.read_json(RUN), directory.path / RUN)
        dead = record.status == "running" and not directory.is_locked()
        metrics = _metrics(directory) if (directory.path / METRICS).exists() else {}
    except DriftspecError as error:
        return FoundRun(directory.path, DAMAGED, record, problem=str(error))
    return FoundRun(directory.path, DEAD if dead else record.status, record, metrics)


def _metrics(directory: RunDir) -> dict[str, Any]:
    """Return metrics.json. RunFailed if it is damaged."""
    found: dict[str, Any] = directory.read_json(METRICS)
    if not isinstance(found, dict):
        raise damaged(directory.path / METRICS, "it is no mapping")
    for name, one in found.items():
        if not isinstance(one, dict) or not all(
            isinstance(one.get(key), int | float | None) for key in ("value", "stderr")
        ):
            raise damaged(directory.path / METRICS, f"the value of '{name}' has the wrong type")
    return found


def described(entry: FoundRun) -> dict[str, Any]:
    """Return all entries of a run, its files, and whether each output still has the digest in run.json."""
    directory = RunDir(entry.path)
    digests = {
        name: {"sha256": digest, "now": _compared(directory, name, digest)}
        for name, digest in entry.record.digests.items()
    }
    files = sorted(path for path in entry.path.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {
        "run": str(entry.path), "status": entry.status, "problem": entry.problem, "info": entry.record.entries(),
        "metrics": dict(entry.metrics), "digests": digests,
        "files": {str(path.relative_to(entry.path)): path.stat().st_size for path in files},
        "spec": directory.read_bytes(RESOLVED).decode(errors="replace") if (entry.path / RESOLVED).exists() else None,
    }  # fmt: skip


def _compared(directory: RunDir, name: str, digest: str) -> str:
    """Return "missing", "same" or "changed": the state of a file whose digest was recorded."""
    if not (directory.path / name).is_file():
        return "missing"
    return "same" if directory.digest(name) == digest else "changed"


def difference(a: FoundRun, b: FoundRun) -> dict[str, Any]:
    """Return the differences between two runs. Each value is [value in a, value in b]; null where a run has none."""
    names = {**a.record.digests, **b.record.digests}
    first, second = (_digests(entry, names) for entry in (a, b))
    return {
        "runs": [str(a.path), str(b.path)], "status": [a.status, b.status],
        "problem": [a.problem, b.problem],
        "spec": _differing(_spec(a), _spec(b)),
        "versions": _differing(_versions(a), _versions(b)),
        "metrics": {name: _gap(a.metrics.get(name), b.metrics.get(name)) for name in {**a.metrics, **b.metrics}},
        "digests": {name: _equal(first.get(name), second.get(name)) for name in {**first, **second, **names}},
    }  # fmt: skip


def _spec(entry: FoundRun) -> dict[str, Any]:
    """Return the resolved spec as a mapping of dotted keys."""
    text = RunDir(entry.path).read_bytes(RESOLVED)
    return {dotted(path): value for path, value in leaves(source.parse(text, str(entry.path / RESOLVED)).data)}


def _versions(entry: FoundRun) -> dict[str, Any]:
    """Return the versions, the machine and the commit of a run as a mapping of dotted keys."""
    return {dotted(path): value for path, value in leaves({key: getattr(entry.record, key) for key in VERSIONS})}


def _digests(entry: FoundRun, names: Iterable[str]) -> dict[str, str]:
    """Return the sha256 of the data file, if there is one, and of each output, as the files are now."""
    directory, data = RunDir(entry.path), entry.record.data_digest
    there = {name: directory.digest(name) for name in names if (entry.path / name).is_file()}
    return {**({"data": data} if data else {}), **there}


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return [value in a, value in b] for every key whose values differ."""
    return {key: [a.get(key), b.get(key)] for key in {**a, **b} if a.get(key) != b.get(key)}


def _gap(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return b - a, its standard error √(stderr_a² + stderr_b²), as for independent numbers, and the ratio z."""
    values = [None if one is None else one.get("value") for one in (a, b)]
    errors = [None if one is None else one.get("stderr") for one in (a, b)]
    gap = stderr = z = None
    first, second = values
    if first is not None and second is not None and a and b and a.get("unit") == b.get("unit"):
        gap = second - first
        if None not in errors:
            stderr = math.hypot(*(error for error in errors if error is not None))
            z = gap / stderr if stderr else None
    return {"values": values, "stderrs": errors, "difference": gap, "stderr": stderr, "z": z}


def _equal(a: str | None, b: str | None) -> str:
    """Return how two digests compare, in words."""
    if a is None and b is None:
        return "neither has it"
    if a is None or b is None:
        return "only the first has it" if b is None else "only the second has it"
    return "equal" if a == b else "different"


__all__ = ["DAMAGED", "DEAD", "FoundRun", "described", "difference", "listed", "look"]
