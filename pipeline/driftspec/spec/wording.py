"""Pydantic's errors as messages about a spec: where, what was given, what is allowed, the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from driftspec import source
from driftspec.errors import CODES, Place, Problem, shown
from driftspec.registry.elsewhere import Words
from driftspec.source.text import MISTAKES, Document, KeyPath
from driftspec.spec.suggestions import Part, Suggestions

WORDS = {
    "missing": ("S110", "missing {thing} {name}{where}{allowed}"),
    "extra_forbidden": ("S111", "unknown {thing} {name}{where}{allowed}"),
    "unused_key": ("S111", "key {name} has no use{where}, where {component} is nested"),
    "type": ("S112", "{name}{where} should be {wanted}, not {given}{hint}"),
    "greater_than": ("S113", "{name}{where} is {given}: it must be more than {gt}"),
    "greater_than_equal": ("S113", "{name}{where} is {given}: it must be at least {ge}"),
    "less_than": ("S113", "{name}{where} is {given}: it must be less than {lt}"),
    "less_than_equal": ("S113", "{name}{where} is {given}: it must be at most {le}"),
    "multiple_of": ("S113", "{name}{where} is {given}: it must be a multiple of {multiple_of}"),
    "finite_number": ("S113", "{name}{where} is {given}: it must be finite"),
    "string_too_short": ("S113", "{name}{where} is {given}: the shortest text allowed has {min_length} characters"),
    "string_too_long": ("S113", "{name}{where} is {given}: the longest text allowed has {max_length} characters"),
    "length": ("S113", "{name}{where} is a list of {actual_length}: it takes {length}"),
    "too_short": ("S113", "{name}{where} is a list of {actual_length}: it takes {min_length} or more"),
    "too_long": ("S113", "{name}{where} is a list of {actual_length}: it takes {max_length} or fewer"),
    "literal_error": ("S114", "{name}{where} is {given}{allowed}"),
    "enum": ("S114", "{name}{where} is {given}{allowed}"),
    "string_pattern_mismatch": ("S114", "{name}{where} is {given}{allowed}"),
    "value_error": ("S115", "{name}{where}: {message}"),
    "component_type": ("S121", "{name}{where} should name {component}, not {given}{allowed}"),
    "other": ("S115", "{name}{where} is {given}: {message}"),
}
"""The code and the message of each kind of error."""

TYPES = {
    "string": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "none_required": "null",
    "tuple": "a list", "list": "a list", "set": "a list", "dict": "a mapping", "model": "a mapping",
    "model_attributes": "a mapping",
}  # fmt: skip
"""The words of messages for each type of value."""

NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")

PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$": "up to 100 letters, digits, '_', '.' and '-', the first a letter or digit",
    r"^[A-Za-z0-9_]+$": "letters, digits and '_'",
    r"^(cpu|cuda(:\d+)?|mps)$": "'cpu', 'cuda', 'cuda:1' or 'mps'",
}


@dataclass(frozen=True)
class _Mistake:
    """One error of Pydantic: its path, its kind, the value given, and Pydantic's context and message."""

    path: KeyPath
    kind: str
    given: Any
    context: Mapping[str, Any]
    message: str

    @property
    def wanted(self) -> str:
        """The type of value that the key takes, if the type is wrong; otherwise ""."""
        stem = self.kind.partition("_")[0] if self.kind.startswith(("int_", "float_", "bool_")) else self.kind
        return str(self.context.get("wanted") or TYPES.get(stem.removesuffix("_type"), ""))

    def text(self, suggest: Suggestions, beside: Collection[str]) -> tuple[str, str]:
        """Return code and message. `beside` are the keys given in the same part of the spec."""
        if self.kind in CODES:  # an error of the registry, with its message
            return self.kind, self.message
        at = next((i for i in reversed(range(len(self.path))) if isinstance(self.path[i], str)), 0)
        name, inside = (".".join(map(str, part)) for part in (self.path[at:], self.path[:at]))
        code, words = WORDS.get("type" if self.wanted else self.kind, WORDS["other"])
        values = {key: f"{value:g}" if isinstance(value, float) else value for key, value in self.context.items()}
        values |= {
            "name": f"'{name}'" if name else "the spec", "where": f" in {inside}" if inside else "",
            "thing": "section" if self.kind == "missing" and not inside else "key", "given": shown(self.given),
            "allowed": self._allowed(name, suggest, beside), "wanted": self.wanted, "hint": self._hint(suggest),
            "message": self.message.removeprefix("Value error, "),
        }  # fmt: skip
        return code, words.format_map(values)

    def _allowed(self, name: str, suggest: Suggestions, beside: Collection[str]) -> str:
        """Return the nearest allowed value and all allowed values; for a key, only one of the two, to be short."""
        if pattern := self.context.get("pattern"):
            words = PATTERNS.get(pattern, f"text like {pattern}")
            initial = re.escape(str(self.given)[:1].lower()) or "-"
            near = suggest.value(self.given, re.findall(f"'({initial}[a-z][a-z0-9:]*)'", words))
            return f"{near}; allowed: {words}"
        if expected := str(self.context.get("expected", "")):
            choices = expected.replace(" or ", ", ").replace("'", "").split(", ")
            given = "none" if self.given is None and "none" in choices else self.given
            near = suggest.value(given, choices) if self.given not in choices else ""
            return f"{near}; allowed: {expected}"
        unknown, here = self.kind == "extra_forbidden", self.path[:-1]
        names = self.context.get("allowed") or (suggest.parts[here].keys if unknown and here in suggest.parts else ())
        if unknown and (meant := suggest.key(name, here, self.context.get("stands_for", ""), names, beside)):
            return meant
        others = self.context.get("others")
        also = f" ('{name}' is a key of {' and of '.join(others[:3])})" if others else ""
        return f"; allowed: {', '.join(names)}{also}" if names else ""

    def _hint(self, suggest: Suggestions) -> str:
        """Return what to write instead of a value of the wrong type, if that is known."""
        if self.wanted == "a mapping" and self.path in suggest.parts and isinstance(self.given, (bool, int, float)):
            return suggest.parts[self.path].for_a_plain_value(self.given)
        return _hint(self.wanted, self.given)


