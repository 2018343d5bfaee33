"""A document: plain data with a place (file, line, column) for every key and value.

`merge` puts one document over another (`extends`); `assign` and `unset` change the value at a dotted path (`--set`,
`--unset`). A value keeps its place.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from driftspec.errors import Place, Problem, SpecError, nearest, shown
from driftspec.source.scalars import FORBIDDEN, no_character

KeyPath = tuple[str | int, ...]

NESTING, VALUES, BYTES = 32, 10_000, 256 * 1024
TOO_DEEP = f"more than {NESTING} levels of nesting"
TOO_MANY = f"more than {VALUES:,} values, or {BYTES // 1024} KiB of text, with every alias expanded"


@dataclass(frozen=True)
class Marks:
    """The places of a value and of its key; list items and the root have no key."""

    key: Place | None
    value: Place
    filled: bool = False  # whether the value is a default that nobody wrote


@dataclass
class Document:
    """Plain data, the marks of every path in it (the root has the path `()`), and the lines of the files it is from."""

    data: Any
    marks: dict[KeyPath, Marks]
    lines: dict[str, list[str]]

    def place(self, path: KeyPath, *, key: bool = False) -> Place:
        """Return the place of the value at `path`, or of its key; for an absent path, of the section around it."""
        while path not in self.marks:
            path = path[:-1]
        marks = self.marks[path]
        return marks.key if key and marks.key else marks.value

    def source_line(self, place: Place) -> str:
        """Return the line of text at `place`; for a value of `--set`, the text of the value."""
        return line_at(self.lines.get(place.file, []), place)


def merge(base: Document, top: Document) -> Document:
    """Return `base` with `top` over it: mappings merge, and any other value of `base` is replaced.

    A mapping is replaced too if both name a `type` and the types differ. A bare name counts as {type: name} if the
    other value is a mapping.
    """
    return document_of(_blend(tree_of(base), tree_of(top)), base.lines | top.lines)


def assign(doc: Document, dotted: str, value: Document, name: str | Place, append: bool = False) -> Document:
    """Return `doc` with `value` at the path `dotted` (`a.b`, `a.1.b`), or appended to the list there.

    Missing mappings along the path are made, and a bare name there becomes {type: name}. `name` is where the path was
    written. A new `type` removes the default values of the keys beside it; values that somebody wrote stay.
    """
    here = name if isinstance(name, Place) else Place(name)
    root = node = parent = tree_of(doc)
    for above, part in _steps(dotted, here):
        if node.value is None or isinstance(node.value, str):
            node.value = {} if node.value is None else _named(node)
        if isinstance(node.value, dict):
            node.value.setdefault(part, Node(here, here, None))
        parent, node = node, _child(node, above, part, here)
        node.filled = False
    given = tree_of(value)
    if isinstance(parent.value, dict) and parent.value.get("type") is node and given.value != node.value:
        parent.value = {key: child for key, child in parent.value.items() if not child.filled}
    if append and not (node.value is None or isinstance(node.value, list)):
        _absent(f"'{dotted}' is {shown(node.value)}: += appends to a list", here)
    elif append:
        node.value = [*(node.value or []), given]
    else:
        node.key, node.place, node.value = node.key and here, given.place, given.value
    return document_of(root, doc.lines | value.lines)


def unset(doc: Document, dotted: str, name: str) -> Document:
    """Return `doc` without the value at the path `dotted`."""
    here = Place(name)
    root = node = parent = tree_of(doc)
    for above, part in _steps(dotted, here):
        parent, node = node, _child(node, above, part, here)
    del parent.value[int(part) if isinstance(parent.value, list) else part]
    return document_of(root, doc.lines)


def filled_in(doc: Document, written: Collection[str]) -> Document:
    """Return `doc` with each default value marked as one: every value except those with a dotted key in `written`."""
    root = tree_of(doc)
    around = {name[:end] for name in written for end, one in enumerate(name) if one == "."}

    def mark(node: Node, path: KeyPath, whole: bool) -> None:
        for key, child in _inside(node):
            name = dotted((*path, key))
            there = name in written or name in around or key == "type" or (whole and isinstance(key, int))
            child.filled = not there
            mark(child, (*path, key), there and (whole or name in written))

    mark(root, (), False)
    return document_of(root, doc.lines)


def written(doc: Document) -> list[str]:
    """Return the dotted keys of all values that are not defaults; a list of plain values counts as one value."""

    def lay(node: Node) -> Any:
        if isinstance(node.value, dict):
            return {key: lay(child) for key, child in node.value.items() if not child.filled}
        return [lay(child) for child in node.value] if isinstance(node.value, list) else node.value

    return [dotted(path) for path, _ in leaves(lay(tree_of(doc)))]


def _inside(node: Node) -> Iterable[tuple[str | int, Node]]:
    if isinstance(node.value, dict):
        return node.value.items()
    return enumerate(node.value) if isinstance(node.value, list) else ()


def dotted(path: KeyPath) -> str:
    """Return a path with dots between its parts, as `--set` takes it."""
    return ".".join(map(str, path))


def leaves(data: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every value with its path; a list of plain values counts as one value."""
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from leaves(value, (*path, key))
    elif isinstance(data, list) and any(isinstance(item, dict) for item in data):
        for index, item in enumerate(data):
            yield from leaves(item, (*path, index))
    else:
        yield path, data


