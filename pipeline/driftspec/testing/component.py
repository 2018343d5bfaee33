"""What every component is held to, whatever its kind: its code, its keys, its spec form."""

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
"""CPU time that reading a component's code may add, and for each further component that shares its module."""


@functools.cache
def _registry(files: tuple[str, ...], only_builtin: bool) -> Registry:
    return discover(files, only_builtin) if files or only_builtin else installed()


class ComponentTests:
    """The checks of a kind without checks of its own, and the first ones of every other."""

    kind: ClassVar[str] = ""
    component: ClassVar[str | Mapping[str, Any]] = ""
    """The component's name, or its keys as a spec has them."""
    plugins: ClassVar[Sequence[str]] = ()
    """One-file plugins to load, relative to the file of the test class."""
    only_builtin: ClassVar[bool] = False
    """Whether installed plugins but the built-in ones are left alone, as by --no-plugins."""
    bad: ClassVar[Mapping[str, Any]] = {}
    """Keys, each with a value that must be refused at that key, beside those that its bounds tell."""

    @classmethod
    def files(cls) -> tuple[str, ...]:
        """The one-file plugins, as this process finds them."""
        folder = cls.folder()
        return tuple(str(folder / one if (folder / one).exists() else Path(one)) for one in cls.plugins)

    @classmethod
    def folder(cls) -> Path:
        """Where the test class stands: what its paths are relative to."""
        return Path(inspect.getfile(cls)).parent

    @classmethod
    def registry(cls) -> Registry:
        """Where the component, and every one inside it, is found."""
        return _registry(cls.files(), cls.only_builtin)

    @classmethod
    def body(cls) -> dict[str, Any]:
        """The component in spec form: as given, or by its name with the keys of its own `example`."""
        expect(cls.component, f"{cls.__name__}: say which component: component = 'its name'")
        if not isinstance(cls.component, str):
            return dict(cls.component)
        found, problem = cls.registry().look_up(cls.kind, cls.component)
        if found is None:
            expect(False, problem.message if problem else "nobody provides it")
            raise AssertionError
        return {"type": cls.component, **found.example}

    @classmethod
    def make(cls, kind: str, body: Any) -> Any:
        """A component of any kind, as a spec makes it."""
        try:
            return KINDS[kind].make(body, cls.registry())
        except ValidationError as error:
            said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            expect(False, f"{kind} {body} cannot be made: {said}")
            raise

    @classmethod
    def made(cls, **keys: Any) -> Any:
        """The component under test, with some of its keys changed."""
        return cls.make(cls.kind, {**cls.body(), **keys})

    def test_it_is_read_quickly_and_without_torch(self) -> None:
        """Listing, checking and --help import what a spec names: at most 20 ms, and nothing heavy."""
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
        expect(found.seconds < allowed, f"reading its code takes {took}, allowed are {1000 * allowed:.0f}: import late")

    def test_it_says_what_it_is_and_what_each_key_means(self) -> None:
        found = type(self.made())
        expect(found.__doc__, f"{found.__name__} has no docstring: give its equation and source")
        inherited = {base.__doc__ for base in found.__mro__[1:]}
        expect(found.__doc__ not in inherited, f"{found.__name__} has the docstring of its base: give its own")
        silent = [key for key, field in found.model_fields.items() if not field.description]
        expect(not silent, f"keys without a description: {', '.join(silent)}: Field(..., description='...')")

    def test_what_it_offers_and_needs_is_plain(self) -> None:
        made = self.made()
        offered = made.offers()
        plain = isinstance(offered, frozenset) and all(isinstance(one, str) for one in offered)
        expect(plain, f"offers() is a frozenset of names, not {offered!r}")
        for need in made.needs():
            expect(need.kind in KINDS, f"it needs something of the unknown kind '{need.kind}'")
            expect(need.any_of, f"it needs of the {need.kind} one of nothing: name a capability")

    def test_an_unknown_key_is_refused(self) -> None:
        self.refused("no_such_key", 1)

    def test_values_out_of_bounds_are_refused_at_their_key(self) -> None:
        """Those that a key's own type and bounds tell, and the author's `bad`."""
        for key, field in type(self.made()).model_fields.items():
            for value in wrong(field):
                self.refused(key, value)
        for key, value in self.bad.items():
            self.refused(key, value)

    def refused(self, key: str, value: Any) -> None:
        """A body with this value fails, and at this key."""
        try:
            KINDS[self.kind].make({**self.body(), key: value}, self.registry())
        except ValidationError as error:
            places = [one["loc"] for one in error.errors()]
            at = ", ".join(".".join(map(str, place)) or "the component as a whole" for place in places)
            expect(any(place[:1] == (key,) for place in places), f"{key}: {value!r} is refused, but at {at}")
        else:
            expect(False, f"{key}: {value!r} is taken without a word: it must be refused")

    def test_it_goes_to_spec_form_and_back(self) -> None:
        made: Component = self.made()
        try:
            text = json.dumps(made.body(), allow_nan=False)
        except (TypeError, ValueError) as error:
            expect(False, f"its spec form is no JSON: {error}")
            raise
        again = self.make(self.kind, json.loads(text))
        expect(again == made, f"made again from its spec form it differs: {again!r} is not {made!r}")
        expect(pickle.loads(pickle.dumps(made)) == made, "pickled and read back it differs")


__all__ = ["ComponentTests"]
