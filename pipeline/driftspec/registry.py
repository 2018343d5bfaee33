"""Plugins: the hook they implement, how they are found, and the lookup of a component by kind and name.

A plugin is a module behind an entry point of the group `driftspec.v1` (the 1 is the API's version, readable before
anything is imported) that implements `driftspec_components`. Names are bound to "module:Class", so that listing and
checking a spec import only what the spec names. The built-in components come through the same door.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pluggy

from driftspec import components
from driftspec.component import Component
from driftspec.errors import PluginError, Problem, UsageError, nearest

API_VERSION = 1
GROUP = f"driftspec.v{API_VERSION}"
OWN = "driftspec"
"""The distribution that `--no-plugins` still loads: its components come through the same entry point as anyone's."""
hookspec = pluggy.HookspecMarker("driftspec")
hookimpl = pluggy.HookimplMarker("driftspec")


class Hooks:
    """The whole surface a plugin may implement."""

    @hookspec
    def driftspec_components(self) -> Mapping[str, Mapping[str, str | type[Component]]]:  # type: ignore[empty-body]
        """Components provided, as `{kind: {name: "module:Class"}}`, e.g. `{"metric": {"mmd": "my_plugin.mmd:MMD"}}`."""


@dataclass(frozen=True)
class Provider:
    """Who provides a component: plugin name, distribution, its version, and where the class is."""

    plugin: str
    distribution: str
    version: str
    target: str | type[Component]
    digest: str | None = None

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()


@dataclass
class Registry:
    """Every component known to this process, and what could not be loaded (`broken`, a warning each)."""

    providers: dict[tuple[str, str], list[Provider]] = field(default_factory=dict)
    broken: list[Problem] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    def add(self, module: object, plugin: str, distribution: str, version: str, digest: str | None = None) -> None:
        """Bind the names that one plugin provides. PluginError P204 if it breaks the rules, and then none of them."""
        who = _who(plugin, distribution, version)
        for kind, name, target in [one for table in _tables(module, who) for one in _names(table, who)]:
            provider = Provider(plugin, distribution, version, target, digest)
            self.providers.setdefault((kind, name), []).append(provider)

    def names(self, kind: str) -> list[str]:
        """Names of a kind's components, sorted."""
        return sorted(name for other, name in self.providers if other == kind)

    def provider(self, kind: str, spelling: str) -> Provider | None:
        """Who provides `name` or `dist/name`; None if nobody or several do."""
        found = self._claims(kind, spelling)[1]
        return found[0] if len(found) == 1 else None

    def _claims(self, kind: str, spelling: str) -> tuple[str, list[Provider]]:
        """The plain name, and who provides it; of `dist/name` that distribution's alone."""
        distribution, _, name = spelling.rpartition("/")
        claimed = self.providers.get((kind, name), [])
        return name, [p for p in claimed if not distribution or _normal(p.distribution) == _normal(distribution)]

    def look_up(
        self, kind: str, spelling: str, within: type[Component] | None = None
    ) -> tuple[type[Component] | None, Problem | None]:
        """The class, a subclass of `within`; or None, and what is wrong, with the nearest valid name."""
        name, found = self._claims(kind, spelling)
        if len(found) != 1:
            return None, _claimed(kind, name, found) if found else self._unknown(kind, spelling, within)
        try:
            loaded = _load(found[0], kind, name)
        except PluginError as error:
            return None, error.problems[0]
        if within is not None and not issubclass(loaded, within):
            names = self.fitting(kind, within)
            text = f"{kind} '{spelling}' cannot stand here{nearest(spelling, names)}; allowed: {', '.join(names)}"
            return None, Problem("S120", text)
        return loaded, None

    def _unknown(self, kind: str, spelling: str, within: type[Component] | None) -> Problem:
        name = spelling.rpartition("/")[2]
        claimed = self.providers.get((kind, name), [])  # by distributions other than the one written before the name
        allowed = [f"{p.distribution}/{name}" for p in claimed] or self.fitting(kind, within)
        near = nearest(spelling if claimed else name, allowed)
        text = f"unknown {kind} '{spelling}'{near}; allowed: {', '.join(allowed) or 'none'}"
        if others := sorted(other for other, known in self.providers if known == name and other != kind):
            text += f" ('{name}' is a {' and a '.join(others)})"
        if self.broken:
            causes = "; ".join(problem.message for problem in self.broken)
            return Problem("P201", f"{text}; perhaps from a plugin that was not loaded: {causes}")
        return Problem("S120", text)

    def fitting(self, kind: str, within: type[Component] | None) -> list[str]:
        """Names of the components that may stand where `within` is asked for."""
        if within is None or within is components.KINDS[kind]:
            return self.names(kind)
        found = {name: self.look_up(kind, name)[0] for name in self.names(kind)}
        return [name for name, cls in found.items() if cls is not None and issubclass(cls, within)]

    def having(self, kind: str, key: str) -> list[str]:
        """Names of a kind's components that take this key."""
        found = {name: self.look_up(kind, name)[0] for name in self.names(kind)}
        return [name for name, cls in found.items() if cls is not None and key in cls.model_fields]

    def add_component(self, found: type[Component]) -> None:
        """A class made in Python, such as a notebook's own network, under its own `type`."""
        who = f"class {found.__qualname__}"
        for kind, name, target in _names({found.kind: {found.type: found}}, who):
            provider = Provider(found.__qualname__, found.__module__, "", target)
            self.providers.setdefault((kind, name), []).append(provider)

    def add_file(self, path: str | Path) -> None:
        """A one-file plugin, named by `--plugin FILE.py` and by nothing else. The same file twice is one plugin."""
        path = Path(path)
        if path.suffix != ".py" or not path.is_file():
            raise UsageError(f"--plugin {path}: {'not a .py file' if path.exists() else 'no such file'}")
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        name = f"driftspec_file_{path.stem}_{digest[:8]}"
        if self.files.get(str(path)) == digest:
            return
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module
        try:  # not importlib's loader: what runs is what the digest is of, and no cache is left beside the file
            exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise PluginError(Problem("P201", f"--plugin {path} failed to import: {_cause(error)}")) from error
        self.add(module, str(path), path.name, "", digest)
        self.files[str(path)] = digest


