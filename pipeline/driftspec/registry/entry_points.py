"""Finds the entry points of installed plugins without importing a plugin, and reads the code of one-file plugins.

The group of an entry point contains the version of the API (`driftspec.v1`). Other programs write the metadata of a
distribution: metadata that cannot be read are reported with the distribution, and the other plugins are still loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from driftspec.errors import Problem, UsageError, cause, nearest, shown
from driftspec.source import regular

API_VERSION = 1
GROUP = f"driftspec.v{API_VERSION}"
OWN = "driftspec"
"""The only distribution that `--no-plugins` loads. Its components are found by an entry point, like all others."""
BLOCK = "DRIFTSPEC_BLOCK_PLUGINS"
"""The environment variable that lists plugins not to import: entry points or distributions, with commas."""


@dataclass(frozen=True)
class PluginEntry:
    """One entry point: a plugin to import, or the `problem` for which it is not imported."""

    name: str
    distribution: str
    version: str
    point: metadata.EntryPoint | None = None
    problem: Problem | None = None
    blocked: bool = False

    @property
    def who(self) -> str:
        return who(self.name, self.distribution, self.version)


def who(plugin: str, distribution: str, version: str) -> str:
    """Return "plugin 'loud' (Loud_Metrics 1.2)", as messages name a plugin."""
    return f"plugin '{plugin}' ({distribution} {version})" if version else f"plugin '{plugin}'"


def normal(name: str) -> str:
    """Return a distribution's name in lower case, with one '-' for each run of -, _ and ., to compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(only_builtin: bool = False) -> tuple[list[PluginEntry], list[Problem]]:
    """Return the entry of every installed plugin, and warnings about the variable that blocks plugins."""
    every = list(_installed())
    given = [name.strip() for name in os.environ.get(BLOCK, "").split(",") if name.strip()]
    found = [_blocked(entry, given) for entry in every if not only_builtin or normal(entry.distribution) == OWN]
    return found, list(_unknown(given, every))


def code_of(file: Path, option: str = "--plugin") -> bytes:
    """Return the bytes of a one-file plugin. UsageError, which names the option, if it cannot be read."""
    try:
        if file.suffix == ".py" or not file.exists():
            return regular.read(file)
        why = "not a .py file"
    except FileNotFoundError:
        why = "no such file"
    except OSError as error:
        why = f"cannot be read: {str(error.strerror).lower()}"
    raise UsageError(f"{option} {file}: {why}")


def _blocked(entry: PluginEntry, given: Sequence[str]) -> PluginEntry:
    """Return the entry, blocked if the variable names it or its distribution."""
    if {normal(name) for name in given}.isdisjoint({normal(entry.name), normal(entry.distribution)}):
        return entry
    problem = Problem("P205", f"{entry.who} is blocked by {BLOCK}", severity="warning")
    return replace(entry, problem=problem, blocked=True)


def _unknown(given: Sequence[str], every: Sequence[PluginEntry]) -> Iterator[Problem]:
    """Yield a warning for each name in the variable that no plugin and no distribution has."""
    names = sorted({name for entry in every for name in (entry.name, entry.distribution)})
    for name in given:
        if normal(name) not in map(normal, names):
            text = (
                f"{BLOCK} names {shown(name)}, which is not an installed plugin or distribution{nearest(name, names)}"
            )
            yield Problem("P205", f"{text}; installed: {', '.join(names)}", severity="warning")


def _installed() -> Iterator[PluginEntry]:
    """Yield the plugins of every installed distribution."""
    seen: set[str] = set()
    for distribution in metadata.distributions():
        try:
            # In a large environment, reading every name and version takes ten times as long as this search.
            if not re.search(r"(?m)^\s*\[\s*driftspec", distribution.read_text("entry_points.txt") or ""):
                continue
            name, version = _label(distribution)
            points = [point for point in distribution.entry_points if point.group.strip().startswith("driftspec")]
        except Exception as error:
            name, version = _label(distribution)
            problem = Problem("P201", f"{_of(name, version)}: its entry points cannot be read: {cause(error)}")
            yield PluginEntry("?", name, version, problem=problem)
            continue
        if normal(name) in seen:
            continue
        seen.add(normal(name))  # the first one on sys.path is the one that is imported
        yield from _entries(points, name, version)


def _label(distribution: metadata.Distribution) -> tuple[str, str]:
    """Return the distribution's name and version, even if its metadata are broken."""
    return _field(distribution, "Name") or "a distribution without a name", _field(distribution, "Version")


def _field(distribution: metadata.Distribution, key: str) -> str:
    try:
        return str(distribution.metadata[key] or "")
    except Exception:  # a file or key is missing: some versions of importlib warn, some raise
        return ""


def _of(distribution: str, version: str) -> str:
    return f"{distribution} {version}".strip()


def _entries(points: Sequence[metadata.EntryPoint], distribution: str, version: str) -> Iterator[PluginEntry]:
    """Yield the plugins of one distribution. Of two with the same name only the first one can be loaded."""
    ours: dict[str, str] = {}
    for point in sorted(points, key=lambda point: point.group != GROUP):
        entry = PluginEntry(point.name, distribution, version, point)
        if point.group != GROUP:
            if point.name not in ours:  # else the plugin supports several versions, and this one is among them
                yield replace(entry, problem=_other_group(entry, point.group))
        elif point.name in ours:
            text = f"{entry.who}: two entry points have this name, '{ours[point.name]}' and '{point.value}'"
            yield replace(entry, problem=Problem("P202", f"{text}; the second is not loaded: rename it"))
        else:
            ours[point.name] = point.value
            yield entry


def _other_group(entry: PluginEntry, group: str) -> Problem:
    """Return the problem of a plugin for another version of the API, with what to do."""
    number = re.fullmatch(r"driftspec\.v(\d{1,9})", group)
    if number is None:
        return Problem("P203", f"{entry.who} is in the unknown group {shown(group)}; plugins are in '{GROUP}'")
    text = f"{entry.who} is made for {group}, this is {GROUP}: install a release of {entry.distribution} for {GROUP}"
    newer = int(number[1]) > API_VERSION
    return Problem("P203", f"{text}, or a release of {OWN} for {group}" if newer else text)


__all__ = ["API_VERSION", "BLOCK", "GROUP", "OWN", "PluginEntry", "entries", "normal", "who"]
