"""Plugins: the hooks they implement, and the lookup of a component by kind and name.

A plugin is a module that an entry point of the group `driftspec.v1` names. It implements any of the hooks below: one
provides components, the others observe a run. Components are given as "module:Class", so that only those that a spec
names are imported. The built-in components are provided in the same way.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import re
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from driftspec import components
from driftspec.components.component import Component
from driftspec.errors import PluginError, Problem, nearest
from driftspec.registry import providers
from driftspec.registry.elsewhere import WORDS, Table, Words
from driftspec.registry.entry_points import API_VERSION, GROUP, PluginEntry, code_of, entries, normal, who
from driftspec.registry.providers import Provider

if TYPE_CHECKING:
    from driftspec.components import Measured
    from driftspec.components.observer import Record, RunInfo

hookspec = pluggy.HookspecMarker("driftspec")
hookimpl = pluggy.HookimplMarker("driftspec")


class Hooks:
    """All hooks that a plugin may implement. An implementation may leave out arguments that it does not use.

    All but the first observe a run. An error in one is reported and recorded, and the run continues without further
    calls to that plugin. The arguments are frozen, or copies for that plugin only.
    """

    @hookspec
    def driftspec_components(self) -> Mapping[str, Mapping[str, str | type[Component]]]:  # type: ignore[empty-body]
        """Return the plugin's components as `{kind: {name: "module:Class"}}`.

        E.g. `{"metric": {"mmd": "my_plugin.mmd:MMD"}}`.
        """

    @hookspec
    def driftspec_run_started(self, run: RunInfo) -> None:
        """Called when a run starts, or is resumed (`run.resumed`), with its id, name, directory and resolved spec."""

    @hookspec
    def driftspec_step(self, run: RunInfo, record: Record) -> None:
        """Called after a training step, with its loss and gradient norm. train.jsonl has it if `record.logged`."""

    @hookspec
    def driftspec_checkpoint(self, run: RunInfo, step: int, path: Path) -> None:
        """Called when the checkpoint of a step is on the disk; the file `path` has its tensors."""

    @hookspec
    def driftspec_metric(self, run: RunInfo, name: str, measured: Measured) -> None:
        """Called when a metric is measured, with its key in metrics.json, its value and standard error."""

    @hookspec
    def driftspec_run_finished(self, run: RunInfo, status: str, error: str | None) -> None:
        """Called when a run ends. `status` is finished, failed or interrupted; `error` is the cause of the last two."""


HOOKS = tuple(name for name in vars(Hooks) if name.startswith("driftspec_"))


class Vocabulary:
    """One more hook, which serves messages only: it is called when a spec is wrong."""

    @hookspec
    def driftspec_elsewhere(self) -> Mapping[str, str]:  # type: ignore[empty-body]
        """Return other libraries' words for the plugin's components, keys and values: `{our word: "their words"}`.

        E.g. `{"mmd": "maximum_mean_discrepancy rbf_mmd"}`; `driftspec.registry.elsewhere` describes the tables.
        """


ELSEWHERE = "driftspec_elsewhere"
PROVIDING = frozenset({"driftspec_components", ELSEWHERE})
"""Hooks that do not observe a run."""


@dataclass(frozen=True)
class Plugin:
    """One plugin and its state: loaded, broken (failed to load, or for another API version) or blocked."""

    name: str
    distribution: str
    version: str
    state: str = "loaded"
    reason: str = ""
    seconds: float = 0.0  # the time that its import took
    digest: str | None = None
    hooks: frozenset[str] = frozenset()
    manager: pluggy.PluginManager | None = field(default=None, compare=False, repr=False)

    @property
    def who(self) -> str:
        return who(self.name, self.distribution, self.version)

    @property
    def origin(self) -> dict[str, str]:
        """The plugin, its distribution and version, as run.json records them."""
        return {"plugin": self.name, "distribution": self.distribution, "version": self.version}

    @property
    def observes(self) -> bool:
        return bool(self.hooks - PROVIDING)

    def call(self, hook: str, **arguments: Any) -> list[Any]:
        """Return what the plugin's implementations of a hook return. Their exceptions are not caught."""
        if self.manager is None:
            return []
        results: list[Any] = getattr(self.manager.hook, hook)(**arguments)
        return results


