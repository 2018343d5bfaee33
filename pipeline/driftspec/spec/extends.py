"""Reads the files of a spec: its own file, and that of the base that `extends` names.

A spec from a stranger may name any file, or be a link to one. So both files must be in the spec's folder, in the
current directory or below one of them, unless --allow-outside is given. No message quotes a file that is not a spec.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from driftspec import source
from driftspec.errors import CODES, Place, Problem, SpecError, shown
from driftspec.source import regular

OUTSIDE = "leads out of the spec's folder and of the current directory; allow it with --allow-outside"


def read(path: Path, keys: Collection[str], allow_outside: bool = False) -> tuple[source.Document, bytes]:
    """Return the document in a file, and the text of the file. `keys` are the keys of a spec."""
    outside = _leads_outside(path, path.parent)
    if outside and not allow_outside:
        raise SpecError(Problem("Y001", f"is a link that {OUTSIDE}", Place(str(path))))
    text = source.content(path)
    return _discreetly_parsed(text, str(path), keys) if outside else source.parse(text, str(path)), text


def extended(
    document: source.Document, folder: Path, keys: Collection[str], allow_outside: bool = False
) -> source.Document:
    """Return the base that a document names, relative to a folder, with the document over it. SpecError Y013."""
    name, place = document.data["extends"], document.place(("extends",))

    def refused(text: str) -> SpecError:
        return SpecError(Problem("Y013", text, place, source=document.source_line(place)))

    if not isinstance(name, str):
        raise refused(f"'extends' names a file, not {shown(name)}")
    if not allow_outside and _leads_outside(folder / name, folder):
        raise refused(f"the base {shown(name)} {OUTSIDE}")
    try:
        text = source.content(folder / name)
    except SpecError as error:
        raise refused(f"the base {shown(name)} {error.problems[0].message}") from None
    base = _discreetly_parsed(text, str(folder / name), keys)
    if not _resembles_a_spec(base.data, keys):
        raise refused(f"the base {shown(name)} is not a spec: most of its keys are unknown")
    for section in {"shows", "quick"} & base.data.keys():  # they are about the numbers of the base itself
        base = source.unset(base, section, section)
    if "extends" in base.data:
        where = base.place(("extends",), key=True)
        raise SpecError(Problem("Y013", "a base cannot extend another", where, source=base.source_line(where)))
    return source.merge(base, source.unset(document, "extends", "extends"))


def _leads_outside(path: Path, folder: Path) -> bool:
    try:
        return not regular.is_inside(path, folder, Path.cwd())
    except (OSError, ValueError):  # no file has this name: reading it raises the error
        return False


def _discreetly_parsed(text: bytes, name: str, keys: Collection[str]) -> source.Document:
    """Return the document in a text. If the text is not a spec, the messages of the SpecError do not quote it."""
    try:
        return source.parse(text, name)
    except SpecError as error:
        if _resembles_a_spec(re.findall(r"(?m)^(\w+) *:", text.decode(errors="replace")), keys):
            raise
        raise SpecError([Problem(one.code, CODES[one.code], one.place) for one in error.problems]) from None


def _resembles_a_spec(given: Iterable[str], keys: Collection[str]) -> bool:
    """Return whether more than half of the given keys are keys of a spec."""
    there = set(given)
    return len(there) < 2 * len(there & {*keys})


__all__ = ["extended", "read"]
