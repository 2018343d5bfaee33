"""A run on the disk: each run has one directory, and only this module opens, renames or removes its files.

    runs/NAME/20261122T095200Z-1f3c9a02/
        run.json            the record of the run, without which a directory is no run; written first and last
        train.jsonl         one line per logged step; lines are appended
        checkpoints/        step-00000200.safetensors, then step-00000200.json; the checkpoint exists once both exist
        .lock               locked (flock) by the process that writes; the system unlocks it when that process dies

Every file except train.jsonl is written under a temporary name in the same folder, flushed to the disk and renamed.
So a process may be killed at any moment: a reader finds the old file or the new one, never a part of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from driftspec.errors import DriftspecError, RunFailed, UsageError, nearest, shown
from driftspec.runs.checkpoint import Tree, decode, encode
from driftspec.runs.records import RunRecord, damaged
from driftspec.source import regular

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RUN, RECORDS, CHECKPOINTS, LOCK = "run.json", "train.jsonl", "checkpoints", ".lock"
SWEEP = "sweep.json"  # the record of a sweep, in whose directory each point has a run directory
SPEC, RESOLVED, METRICS = "spec.yaml", "resolved.yaml", "metrics.json"


@dataclass(frozen=True)
class RunDir:
    """The files of one run. `skipped` lists the checkpoints that the last `load_checkpoint` could not use, and why."""

    path: Path
    skipped: list[str] = field(default_factory=list, compare=False, repr=False)

    @classmethod
    def create(
        cls, out: Path | None, name: str, digest: str, now: datetime, root: Path = Path("runs"), prefix: str = ""
    ) -> RunDir:
        """Make a new directory: exactly `out`, or ROOT/NAME/<prefix><UTC time>-<8 hex digits of the digest>."""
        if out is None and (name in ("", ".", "..") or PurePath(name).name != name):
            raise UsageError(f"a run's name is one directory's name, not {shown(name)}")
        stem = root / name / f"{prefix}{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest[:8]}"
        try:
            path = _claim(Path(out)) if out is not None else _numbered(stem)
        except OSError as error:
            raise UsageError(f"cannot create the run directory {out or stem}: {error.strerror or error}") from error
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """Return the directory of an existing run. UsageError if there is none."""
        path = Path(path)
        try:
            if (path / RUN).is_file():
                return cls(path)
            raise UsageError(f"'{path}' is not a run: {_why_not(path)}")
        except OSError as error:
            raise UsageError(f"'{path}' cannot be opened as a run: {error.strerror or error}") from error

    def begun(self) -> bool:
        """Whether the directory has a run that can be resumed.

        If the process was killed before that, the few files that it left are removed, and the directory with them.
        """
        if (self.path / RESOLVED).exists() or not self.path.exists():
            return self.path.exists()
        with _disk(self.path, "removed"):
            for left in (self.path / RUN, self.path / SPEC, self.path / LOCK, *self.path.glob(".*.tmp")):
                left.unlink(missing_ok=True)
            self.path.rmdir()
        return False

    def is_locked(self) -> bool:
        """Whether a process on this machine is working on the run. No file is changed."""
        import fcntl

        path = self.path / LOCK
        if not path.exists():
            return False
        with _disk(path, "read"), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file completely or not at all."""
        path = self._at(name)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with _disk(path, "written"):
                path.parent.mkdir(parents=True, exist_ok=True)
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        _flush(path.parent)

    def write_text(self, name: str, text: str) -> None:
        """Write text as UTF-8; a lone surrogate is written as an escape."""
        self.write_bytes(name, text.encode("utf-8", "backslashreplace"))

    def write_json(self, name: str, value: object) -> None:
        """Write a value as strict JSON, with the keys in their order."""
        self.write_bytes(name, _json(value, name, indent=2) + b"\n")

    def write_array(self, name: str, array: NDArray[Any]) -> None:
        """Write an array as .npy in C order, so that equal arrays give equal files."""
        import numpy as np

        if array.dtype.hasobject:
            raise DriftspecError(f"{name}: an array of Python objects cannot be saved; make it numbers")
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(array, order="C"), allow_pickle=False)
        self.write_bytes(name, buffer.getvalue())

    def export_samples(self, file: Path, columns: Sequence[str]) -> None:
        """Write the rows of samples.npy to a file of the user: .npy is copied, .csv gets a header."""
        import numpy as np

        with _disk(file, "written"):
            if file.suffix == ".npy":
                file.write_bytes(self.read_bytes("samples.npy"))
            else:
                rows = self.read_array("samples.npy")
                np.savetxt(file, rows, delimiter=",", header=",".join(columns), comments="", fmt="%.9g")

    def read_bytes(self, name: str) -> bytes:
        """Return the bytes of a file. RunFailed for a link that leads out of the run: it may be a stranger's."""
        path = self._at(name)
        with _disk(path, "read"):
            if not regular.is_inside(path, self.path):
                raise RunFailed(f"{path} is a link that leads out of the run, and is not followed")
            return regular.read(path)

    def read_json(self, name: str) -> Any:
        """Return the value in a JSON file. RunFailed if it is damaged."""
        data = self.read_bytes(name)
        try:
            return _parsed(data)
        except (ValueError, RecursionError) as error:
            raise damaged(self._at(name), error) from error

    def read_array(self, name: str) -> NDArray[Any]:
        """Return the array in a .npy file. RunFailed if it is damaged."""
        import numpy as np

        data = self.read_bytes(name)
        try:
            array: np.ndarray[Any, Any] = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise damaged(self._at(name), error) from error
        return array

    def pictures(self) -> dict[str, bytes]:
        """Return the PNG files in `plots`, by name."""
        return {file.stem: self.read_bytes(f"plots/{file.name}") for file in (self.path / "plots").glob("*.png")}

    def digest(self, name: str) -> str:
        """Return the sha256 of a file."""
        return hashlib.sha256(self.read_bytes(name)).hexdigest()

    def append_record(self, record: dict[str, Any]) -> None:
        """Append one line to train.jsonl. The record needs a `step`, by which `resume` knows which lines to remove."""
        if type(record.get("step")) is not int:
            raise DriftspecError(f"{RECORDS}: a record needs a 'step', an integer, not {shown(record.get('step'))}")
        line = _json(record, RECORDS) + b"\n"
        with _disk(self.path / RECORDS, "written"), (self.path / RECORDS).open("ab") as file:
            file.write(line)

    def records(self) -> list[dict[str, Any]]:
        """Return the records of train.jsonl, without a last line that is incomplete because the process was killed."""
        return [record for _, record in self._lines()]

    def cut_records(self, step: int) -> None:
        """Remove the records after `step`, and an incomplete last line."""
        kept = [line + b"\n" for line, record in self._lines() if record["step"] <= step]
        if (self.path / RECORDS).exists():
            self.write_bytes(RECORDS, b"".join(kept))

    def save_checkpoint(self, step: int, tree: Tree) -> None:
        """Write checkpoints/step-….safetensors, then its .json; only with both is there a checkpoint."""
        tensors, note = encode(tree)
        _flush(self.path / RECORDS)  # after a power cut there must be no checkpoint without its records
        self.write_bytes(_file(step, "safetensors"), tensors)
        self.write_bytes(_file(step, "json"), note)

    def load_checkpoint(self, step: int | None = None) -> tuple[int, Tree]:
        """Return (step, tree) of the newest checkpoint that is not damaged, or of the one of this step."""
        self.skipped.clear()
        there = self.checkpoints()
        if step is not None and step not in there:
            raise RunFailed(f"{self.path}: no checkpoint of step {step}; there are {there}", step=step)
        for number in reversed(there) if step is None else [step]:
            try:
                return number, decode(*(self.read_bytes(_file(number, end)) for end in ("safetensors", "json")))
            except DriftspecError as error:
                self.skipped.append(f"the checkpoint of step {number} cannot be used: {error}")
        why = "; ".join(self.skipped) or "none was written"
        raise RunFailed(f"{self.path}: no checkpoint to go on from ({why})", step=step)

    def weights(self, step: int) -> Path:
        """Return the path of the tensors of a step's checkpoint."""
        return self._at(_file(step, "safetensors"))

    def checkpoints(self) -> list[int]:
        """Return the steps that have a checkpoint, in order."""
        names = (re.fullmatch(r"step-(\d{8,})\.json", path.name) for path in (self.path / CHECKPOINTS).glob("*.json"))
        return sorted(int(name[1]) for name in names if name)

    def prune(self, keep: set[int]) -> None:
        """Delete all checkpoints except those of the steps in `keep`, and the files of saves that were killed."""
        folder = self.path / CHECKPOINTS
        with _disk(folder, "pruned"):
            for step in set(self.checkpoints()) - keep:
                self._at(_file(step, "json")).unlink()
            for tensors in folder.glob("step-*.safetensors"):
                if not tensors.with_suffix(".json").exists():
                    tensors.unlink()
            for temporary in folder.glob(".step-*.tmp"):
                temporary.unlink()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the run: no other process may write to it. UsageError if another process has locked it."""
        import fcntl

        path = self.path / LOCK
        with contextlib.ExitStack() as opened:
            with _disk(path, "locked"):
                file = opened.enter_context(path.open("a+"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.seek(0)
                    holder = f"process {pid}" if (pid := file.read().strip()) else "another process"
                    raise UsageError(f"{self.path}: {holder} is working on this run; wait for it, or stop it") from None
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
            yield

    def _at(self, name: str) -> Path:
        """Return the path of a file. DriftspecError if the name, which may come from a plugin, leaves the directory."""
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts or not PurePath(name).name:
            raise DriftspecError(f"{shown(name)} is not the name of a file in a run directory")
        return self.path / name

    def _lines(self) -> list[tuple[bytes, dict[str, Any]]]:
        """Return (line, record) pairs; the lines are unchanged bytes, so `cut_records` writes the same bytes again."""
        if not (self.path / RECORDS).exists():
            return []
        lines = self.read_bytes(RECORDS).splitlines()
        pairs = [(line, _record(line)) for line in lines]
        if pairs and pairs[-1][1] is None:
            pairs.pop()
        for number, (_, record) in enumerate(pairs, 1):
            if record is None:
                raise RunFailed(f"{self.path / RECORDS}:{number}: not a record of a step; remove the line")
        return [(line, record) for line, record in pairs if record is not None]


def _claim(path: Path) -> Path:
    """Reserve `path` for this run, if it is new or empty: of two processes, only one can create the lock file."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise UsageError(f"'{path}' is not empty; name a new or an empty directory")
        (path / LOCK).touch(exist_ok=False)
    except FileExistsError:
        what = "is being used by another run" if path.is_dir() else "is a file"
        raise UsageError(f"'{path}' {what}; name a new or an empty directory") from None
    return path


