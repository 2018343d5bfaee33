"""Who provides a component: the table of names that a plugin returns, and the class that a name is bound to.

Both are other people's code. Whatever it raises is told with its plugin's name and costs no other plugin its place.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from driftspec import components
from driftspec.components.component import Component
from driftspec.errors import PluginError, Problem, cause, nearest
from driftspec.registry.entry_points import who


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

    @property
    def who(self) -> str:
        return who(self.plugin, self.distribution, self.version)

    @property
    def origin(self) -> dict[str, str]:
        """As run.json records it."""
        return {"plugin": self.plugin, "distribution": self.distribution, "version": self.version}

    def summary(self) -> str:
        """The first sentence of the class's docstring; empty where there is none to be read."""
        if isinstance(self.target, str):
            module, _, name = self.target.partition(":")
            text = _docstrings(module).get(name, "")
        else:
            text = inspect.getdoc(self.target) or ""
        paragraph = text.partition("\n\n")[0].replace("\n", " ")
        return re.split(r"(?<=\.)(?<!\b[A-Z]\.) (?=[A-Z])", paragraph, maxsplit=1)[0]


@functools.cache
def _docstrings(module: str) -> dict[str, str]:
    """Class name -> docstring, read from a module's source: to import every module takes more than twice as long."""
    try:
        with foreign(f"the package of {module} failed to import"):
            found = importlib.util.find_spec(module)
            source = found.loader.get_source(module)  # type: ignore[union-attr]  # None is foreign code that fails
            tree = ast.parse(source)
    except PluginError:
        return {}
    return {one.name: ast.get_docstring(one) or "" for one in tree.body if isinstance(one, ast.ClassDef)}


@contextlib.contextmanager
def foreign(what: str, label: str = "") -> Iterator[None]:
    """Other people's code: whatever it raises is a PluginError P201 with its cause; what it prints is no result.

    A PluginError of its own (a class against the rules) keeps its code, and gets the label of who it is.
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
    except BaseException as error:  # SystemExit, and worse
        raise PluginError(Problem("P201", f"{what}: {cause(error)}")) from error


def names(table: object, label: str) -> list[tuple[str, str, str | type[Component]]]:
    """(kind, name, target) of a plugin's table. PluginError P204 if it is no such table."""
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
    """Several provide one name."""
    ways = sorted({f"'{p.distribution}/{name}'" for p in found})
    advice = f"write type: {' or '.join(ways)}" if len(ways) == len(found) else "remove either"
    return Problem("P202", f"{kind} '{name}' is provided by {' and by '.join(map(str, found))}: {advice}")


def load(provider: Provider, kind: str, name: str) -> type[Component]:
    """Import the class a name is bound to, and hold it against the rules of its kind."""
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
        given = f"{found.__name__} gives no method {' and no '.join(lacking)}"
        raise PluginError(Problem("P204", f"{label}: its class {given}, which each {kind} must have"))
    return found


__all__ = ["Provider", "claimed", "foreign", "load", "names"]