@dataclass
class Registry:
    """Every component known to this process, and a warning for each plugin that could not be loaded (`broken`).

    `held_back` are warnings about DRIFTSPEC_BLOCK_PLUGINS: one for each plugin that it blocks, and one for each name in
    it that no plugin has.
    """

    providers: dict[tuple[str, str], list[Provider]] = field(default_factory=dict)
    broken: list[Problem] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    plugins: list[Plugin] = field(default_factory=list)
    held_back: list[Problem] = field(default_factory=list)
    wordless: list[Problem] = field(default_factory=list)  # warnings about `words`, reported with a wrong spec

    def add(
        self,
        module: object,
        plugin: str,
        distribution: str,
        version: str,
        digest: str | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Add one plugin and its components. PluginError if it fails or breaks the rules; then nothing is added."""
        label = who(plugin, distribution, version)
        with providers.foreign(f"{label} cannot be loaded"):
            manager, hooks = _hooks(module, label)
        found = Plugin(plugin, distribution, version, "loaded", "", seconds, digest, hooks, manager)
        for kind, name, target in _provided(found):
            provider = Provider(plugin, distribution, version, target, digest)
            self.providers.setdefault((kind, name), []).append(provider)
        self.plugins.append(found)
        with contextlib.suppress(AttributeError):  # not computed yet
            del self.words

    @functools.cached_property
    def words(self) -> Words:
        """The words of other libraries for all that is installed. A wrong table of a plugin is noted in `wordless`."""
        tables = []
        for plugin in self.plugins:
            try:
                tables += _elsewhere(plugin)
            except PluginError as error:
                self.wordless += [replace(problem, severity="warning") for problem in error.problems]
        return Words(*tables, WORDS)

    def enter(self, entry: PluginEntry) -> None:
        """Import the plugin of an entry point and add it, or record why that is not possible."""
        problems, started = [entry.problem] if entry.problem else [], time.perf_counter()
        if not problems:
            try:
                module = _imported(entry)
                seconds = time.perf_counter() - started
                return self.add(module, entry.name, entry.distribution, entry.version, seconds=seconds)
            except PluginError as error:
                problems = error.problems
        state = "blocked" if entry.blocked else "broken"
        seconds = time.perf_counter() - started if entry.problem is None else 0.0
        reason = "; ".join(problem.message for problem in problems)
        self.plugins.append(Plugin(entry.name, entry.distribution, entry.version, state, reason, seconds))
        warnings = self.held_back if entry.blocked else self.broken
        warnings += [replace(problem, severity="warning") for problem in problems]
        return None

    def observers(self) -> list[Plugin]:
        """Return the plugins that observe runs."""
        return [plugin for plugin in self.plugins if plugin.observes]

    def names(self, kind: str) -> list[str]:
        """Return the names of a kind's components, sorted."""
        return sorted(name for other, name in self.providers if other == kind)

    def packages(self) -> tuple[str, ...]:
        """Return the packages that provide components, and then the core's own."""
        targets = (provider.target for found in self.providers.values() for provider in found)
        modules = (one if isinstance(one, str) else one.__module__ for one in targets)
        return (*sorted({re.split("[.:]", module)[0] for module in modules} - {"driftspec"}), "driftspec")

    def provider(self, kind: str, spelling: str) -> Provider | None:
        """Return the provider of `name` or `dist/name`; None if there is none, or more than one."""
        found = self._claims(kind, spelling)[1]
        return found[0] if len(found) == 1 else None

    def _claims(self, kind: str, spelling: str) -> tuple[str, list[Provider]]:
        """Return the name without distribution, and its providers; for `dist/name` only those of that distribution."""
        distribution, _, name = spelling.rpartition("/")
        claimed = self.providers.get((kind, name), [])
        return name, [p for p in claimed if not distribution or normal(p.distribution) == normal(distribution)]

    def look_up(
        self, kind: str, spelling: str, within: type[Component] | None = None
    ) -> tuple[type[Component] | None, Problem | None]:
        """Return (class, None), or (None, problem) if the name is wrong or its class is not a subclass of `within`."""
        name, found = self._claims(kind, spelling)
        if len(found) != 1:
            return None, providers.claimed(kind, name, found) if found else self._unknown(kind, spelling, within)
        try:
            loaded = providers.load(found[0], kind, name)
        except PluginError as error:
            return None, error.problems[0]
        if within is not None and not issubclass(loaded, within):
            names = self.fitting(kind, within)
            near = self.nearest(spelling, names)
            text = f"{kind} '{spelling}' is not allowed here{near}; allowed: {', '.join(names)}"
            return None, Problem("S120", text)
        return loaded, None

    def _unknown(self, kind: str, spelling: str, within: type[Component] | None) -> Problem:
        """Return the problem that nothing provides a name, with what is allowed and what might provide it."""
        name = spelling.rpartition("/")[2]
        claimed = self.providers.get((kind, name), [])  # by other distributions than the one given
        allowed = [f"{p.distribution}/{name}" for p in claimed] or self.fitting(kind, within)
        hint = self.words.hint(spelling, allowed)  # `spelling` may be the path of a file
        near = nearest(spelling if claimed else name, allowed) if hint is None else hint
        if re.fullmatch(r"\w+:\S+", spelling):
            near = " (a colon needs a space after it)"
        text = f"unknown {kind} '{spelling}'{near}; allowed: {', '.join(allowed) or 'none'}"
        if others := sorted(other for other, known in self.providers if known == name and other != kind):
            text += f" ('{name}' is a {' and a '.join(others)})"
        blocked = [plugin for plugin in self.plugins if plugin.state == "blocked"]
        if causes := [*(problem.message for problem in self.broken), *(plugin.reason for plugin in blocked)]:
            text += f"; perhaps from a plugin that was not loaded: {'; '.join(causes)}"
            return Problem("P201" if self.broken else "P205", text)
        return Problem("S120", text)

    def nearest(self, given: str, allowed: Collection[str], alike: float = 0.6) -> str:
        """Return " (did you mean 'noise'?)": our name for a word of other libraries, else the nearest in spelling."""
        hint = self.words.hint(given, allowed)
        return nearest(given, allowed, alike) if hint is None else hint

    def fitting(self, kind: str, within: type[Component] | None) -> list[str]:
        """Return the names of the components that are subclasses of `within`, or of the kind if it is None."""
        if within is None or within is components.KINDS[kind]:
            return self.names(kind)
        found = {name: self.look_up(kind, name)[0] for name in self.names(kind)}
        return [name for name, cls in found.items() if cls is not None and issubclass(cls, within)]

    def having(self, kind: str, key: str) -> list[str]:
        """Return the names of a kind's components that have this key."""
        found = {name: self.look_up(kind, name)[0] for name in self.names(kind)}
        return [name for name, cls in found.items() if cls is not None and key in cls.model_fields]

    def add_component(self, found: type[Component]) -> None:
        """Add a class made in Python, such as a network of a notebook, under its `type`."""
        for kind, name, target in providers.names({found.kind: {found.type: found}}, f"class {found.__qualname__}"):
            provider = Provider(found.__qualname__, found.__module__, "", target)
            self.providers.setdefault((kind, name), []).append(provider)

    def add_file(self, path: str | Path, option: str = "--plugin") -> None:
        """Add a one-file plugin, named by `--plugin FILE.py` or a call from Python. A file is added only once.

        Messages show `option`: the option, or the argument of the call, that names the file.
        """
        path = Path(path)
        content = code_of(path, option)
        digest = hashlib.sha256(content).hexdigest()
        name = f"driftspec_file_{path.stem}_{digest[:8]}"
        if self.files.get(str(path)) == digest:
            return
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module
        started = time.perf_counter()
        try:  # not importlib's loader: it might run other bytes than the digest's, and leaves a cache file
            with providers.foreign(f"{option} {path} failed to import"):
                exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))
        except PluginError:
            del sys.modules[name]
            raise
        self.add(module, str(path), path.name, "", digest, time.perf_counter() - started)
        self.files[str(path)] = digest