@dataclass
class Node:
    """A value and its places. The items of a mapping or a list are nodes too."""

    key: Place | None
    place: Place
    value: Any
    filled: bool = False


def document_of(root: Node, lines: dict[str, list[str]]) -> Document:
    """Return the document of a tree. An alias becomes a copy of its value. SpecError Y007 if a limit is exceeded."""
    doc = Document(None, {}, lines)
    size = 0

    def lay(node: Node, path: KeyPath) -> Any:
        nonlocal size
        value = node.value
        doc.marks[path] = Marks(node.key, node.place, node.filled)
        size += len(value) if isinstance(value, str) else sum(map(len, value)) if isinstance(value, dict) else 0
        deep = len(path) + isinstance(value, (dict, list)) > NESTING
        if deep or len(doc.marks) > VALUES or size > BYTES:
            message = TOO_DEEP if deep else TOO_MANY
            raise SpecError(Problem("Y007", message, node.place, source=doc.source_line(node.place)))
        if isinstance(value, dict):
            return {key: lay(child, (*path, key)) for key, child in value.items()}
        if isinstance(value, list):
            return [lay(child, (*path, index)) for index, child in enumerate(value)]
        return value

    doc.data = lay(root, ())
    return doc


def tree_of(doc: Document) -> Node:
    """Return the tree of a document: the inverse of `document_of`."""

    def node(value: Any, path: KeyPath) -> Node:
        if isinstance(value, dict):
            value = {key: node(child, (*path, key)) for key, child in value.items()}
        elif isinstance(value, list):
            value = [node(child, (*path, index)) for index, child in enumerate(value)]
        return Node(doc.marks[path].key, doc.marks[path].value, value, doc.marks[path].filled)

    return node(doc.data, ())


def _named(node: Node) -> dict[str, Node]:
    """Return the mapping {type: name} that a bare name abbreviates."""
    return {"type": Node(node.place, node.place, node.value)}


def _blend(base: Node, top: Node) -> Node:
    """Return the node of `base` with `top` over it, by the rules of `merge`."""
    under, over = (_named(node) if isinstance(node.value, str) else node.value for node in (base, top))
    bare = isinstance(base.value, str) and isinstance(top.value, str)
    if bare or not (isinstance(under, dict) and isinstance(over, dict)):
        return top
    if "type" in under and "type" in over and under["type"].value != over["type"].value:
        return top
    merged = {key: _blend(under[key], child) if key in under else child for key, child in over.items()}
    return Node(top.key, top.place, under | merged)


def _steps(dotted: str, here: Place) -> Iterator[tuple[str, str]]:
    """Yield (path above it, part) for each part of a dotted path: ("", "a"), ("a", "b") for "a.b"."""
    parts = dotted.split(".")
    if found := FORBIDDEN.search(dotted):
        raise SpecError(Problem("Y012", no_character(found[0]), here))
    if not all(parts):
        _absent(f"'{dotted}' has an empty part: write a.b or a.1.b", here)
    for index, part in enumerate(parts):
        yield ".".join(parts[:index]), part


def _child(node: Node, above: str, part: str, here: Place) -> Node:
    """Return the node at the key or index `part` of `node`, which is the value at the path `above`."""
    found: Node
    inside = f"'{above}'" if above else "the spec"
    if isinstance(node.value, dict):
        if part not in node.value:
            _absent(f"no key '{part}' in {inside}{nearest(part, node.value)}", here)
        found = node.value[part]
    elif isinstance(node.value, list):
        if not re.fullmatch("[0-9]{1,6}", part) or int(part) >= len(node.value):
            _absent(f"{inside} is a list of {len(node.value)}, counted from 0: there is no '{part}' in it", here)
        found = node.value[int(part)]
    else:
        _absent(f"{inside} is {shown(node.value)}: there is no '{part}' in it", here)
    return found


def _absent(message: str, here: Place) -> NoReturn:
    raise SpecError(Problem("Y014", message, here))


def line_at(lines: list[str], place: Place) -> str:
    """Return the line of text at a place, or "" if there is none."""
    return lines[max(place.line, 1) - 1] if place.line <= len(lines) and lines else ""
