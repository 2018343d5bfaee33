"""Every statement of the lecture leads to a file that opens with its equation, a spec that shows it and its test."""

from __future__ import annotations

import ast
import html
import re
import shlex
from pathlib import Path

import pytest
from pages import README, ROOT, SPECS, resolved, rows

from driftspec import spec
from driftspec.cli import main
from driftspec.registry import installed
from driftspec.report.equations import opening_with
from driftspec.source import dump
from driftspec.spec.statements import Statement

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
    own = re.fullmatch(r"`lecture/(\w+)`", spec)
    if spec not in ("test only", *(row[0] for row in CATALOGUE)) and not (own and own[1] in OWN):
        found.append("no spec of the catalogue, and none of the lecture's")
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
        (3, "07_", "08_", "no spec of the catalogue, and none of the lecture's"),
        (3, "`lecture/07_density_gaussian`", "", "no spec of the catalogue, and none of the lecture's"),
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


# --- the lecture's own specs, and the page of them ---

FOLDER = ROOT / "specs" / "lecture"
OWN = {path.stem: spec.read(path, installed()) for path in sorted(FOLDER.glob("*.yaml"))}
STATEMENTS = [(name, one) for name, loaded in OWN.items() for one in loaded.spec.shows or ()]
PAGE = ROOT / "specs" / "lecture.html"
SLIDES = (
    "forward pass", "Adjoint functions", "Pontryagin", "Solution for the adjoint functions", "solved back in time",
    "standard backprop in the discrete case", "Discrete normalizing flows", "Picard", "Forward transform",
    "Inverse transform", "special case of Kolmogorov-Fokker-Planck", "bijective", "Density evaluation",
    "adjoint method is used for the integral", "log density together", "determinant of the Jacobian", "its trace",
    "FFJORD", "Statement .Langevin", "ε = 0", "Energy-based model", "Stochastic differential equation",
    "Wiener process", "Drift", "Diffusion coefficient", "g.t. = 0", "Theorem .Kolmogorov-Fokker-Planck", "Langevin SDE",
    "density is constant", "discretized SDE", "Fisher divergence", "Score function",
    "we do not know ∇log π", "Theorem .score matching", "Proof", "slip",
)  # fmt: skip
"""Words of every slide that states something, in the lecture's order."""
TEST = re.compile(r"tests/([\w/]+\.py)::(\w+)")


def test_the_lectures_statements_are_in_its_order() -> None:
    """Slide by slide: where each of its formulas is, in the order of the specs."""
    heads = "\n".join(one.statement for _, one in STATEMENTS)
    found = [re.search(slide, heads) for slide in SLIDES]
    assert [slide for slide, match in zip(SLIDES, found) if match is None] == []
    places = [match.start() for match in found if match is not None]
    assert places == sorted(places)


@pytest.mark.parametrize("name", OWN)
def test_a_spec_of_the_lecture_states_what_it_shows_and_how_to_be_quick(name: str) -> None:
    loaded = OWN[name]
    assert loaded.spec.shows and loaded.spec.quick and loaded.spec.name == name.partition("_")[2]
    assert re.search(r"\d+ s of CPU", re.sub(r"\n# ?", " ", loaded.text.decode()))
    for one in loaded.spec.shows:
        assert one.text, "a sentence on what is seen"
        if one.metric is None:  # then a test shows it
            pointed = TEST.findall(one.text)
            assert pointed, one.statement
            for file, function in pointed:
                assert re.search(rf"(?m)^def {function}\(", (ROOT / "tests" / file).read_text()), function
        else:
            assert one.expectation is not None and one.picture, one.statement


@pytest.mark.parametrize(("name", "one"), [(n, s) for n, s in STATEMENTS if s.equation], ids=lambda one: str(one)[:40])
def test_two_hops_lead_from_a_statement_of_the_page_to_its_line_of_code(name: str, one: Statement) -> None:
    """The page's link leads to the listing of the file that opens with the equation, at its line."""
    found = opening_with(str(one.equation), installed().packages())
    assert found is not None, one.equation
    listing, line = found
    anchor = f"code-{re.sub(r'[^A-Za-z0-9]+', '-', listing.name)}-{line}"
    page = PAGE.read_text()
    assert f"href='#{anchor}'" in page and f"id={anchor}>" in page


def test_the_page_that_is_shipped_is_that_of_the_specs() -> None:
    text = PAGE.read_text()
    assert "http" not in text.partition("<h2>The specs")[0]
    for loaded in OWN.values():
        assert html.escape(loaded.text.decode()) in text, f"{loaded.spec.name}: write the page again"
    for _, one in STATEMENTS:
        assert html.escape(one.statement) in text
    judged = re.search(r"(\d+) of (\d+) numbers are as expected", text)
    assert judged and judged[1] == judged[2] == str(sum(one.expectation is not None for _, one in STATEMENTS))
    assert re.search(r"commit [0-9a-f]{12};", text) and re.search(r"\d+ cores", text)
    seconds = re.search(r"(\d+) s of CPU for \d+ runs", text)
    assert seconds and int(seconds[1]) <= 600
    assert "the run has no picture" not in text and "✗" not in text


def test_the_page_is_built_again_in_a_few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statement is there with a number and a picture. Few steps need not reach what is expected."""
    monkeypatch.chdir(tmp_path)
    Path("lecture").mkdir()
    for name, loaded in OWN.items():
        quick = spec.hastened(loaded, installed()).document.data
        few = {**quick, "train": {**quick["train"], "steps": 24}} if "train" in quick else quick
        Path("lecture", f"{name}.yaml").write_text(dump(few))
    assert main(["report", "lecture", "--quiet", "-o", "page.html"]) == 0
    page = Path("page.html").read_text()
    for _, one in STATEMENTS:
        assert html.escape(one.statement) in page
    assert "the run has no picture" not in page and "was not measured" not in page and "is no number" not in page
    assert page.count("<figure>") == sum(one.picture is not None for _, one in STATEMENTS)
