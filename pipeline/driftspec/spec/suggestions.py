"""Suggests what a key or value that is not allowed means: by words of other libraries first, then by spelling."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from driftspec.errors import nearest, spelt_like
from driftspec.registry.elsewhere import Words, note_of, word_of
from driftspec.source import KeyPath, dump

SLIP = 0.8
"""Two words that differ by a letter or two have at least this similarity of spelling."""


@dataclass(frozen=True)
class Part:
    """A part of a spec: the class that describes it, and further keys that it takes."""

    model: type[BaseModel]
    more: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        return (*self.model.model_fields, *self.more)

    def for_a_plain_value(self, given: object) -> str:
        """Return the mapping to write where a plain value was given, such as `true`; "" if it is not valid."""
        body = {} if given is True else {next(iter(self.model.model_fields)): given}
        try:
            self.model.model_validate_json(json.dumps(body))
        except ValidationError:
            return ""
        written = ", ".join(f"{key}: {dump(value).strip()}" for key, value in body.items())
        return f": write {{{written}}}"


@dataclass(frozen=True)
class Suggestions:
    """Finds suggestions among the parts of a spec and the words of other libraries."""

    parts: Mapping[KeyPath, Part]
    words: Words

    def value(self, given: object, choices: Collection[str]) -> str:
        """Return the nearest of the choices as the end of a message, or ""."""
        hint = self.words.hint(str(given), choices)
        return hint if hint is not None else nearest(given, choices) if isinstance(given, str) else ""

    def missing(self, key: str, missing: Collection[str], others: Collection[str]) -> str:
        """Return the missing key that an unknown key probably means; "" if there is none or another key is nearer."""
        entry = self.words.meant(key, missing) or self.words.meant(key, others)
        meant = word_of(entry) if entry else spelt_like(key, [*missing, *others], SLIP)
        if meant or entry == "":
            return meant if meant in missing else ""
        return spelt_like(key, missing)

    def key(self, key: str, here: KeyPath, missing: str, names: Sequence[str], beside: Collection[str]) -> str:
        """Return the key that an unknown key probably means, as the end of a message: of `names`, or of another part.

        `missing` is the missing key that it means, if that is known. Keys `beside` it are given already.
        """
        absent = [name for name in names if name not in beside]
        hint = self.words.hint(key, [missing] if missing else absent)
        if missing and not hint:
            return nearest(key, [missing], alike=0)
        if found := hint or nearest(key, absent, SLIP) or self._home(key, here):
            return found
        if entry := self.words.meant(key, names):
            return f": '{word_of(entry)}' is there already{note_of(entry, key)}"
        return "" if hint == "" else nearest(key, absent) or nearest(key, names)

    def _home(self, key: str, here: KeyPath) -> str:
        """Return the outer or inner part to which a key of that name or meaning belongs, as the end of a message."""
        around = [path for path in self.parts if path[: len(here)] == here or here[: len(path)] == path]
        around.sort(key=lambda path: abs(len(path) - len(here)))
        if (home := next((path for path in around if key in self.parts[path].keys), None)) is not None:
            return f": it belongs {_where(home)}"
        entries = {path: self.words.meant(key, self.parts[path].keys) for path in around if path != here}
        near = min((abs(len(path) - len(here)) for path, entry in entries.items() if entry), default=0)
        meant = [
            f"'{word_of(entry)}' {_where(path)}{note_of(entry, key)}"
            for path, entry in entries.items()
            if entry and abs(len(path) - len(here)) == near
        ]
        return f": it is {' or '.join(meant)}" if meant else ""


def _where(path: KeyPath) -> str:
    return f"in {'.'.join(map(str, path))}" if path else "at the top of the spec"


__all__ = ["Part", "Suggestions"]
