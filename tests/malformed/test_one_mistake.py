"""One mistake is one answer: every key of every shipped spec misspelt, and every value replaced by each wrong type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from driftspec import source, spec
from driftspec.errors import PluginError, Problem, SpecError
from driftspec.registry import Registry
from driftspec.source.document import Node, document_of, tree_of
from driftspec.spec import envelope, fits

SPECS = sorted((Path(__file__).parents[2] / "specs").glob("*.yaml"))
WRONG: tuple[Any, ...] = (None, True, -3.5, "zzz", [], {})


def shipped(path: Path) -> source.Document:
    """The spec's text, its base merged in."""
    document = source.read(path)
    return envelope._extended(document, path.parent) if "extends" in document.data else document


def said(document: source.Document, registry: Registry) -> list[Problem]:
    """Every error in it."""
    try:
        made = spec.validate(document, registry)
    except (SpecError, PluginError) as error:
        return error.problems
    return fits.errors(fits.check(spec.Loaded(made, document, b"", Path())))


def edited(document: source.Document, path: source.KeyPath) -> tuple[Node, Node]:
    """A tree of the document, and in it what holds the value at `path`."""
    root = holder = tree_of(document)
    for part in path[:-1]:
        holder = holder.value[part]
    return root, holder


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_misspelt_key_is_one_answer_with_the_right_key_in_it(path: Path, registry: Registry) -> None:
    document = shipped(path)
    for where in document.marks:
        if where and isinstance(where[-1], str):
            root, holder = edited(document, where)
            key = where[-1]
            holder.value = {key[:-1] + "q" if old == key else old: value for old, value in holder.value.items()}
            (problem,) = said(document_of(root, document.lines), registry)
            assert (problem.code, problem.place) == ("S111", document.marks[where].key), problem
            assert f"(did you mean '{key}'?)" in problem.message


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_wrong_value_is_one_answer_or_none(path: Path, registry: Registry) -> None:
    document = shipped(path)
    answers = 0
    for where in document.marks:
        for value in WRONG if where else ():
            root, holder = edited(document, where)
            holder.value[where[-1]].value = value
            found = said(document_of(root, document.lines), registry)
            assert len(found) <= 1, (where, value, found)
            answers += len(found)
    assert answers > 3 * len(document.marks)
