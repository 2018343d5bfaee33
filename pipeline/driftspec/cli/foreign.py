"""Print the warnings and log messages of other libraries to stderr, one line each, with the library's name.

A plugin's import of an old path is such a warning too. Python hides it unless it is asked for warnings; the command
shows it, because who runs a plugin may be the first one to see it.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from driftspec._moved import MovedWarning
from driftspec.errors import printable


@contextlib.contextmanager
def reported(verbose: bool = False) -> Iterator[None]:
    """Print warnings, and log messages that have no handler, as lines such as "warning: numpy: divide by zero".

    With `verbose` the place in the library's code is added.
    """

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        if issubclass(category, MovedWarning):  # its text has the place
            _print("", str(message), "")
        else:
            _print(_library(filename), str(message), f"{filename}:{lineno}" if verbose else "")

    before = logging.lastResort
    logging.lastResort = _Unhandled(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            if not sys.warnoptions:
                warnings.simplefilter("default", MovedWarning)
            yield
    finally:
        logging.lastResort = before


class _Unhandled(logging.Handler):
    """Prints log messages of libraries for which no handler is set up."""

    def emit(self, record: logging.LogRecord) -> None:
        _print(record.name.partition(".")[0], record.getMessage(), "")


def _print(library: str, text: str, place: str) -> None:
    """Print a warning of a library as one line."""
    who, where = f"{library}: " if library else "", f" ({place})" if place else ""
    print(f"warning: {who}{printable(' '.join(text.split()))}{where}", file=sys.stderr, flush=True)


def _library(filename: str) -> str:
    """Return the package of a file, or the file's own name if it is in no package."""
    folders = Path(filename).parts
    installed = [number for number, part in enumerate(folders) if part in ("site-packages", "dist-packages")]
    return Path(folders[installed[-1] + 1]).stem if installed else Path(filename).name


__all__ = ["reported"]
