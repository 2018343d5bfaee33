"""A document: plain data with a place for every key and value, and how two of them make a third.

`merge` lays one over another (`extends`), `assign` and `unset` change one at a dotted path (`--set`, `--unset`). Places
follow their values.
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
    """Where a value and its key stand; list items and the root have no key."""

    key: Place | None
    value: Place
    filled: bool = False  # in by a default: nobody wrote it


@dataclass
class Document:
    """Plain data, the marks of every path in it (the root's is `()`), and the lines of each file it comes from."""

    data: Any
    marks: dict[KeyPath, Marks]
    lines: dict[str, list[str]]

    def place(self, path: KeyPath, *, key: bool = False) -> Place:
        """The place of the value at `path`, or of its key; for an absent path, of the section that lacks it."""
        while path not in self.marks:
            path = path[:-1]
        marks = self.marks[path]
        return marks.key if key and marks.key else marks.value

    def source_line(self, place: Place) -> str:
        """The line that `place` points into; for a value of `--set`, its text."""
        return line_at(self.lines.get(place.file, []), place)


def merge(base: Document, top: Document) -> Document:
    """`top` over `base`: mappings merge, unless both name a `type` and these differ; anything else is replaced.

    A bare name counts as {type: name} beside a mapping.
    """
    return document_of(_blend(tree_of(base), tree_of(top)), base.lines | top.lines)


def assign(doc: Document, dotted: str, value: Document, name: str | Place, append: bool = False) -> Document:
    """`doc` with `value` at `dotted` (`a.b`, `a.1.b`), or appended to the list there.

    On the way missing mappings are made, and a bare name becomes {type: name}. `name` says where the path was written.
    Beside another `type` the keys that defaults filled in for the old one fall away; those that somebody wrote stay.
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
    """`doc` without what stands at `dotted`."""
    here = Place(name)
    root = node = parent = tree_of(doc)
    for above, part in _steps(dotted, here):
        parent, node = node, _child(node, above, part, here)
    del parent.value[int(part) if isinstance(parent.value, list) else part]
    return document_of(root, doc.lines)


def filled_in(doc: Document, written: Collection[str]) -> Document:
    """`doc` with a mark at every value that a default filled in. `written` are the dotted keys of all the others."""
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
    """The dotted keys of `doc` without those of values that defaults filled in; a list of plain values is one."""

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
    """A path as `--set` takes it."""
    return ".".join(map(str, path))


def leaves(data: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every value with its path; a list of plain values is one."""
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
    """A value and its places; a mapping or a list holds further nodes."""

    key: Place | None
    place: Place
    value: Any
    filled: bool = False


def document_of(root: Node, lines: dict[str, list[str]]) -> Document:
    """The tree as data and marks; nodes that aliases share become copies, counted as such."""
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
    """The inverse of `document_of`."""

    def node(value: Any, path: KeyPath) -> Node:
        if isinstance(value, dict):
            value = {key: node(child, (*path, key)) for key, child in value.items()}
        elif isinstance(value, list):
            value = [node(child, (*path, index)) for index, child in enumerate(value)]
        return Node(doc.marks[path].key, doc.marks[path].value, value, doc.marks[path].filled)

    return node(doc.data, ())


def _named(node: Node) -> dict[str, Node]:
    """A bare name as the mapping that it is short for."""
    return {"type": Node(node.place, node.place, node.value)}


def _blend(base: Node, top: Node) -> Node:
    under, over = (_named(node) if isinstance(node.value, str) else node.value for node in (base, top))
    bare = isinstance(base.value, str) and isinstance(top.value, str)
    if bare or not (isinstance(under, dict) and isinstance(over, dict)):
        return top
    if "type" in under and "type" in over and under["type"].value != over["type"].value:
        return top
    merged = {key: _blend(under[key], child) if key in under else child for key, child in over.items()}
    return Node(top.key, top.place, under | merged)


def _steps(dotted: str, here: Place) -> Iterator[tuple[str, str]]:
    """Each part of a dotted path, after the path above it."""
    parts = dotted.split(".")
    if found := FORBIDDEN.search(dotted):
        raise SpecError(Problem("Y012", no_character(found[0]), here))
    if not all(parts):
        _absent(f"'{dotted}' has an empty part: write a.b or a.1.b", here)
    for index, part in enumerate(parts):
        yield ".".join(parts[:index]), part


def _child(node: Node, above: str, part: str, here: Place) -> Node:
    """What stands under `part` in `node`, the value at the path `above`."""
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
    """The line that a place points into, empty where there is none."""
    return lines[max(place.line, 1) - 1] if place.line <= len(lines) and lines else ""
