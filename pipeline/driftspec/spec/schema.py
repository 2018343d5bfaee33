"""The JSON Schema (draft-07) of a spec, with the components that are installed here.

A place for a component has one definition: a bare name, or a mapping whose `type` selects by `if` and `then` the keys
that are allowed, so that an editor describes one component and not all. A definition that depends on `extends` is
written twice: `whole`, and `part` for a spec that extends another and may leave out keys that its base has.

The schema states keys, types and bounds. It accepts every spec that `validate` accepts. Only `validate` checks two
values against each other, and what one component needs of another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from driftspec.components import KINDS
from driftspec.components.component import Component
from driftspec.errors import Problem
from driftspec.registry import Registry
from driftspec.spec.envelope import Spec
from driftspec.spec.schema_keys import SHOWN, Keys, Schema, summary

DIALECT = "http://json-schema.org/draft-07/schema#"
HEADING: Schema = {"$schema": DIALECT, "title": "A spec of driftspec", "$comment": "Written by run-spec schema."}
BASE = "the base of this spec, a path relative to this file: this spec is merged over it; a base has no base"
TOGETHER = ("estimator", "train")
PART = "+part"  # the name of a component has no plus, colon or @


def schema(registry: Registry) -> tuple[Schema, list[Problem]]:
    """Return the schema, and a problem for each component that cannot be loaded and is left out."""
    writer = _Writer(registry)
    envelope = writer.keys(Spec, "spec")
    whole, parts = envelope.properties(part=False), envelope.properties(part=True)
    shown = {name: {key: one[key] for key in (*SHOWN, "type") if key in one} for name, one in whole.items()}
    alike = {name: one for name, one in whole.items() if one == parts[name]}

    def others(properties: Schema) -> Schema:
        """Return the keys that differ between a whole and a part, without what `shown` has already."""
        return {
            name: {key: value for key, value in one.items() if shown[name].get(key) != value}
            for name, one in properties.items()
            if name not in alike
        }

    made = {
        **HEADING,
        "type": "object",
        "properties": {"extends": {"title": "extends", "type": "string", "description": BASE}, **shown, **alike},
        "additionalProperties": False,
        "if": {"required": ["extends"]},
        "then": {"properties": others(parts)},
        "else": {
            "required": envelope.required,
            "properties": others(whole),
            "allOf": [_together(*pair) for pair in (TOGETHER, TOGETHER[::-1])],
        },
        "definitions": dict(sorted(writer.definitions.items())),
    }
    return made, list(writer.problems.values())


def text(made: Schema) -> str:
    """Return the schema as the text of a file: the same bytes for the same components."""
    return json.dumps(made, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Yield the paths at which two schemas differ, such as /definitions/data.moons/properties."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            if key in old and key in new:
                yield from differences(old[key], new[key], f"{path}/{key}")
            else:
                yield f"{path}/{key} ({'removed' if key in old else 'new'})"
    elif json.dumps(old) != json.dumps(new):
        yield path or "/"


def _together(there: str, needed: str) -> Schema:
    """Return the rule that a spec with the section `there` has the section `needed` too."""
    filled = {"not": {"type": "null"}}
    given = {"required": [there], "properties": {there: filled}}
    return {"if": given, "then": {"required": [needed], "properties": {needed: filled}}}


@dataclass(frozen=True)
class _Choice:
    """A component that is allowed in some place."""

    name: str
    distribution: str
    alone: bool  # whether no other distribution provides the name
    component: type[Component]

    @property
    def pattern(self) -> str:
        """A pattern that matches every spelling of this component's name, and of no other in the same place."""
        return f"^{'([^/]+/)?' if self.alone else f'{_any_case(self.distribution)}/'}{_literal(self.name)}$"

    def required(self, base: type[Component]) -> list[str]:
        """Return the keys without a default, except `solver`, which may be that of the whole spec."""
        keys = {name for name, field in self.component.model_fields.items() if field.is_required()}
        return sorted(keys - base.unused_nested - {"solver"})


