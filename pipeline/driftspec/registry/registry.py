"""Plugins: the hooks they implement, and the lookup of a component by kind and name.

A plugin is a module behind an entry point of the group `driftspec.v1` that implements any of the hooks below: one
provides components, the others are told how a run goes. Names are bound to "module:Class", so that listing and checking
a spec import only what the spec names. The built-in components come through the same door.
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
    """The whole surface a plugin may implement. A hook takes those of its arguments that it names.

    All but the first observe a run. One that raises is reported and recorded, and its plugin is told no more of that
    run, which goes on. What they receive is frozen or their own copy.
    """

    @hookspec
    def driftspec_components(self) -> Mapping[str, Mapping[str, str | type[Component]]]:  # type: ignore[empty-body]
        """Components provided, as `{kind: {name: "module:Class"}}`, e.g. `{"metric": {"mmd": "my_plugin.mmd:MMD"}}`."""

    @hookspec
    def driftspec_run_started(self, run: RunInfo) -> None:
        """A run begins, or goes on where `run.resumed`: its id, name, directory and resolved spec."""

    @hookspec
    def driftspec_step(self, run: RunInfo, record: Record) -> None:
        """A step of training is done: its loss, terms, gradient norm and rate. `record.logged` are in train.jsonl."""

    @hookspec
    def driftspec_checkpoint(self, run: RunInfo, step: int, path: Path) -> None:
        """The checkpoint of a step is on the disk, its tensors at `path`."""

    @hookspec
    def driftspec_metric(self, run: RunInfo, name: str, measured: Measured) -> None:
        """A metric is measured: its key in metrics.json, its value and standard error."""

    @hookspec
    def driftspec_run_finished(self, run: RunInfo, status: str, error: str | None) -> None:
        """A run is over: `status` is finished, failed or interrupted, `error` what ended the last two."""


HOOKS = tuple(name for name in vars(Hooks) if name.startswith("driftspec_"))


class Vocabulary:
    """One more hook, for messages alone: it is called when a spec is wrong."""

    @hookspec
    def driftspec_elsewhere(self) -> Mapping[str, str]:  # type: ignore[empty-body]
        """What others call the plugin's components, keys and values, as `{our word: "their words"}`, for suggestions.

        E.g. `{"mmd": "maximum_mean_discrepancy rbf_mmd"}`; `driftspec.registry.elsewhere` describes the tables.
        """


SAID_ELSEWHERE = "driftspec_elsewhere"
PROVIDING = frozenset({"driftspec_components", SAID_ELSEWHERE})
"""Hooks that observe no run."""


@dataclass(frozen=True)
class Plugin:
    """One plugin there is: loaded, broken (failed to load, or for another API version) or blocked, and why."""

    name: str
    distribution: str
    version: str
    state: str = "loaded"
    reason: str = ""
    seconds: float = 0.0  # that its import took
    digest: str | None = None
    hooks: frozenset[str] = frozenset()
    manager: pluggy.PluginManager | None = field(default=None, compare=False, repr=False)

    @property
    def who(self) -> str:
        return who(self.name, self.distribution, self.version)

    @property
    def origin(self) -> dict[str, str]:
        """As run.json records it."""
        return {"plugin": self.name, "distribution": self.distribution, "version": self.version}

    @property
    def observes(self) -> bool:
        return bool(self.hooks - PROVIDING)

    def call(self, hook: str, **arguments: Any) -> list[Any]:
        """What its implementations of a hook return; it may raise whatever they raise."""
        if self.manager is None:
            return []
        results: list[Any] = getattr(self.manager.hook, hook)(**arguments)
        return results


@dataclass
class Registry:
    """Every component known to this process, and what could not be loaded (`broken`, a warning each).

    `held_back` are warnings too, but on purpose: plugins that DRIFTSPEC_BLOCK_PLUGINS blocks, and names there that are
    nobody's.
    """

    providers: dict[tuple[str, str], list[Provider]] = field(default_factory=dict)
    broken: list[Problem] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    plugins: list[Plugin] = field(default_factory=list)
    held_back: list[Problem] = field(default_factory=list)
    wordless: list[Problem] = field(default_factory=list)  # warnings that are given with what is wrong with a spec

    def add(
        self,
        module: object,
        plugin: str,
        distribution: str,
        version: str,
        digest: str | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Take in one plugin, with the names that it binds. PluginError P204 if it breaks the rules: then nothing."""
        label = who(plugin, distribution, version)
        with providers.foreign(f"{label} cannot be taken in"):
            manager, hooks = _hooks(module, label)
        found = Plugin(plugin, distribution, version, "loaded", "", seconds, digest, hooks, manager)
        for kind, name, target in _provided(found):
            provider = Provider(plugin, distribution, version, target, digest)
            self.providers.setdefault((kind, name), []).append(provider)
        self.plugins.append(found)
        with contextlib.suppress(AttributeError):  # not asked for yet
            del self.words

    @functools.cached_property
    def words(self) -> Words:
        """What other libraries call what is installed here. A plugin whose table cannot be read is in `wordless`."""
        tables = []
        for plugin in self.plugins:
            try:
                tables += _elsewhere(plugin)
            except PluginError as error:
                self.wordless += [replace(problem, severity="warning") for problem in error.problems]
        return Words(*tables, WORDS)

    def enter(self, entry: PluginEntry) -> None:
        """Import a plugin behind an entry point and take it in, or note why not."""
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
        """The plugins that are told how a run goes."""
        return [plugin for plugin in self.plugins if plugin.observes]

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
        return name, [p for p in claimed if not distribution or normal(p.distribution) == normal(distribution)]

    def look_up(
        self, kind: str, spelling: str, within: type[Component] | None = None
    ) -> tuple[type[Component] | None, Problem | None]:
        """The class, a subclass of `within`; or None, and what is wrong, with the nearest valid name."""
        name, found = self._claims(kind, spelling)
        if len(found) != 1:
            return None, providers.claimed(kind, name, found) if found else self._unknown(kind, spelling, within)
        try:
            loaded = providers.load(found[0], kind, name)
        except PluginError as error:
            return None, error.problems[0]
        if within is not None and not issubclass(loaded, within):
            names = self.fitting(kind, within)
            text = f"{kind} '{spelling}' cannot stand here{self.nearest(spelling, names)}; allowed: {', '.join(names)}"
            return None, Problem("S120", text)
        return loaded, None

    def _unknown(self, kind: str, spelling: str, within: type[Component] | None) -> Problem:
        name = spelling.rpartition("/")[2]
        claimed = self.providers.get((kind, name), [])  # by distributions other than the one written before the name
        allowed = [f"{p.distribution}/{name}" for p in claimed] or self.fitting(kind, within)
        hint = self.words.hint(spelling, allowed)  # which may be a file's whole path
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
        """ " (did you mean 'noise'?)": what other libraries call so, or else the nearest by spelling."""
        hint = self.words.hint(given, allowed)
        return nearest(given, allowed, alike) if hint is None else hint

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
        for kind, name, target in providers.names({found.kind: {found.type: found}}, f"class {found.__qualname__}"):
            provider = Provider(found.__qualname__, found.__module__, "", target)
            self.providers.setdefault((kind, name), []).append(provider)

    def add_file(self, path: str | Path, option: str = "--plugin") -> None:
        """A one-file plugin, named by `--plugin FILE.py` or in a call alone. The same file twice is one plugin.

        Messages call it by the option, or the place in the call, that names it.
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
        try:  # not importlib's loader: what runs is what the digest is of, and no cache is left beside the file
            with providers.foreign(f"{option} {path} failed to import"):
                exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))
        except PluginError:
            del sys.modules[name]
            raise
        self.add(module, str(path), path.name, "", digest, time.perf_counter() - started)
        self.files[str(path)] = digest


def _imported(entry: PluginEntry) -> object:
    """The module behind an entry point."""
    with providers.foreign(f"{entry.who} failed to import"):
        return entry.point.load() if entry.point is not None else None


def _hooks(module: object, label: str) -> tuple[pluggy.PluginManager, frozenset[str]]:
    """The plugin's own manager, and the hooks it implements: with one for all, one plugin's failure is another's."""
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
    every = (*HOOKS, SAID_ELSEWHERE)
    if unmarked := [name for name in every if name not in hooks and callable(getattr(module, name, None))]:
        text = f"{label} defines {', '.join(unmarked)} without the mark @driftspec.registry.hookimpl"
        raise PluginError(Problem("P204", text))
    if not hooks:
        text = f"{label} implements no hook: mark one with driftspec.registry.hookimpl; allowed: {', '.join(HOOKS)}"
        raise PluginError(Problem("P204", text))
    return manager, hooks


