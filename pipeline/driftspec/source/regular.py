"""Regular files, and no others: a pipe would hold the process that opens it, a device has no end."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path


def read(path: Path, limit: int = -1) -> bytes:
    """The bytes of a regular file, links followed, at most `limit` of them. OSError for anything else."""
    with contextlib.suppress(FileNotFoundError):  # which opening it says
        _check(path.stat().st_mode)
    with path.open("rb") as file:
        return file.read(limit)


def is_inside(path: Path, *trees: Path) -> bool:
    """Whether a path, links followed, lies in one of these folders or below. OSError for a loop of links."""
    try:
        real = path.resolve()
        return any(real.is_relative_to(tree.resolve()) for tree in trees)
    except RuntimeError as error:  # what older versions of Python raise for a loop
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error


def _check(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file")


__all__ = ["is_inside", "read"]