class _Writer:
    """Makes the definitions of the schema, each at the first reference to it."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.definitions: dict[str, Schema] = {}
        self.alike: set[str] = set()
        self.places: dict[str, type[Component]] = {}
        self.problems: dict[str, Problem] = {}

    def keys(self, model: type[Any], owner: str) -> Keys:
        def section(name: str, make: Callable[[bool], Schema]) -> Callable[[bool], Schema]:
            return lambda part: self.refer(f"{owner}:{name}", lambda part: {"title": _spaced(name), **make(part)}, part)

        return Keys.of(model, self.place, section)

    def refer(self, name: str, make: Callable[[bool], Schema], part: bool) -> Schema:
        """Return a reference to the definition `name`, made by `make(part)`. A part equal to the whole has none."""
        if name not in self.definitions:
            self.definitions[name] = {}  # reserved, because `make` may refer to this name
            self.definitions[name] = make(False)
        differs = f"{name}{PART}"
        if part and differs not in self.definitions.keys() | self.alike:
            self.definitions[differs] = {}
            self.definitions[differs] = make(True)
            if self.definitions[differs] == self.definitions[name]:
                del self.definitions[differs]
                self.alike.add(differs)
        return _reference(differs if part and differs in self.definitions else name)

    def place(self, base: type[Component], part: bool, null: bool) -> Schema:
        """Return the schema of a place for a component of class `base`; `null` is whether null is allowed too."""
        name = base.kind if base is KINDS[base.kind] else f"{base.kind}:{base.__name__}"
        if self.places.setdefault(name, base) is not base:  # two plugins have classes of the same name
            name = f"{base.kind}:{base.__module__}.{base.__qualname__}"
        choices = list(self._choices(base))

        def keys(part: bool) -> Schema:
            each = ({"if": _has_type(one), "then": self._component(one, base, name, part)} for one in choices)
            which = {"title": "type", "description": f"which {base.kind}", "anyOf": _names(choices)}
            return {
                "title": base.kind,
                "description": summary(base),
                "properties": {"type": which},
                **({} if part else {"required": ["type"]}),
                "allOf": list(each),
            }

        def bare(part: bool) -> list[Schema]:
            return _names([choice for choice in choices if part or not choice.required(base)])

        others = ["object", *(["null"] if null else [])]

        def whole(part: bool) -> Schema:
            # `anyOf` has only types and names, because editors offer what is in it as completions.
            made = {"anyOf": [*bare(part), {"type": others}], "allOf": [self.refer(f"{name}+keys", keys, part)]}
            return {"title": base.kind, "description": summary(base), **made}

        # The types are here and not in the definition: an editor reads here what to write after the key.
        types = [*others, *(["string"] if bare(part) else [])]
        return {"type": types, "allOf": [self.refer(f"{name}+null" if null else name, whole, part)]}

    def _choices(self, base: type[Component]) -> Iterator[_Choice]:
        for name in self.registry.names(base.kind):
            providers = self.registry.providers[base.kind, name]
            for provider in providers:
                alone = len(providers) == 1
                spelling = name if alone else f"{provider.distribution}/{name}"
                found, problem = self.registry.look_up(base.kind, spelling)
                if problem is not None:
                    self.problems[f"{base.kind}/{spelling}"] = problem
                elif found is not None and issubclass(found, base):
                    yield _Choice(name, provider.distribution, alone, found)

    def _component(self, choice: _Choice, base: type[Component], place: str, part: bool) -> Schema:
        """Return the schema of a component's keys, `type` among them, in a place for class `base`."""
        owner = f"{place}.{choice.name}{'' if choice.alone else f'@{choice.distribution}'}"
        known, required = self.keys(choice.component, owner), choice.required(base)

        def made(part: bool) -> Schema:
            used = {key: one for key, one in known.properties(part).items() if key not in base.unused_nested}
            return {
                "title": choice.name,
                "description": summary(choice.component),
                "properties": {"type": True, **used},
                **({"required": required} if required and not part else {}),
                "additionalProperties": False,
            }

        return self.refer(owner, made, part)


def _spaced(name: str) -> str:
    """Return "early stopping" for "EarlyStopping"."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()


def _reference(name: str) -> Schema:
    return {"$ref": f"#/definitions/{quote(name, safe='+:@')}"}


def _names(choices: Sequence[_Choice]) -> list[Schema]:
    """Return schemas for the names of these components: the plain names, then DISTRIBUTION/NAME."""
    plain = [choice.name for choice in choices if choice.alone]
    sources: dict[str, list[str]] = {}
    for choice in choices:
        sources.setdefault(choice.distribution, []).append(_literal(choice.name))
    patterns = [f"^{_any_case(who)}/({'|'.join(names)})$" for who, names in sorted(sources.items())]
    meanings = [summary(choice.component) for choice in choices if choice.alone]
    each: list[Schema] = [{"enum": plain, "enumDescriptions": meanings}] if plain else []
    return [*each, *({"type": "string", "pattern": pattern} for pattern in patterns)]


def _has_type(choice: _Choice) -> Schema:
    return {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"type": "string", "pattern": choice.pattern}},
    }


def _any_case(distribution: str) -> str:
    """Return a pattern for a distribution's name: in upper or lower case, with -, _ and . equal."""
    parts = re.split("[-_.]+", distribution)
    cased = ("".join(f"[{c.upper()}{c.lower()}]" if c.isalpha() else _literal(c) for c in part) for part in parts)
    return "[-_.]+".join(cased)


def _literal(text: str) -> str:
    return re.sub(r"[.*+?^${}()|\[\]\\/]", r"\\\g<0>", text)


__all__ = ["differences", "schema", "text"]
