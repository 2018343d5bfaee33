"""The points of a sweep: many documents made from one, each with some of its values replaced.

    sweep: {grid: {train.optimizer.lr: [1e-3, 1e-2], seed: [0, 1, 2]}}      six points, the last key varies fastest
    sweep: {list: [{train.steps: 10, seed: 1}, {train.steps: 20}]}          two points; a grid is combined with each

Keys are dotted paths as `--set` takes them. A value keeps its place in the text, where its mistakes are reported.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from driftspec.errors import Place, Problem, SpecError
from driftspec.source.document import Document, Node, assign, document_of, dotted, tree_of, unset

POINTS = 1_000
"""The largest number of points of one sweep."""
FIXED = ("version", "extends", "sweep", "shows", "quick")
"""Keys that have the same value at every point and cannot be swept."""


@dataclass(frozen=True)
class Choice:
    """One value for one key; `here` is the place of the key."""

    key: str
    here: Place
    node: Node

    def value(self) -> Document:
        return document_of(self.node, {})


@dataclass(frozen=True)
class Point:
    """One combination of choices, and the document that they change."""

    base: Document
    choices: tuple[Choice, ...]

    @property
    def values(self) -> Mapping[str, Any]:
        return {choice.key: choice.value().data for choice in self.choices}

    def document(self) -> Document:
        """Return the document with every choice made, in order. SpecError lists each choice that cannot be made."""
        document, found = self.base, list[Problem]()
        for choice in self.choices:
            try:
                document = assign(document, choice.key, choice.value(), choice.here)
            except SpecError as error:
                found += [replace(p, source=document.source_line(choice.here)) for p in error.problems]
        if found:
            raise SpecError(found)
        return document


def points(document: Document) -> Iterator[Point]:
    """Yield every point of a well-formed sweep: for each point of the list, every combination of the grid."""
    rows, columns = _choices(document)
    base = unset(document, "sweep", "sweep")
    for row in rows:
        for cell in itertools.product(*columns):
            yield Point(base, (*row, *cell))


def hastened(document: Document) -> Document:
    """Return the document with the values of its section `quick`, which is removed. SpecError for a fixed key.

    A value may also belong to a statement: a short run may fall further from what is expected. A key that the command
    line sets keeps that value.
    """
    body: dict[str, Node] = tree_of(document).value["quick"].value
    lost = () if document.data.get("shows") else ("shows",)  # removed by --unset: its bounds go with it
    given = [dotted(path) for path, marks in document.marks.items() if path and not marks.value.line]
    choices = tuple(
        _choice(key, node, node.key)
        for key, node in body.items()
        if key.partition(".")[0] not in lost and not any(_covers(key, one) or _covers(one, key) for one in given)
    )
    if found := [
        _problem(document, f"'{choice.key}' cannot be set in 'quick'", choice.here)
        for choice in choices
        if choice.key.partition(".")[0] in FIXED and not choice.key.startswith("shows.")
    ]:
        raise SpecError(found)
    return Point(unset(document, "quick", "quick"), choices).document()


def conflicts(document: Document) -> list[Problem]:
    """Return what is wrong with the number of points and the keys of a well-formed sweep."""
    rows, columns = _choices(document)
    count, place = len(rows) * math.prod(map(len, columns)), document.place(("sweep",), key=True)
    if count > POINTS:
        return [_problem(document, f"the sweep has {count:,} points: at most {POINTS:,} are allowed", place)]
    found: dict[Problem, None] = {}
    overrides = [(dotted(path), marks.value) for path, marks in document.marks.items() if path and not marks.value.line]
    for row in rows:
        keys = [*row, *(column[0] for column in columns)]
        for index, choice in enumerate(keys):
            for text, where in _clashes(choice, keys[:index], overrides):
                found[_problem(document, text, where)] = None
    return list(found)


def alike(document: Document, resolved: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """Return a problem for each point that is the same run as an earlier one: their resolved specs are equal."""
    first: dict[str, tuple[int, Point]] = {}
    found: dict[Place, Problem] = {}
    for number, (point, spec) in enumerate(zip(points(document), resolved, strict=True), 1):
        before, other = first.setdefault(json.dumps(spec, sort_keys=True), (number, point))
        if before != number:
            known = {id(choice) for choice in other.choices}
            place = next((c.node.place for c in point.choices if id(c) not in known), document.place(("sweep",)))
            text = f"points {before} and {number} of the sweep are the same run: leave one out"
            found.setdefault(place, _problem(document, text, place))
    return list(found.values())


def _choices(document: Document) -> tuple[list[list[Choice]], list[list[Choice]]]:
    """Return the choices of each point of the list ([[]] without a list), and the choices for each key of the grid."""
    body: dict[str, Node] = tree_of(document).value["sweep"].value
    rows, grid = (body[name].value if name in body else None for name in ("list", "grid"))
    listed = [[_choice(key, node, node.key) for key, node in row.value.items()] for row in rows or ()]
    return listed or [[]], [[_choice(key, item, node.key) for item in node.value] for key, node in (grid or {}).items()]


def _choice(key: str, node: Node, here: Place | None) -> Choice:
    return Choice(key, here or node.place, node)


def _clashes(
    choice: Choice, earlier: Sequence[Choice], overrides: Sequence[tuple[str, Place]]
) -> Iterator[tuple[str, Place]]:
    """Yield what is wrong with a key: it cannot be swept, or it replaces an earlier key or one of the command line."""
    key = choice.key
    if key.partition(".")[0] in FIXED:
        yield f"'{key}' cannot be swept: it is the same at every point", choice.here
    for other in earlier:
        if _covers(key, other.key):
            yield f"'{key}' replaces '{other.key}', given before it ({other.here}): leave one out", choice.here
    for name, place in overrides:
        if _covers(key, name):
            yield f"'{name}' is swept ({choice.here}): set sweep.grid.{key} instead", place


def _covers(key: str, other: str) -> bool:
    """Return whether `key` is `other` or a section around it."""
    return other == key or other.startswith(f"{key}.")


def _problem(document: Document, text: str, place: Place) -> Problem:
    return Problem("S130", text, place, source=document.source_line(place))


__all__ = ["POINTS", "Point", "alike", "conflicts", "hastened", "points"]
