"""Providers of components: checks the table of names that a plugin returns, and loads the class of a name.

Both run code of the plugin. An exception of it is reported with the plugin's name; other plugins are not affected.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from driftspec import components
from driftspec.components.component import Component, Need
from driftspec.errors import PluginError, Problem, cause, nearest
from driftspec.registry.entry_points import who


@dataclass(frozen=True)
class Provider:
    """Who provides a component: the plugin, its distribution and version, and the class or its "module:Class"."""

    plugin: str
    distribution: str
    version: str
    target: str | type[Component]
    digest: str | None = None

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()

    @property
    def who(self) -> str:
        return who(self.plugin, self.distribution, self.version)

    @property
    def origin(self) -> dict[str, str]:
        """The plugin, its distribution and version, as run.json records them."""
        return {"plugin": self.plugin, "distribution": self.distribution, "version": self.version}

    def summary(self) -> str:
        """Return the first sentence of the class's docstring; "" if it has none or cannot be read."""
        if isinstance(self.target, str):
            module, _, name = self.target.partition(":")
            text = _docstrings(module).get(name, "")
        else:
            text = inspect.getdoc(self.target) or ""
        paragraph = text.partition("\n\n")[0].replace("\n", " ")
        return re.split(r"(?<=\.)(?<!\b[A-Z]\.) (?=[A-Z])", paragraph, maxsplit=1)[0]


@functools.cache
def _docstrings(module: str) -> dict[str, str]:
    """Return {class name: docstring} of a module, read from its source: imports of all modules take twice as long."""
    try:
        with foreign(f"the package of {module} failed to import"):
            found = importlib.util.find_spec(module)
            source = found.loader.get_source(module)  # type: ignore[union-attr]  # None raises AttributeError, which is caught
            tree = ast.parse(source)
    except PluginError:
        return {}
    return {one.name: ast.get_docstring(one) or "" for one in tree.body if isinstance(one, ast.ClassDef)}


@contextlib.contextmanager
def foreign(what: str, label: str = "") -> Iterator[None]:
    """Turn any exception of a plugin's code into a PluginError P201 with its cause; send what it prints to stderr.

    A PluginError that the code raises (for a class that breaks the rules) keeps its code, with `label` before it.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except KeyboardInterrupt:
        raise
    except PluginError as error:
        if not label:
            raise
        raise PluginError([Problem(one.code, f"{label}: {one.message}") for one in error.problems]) from error
    except BaseException as error:  # SystemExit too
        raise PluginError(Problem("P201", f"{what}: {cause(error)}")) from error


def names(table: object, label: str) -> list[tuple[str, str, str | type[Component]]]:
    """Return (kind, name, target) of each component in a plugin's table. PluginError P204 if the table is wrong."""
    if not (isinstance(table, Mapping) and all(isinstance(names, Mapping) for names in table.values())):
        text = f"{label}: driftspec_components returns {{kind: {{name: 'module:Class'}}}}, not {table!r:.60}"
        raise PluginError(Problem("P204", text))
    found = []
    for kind, names in table.items():
        if kind not in components.KINDS:
            near = nearest(str(kind), components.KINDS)
            text = f"{label} provides the unknown kind '{kind}'{near}; allowed: {', '.join(components.KINDS)}"
            raise PluginError(Problem("P204", text))
        for name, target in names.items():
            if not (isinstance(name, str) and re.fullmatch(r"\w[\w.-]*", name)):
                raise PluginError(
                    Problem("P204", f"{label}: {name!r} cannot name a {kind}: letters, digits, '_', '.' and '-'")
                )
            if not (isinstance(target, type) or (isinstance(target, str) and re.fullmatch(r"[\w.]+:\w+", target))):
                raise PluginError(
                    Problem("P204", f"{label}: {kind} '{name}' is 'module:Class' or a class, not {target!r:.60}")
                )
            found.append((kind, name, target))
    return found


def claimed(kind: str, name: str, found: Sequence[Provider]) -> Problem:
    """Return the problem that several plugins provide one name."""
    spellings = sorted({f"'{p.distribution}/{name}'" for p in found})
    advice = f"write type: {' or '.join(spellings)}" if len(spellings) == len(found) else "remove either"
    return Problem("P202", f"{kind} '{name}' is provided by {' and by '.join(map(str, found))}: {advice}")


def check_answers(component: Component) -> None:
    """Raise PluginError if `offers` or `needs` of a component fails, or returns another type than it must."""
    with foreign(f"{component.label} failed"):
        offered, needed = component.offers(), component.needs()
    if not (isinstance(offered, Set) and all(isinstance(one, str) for one in offered)):
        raise PluginError(
            Problem("P204", f"{component.label}: offers returns a frozenset of texts, not {offered!r:.60}")
        )
    if not (isinstance(needed, Sequence) and all(isinstance(one, Need) for one in needed)):
        raise PluginError(Problem("P204", f"{component.label}: needs returns a tuple of Need, not {needed!r:.60}"))


def load(provider: Provider, kind: str, name: str) -> type[Component]:
    """Return the class of a name, imported and checked by the rules of its kind. PluginError if either fails."""
    label = f"{kind} '{name}' of {provider.who}"
    found: object = provider.target
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        with foreign(f"{label} failed to import", label):
            found = getattr(importlib.import_module(module), attribute)
    base = components.KINDS[kind]
    if not (isinstance(found, type) and issubclass(found, base)):
        raise PluginError(Problem("P204", f"{label} is no subclass of driftspec.components.{base.__name__}"))
    if found.type != name:
        raise PluginError(Problem("P204", f"{label} has type = '{found.type}' in its class, which should be '{name}'"))
    if lacking := found.lacking():
        given = f"{found.__name__} has no method {' and no '.join(lacking)}"
        raise PluginError(Problem("P204", f"{label}: its class {given}, which each {kind} must have"))
    return found


__all__ = ["Provider", "check_answers", "claimed", "foreign", "load", "names"]