def _imported(entry: PluginEntry) -> object:
    """Return the module that an entry point names."""
    with providers.foreign(f"{entry.who} failed to import"):
        return entry.point.load() if entry.point is not None else None


def _hooks(module: object, label: str) -> tuple[pluggy.PluginManager, frozenset[str]]:
    """Return a manager for this plugin only, so that its errors do not affect others, and the hooks it implements."""
    manager = pluggy.PluginManager("driftspec")
    manager.add_hookspecs(Hooks)
    manager.add_hookspecs(Vocabulary)
    try:
        manager.register(module)
    except pluggy.PluginValidationError as error:
        raise PluginError(Problem("P204", f"{label}: {_argument(module) or str(error).splitlines()[-1]}")) from error
    callers = manager.get_hookcallers(module) or []
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        pending = (c for c in callers if not c.has_spec() and not all(i.optionalhook for i in c.get_hookimpls()))
        unknown = next(pending).name
        text = f"{label} implements the unknown hook '{unknown}'{nearest(unknown, HOOKS)}; allowed: {', '.join(HOOKS)}"
        raise PluginError(Problem("P204", text)) from error
    hooks = frozenset(caller.name for caller in callers if caller.has_spec())
    every = (*HOOKS, ELSEWHERE)
    if unmarked := [name for name in every if name not in hooks and callable(getattr(module, name, None))]:
        text = f"{label} defines {', '.join(unmarked)} without the mark @driftspec.registry.hookimpl"
        raise PluginError(Problem("P204", text))
    if not hooks:
        text = f"{label} implements no hook: mark one with driftspec.registry.hookimpl; allowed: {', '.join(HOOKS)}"
        raise PluginError(Problem("P204", text))
    return manager, hooks


