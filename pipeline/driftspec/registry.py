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
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pluggy

from driftspec import components
from driftspec.component import Component
from driftspec.errors import PluginError, UsageError, nearest

API_VERSION = 1
GROUP = f"driftspec.v{API_VERSION}"
OWN = "driftspec"
"""The distribution that `--no-plugins` still loads: its own components come through the same entry point as anyone's."""
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
    """Every component known to this process."""

    providers: dict[tuple[str, str], list[Provider]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    _manager: pluggy.PluginManager = field(default_factory=lambda: _manager())

    def add(self, module: object, plugin: str, distribution: str, version: str, digest: str | None = None) -> None:
        """Register one plugin and bind the names it provides. PluginError P204 if it breaks the rules."""
        try:
            self._manager.register(module, name=plugin)
            self._manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginError("P204", f"plugin '{plugin}' ({distribution} {version}): {error}") from error
        hook = self._manager.subset_hook_caller("driftspec_components", [
            other for other in self._manager.get_plugins() if other is not module
        ])
        for table in hook():
            self._bind(table, plugin, distribution, version, digest)

    def _bind(self, table: object, plugin: str, distribution: str, version: str, digest: str | None) -> None:
        if not isinstance(table, Mapping):
            raise PluginError("P204", f"plugin '{plugin}': driftspec_components returns a mapping, not {type(table).__name__}")
        for kind, names in table.items():
            if kind not in components.KINDS:
                near = nearest(kind, components.KINDS)
                raise PluginError("P204", f"plugin '{plugin}' provides kind '{kind}', which is none of {', '.join(components.KINDS)}{near}")
            for name, target in names.items():
                self.providers.setdefault((kind, name), []).append(Provider(plugin, distribution, version, target, digest))

    def names(self, kind: str) -> list[str]:
        """Names of a kind's components, sorted."""
        return sorted(name for other, name in self.providers if other == kind)

    def provider(self, kind: str, spelling: str) -> Provider | None:
        """Who provides `name` or `dist/name`; None if nobody or, for a plain name, several do."""
        distribution, _, name = spelling.rpartition("/")
        found = [p for p in self.providers.get((kind, name), []) if not distribution or p.distribution == distribution]
        return found[0] if len(found) == 1 else None

    def look_up(self, kind: str, spelling: str) -> tuple[type[Component] | None, str]:
        """The class, or None and why not. PluginError if the name is claimed twice or its import fails."""
        name = spelling.rpartition("/")[2]
        provider = self.provider(kind, spelling)
        if provider is None:
            claimed = self.providers.get((kind, name), [])
            if "/" not in spelling and len(claimed) > 1:
                ways = " or ".join(f"'{p.distribution}/{name}'" for p in claimed)
                raise PluginError("P202", f"{kind} '{name}' is provided by {' and '.join(map(str, claimed))}: write type: {ways}")
            allowed = [f"{p.distribution}/{name}" for p in claimed] if "/" in spelling and claimed else self.names(kind)
            text = f"unknown {kind} '{spelling}'{nearest(spelling, allowed)}; one of {', '.join(allowed)}"
            if self.broken:
                raise PluginError("P201", f"{text}; perhaps from a plugin that failed to load: {'; '.join(self.broken)}")
            return None, text
        return _load(provider, kind, name), ""

    def add_file(self, path: str | Path) -> None:
        """A one-file plugin, named by `--plugin FILE.py` and by nothing else."""
        path = Path(path)
        if not path.is_file():
            raise UsageError(f"--plugin {path}: no such file")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        name = f"driftspec_file_{path.stem}_{digest[:8]}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise UsageError(f"--plugin {path}: not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[name]
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise PluginError("P201", f"--plugin {path}: {_cause(error)}") from error
        self.files[str(path)] = digest
        self.add(module, path.stem, path.name, "", digest)


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("driftspec")
    manager.add_hookspecs(Hooks)
    return manager


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def _load(provider: Provider, kind: str, name: str) -> type[Component]:
    """Import the class a name is bound to, and hold it against the rules of its kind."""
    who = f"{kind} '{name}' of plugin '{provider.plugin}' ({provider})"
    found: object = provider.target
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except PluginError:
            raise
        except Exception as error:
            raise PluginError("P201", f"{who} failed to import: {_cause(error)}") from error
    base = components.KINDS[kind]
    if not (isinstance(found, type) and issubclass(found, base)):
        raise PluginError("P204", f"{who} is no subclass of driftspec.components.{base.__name__}")
    if found.type != name:
        raise PluginError("P204", f"{who} says of itself type = '{found.type}'")
    return found


def discover(files: Iterable[str | Path] = (), only_builtin: bool = False) -> Registry:
    """The registry of this environment: entry points of the group, then one-file plugins."""
    registry = Registry()
    seen: dict[str, str] = {}
    for distribution in metadata.distributions():
        if only_builtin and distribution.metadata["Name"] != OWN:
            continue
        for point in distribution.entry_points:
            if not point.group.startswith("driftspec.v"):
                continue
            name, version = distribution.metadata["Name"], distribution.version
            who = f"plugin '{point.name}' ({name} {version})"
            if point.group != GROUP:
                registry.broken.append(f"{who} is made for {point.group}, this is {GROUP}: install a release of it for API {API_VERSION}")
                continue
            if seen.get(point.name) == name:  # one distribution met twice on sys.path
                continue
            if point.name in seen:
                registry.broken.append(f"{who} has the plugin name of one in {seen[point.name]}: uninstall either")
                continue
            seen[point.name] = name
            try:
                module = point.load()
            except Exception as error:
                registry.broken.append(f"{who} failed to import: {_cause(error)}")
                continue
            try:
                registry.add(module, point.name, name, version)
            except PluginError as error:
                registry.broken.append(str(error))
    for file in files:
        registry.add_file(file)
    return registry


@functools.cache
def installed() -> Registry:
    """The registry of installed plugins, found once a process: what components made outside a spec resolve by."""
    return discover()


__all__ = ["API_VERSION", "GROUP", "Hooks", "ModuleType", "Provider", "Registry", "discover", "hookimpl", "installed"]