def problems(error: ValidationError, document: Document, parts: Mapping[KeyPath, Part], words: Words) -> list[Problem]:
    """Return every mistake once, at most 100, in order of place. `words` are those of other libraries."""
    placed, suggest = [], Suggestions(parts, words)
    for one in _apart(error, document, suggest):
        at_key = one.kind in ("missing", "extra_forbidden", "unused_key")
        path = one.path[:-1] if one.kind == "missing" else one.path
        placed.append((place_of(document, path, key=at_key), one))
    found: dict[Problem, None] = {}
    for place, one in sorted(placed, key=lambda pair: pair[0])[:MISTAKES]:
        code, text = one.text(suggest, _keys_at(document, one.path[:-1]))
        found[Problem(code, text, place, source=document.source_line(place))] = None
    return list(found)


def place_of(document: Document, path: KeyPath, *, key: bool = False) -> Place:
    """Return the place of the value at `path`, or of its key; for an absent path, of the key of its section."""
    known = path
    while known not in document.marks:
        known = known[:-1]
    return document.place(known, key=key or known != path)


def _apart(error: ValidationError, document: Document, suggest: Suggestions) -> list[_Mistake]:
    """Return each mistake once: no missing key that is only misspelt, and one mistake for all types of a union."""
    errors = error.errors(include_url=False)
    mistakes = [_Mistake(tuple(e["loc"]), e["type"], e["input"], e.get("ctx", {}), e["msg"]) for e in errors]
    mistakes = list(_paired(mistakes, suggest))
    misspelt = {(*one.path[:-1], one.context["stands_for"]) for one in mistakes if "stands_for" in one.context}
    found: dict[tuple[KeyPath, str], list[_Mistake]] = {}
    for one in mistakes:
        path, kind = one.path, one.kind
        if kind == "missing":
            if path in misspelt:
                continue
            path, kind = (path[:-1], "length") if isinstance(path[-1], int) else (path, kind)
        elif kind not in CODES and (known := _known(document.data, path, one.given)) != path:
            path, kind = known, "union"
        found.setdefault((path, kind), []).append(one)
    inner = {path[:depth] for path, _ in found for depth in range(len(path))}
    for path, kind in list(found):
        if kind == "too_short" and path in inner:  # Pydantic counts only the items that are valid
            del found[path, kind]
    return [_joined(path, kind, group) for (path, kind), group in found.items()]


