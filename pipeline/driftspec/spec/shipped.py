"""Specs to start from: the folder `specs` of every package whose distribution provides components.

The built-in specs are found in the same way. No plugin is imported and no component is loaded.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from driftspec import source
from driftspec.errors import RunFailed, UsageError, shown
from driftspec.registry.entry_points import GROUP, OWN
from driftspec.source.document import leaves
from driftspec.source.scalars import dump

HEADER = "# yaml-language-server: $schema=./driftspec.schema.json\n"
"""The comment by which an editor with a YAML language server completes and checks a spec."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def shipped(only_builtin: bool = False) -> dict[str, Path]:
    """Return every shipped spec by its name. If several distributions ship a name, it is dist/name for all but ours."""
    found: dict[str, dict[str, Path]] = {}
    for point in metadata.entry_points(group=GROUP):
        distribution = point.dist.name if point.dist is not None else point.name
        if distribution == OWN or not only_builtin:
            for file in _files(point.module.partition(".")[0]):
                found.setdefault(file.stem, {})[distribution] = file
    return {
        name if len(files) == 1 or distribution == OWN else f"{distribution}/{name}": file
        for name, files in sorted(found.items())
        for distribution, file in files.items()
    }


def folders() -> dict[str, Path]:
    """Return the folders of shipped specs that belong together, by name, such as those of the lecture."""
    packages = {point.module.partition(".")[0] for point in metadata.entry_points(group=GROUP)}
    found = [file.parent for package in sorted(packages) for file in _below(package, "specs/*/*.yaml")]
    return {folder.name: folder for folder in reversed(found)}


def _files(package: str) -> Iterator[Path]:
    """Yield the shipped specs of a package: those of its folder, then those that belong together."""
    yield from _below(package, "specs/*.yaml")
    yield from _below(package, "specs/*/*.yaml")


def _below(package: str, pattern: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(package)
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        yield from sorted(Path(folder).glob(pattern))


def begin(file: Path, name: str, folder: Path) -> list[Path]:
    """Write a shipped spec as NAME.yaml, and beside it the files it reads. No existing file is ever replaced."""
    if not NAME.fullmatch(name):
        text = "up to 100 letters, digits, '_', '.' and '-', the first a letter or digit"
        raise UsageError(f"{shown(name)} cannot name a spec: {text}")
    beside = {folder / other.name: other.read_bytes() for other in _read_by(file)}
    if folder / f"{name}.yaml" in beside:
        raise UsageError(f"'{name}' is a spec that '{file.stem}' reads: give another NAME")
    copies = {folder / f"{name}.yaml": _renamed(file.read_text(encoding="utf-8"), name).encode(), **beside}
    there = [path for path in copies if path.exists()]
    for path in there:
        if path.name == f"{name}.yaml" or not path.is_file() or path.read_bytes() != copies[path]:
            raise _taken(path)
    for path in [path for path in reversed(copies) if path not in there]:  # the spec last, after the files it reads
        _write(path, copies[path])
    return list(copies)


def _write(path: Path, content: bytes) -> None:
    """Write a new file completely, or leave no file."""
    try:
        with path.open("xb") as opened:
            opened.write(content)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        path.unlink(missing_ok=True)
        raise RunFailed(f"{path} cannot be written: {error.strerror}") from error


def _taken(path: Path) -> UsageError:
    return UsageError(f"'{path}' exists already and is left alone: give another NAME, or move it away")


def _renamed(text: str, name: str) -> str:
    """Return the text with another `name`; comments and everything else are unchanged."""
    return HEADER + re.sub(r"(?m)^name:[^#\n]*?(?=( *#.*)?$)", lambda _: f"name: {dump(name).strip()}", text, count=1)


def _read_by(file: Path, deep: bool = True) -> Iterator[Path]:
    """Yield the files that a spec reads: its base, its data files, and the data files of the base."""
    for _, value in leaves(source.read(file).data):
        if isinstance(value, str) and Path(value).suffix and Path(value).name == value:
            other = file.parent / value
            if other.is_file():
                yield other
                yield from _read_by(other, deep=False) if deep and other.suffix == ".yaml" else ()


__all__ = ["begin", "folders", "shipped"]