def _tables(module: object, who: str) -> list[object]:
    """What the plugin's hook returns. A manager for it alone: one plugin's mistakes are not another's."""
    manager = pluggy.PluginManager("driftspec")
    manager.add_hookspecs(Hooks)
    known = [name for name in vars(Hooks) if not name.startswith("_")]
    try:
        manager.register(module)
    except pluggy.PluginValidationError as error:  # the last line says which argument
        raise PluginError(Problem("P204", f"{who}: {str(error).splitlines()[-1]}")) from error
    hooks = [caller.name for caller in manager.get_hookcallers(module) or ()]
    if unknown := next((name for name in hooks if name not in known), None):
        text = f"{who} implements the unknown hook '{unknown}'{nearest(unknown, known)}; allowed: {', '.join(known)}"
        raise PluginError(Problem("P204", text))
    if not hooks:
        text = f"{who} implements no hook: mark {' or '.join(known)} with driftspec.registry.hookimpl"
        raise PluginError(Problem("P204", text))
    try:
        tables: list[object] = manager.hook.driftspec_components()
    except Exception as error:
        raise PluginError(Problem("P201", f"{who}: driftspec_components failed: {_cause(error)}")) from error
    return tables


def _who(plugin: str, distribution: str, version: str) -> str:
    return f"plugin '{plugin}' ({distribution} {version})" if version else f"plugin '{plugin}'"