def _numbered(stem: Path) -> Path:
    """Create and return the first of stem, stem-2, stem-3, … that does not exist."""
    for number in itertools.count(1):
        path = stem if number == 1 else stem.with_name(f"{stem.name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True, exist_ok=False)
            break
    return path


def meant(path: str | Path) -> Path:
    """Return the run that a path means: the path itself, or the newest run below it that has no parent."""
    folder, found = Path(path), list[tuple[str, str]]()
    try:
        below = [] if (folder / RUN).exists() or (folder / SWEEP).exists() else sorted(folder.glob(f"*/{RUN}"))
    except (OSError, ValueError):  # opening the run reports the error
        below = []
    for file in below:
        with contextlib.suppress(DriftspecError):  # whether a damaged run has a parent is not known
            record = RunRecord.listed(RunDir(file.parent).read_json(RUN), file)
            if record.parent is None:
                found.append((str(record.started), file.parent.name))
    return folder / max(found)[1] if found else folder


def _why_not(path: Path) -> str:
    """Return why `path` is not a run, and which run may be meant."""
    if not path.is_dir():
        siblings = [other.name for other in path.absolute().parent.glob("*") if other.is_dir()]
        return f"there is no such directory{nearest(path.name, siblings)}"
    below = sorted(found.parent for found in path.glob(f"*/{RUN}"))
    return f"it has no {RUN}" + (f"; the newest run below it is '{below[-1]}'" if below else "")


def _file(step: int, end: str) -> str:
    """Return the name of a checkpoint's file."""
    return f"{CHECKPOINTS}/step-{step:08d}.{end}"


def _flush(path: Path) -> None:
    """Flush a file or a directory to the disk; do nothing if it is missing or the file system cannot flush it."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _disk(path: Path, done: str) -> Iterator[None]:
    """Turn an OSError, such as a full disk, into RunFailed with a message."""
    try:
        yield
    except OSError as error:
        raise RunFailed(f"{path} cannot be {done}: {error.strerror or error}") from error


def _json(value: object, name: str, indent: int | None = None) -> bytes:
    """Return strict JSON as UTF-8. A lone surrogate is written as an escape such as \\udcff, which JSON can read."""
    if problems := list(_unfit(value, "")):
        raise DriftspecError(f"{name} cannot be written as JSON: {'; '.join(problems)}")
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent).encode("utf-8", "backslashreplace")


def _unfit(value: object, key: str) -> Iterator[str]:
    """Yield what JSON cannot hold, with its key: json.dumps would not name the key, or would change the value."""
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(name, str):
                yield from _unfit(item, f"{key}.{name}" if key else name)
            else:
                yield f"{key or 'the mapping'} has the key {name!r}, which is not text"
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _unfit(item, f"{key}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{key or 'the value'} is {value}; write null, and the reason beside it"
    elif value is not None and not isinstance(value, (bool, int, float, str)):
        yield f"{key or 'the value'} is a {type(value).__name__}; make it a plain number, text, list or mapping"


def _parsed(data: bytes) -> Any:
    """Return the value of strict JSON. ValueError for NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(data, parse_constant=refuse)


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line, or None if the line holds none."""
    try:
        record = _parsed(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and type(record.get("step")) is int else None
