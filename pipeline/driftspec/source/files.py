"""Finds and reads the data files of a spec: below the current directory, elsewhere only with --allow-outside."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from driftspec.errors import Problem, SpecError, nearest, shown
from driftspec.source import regular


@dataclass(frozen=True)
class Files:
    """Finds and reads the files that a spec names. `root` is the folder of the spec, from which their paths start."""

    root: Path
    allow_outside: bool = False

    def find(self, name: str) -> Path:
        """Return the path of an existing file, links followed. SpecError X304 if it is missing or not allowed."""
        try:
            path = (self.root / name).resolve()
            if not self.allow_outside and not path.is_relative_to(Path.cwd().resolve()):
                raise _refused(f"{shown(name)} lies outside the current directory; allow it with --allow-outside")
            if path.is_dir():
                raise _refused(f"{shown(name)} is a folder: name a file in it")
            if not path.exists():
                near = nearest(path.name, _files(path.parent))
                if str(path) == name:
                    raise _refused(f"{shown(name, len(name) + 2)} does not exist{near}")
                raise _refused(f"{shown(name)} does not exist{near}: looked for at {path}")
            if not path.is_file():
                raise _refused(f"{shown(name)} is not a regular file")
            if not self.allow_outside and path.suffix != Path(name).suffix:
                text = f"{shown(name)} is a link to {shown(path.name)}, a file of another kind"
                raise _refused(f"{text}; allow it with --allow-outside")
        except (OSError, ValueError, RuntimeError) as error:  # the name is too long, has a NUL, or is a loop of links
            raise _refused(f"{shown(name)} is not a path to a file: {error}") from error
        return path

    def read(self, path: Path) -> tuple[bytes, str]:
        """Return a file's bytes and the sha256 of these bytes. SpecError X304 if the file cannot be read."""
        try:
            content = regular.read(path)
        except OSError as error:
            raise _refused(f"{shown(path.name)} cannot be read: {error.strerror}") from error
        return content, hashlib.sha256(content).hexdigest()

    def digest(self, path: Path) -> str:
        """Return the sha256 of a file's bytes."""
        return self.read(path)[1]


def _refused(text: str) -> SpecError:
    return SpecError(Problem("X304", f"data file {text}"))


def _files(folder: Path) -> list[str]:
    """Return the names of the files in a folder; none if it is missing or cannot be read."""
    try:
        return [path.name for path in folder.iterdir() if path.is_file()]
    except OSError:
        return []


__all__ = ["Files"]
