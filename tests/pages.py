"""The pages, and their snippets."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDERS = (".", "specs", "plugins", "pipeline", "tests")
PAGES = README, SPECS, PLUGINS, PIPELINE, TESTS = [(ROOT / folder / "README.md").read_text() for folder in FOLDERS]
"""The pages of the five folders."""
FILES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))
"""Every page there is: these, the tutorial, the table of verdicts and the list of changes."""


def blocks(language: str, *pages: str) -> list[str]:
    """Return the snippets in a language, of all `PAGES` if none is given."""
    return [block for page in pages or PAGES for block in re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)]


def snippet(language: str, part: str) -> str:
    """Return the one snippet that has this part."""
    (found,) = (block for block in blocks(language) if part in block)
    return found


def rows(page: str, first: str) -> list[list[str]]:
    """Return the cells of every table whose header begins with `first`, row by row."""
    tables = re.findall(rf"^\| {first} \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    split = (re.split(r"(?<!\\)\|", line) for table in tables for line in table.splitlines())
    return [[cell.strip().replace(r"\|", "|") for cell in cells[1:-1]] for cells in split]


def resolved(name: str) -> Any:
    """Return what a dotted name stands for: a module, or what one holds."""
    parts, found = name.split("."), None
    for number in range(len(parts)):
        try:
            found = importlib.import_module(".".join(parts[: number + 1]))
        except ModuleNotFoundError:
            for part in parts[number:]:
                found = getattr(found, part)
            break
    return found