def _cause(error: BaseException) -> str:
    """One line; for a mistake in the text of a file, with its place."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} (line {error.lineno})"
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def _normal(distribution: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _names(table: object, who: str) -> list[tuple[str, str, str | type[Component]]]:
    """(kind, name, target) of a plugin's table. PluginError P204 if it is no such table."""
    if not (isinstance(table, Mapping) and all(isinstance(names, Mapping) for names in table.values())):
        text = f"{who}: driftspec_components returns {{kind: {{name: 'module:Class'}}}}, not {table!r:.60}"
        raise PluginError(Problem("P204", text))
    found = []
    for kind, names in table.items():
        if kind not in components.KINDS:
            near = nearest(str(kind), components.KINDS)
            text = f"{who} provides the unknown kind '{kind}'{near}; allowed: {', '.join(components.KINDS)}"
            raise PluginError(Problem("P204", text))
        for name, target in names.items():
            if not (isinstance(name, str) and re.fullmatch(r"\w[\w.-]*", name)):
                raise PluginError(
                    Problem("P204", f"{who}: {name!r} cannot name a {kind}: letters, digits, '_', '.' and '-'")
                )
            if not (isinstance(target, type) or (isinstance(target, str) and re.fullmatch(r"[\w.]+:\w+", target))):
                raise PluginError(
                    Problem("P204", f"{who}: {kind} '{name}' is 'module:Class' or a class, not {target!r:.60}")
                )
            found.append((kind, name, target))
    return found


def _claimed(kind: str, name: str, found: list[Provider]) -> Problem:
    """Several provide one name."""
    ways = sorted({f"'{p.distribution}/{name}'" for p in found})
    advice = f"write type: {' or '.join(ways)}" if len(ways) == len(found) else "remove either"
    return Problem("P202", f"{kind} '{name}' is provided by {' and by '.join(map(str, found))}: {advice}")


def _load(provider: Provider, kind: str, name: str) -> type[Component]:
    """Import the class a name is bound to, and hold it against the rules of its kind."""
    who = f"{kind} '{name}' of {_who(provider.plugin, provider.distribution, provider.version)}"
    found: object = provider.target
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except PluginError as error:
            raise PluginError(Problem(error.problems[0].code, f"{who}: {error.problems[0].message}")) from error
        except (Exception, SystemExit) as error:
            raise PluginError(Problem("P201", f"{who} failed to import: {_cause(error)}")) from error
    base = components.KINDS[kind]
    if not (isinstance(found, type) and issubclass(found, base)):
        raise PluginError(Problem("P204", f"{who} is no subclass of driftspec.components.{base.__name__}"))
    if found.type != name:
        raise PluginError(Problem("P204", f"{who} has type = '{found.type}' in its class, which should be '{name}'"))
    return found


def discover(files: Iterable[str | Path] = (), only_builtin: bool = False) -> Registry:
    """The registry of this environment: entry points of the group, then one-file plugins."""
    registry = Registry()
    seen: set[str] = set()
    for distribution in metadata.distributions():
        # Reading names and versions of a large environment costs ten times as much as this look.
        if "driftspec.v" not in (distribution.read_text("entry_points.txt") or ""):
            continue
        name, version = distribution.metadata["Name"], distribution.version
        if _normal(name) in seen or (only_builtin and name != OWN):
            continue
        seen.add(_normal(name))  # the first one on sys.path is the one that is imported
        for point in distribution.entry_points:
            if point.group.startswith("driftspec.v"):
                try:
                    _enter(registry, point, name, version)
                except PluginError as error:
                    registry.broken += [replace(problem, severity="warning") for problem in error.problems]
    for file in files:
        registry.add_file(file)
    return registry


def _enter(registry: Registry, point: metadata.EntryPoint, distribution: str, version: str) -> None:
    who = _who(point.name, distribution, version)
    if point.group != GROUP:
        text = f"{who} is made for {point.group}, this is {GROUP}: install a release of {distribution} for {GROUP}"
        raise PluginError(Problem("P203", text))
    try:
        module = point.load()
    except (Exception, SystemExit) as error:
        raise PluginError(Problem("P201", f"{who} failed to import: {_cause(error)}")) from error
    registry.add(module, point.name, distribution, version)


@functools.cache
def installed() -> Registry:
    """The registry of installed plugins, found once a process: what components made outside a spec resolve by."""
    return discover()


__all__ = ["API_VERSION", "GROUP", "Hooks", "Provider", "Registry", "discover", "hookimpl", "installed"]
