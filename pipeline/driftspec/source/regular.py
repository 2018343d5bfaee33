"""Reads regular files only: opening a pipe can block the process, and a device has no end."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path


def read(path: Path, limit: int = -1) -> bytes:
    """Return the bytes of a regular file, links followed, at most `limit` of them. OSError for any other file."""
    with contextlib.suppress(FileNotFoundError):  # `open` below raises it
        _check(path.stat().st_mode)
    with path.open("rb") as file:
        return file.read(limit)


def is_inside(path: Path, *trees: Path) -> bool:
    """Return whether a path, links followed, is in one of these folders or below. OSError for a loop of links."""
    try:
        real = path.resolve()
        return any(real.is_relative_to(tree.resolve()) for tree in trees)
    except RuntimeError as error:  # older versions of Python raise it for a loop
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error


def _check(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file")


__all__ = ["is_inside", "read"]