def _paired(mistakes: Sequence[_Mistake], suggest: Suggestions) -> Iterator[_Mistake]:
    """Yield the mistakes; an unknown key that means a missing one gets its name as `stands_for`."""
    lacking: dict[KeyPath, list[str]] = {}
    for one in mistakes:
        if one.kind == "missing":
            lacking.setdefault(one.path[:-1], []).append(str(one.path[-1]))
    looked_at = 0
    for one in mistakes:
        missing = lacking.get(one.path[:-1], [])
        if one.kind == "extra_forbidden" and missing and looked_at < MISTAKES:  # more than these are not reported
            looked_at += 1
            part = suggest.parts.get(one.path[:-1])
            known = one.context.get("allowed") or (part.keys if part else ())
            meant = suggest.missing(str(one.path[-1]), missing, [key for key in known if key not in missing])
            yield replace(one, context={**one.context, "stands_for": meant}) if meant else one
        else:
            yield one


def _keys_at(document: Document, path: KeyPath) -> Collection[str]:
    """Return the keys of the mapping at `path`; none if there is no mapping."""
    value = document.data
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):  # the path is inside a default, or has a type of a union
            return ()
    return value if isinstance(value, dict) else ()


def _known(value: Any, path: KeyPath, given: Any) -> KeyPath:
    """Return the path without the names of a union's types, which Pydantic adds to its end."""
    for depth, part in enumerate(path):
        if isinstance(value, dict) and part not in value:
            return path[:depth] if value == given else path  # else the value is inside a default
        try:
            value = value[part]
        except (TypeError, IndexError):
            return path[:depth]
    return path


def _joined(path: KeyPath, kind: str, group: list[_Mistake]) -> _Mistake:
    """Return one mistake for all mistakes of one path and kind."""
    first = group[0]
    if kind == "length" and "length" not in first.context:
        context = {"length": 1 + max(int(one.path[-1]) for one in group), "actual_length": len(first.given)}
        return _Mistake(path, kind, first.given, context, first.message)
    if kind == "union":
        wanted = {one.wanted or one.context.get("expected"): one for one in group}
        if None in wanted:  # of the right type for one member of the union, but refused by it
            return replace(wanted[None], path=path)
        return replace(first, path=path, context={"wanted": " or ".join(map(str, wanted))})
    return first


def _hint(wanted: str, given: object) -> str:
    """Return what to write instead, if that is known; otherwise ""."""
    if isinstance(given, str) and wanted == "true or false":
        return ": write true or false"
    if isinstance(given, str) and wanted in ("a number", "a whole number"):
        return ": write it without quotes" if NUMBER.fullmatch(given) else ""
    if isinstance(given, float) and wanted == "a whole number" and given.is_integer():
        return f": write {given:.0f}"
    if wanted == "a list" and isinstance(given, str) and "," in given:
        return f": write [{given}]"
    if wanted == "a list" and isinstance(given, (int, float, str)):
        return f": write [{source.dump(given).strip()}]"
    if wanted == "a list" and isinstance(given, dict) and "type" in given:
        return ": put [ ] around it"
    return ": put it in quotes" if wanted == "text" and isinstance(given, (int, float)) else ""


__all__ = ["place_of", "problems"]