def _argument(module: object) -> str:
    """Which hook names an argument that it does not have, and those it has; empty if that is not what is wrong."""
    for hook in HOOKS:
        allowed = list(inspect.signature(getattr(Hooks, hook)).parameters)[1:]
        given = inspect.signature(getattr(module, hook)).parameters if hasattr(module, hook) else ()
        if unknown := next((name for name in given if name not in allowed), None):
            names = ", ".join(allowed) or "none"
            return f"{hook} has no argument '{unknown}'{nearest(unknown, allowed)}; allowed: {names}"
    return ""


def _provided(plugin: Plugin) -> list[tuple[str, str, str | type[Component]]]:
    """(kind, name, target) of everything a plugin provides."""
    with providers.foreign(f"{plugin.who}: driftspec_components failed"):
        tables = plugin.call("driftspec_components")
        return [one for table in tables for one in providers.names(table, plugin.who)]


def _elsewhere(plugin: Plugin) -> list[Table]:
    """The tables of what others call a plugin's components."""
    with providers.foreign(f"{plugin.who}: {SAID_ELSEWHERE} failed"):
        tables = plugin.call(SAID_ELSEWHERE)
    for table in tables:
        if not isinstance(table, Mapping) or not all(isinstance(one, str) for pair in table.items() for one in pair):
            text = f"{plugin.who}: {SAID_ELSEWHERE} returns {{our word: 'their words'}}, not {table!r:.60}"
            raise PluginError(Problem("P204", text))
    return tables


def discover(files: Iterable[str | Path] = (), only_builtin: bool = False) -> Registry:
    """The registry of this environment: entry points of the group, then one-file plugins."""
    found, warnings = entries(only_builtin)
    registry = Registry(held_back=warnings)
    for entry in found:
        registry.enter(entry)
    for file in files:
        registry.add_file(file)
    return registry


@functools.cache
def installed() -> Registry:
    """The registry of installed plugins, found once a process: what components made outside a spec resolve by."""
    return discover()


__all__ = [
    "API_VERSION", "GROUP", "HOOKS", "Hooks", "Plugin", "Provider", "Registry", "discover", "hookimpl", "installed",
]  # fmt: skip
