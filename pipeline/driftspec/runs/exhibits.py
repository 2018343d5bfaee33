"""Runs as the page of many runs shows them, read from their files. No plugin is needed, and no spec is checked."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from driftspec import source
from driftspec.errors import DriftspecError
from driftspec.report.gallery import Exhibit
from driftspec.runs.history import FoundRun, look
from driftspec.runs.records import damaged
from driftspec.runs.run_dir import RESOLVED, SPEC, RunDir
from driftspec.spec.statements import Statement

_STATEMENTS = TypeAdapter(tuple[Statement, ...])


def exhibit(path: str | Path) -> Exhibit:
    """Return what the page shows of the run in a directory. UsageError if there is none, RunFailed if it is damaged."""
    found = look(path)
    if found.problem is not None:
        raise DriftspecError(found.problem)
    directory = RunDir(found.path)
    name = SPEC if (found.path / SPEC).exists() else RESOLVED
    text = directory.read_bytes(name).decode(errors="replace") if (found.path / name).exists() else ""
    error = (found.record.error or {}).get("message")
    failure = None if found.status == "finished" else found.status + (f": {error}" if error else "")
    return Exhibit(
        found.name, text, _statements(found, directory), found.metrics, directory.pictures(), found.record.entries(),
        failure,
    )  # fmt: skip


def _statements(found: FoundRun, directory: RunDir) -> tuple[Statement, ...]:
    """Return the statements of the resolved spec. RunFailed if they are none that a run writes."""
    file = found.path / RESOLVED
    if not file.exists():
        return ()
    data = source.parse(directory.read_bytes(RESOLVED), str(file)).data
    try:
        return _STATEMENTS.validate_python(data.get("shows") or (), strict=False)
    except ValidationError as error:
        raise damaged(file, "'shows' is no list of statements") from error


__all__ = ["exhibit"]
