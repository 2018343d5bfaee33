"""Every statement of the lecture leads to a file that opens with its equation, a spec that shows it and its test."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
from pages import README, ROOT, SPECS, resolved, rows

LECTURE = rows(SPECS, "statement")
CATALOGUE = rows(SPECS, "spec")
MODULES = sorted(ROOT.glob("p*/driftspec*/**/*.py"))


def packed(text: str) -> str:
    """Return the text without white space."""
    return "".join(text.split())


def opening(path: Path) -> str:
    """Return the docstring of a module."""
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def header(spec: str) -> str:
    """Return the comments of a shipped spec as one line."""
    return re.sub(r"\n# ?", " ", "".join(re.findall(r"(?m)^#.*\n", (ROOT / "specs" / f"{spec}.yaml").read_text())))


def faults(row: list[str]) -> list[str]:
    """Return what is wrong with a row of the lecture's tables."""
    _, equation, link, spec, test = row
    found = []
    formula = re.fullmatch(r"`([^`]+)`", equation)
    pointer = re.fullmatch(r"\[`([^`]+)`\]\(\.\./(\S+/\1)\)", link)
    if not formula:
        found.append("no equation")
    if not pointer or not (ROOT / pointer[2]).is_file():
        found.append("no file")
    elif formula and packed(formula[1]) not in packed(opening(ROOT / pointer[2])):
        found.append("the file does not open with the equation")
    if spec and spec not in [row[0] for row in CATALOGUE]:
        found.append("no spec of the catalogue")
    file, _, function = test.strip("`").partition("::")
    path = ROOT / "tests" / file
    if not path.is_file() or not re.search(rf"^def {function}\(", path.read_text(), re.MULTILINE):
        found.append("no test")
    return found


def test_the_readme_leads_to_the_lecture() -> None:
    assert "(specs/README.md#the-lecture)" in README
    assert "\n## The lecture\n" in SPECS
    assert len(LECTURE) >= 50
    assert len({row[1] for row in LECTURE}) == len(LECTURE), "each equation once"


@pytest.mark.parametrize("row", LECTURE, ids=lambda row: row[0])
def test_a_statement_leads_to_its_equation(row: list[str]) -> None:
    assert faults(row) == []


@pytest.mark.parametrize(
    ("cell", "old", "new", "fault"),
    [
        (1, "-tr", "tr", "the file does not open with the equation"),
        (1, "`", "", "no equation"),
        (2, "exact_trace", "hutchinson", "the file does not open with the equation"),
        (2, "exact_trace", "exact_traces", "no file"),
        (3, "cnf_moons", "cnf_moon", "no spec of the catalogue"),
        (4, "test_log_p", "test_log_q", "no test"),
    ],
)
def test_a_broken_pointer_is_found(cell: int, old: str, new: str, fault: str) -> None:
    row = next(list(row) for row in LECTURE if row[0] == "Instantaneous change of variables")
    row[cell] = row[cell].replace(old, new)
    assert faults(row) == [fault]


def test_a_file_says_where_its_equation_continues() -> None:
    """By the dotted name of a module, in its own docstring."""
    named = {name for path in MODULES for name in re.findall(r"`(driftspec(?:_plugins)?\.[\w.]*\w)`", opening(path))}
    assert {"driftspec.numerics.likelihood", "driftspec_plugins.solvers.torchdiffeq_fixed"} <= named
    assert [name for name in sorted(named - {"driftspec.v1"}) if resolved(name) is None] == []


# --- the catalogue ---


def test_every_spec_is_in_the_catalogue_once() -> None:
    named = [row[0].strip("`") for row in CATALOGUE]
    assert sorted(name for name in named if " " not in name) == sorted(path.stem for path in ROOT.glob("specs/*.yaml"))
    assert len(set(named)) == len(named)


@pytest.mark.parametrize("row", CATALOGUE, ids=lambda row: row[0].strip("`"))
def test_the_catalogue_says_what_the_spec_says(row: list[str]) -> None:
    words, _, time, numbers = row
    said = header(shlex.split(words.strip("`"))[0])
    assert f"{time} of CPU" in said
    assert [number for number in numbers.split("; ") if number not in said] == []
