"""The notebook of the lecture and the answers to its exercises run from top to bottom, and check their own numbers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import matplotlib
import nbformat
import pytest
from pages import ROOT

NOTEBOOK = ROOT / "specs" / "lecture.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
EXERCISES, ANSWERS = ((ROOT / "specs" / f"{name}.md").read_text() for name in ("exercises", "answers"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the spec that the answers name, and no window for pictures."""
    matplotlib.use("Agg")
    shutil.copy(ROOT / "specs" / "langevin_gaussian.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)


def carried_out(cells: list[str]) -> None:
    """Execute the cells in one name space, as a kernel does."""
    names: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(cells, 1):
        exec(compile(cell, f"cell {number}", "exec"), names)


def test_the_notebook_is_a_notebook_of_fifteen_cells_without_outputs() -> None:
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))  # type: ignore[no-untyped-call]
    assert [cell["cell_type"] for cell in CELLS] == ["markdown", "code"] * 15
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS[1::2])
    headings = [re.findall(r"(?m)^## (\d+)\. ", "".join(cell["source"])) for cell in CELLS[::2]]
    assert headings == [[str(number)] for number in range(1, 16)]
    assert all(re.search(r"(?m)^\s*assert ", cell) for cell in CODE[1:]), "each cell checks its number"


def test_the_notebook_runs() -> None:
    carried_out(CODE)


def test_the_answers_run() -> None:
    carried_out(re.findall(r"```python\n(.*?)```", ANSWERS, re.DOTALL))


def test_each_exercise_has_an_answer() -> None:
    asked = re.findall(r"(?m)^(\d+)\. \*\*(.+?)\.\*\*", EXERCISES)
    assert asked == re.findall(r"(?m)^## (\d+)\. (.+)$", ANSWERS) and len(asked) == 8