def _argument(module: object) -> str:
    """Return the message for a hook implementation with an unknown argument; "" if there is none."""
    for hook in HOOKS:
        allowed = list(inspect.signature(getattr(Hooks, hook)).parameters)[1:]
        given = inspect.signature(getattr(module, hook)).parameters if hasattr(module, hook) else ()
        if unknown := next((name for name in given if name not in allowed), None):
            names = ", ".join(allowed) or "none"
            return f"{hook} has no argument '{unknown}'{nearest(unknown, allowed)}; allowed: {names}"
    return ""


def _provided(plugin: Plugin) -> list[tuple[str, str, str | type[Component]]]:
    """Return (kind, name, target) of every component that a plugin provides."""
    with providers.foreign(f"{plugin.who}: driftspec_components failed"):
        tables = plugin.call("driftspec_components")
        return [one for table in tables for one in providers.names(table, plugin.who)]


def _elsewhere(plugin: Plugin) -> list[Table]:
    """Return the plugin's tables of words of other libraries. PluginError P204 if one is wrong."""
    with providers.foreign(f"{plugin.who}: {ELSEWHERE} failed"):
        tables = plugin.call(ELSEWHERE)
    for table in tables:
        if not isinstance(table, Mapping) or not all(isinstance(one, str) for pair in table.items() for one in pair):
            text = f"{plugin.who}: {ELSEWHERE} returns {{our word: 'their words'}}, not {table!r:.60}"
            raise PluginError(Problem("P204", text))
    return tables


def discover(files: Iterable[str | Path] = (), only_builtin: bool = False) -> Registry:
    """Return a new registry with the installed plugins, and after them these one-file plugins."""
    found, warnings = entries(only_builtin)
    registry = Registry(held_back=warnings)
    for entry in found:
        registry.enter(entry)
    for file in files:
        registry.add_file(file)
    return registry


@functools.cache
def installed() -> Registry:
    """Return the registry of the installed plugins, made once per process. Components made in Python use it."""
    return discover()


__all__ = [
    "API_VERSION", "GROUP", "HOOKS", "Hooks", "Plugin", "Provider", "Registry", "discover", "hookimpl", "installed",
]  # fmt: skip
