"""Checks of every component, of any kind: its code, its keys, its spec form."""

from __future__ import annotations

import functools
import inspect
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError

from driftspec.components import KINDS
from driftspec.components.component import Component
from driftspec.registry import Registry, discover, installed
from driftspec.testing.checks import expect, unfit
from driftspec.testing.importing import cost
from driftspec.testing.wrong import wrong

SECONDS, FURTHER = 0.02, 0.002
"""The CPU time in seconds that importing a component may take, and that for each further component in its module."""


@functools.cache
def _registry(files: tuple[str, ...], only_builtin: bool) -> Registry:
    """Return the registry of the installed plugins, or `only_builtin` ones, and of these one-file plugins."""
    return discover(files, only_builtin) if files or only_builtin else installed()


class ComponentTests:
    """The checks of every component. The classes for the kinds derive from this one."""

    kind: ClassVar[str] = ""
    component: ClassVar[str | Mapping[str, Any]] = ""
    """The component's name, or a mapping with its type and keys, as in a spec."""
    plugins: ClassVar[Sequence[str]] = ()
    """One-file plugins to load, relative to the file of the test class."""
    only_builtin: ClassVar[bool] = False
    """Whether only the built-in plugins are loaded, as with --no-plugins."""
    bad: ClassVar[Mapping[str, Any]] = {}
    """Keys, each with a value that must be an error at that key, besides values outside the bounds of its field."""

    @classmethod
    def files(cls) -> tuple[str, ...]:
        """Return the paths of the one-file plugins."""
        folder = cls.folder()
        return tuple(str(folder / one if (folder / one).exists() else Path(one)) for one in cls.plugins)

    @classmethod
    def folder(cls) -> Path:
        """Return the folder of the test class's file, to which its paths are relative."""
        return Path(inspect.getfile(cls)).parent

    @classmethod
    def registry(cls) -> Registry:
        """Return the registry in which the component and its nested components are looked up."""
        return _registry(cls.files(), cls.only_builtin)

    @classmethod
    def body(cls) -> dict[str, Any]:
        """Return the component in spec form: as given, or its name with the keys of its own `example`."""
        expect(cls.component, f"{cls.__name__} has no component: write component = 'its name'")
        if not isinstance(cls.component, str):
            return dict(cls.component)
        found, problem = cls.registry().look_up(cls.kind, cls.component)
        if found is None:
            expect(False, problem.message if problem else "no plugin provides it")
            raise AssertionError
        return {"type": cls.component, **found.example}

    @classmethod
    def make(cls, kind: str, body: Any) -> Any:
        """Return a component of any kind, made as from a spec."""
        try:
            return KINDS[kind].make(body, cls.registry())
        except ValidationError as error:
            reason = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            expect(False, f"{kind} {body} cannot be made: {reason}")
            raise

    @classmethod
    def made(cls, **keys: Any) -> Any:
        """Return the component under test, with some of its keys changed."""
        return cls.make(cls.kind, {**cls.body(), **keys})

    def test_it_is_read_quickly_and_without_torch(self) -> None:
        """Importing the component takes at most 20 ms and loads no large library, since checking a spec imports it."""
        body = self.body()
        provider = self.registry().provider(self.kind, body["type"])
        if provider is None or not (isinstance(provider.target, str) or provider.version or provider.digest):
            unfit("the class was made in this process: there is no module to import")
        found = cost(provider, self.kind, body, self.files(), self.only_builtin)
        late = "import it in the methods that need it"
        expect(not found.imported, f"reading its code imports {', '.join(found.imported)}: {late}")
        expect(not found.made, f"making it imports {', '.join(found.made)}: {late}")
        took = f"{1000 * found.seconds:.0f} ms of CPU time"
        allowed = SECONDS + FURTHER * max(0, found.classes - 1)
        text = f"reading its code takes {took}, more than {1000 * allowed:.0f} ms: import libraries in the methods"
        expect(found.seconds < allowed, text)

    def test_it_says_what_it_is_and_what_each_key_means(self) -> None:
        found = type(self.made())
        expect(found.__doc__, f"{found.__name__} has no docstring: give its equation and source")
        inherited = {base.__doc__ for base in found.__mro__[1:]}
        expect(found.__doc__ not in inherited, f"{found.__name__} has the docstring of its base: give its own")
        bare = [key for key, field in found.model_fields.items() if not field.description]
        expect(not bare, f"keys without a description: {', '.join(bare)}: Field(..., description='...')")

    def test_what_it_offers_and_needs_is_plain(self) -> None:
        made = self.made()
        offered = made.offers()
        plain = isinstance(offered, frozenset) and all(isinstance(one, str) for one in offered)
        expect(plain, f"offers() must be a frozenset of names, not {offered!r}")
        for need in made.needs():
            expect(need.kind in KINDS, f"needs() names the unknown kind '{need.kind}'")
            expect(need.any_of, f"needs() names no capability of the {need.kind}")

    def test_an_unknown_key_is_refused(self) -> None:
        self.refused("no_such_key", 1)

    def test_values_out_of_bounds_are_refused_at_their_key(self) -> None:
        """Values of a wrong type or outside the bounds of a key, and those in `bad`, are errors at that key."""
        for key, field in type(self.made()).model_fields.items():
            for value in wrong(field):
                self.refused(key, value)
        for key, value in self.bad.items():
            self.refused(key, value)

    def refused(self, key: str, value: Any) -> None:
        """Check that this value is an error at this key."""
        try:
            KINDS[self.kind].make({**self.body(), key: value}, self.registry())
        except ValidationError as error:
            places = [one["loc"] for one in error.errors()]
            at = ", ".join(".".join(map(str, place)) or "the component as a whole" for place in places)
            expect(any(place[:1] == (key,) for place in places), f"{key}: {value!r} is refused, but at {at}")
        else:
            expect(False, f"{key}: {value!r} is accepted: it must be an error")

    def test_it_goes_to_spec_form_and_back(self) -> None:
        made: Component = self.made()
        try:
            text = json.dumps(made.body(), allow_nan=False)
        except (TypeError, ValueError) as error:
            expect(False, f"its spec form is not JSON: {error}")
            raise
        again = self.make(self.kind, json.loads(text))
        expect(again == made, f"made again from its spec form, it differs: {again!r} is not {made!r}")
        expect(pickle.loads(pickle.dumps(made)) == made, "pickled and read back, it differs")


__all__ = ["ComponentTests"]
