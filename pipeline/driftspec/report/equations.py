"""Finds the file that opens with an equation: its first docstring holds the equation, and its code follows.

Files are read as text. No module is imported.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

OPENING = re.compile(r'\A(?:#[^\n]*\n|\s)*"""(.*?)"""', re.DOTALL)


@dataclass(frozen=True)
class Listing:
    """A file of an installed package: its name from the package on, and its text."""

    name: str
    text: str

    def line(self, equation: str) -> int | None:
        """Return the number of the line of the first docstring in which the equation begins; None if it has none."""
        found = OPENING.match(self.text)
        if found is None:
            return None
        kept = [index for index in range(found.start(1), found.end(1)) if not self.text[index].isspace()]
        packed, wanted = "".join(self.text[index] for index in kept), "".join(equation.split())
        for match in re.finditer(re.escape(wanted), packed):
            first, last = kept[match.start()], kept[match.end() - 1]
            if not (_in_a_word(self.text, first - 1, first) or _in_a_word(self.text, last, last + 1)):
                return self.text.count("\n", 0, first) + 1
        return None


def _in_a_word(text: str, before: int, after: int) -> bool:
    """Whether two neighbouring characters are of one word or number: an equation does not end between them."""
    return text[before].isalnum() and text[after].isalnum()


@functools.cache
def listings(packages: Iterable[str]) -> tuple[Listing, ...]:
    """Return the Python files of installed packages, in the order of the packages and of the files' names."""
    found = []
    for package in packages:
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec is not None else ():
            for file in sorted(Path(folder).rglob("*.py")):
                name = Path(package, file.relative_to(folder)).as_posix()
                found.append(Listing(name, file.read_text(encoding="utf-8", errors="replace")))
    return tuple(found)


def opening_with(equation: str, packages: tuple[str, ...]) -> tuple[Listing, int] | None:
    """Return the first file that opens with the equation, and the line; None if there is none."""
    for listing in listings(packages):
        if (line := listing.line(equation)) is not None:
            return listing, line
    return None


__all__ = ["Listing", "listings", "opening_with"]
