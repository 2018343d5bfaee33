"""Which files a spec may read: relative to the spec, below the current directory; elsewhere only when allowed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from driftspec.errors import Problem, SpecError, nearest, shown
from driftspec.source import regular


@dataclass(frozen=True)
class Files:
    """Resolves the paths a spec names. `root` is the folder of the spec's file."""

    root: Path
    allow_outside: bool = False

    def find(self, name: str) -> Path:
        """The existing file behind `name`, links followed. SpecError X304 if it is missing or lies where it may not."""
        try:
            path = (self.root / name).resolve()
            if not self.allow_outside and not path.is_relative_to(Path.cwd().resolve()):
                raise _refused(f"{shown(name)} lies outside the current directory; allow it with --allow-outside")
            if path.is_dir():
                raise _refused(f"{shown(name)} is a folder: name a file in it")
            if not path.exists():
                near = nearest(path.name, _files(path.parent))
                raise _refused(f"{shown(name)} does not exist{near}: looked for at {path}")
            if not path.is_file():
                raise _refused(f"{shown(name)} is not a regular file")
            if not self.allow_outside and path.suffix != Path(name).suffix:
                text = f"{shown(name)} is a link to {shown(path.name)}, a file of another kind"
                raise _refused(f"{text}; allow it with --allow-outside")
        except (OSError, ValueError, RuntimeError) as error:  # too long a name, a NUL in it, a loop of links
            raise _refused(f"{shown(name)} is no path to a file: {error}") from error
        return path

    def read(self, path: Path) -> tuple[bytes, str]:
        """A file's bytes and their sha256: read once, so that the digest is that of what was used. SpecError X304."""
        try:
            content = regular.read(path)
        except OSError as error:
            raise _refused(f"{shown(path.name)} cannot be read: {error.strerror}") from error
        return content, hashlib.sha256(content).hexdigest()

    def digest(self, path: Path) -> str:
        """sha256 of a file's bytes."""
        return self.read(path)[1]


def _refused(text: str) -> SpecError:
    return SpecError(Problem("X304", f"data file {text}"))


def _files(folder: Path) -> list[str]:
    """Names of the files in a folder; none if it is missing or closed to us."""
    try:
        return [path.name for path in folder.iterdir() if path.is_file()]
    except OSError:
        return []


__all__ = ["Files"]
