"""The points of a sweep: many documents from one, each with some of its values replaced.

    sweep: {grid: {train.optimizer.lr: [1e-3, 1e-2], seed: [0, 1, 2]}}      six points, the last key changes first
    sweep: {list: [{train.steps: 10, seed: 1}, {train.steps: 20}]}          two; beside a grid, each with all of it

Keys are dotted paths as `--set` takes them. A value keeps its place in the text, and so does what is wrong with it.
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
"""The most that one sweep may have."""
FIXED = ("version", "extends", "sweep")
"""What is the same at every point."""


@dataclass(frozen=True)
class Choice:
    """One value for one key; `key` stands at `here`."""

    key: str
    here: Place
    node: Node

    def value(self) -> Document:
        return document_of(self.node, {})


@dataclass(frozen=True)
class Point:
    """One combination of choices, and the document they are made in."""

    base: Document
    choices: tuple[Choice, ...]

    @property
    def values(self) -> Mapping[str, Any]:
        return {choice.key: choice.value().data for choice in self.choices}

    def document(self) -> Document:
        """The document with every choice made in order. SpecError lists each that cannot be."""
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
    """Every point of a well-formed sweep, a list's points outermost."""
    rows, columns = _choices(document)
    base = unset(document, "sweep", "sweep")
    for row in rows:
        for cell in itertools.product(*columns):
            yield Point(base, (*row, *cell))


def conflicts(document: Document) -> list[Problem]:
    """What is wrong with the points of a well-formed sweep before any is looked at."""
    rows, columns = _choices(document)
    count, place = len(rows) * math.prod(map(len, columns)), document.place(("sweep",), key=True)
    if count > POINTS:
        return [_problem(document, f"the sweep has {count:,} points: at most {POINTS:,} are allowed", place)]
    found: dict[Problem, None] = {}
    told = [(dotted(path), marks.value) for path, marks in document.marks.items() if path and not marks.value.line]
    for row in rows:
        keys = [*row, *(column[0] for column in columns)]
        for index, choice in enumerate(keys):
            for text, where in _clashes(choice, keys[:index], told):
                found[_problem(document, text, where)] = None
    return list(found)


def alike(document: Document, resolved: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """Points that are one run, by their resolved specs: each said where it differs from the first of them."""
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
    """A list's points (one without any choice where there is no list), and for each key of the grid its choices."""
    body: dict[str, Node] = tree_of(document).value["sweep"].value
    rows, grid = (body[name].value if name in body else None for name in ("list", "grid"))
    listed = [[_choice(key, node, node.key) for key, node in row.value.items()] for row in rows or ()]
    return listed or [[]], [[_choice(key, item, node.key) for item in node.value] for key, node in (grid or {}).items()]


def _choice(key: str, node: Node, here: Place | None) -> Choice:
    return Choice(key, here or node.place, node)


def _clashes(
    choice: Choice, earlier: Sequence[Choice], told: Sequence[tuple[str, Place]]
) -> Iterator[tuple[str, Place]]:
    """A key that may not be swept, that undoes one before it, or that undoes what the command line says."""
    key = choice.key
    if key.partition(".")[0] in FIXED:
        yield f"'{key}' cannot be swept: it is the same at every point", choice.here
    for other in earlier:
        if _covers(key, other.key):
            yield f"'{key}' replaces '{other.key}', given before it ({other.here}): leave one out", choice.here
    for name, place in told:
        if _covers(key, name):
            yield f"'{name}' is swept ({choice.here}): set sweep.grid.{key} instead", place


def _covers(key: str, other: str) -> bool:
    return other == key or other.startswith(f"{key}.")


def _problem(document: Document, text: str, place: Place) -> Problem:
    return Problem("S130", text, place, source=document.source_line(place))


__all__ = ["POINTS", "Point", "alike", "conflicts", "points"]
