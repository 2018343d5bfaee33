"""Records: the entries of a mapping in a file as named fields, read and written without loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Self

from driftspec.errors import DriftspecError


@dataclass(frozen=True, kw_only=True, eq=False)
class FileRecord:
    """The entries of a mapping as named fields; a field has its default if the mapping lacks the key.

    `entries` returns the mapping that `read` was given, in its order, with the keys that only a newer version knows.
    """

    keys: tuple[str, ...] = ()  # every key of the mapping, in its order
    others: Mapping[str, Any] = field(default_factory=dict)  # the entries without a field

    @classmethod
    def read(cls, entries: Mapping[str, Any]) -> Self:
        """Return the record of a mapping. DriftspecError if a key is missing and has no default."""
        if not isinstance(entries, Mapping):
            raise DriftspecError("it is no mapping")
        own = {one.name: one for one in fields(cls) if one.name not in _BOOKKEEPING}
        for name, one in own.items():
            if name not in entries and one.default is MISSING and one.default_factory is MISSING:
                raise DriftspecError(f"it has no '{name}'")
        named = {key: value for key, value in entries.items() if key in own}
        others = {key: value for key, value in entries.items() if key not in own}
        return cls(**named, keys=tuple(entries), others=others)

    @classmethod
    def new(cls, **entries: Any) -> Self:
        """Return a record of the entries in the order given. TypeError if a name is not a field."""
        return cls(**entries, keys=tuple(entries))

    def entries(self) -> dict[str, Any]:
        """Return the record as a mapping."""
        return {key: self.others[key] if key in self.others else getattr(self, key) for key in self.keys}

    def changed(self, **changes: Any) -> Self:
        """Return the record with other values; new keys come last."""
        return replace(self, **changes, keys=tuple(dict.fromkeys((*self.keys, *changes))))

    def without(self, name: str) -> Self:
        """Return the record without one key."""
        return self.read({key: value for key, value in self.entries().items() if key != name})


_BOOKKEEPING = tuple(one.name for one in fields(FileRecord))

__all__ = ["FileRecord"]
