"""The keys of a Pydantic model as a JSON Schema (draft-07), with references to the components they may hold."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema

from driftspec.components.component import Component
from driftspec.source.scalars import on_one_line

Schema = dict[str, Any]

LEFT_OUT = ("title", "uniqueItems", "$defs", "default", "required", "properties", "prefixItems", "items")
"""Keywords of Pydantic's schemas that are left out or written elsewhere. A set takes a list with repeated items."""

SHOWN = ("title", "description", "default")
"""Keywords that an editor shows for a key."""


@dataclass(frozen=True)
class Keys:
    """A model's keys. `place` makes the schema of a place for a component, `section` that of an inner plain model.

    A `part` of a spec that extends another may leave out keys that the base has. Items of a list must be whole,
    because lists are replaced and not merged.
    """

    made: Schema
    place: Callable[[type[Component], bool, bool], Schema]
    section: Callable[[str, Callable[[bool], Schema]], Callable[[bool], Schema]]

    @classmethod
    def of(cls, model: type[BaseModel], place: Any, section: Any) -> Keys:
        return cls(model.model_json_schema(schema_generator=_Generator), place, section)

    @property
    def required(self) -> list[str]:
        return list(self.made.get("required", []))

    def properties(self, part: bool) -> Schema:
        """Return the schema of each key; with `part`, of a spec that extends another one and writes only some keys."""
        return self._properties(self.made, part)

    def _properties(self, given: Schema, part: bool) -> Schema:
        keys, required = given.get("properties", {}), given.get("required", ())
        return {name: self._property(name, one, name in required, part) for name, one in keys.items()}

    def _property(self, name: str, given: Schema, required: bool, part: bool) -> Schema:
        """Return the schema of a key: what an editor shows of it, and what it takes.

        Of several schemas that match, yaml-language-server shows the innermost, and in an `allOf` the first one. So the
        title and description of the key come first there too, before those of the component.
        """
        made = self._converted(given, part)
        if "allOf" not in made:
            return {**made, **_shown(name, given, required)}
        if given.get("default", ...) is None:  # else an editor would insert null for a component or a section
            given = {key: one for key, one in given.items() if key != "default"}
        shown = _shown(name, given, required)
        return {**made, **shown, "allOf": [{key: shown[key] for key in ("title", "description")}, *made["allOf"]]}

    def _converted(self, given: Any, part: bool) -> Any:
        if isinstance(given, list):
            return [self._converted(one, part) for one in given]
        if not isinstance(given, dict):
            return given
        one, null = _or_null(given)
        if "component" in one:
            return self.place(one["component"], part, null)
        if "$ref" in one:
            return self._inner(one["$ref"].rpartition("/")[2], part, null)
        made = {key: self._converted(each, part) for key, each in given.items() if key not in LEFT_OUT}
        if "properties" in given:
            made["properties"] = self._properties(given, part)
        if "required" in given and not part:
            made["required"] = given["required"]
        return _nullable(made | self._items(given))

    def _inner(self, name: str, part: bool, null: bool) -> Schema:
        """Return the schema of an inner plain model or enumeration. Its type is stated here, and may include null."""
        inner = self.made["$defs"][name]

        def made(part: bool) -> Schema:
            found = self._converted(inner, part)
            return {key: one for key, one in found.items() if key != "type" or "enum" in found}

        if "enum" in inner:
            return _nullable({"anyOf": [made(part), {"type": "null"}]}) if null else made(part)
        types = [inner["type"], "null"] if null else inner["type"]
        return {"type": types, "allOf": [self.section(name, made)(part)]}

    def _items(self, given: Schema) -> Schema:
        """Return the schema of list items. Draft-07 has one keyword for items listed one by one, one for the rest."""
        rest = {"items": self._converted(given["items"], False)} if "items" in given else {}
        if "prefixItems" not in given:
            return rest
        return {"items": self._converted(given["prefixItems"], False), "additionalItems": rest.get("items", False)}


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, without titles. A key whose type JSON Schema cannot express takes any value."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def handle_invalid_for_json_schema(self, schema: CoreSchema, error_info: str) -> JsonSchemaValue:
        return {}

    def emit_warning(self, kind: Any, detail: str) -> None:
        """Do nothing: a default that JSON cannot hold is left out without a warning."""


def _shown(name: str, given: Schema, required: bool) -> Schema:
    """Return title, description and default of a key. The description repeats the default, for editors to show."""
    default = {"default": given["default"]} if "default" in given else {}
    last = "Required" if required else f"Default: {on_one_line(given['default'])}" if default else "Optional"
    return {"title": name, "description": f"{given.get('description', name)}\n{last}", **default}


def summary(model: type[BaseModel]) -> str:
    """Return the first paragraph of a model's docstring."""
    return " ".join((inspect.getdoc(model) or "").split("\n\n")[0].split())


def _or_null(given: Schema) -> tuple[Schema, bool]:
    """Return a schema without its alternative null, and whether it had that. Editors explain an `anyOf` badly."""
    match given.get("anyOf"):
        case [one, {"type": "null"}]:
            return one, True
    return given, False


def _nullable(given: Schema) -> Schema:
    one, null = _or_null(given)
    if not null or not isinstance(one.get("type"), str):
        return given
    if "const" in one:
        one = {**{key: value for key, value in one.items() if key != "const"}, "enum": [one["const"]]}
    if "enum" in one:
        one = {**one, "enum": [*one["enum"], None]}
    return {**{key: value for key, value in given.items() if key != "anyOf"}, **one, "type": [one["type"], "null"]}


__all__ = ["Keys", "Schema", "summary"]
