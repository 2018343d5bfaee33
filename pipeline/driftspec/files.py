"""Which files a spec may read: relative to the spec, below the current directory; elsewhere only when allowed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from driftspec.errors import Problem, SpecError, nearest


@dataclass(frozen=True)
class Files:
    """Resolves the paths a spec names. `root` is the folder of the spec's file."""

    root: Path
    allow_outside: bool = False

    def find(self, name: str) -> Path:
        """The existing file behind `name`. SpecError X304 if it is missing or lies where it may not."""
        path = (self.root / name).resolve()
        if not self.allow_outside and not path.is_relative_to(Path.cwd().resolve()):
            raise SpecError(Problem("X304", f"data file '{name}' lies outside the current directory; allow it with --allow-outside"))
        if not path.is_file():
            near = nearest(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
            raise SpecError(Problem("X304", f"no data file '{name}' in {self.root}{near}"))
        return path

    def digest(self, path: Path) -> str:
        """sha256 of a file's bytes."""
        return hashlib.sha256(path.read_bytes()).hexdigest()
