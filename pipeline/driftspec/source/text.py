"""Reads YAML text into plain data, with a place for every key and every value.

The text is YAML 1.2 core, restricted to what every YAML reader reads alike:

- null, true, false, decimal numbers (`1e-3`, `.5`, `.inf`) and text; `yes`, `on` and `2020-01-01` are text;
- what YAML 1.1 and 1.2 read differently (`010`, `0x1F`, `1_000`, `12:30`, the key `<<`) is an error, and its message
  states what to write; a repeated key, a key that is not text, a tag and a control character are errors too;
- an alias is a copy of the value at its anchor; 32 levels, 10,000 values and 256 KiB are the limits, copies included.

The data are built from the parser's events, and the depth is checked at each event: the loaders of yaml recurse
without a limit, so that deep nesting would crash the process. One SpecError lists up to 100 mistakes, as long as the
text after a mistake can still be read.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NoReturn

import yaml

from driftspec.errors import Place, Problem, SpecError, in_order, nearest, shown
from driftspec.source import regular
from driftspec.source.document import (
    BYTES,
    NESTING,
    TOO_DEEP,
    TOO_MANY,
    VALUES,
    Document,
    KeyPath,
    Marks,
    Node,
    assign,
    document_of,
    line_at,
    merge,
    unset,
)
from driftspec.source.scalars import FORBIDDEN, INTEGER, ODD, dump, no_character, odd, plain

MISTAKES = 100
DIGITS = 3_500  # most digits of an integer, in any base; Python converts at most 4,300 decimal digits

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_INDENTED = re.compile("[ \t]*([\xa0\u1680\u2000-\u200a\u202f\u205f\u3000])")  # white space other than U+0020
_OPEN, _WRONG = object(), object()  # in place of a value: one still being read, a wrong one

_CHECK = "check indentation, quotes, brackets"
_HEXADECIMAL = re.compile(r"\\(x[\da-fA-F]{2}|u[\da-fA-F]{4}|U[\da-fA-F]{8})")


def read(path: str | os.PathLike[str]) -> Document:
    """Return the document in a file; its places show the path as given."""
    return parse(content(path), str(path))


def content(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file that may hold a spec, at most one byte more than a spec may have."""
    file = pathlib.Path(path)
    try:
        return regular.read(file, BYTES + 1)
    except FileNotFoundError:
        why = "no such file" + nearest(file.name, (other.name for other in file.parent.glob("*")))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = str(getattr(error, "strerror", None) or error).lower()
    raise SpecError(Problem("Y001", f"cannot be read: {why}", Place(str(path))))


def parse(text: str | bytes, name: str) -> Document:
    """Return the document in the text of a whole spec, which must be one mapping. SpecError lists the mistakes."""
    reader = _Reader(text, name)
    root = reader.root()
    if root is None or root.value is None:
        reader.stop("Y003", "the file is empty", Place(name, 1, 1))
    if not isinstance(root.value, dict):
        hint = " (a colon needs a space after it)" if re.match(r"\w+:\S", str(root.value)) else ""
        reader.stop("Y011", f"a spec is one mapping of keys to values, not {shown(root.value)}{hint}", root.place)
    root.place = Place(name, 1, 1)
    return document_of(root, {name: reader.lines})


def parse_value(text: str, name: str) -> Document:
    """Return the document in the text of one value, such as that of `--set`; each of its places is `name`."""
    here = Place(name)
    try:
        reader = _Reader(text, name)
        doc = document_of(reader.root() or Node(None, here, None), {name: reader.lines})
    except SpecError as error:
        raise SpecError([replace(problem, place=here) for problem in error.problems]) from None
    return replace(doc, marks={path: Marks(marks.key and here, here) for path, marks in doc.marks.items()})


class _Reader:
    """Reads one text into a tree of nodes, and collects its mistakes."""

    def __init__(self, text: str | bytes, name: str) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self.anchors: dict[str, Node] = {}
        self.opened: list[Any] = []  # the start events of the mappings and lists that are still open
        self.values = 0  # read so far, without copies by aliases: a text with too many is not read to its end
        # A byte that is not UTF-8 becomes a lone surrogate, which is among the forbidden characters.
        self.text = (text if isinstance(text, str) else text.decode(errors="surrogateescape")).removeprefix("\ufeff")
        self.lines = _LINE_BREAK.split(FORBIDDEN.sub("\ufffd", self.text))
        if len(text.encode(errors="replace") if isinstance(text, str) else text) > BYTES:
            self.stop("Y007", f"more than {BYTES // 1024} KiB of text", Place(name))
        if found := FORBIDDEN.search(self.text):
            *above, before = _LINE_BREAK.split(self.text[: found.start()])
            place = Place(name, len(above) + 1, len(before) + 1)
            if isinstance(text, bytes) and "\udc80" <= found[0] <= "\udcff":
                self.stop("Y002", f"byte 0x{ord(found[0]) - 0xDC00:02x} is not UTF-8: save the file as UTF-8", place)
            self.stop("Y012", no_character(found[0]), place)
        for number, line in enumerate(() if self.text.isascii() else self.lines, 1):
            if found := _INDENTED.match(line):
                text = f"the character U+{ord(found[1]):04X} cannot indent: use spaces"
                self.stop("Y004", text, Place(name, number, found.start(1) + 1))
        self.events: Iterator[Any] = yaml.parse(self.text, Loader=_LOADER)

    def wrong(self, code: str, message: str, place: Place) -> None:
        """Record a mistake; raise the SpecError if there are too many."""
        self.problems.append(Problem(code, message, place, source=line_at(self.lines, place)))
        if len(self.problems) == MISTAKES:
            raise self.error()

    def stop(self, code: str, message: str, place: Place) -> NoReturn:
        """Record a mistake and raise the SpecError."""
        self.wrong(code, message, place)
        raise self.error()

    def error(self) -> SpecError:
        return SpecError(in_order(self.problems))

    def place(self, mark: Any) -> Place:
        """Return the place of a mark of the parser."""
        if mark.line >= len(self.lines):  # the parser's end mark, in a text without a last line break
            return Place(self.name, len(self.lines), len(self.lines[-1]) + 1)
        return Place(self.name, mark.line + 1, mark.column + 1)

    def root(self) -> Node | None:
        """Return the tree of the only document; None if there is none."""
        try:
            next(self.events)
            event = next(self.events)
            if isinstance(event, yaml.StreamEndEvent):
                return None
            node = self.node(next(self.events), 0)
            next(self.events)
            event = next(self.events)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: yaml's Python parser, for an escape beyond Unicode
            self.refuse(error)
        if not isinstance(event, yaml.StreamEndEvent):
            self.stop("Y011", "a second document: a spec is one document", self.place(event.start_mark))
        if self.problems:
            raise self.error()
        return node

    def node(self, event: Any, depth: int) -> Node:
        """Return the node that begins with `event`, at `depth` levels of nesting."""
        place = self.place(event.start_mark)
        self.values += 1
        if self.values > VALUES:
            self.stop("Y007", TOO_MANY, place)
        if isinstance(event, yaml.AliasEvent):
            return Node(None, place, self.alias(event, place))
        node = Node(None, place, _OPEN)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        if event.tag is not None:
            tag = shown(event.tag.replace("tag:yaml.org,2002:", "!!"))
            self.wrong("Y006", f"the tag {tag} is refused: a spec is plain data, and quotes make text", place)
        if isinstance(event, yaml.ScalarEvent):
            node.value = self.scalar(event, place)
        elif depth == NESTING:
            self.stop("Y007", TOO_DEEP, place)
        else:
            self.opened.append(event)
            if isinstance(event, yaml.MappingStartEvent):
                node.value = self.mapping(depth + 1)
            else:
                node.value = [self.node(item, depth + 1) for item in self.inside()]
            self.opened.pop()
        return node

    def inside(self) -> Iterator[Any]:
        """Yield the first event of each item of this collection; `node` reads the other events of an item."""
        while not isinstance(event := next(self.events), yaml.CollectionEndEvent):
            yield event

    def alias(self, event: Any, place: Place) -> Any:
        """Return the value at the anchor that an alias names."""
        name = event.anchor
        if name not in self.anchors:
            self.wrong("Y008", f"no anchor '&{name}' before this alias", place)
        elif self.anchors[name].value is _OPEN:
            self.wrong("Y008", f"'*{name}' is inside the value that it refers to", place)
        else:
            return self.anchors[name].value
        return _WRONG

    def mapping(self, depth: int) -> dict[str, Node]:
        """Return the entries of the open mapping, without those whose key is wrong."""
        entries: dict[str, Node] = {}
        for event in self.inside():
            self.values -= 1  # a key does not count as a value
            key, child = self.node(event, depth), self.node(next(self.events), depth)
            child.key = key.place
            if key.value is _WRONG:
                continue
            if not isinstance(key.value, str):
                advice = "" if key.value is None or isinstance(key.value, (dict, list)) else ": put it in quotes"
                self.wrong("Y010", f"a key must be text, not {shown(key.value)}{advice}", key.place)
            elif key.value == "<<" and not getattr(event, "style", None):
                self.wrong("Y009", "'<<' merges in YAML 1.1 and is a key in 1.2: use extends, or an alias", key.place)
            elif key.value in entries:
                first = entries[key.value].key or key.place
                self.wrong("Y005", f"the key {shown(key.value)} is repeated: it is on line {first.line}", key.place)
            elif not getattr(event, "style", None) and re.fullmatch(r"\w+:\S+", key.value):
                written = key.value.replace(":", ": ", 1)
                self.wrong("Y004", f"{shown(key.value)} has no space after its colon: write {written}", key.place)
            else:
                entries[key.value] = child
        return entries

    def scalar(self, event: Any, place: Place) -> Any:
        """Return the value of a scalar: text if it is quoted, otherwise by the core schema."""
        text = event.value
        if found := FORBIDDEN.search(text):
            self.wrong("Y012", no_character(found[0]), place)
        elif event.style:
            return text
        elif len(text) > DIGITS and (INTEGER.fullmatch(text) or ODD.fullmatch(text)):
            self.wrong("Y007", f"a number of more than {DIGITS:,} digits", place)
        elif ODD.fullmatch(text):
            self.wrong("Y009", odd(text), place)
        else:
            return plain(text)
        return _WRONG

    def refuse(self, error: Exception) -> NoReturn:
        """Raise a SpecError for a parser error. Parsers word them differently, so the text decides its message."""
        context, mark = getattr(error, "context_mark", None), getattr(error, "problem_mark", None)
        reason = f"{getattr(error, 'context', None)}: {getattr(error, 'problem', None)}"
        if mark is None:
            self.stop("Y004", "not YAML: a character or an escape in it cannot be read", Place(self.name, 1, 1))
        if "nesting depth" in reason:  # some releases of the parser look ahead, and have a limit of their own
            self.stop("Y007", TOO_DEEP, self.place(mark))
        found, begins = self.text[mark.index : mark.index + 1], self.text[context.index :][:1] if context else ""
        inside: Any = self.opened[-1] if self.opened else None
        within = bool(inside) and context is not None and inside.start_mark.index == context.index
        no_colon = "simple key" in reason
        if no_colon or (found in (":", "\t") if not within else not inside.flow_style):
            self.refuse_glued(mark)
        code, text, at = "Y004", f"{shown(found)} is not allowed here: quote the text around it, or {_CHECK}", mark
        if found == "\t":
            text = "a tab cannot indent: use spaces"
        elif no_colon:
            text, at = "a key needs ': ' after it", context
        elif within:
            text, at = self.expected(inside), mark if self.text[mark.index :].strip() else context
        elif begins == "!":
            code, text, at = "Y006", "tags are refused: a spec is plain data", context
        elif begins in ("'", '"'):
            code, text, at = self.quoted(context, mark)
        elif begins and not begins.isalnum():
            text, at = text.replace(shown(found), shown(begins), 1), context
        elif inside is None and self.values:
            text = f"text after the end of the document: {_CHECK}"
        elif not found:
            text = "the text ends inside what begins here: close it, or give it a value"
            at = inside.start_mark if inside else mark
        elif found == ":" and context is None and (bare := _without_colon(self.lines, mark.line - 1)):
            self.stop("Y004", "a key needs ': ' after it", Place(self.name, *bare))
        elif found == "-":
            text = "'- ' cannot begin a list here: put it on the next line"
        self.stop(code, text, self.place(at))

    def expected(self, inside: Any) -> str:
        """Return the message for what a list or mapping that is still open lacks."""
        is_list, opened = isinstance(inside, yaml.SequenceStartEvent), self.place(inside.start_mark)
        if inside.flow_style:
            what, end = ("list", "]") if is_list else ("mapping", "}")
            return f"expected ',' or '{end}' in the {what} opened at {opened.line}:{opened.column}"
        lacking = "'- '" if is_list else "a key"
        return f"expected {lacking} in the column of its neighbours: {_CHECK}"

    def quoted(self, start: Any, mark: Any) -> tuple[str, str, Any]:
        """Return code, message and mark for an unknown escape, or for a quote that is not closed."""
        if "\\" not in self.text[max(0, mark.index - 2) : mark.index + 1]:
            return "Y004", "a quote that is not closed", start
        if _HEXADECIMAL.match(self.text, mark.index - 2):
            return "Y012", "this escape is not a character", mark
        text = r"an unknown escape (\x, \u and \U take 2, 4 and 8 hexadecimal digits)"
        return "Y004", f"{text}: in 'single quotes' a backslash is just a backslash", mark

    def refuse_glued(self, mark: Any) -> None:
        """Raise a SpecError if the cause of a parser error is a `key:value` without a space."""
        if glued := _glued(self.lines, mark.line, mark.column):
            place, text = Place(self.name, *glued[:2]), glued[2].replace(":", ": ", 1)
            if any(problem.place == place for problem in self.problems):
                raise self.error()
            self.stop("Y004", f"a key needs ': ' after it: write {text}", place)


_GLUED = re.compile(r"(?<![\w.'\"])[A-Za-z_]\w*:(?![\s/:])[^\s,]*[^\s,:]")
_FIRST = re.compile(rf"\s*(?:- +)*(?={_GLUED.pattern})")


def _glued(lines: list[str], index: int, column: int) -> tuple[int, int, str] | None:
    """Return line, column and text of a `key:value` without a space, on the line of a parser error or right above."""
    here = [found for found in _GLUED.finditer(lines[index]) if found.start() <= column] if index < len(lines) else []
    if here:
        return index + 1, here[-1].start() + 1, here[-1][0]
    last = None
    for number in range(min(index, len(lines)) - 1, -1, -1):
        if re.fullmatch(r"\s*(#.*)?", lines[number]):
            continue
        if not (first := _FIRST.match(lines[number])):
            break
        found = _GLUED.match(lines[number], first.end())
        last = (number + 1, first.end() + 1, found[0] if found else "")
    return last


def _without_colon(lines: list[str], index: int) -> tuple[int, int] | None:
    """Return line and column of a line's text if it lacks a colon; the parser error is at the next line's colon."""
    found = re.match("( *)[A-Za-z_][^:#]*$", lines[index]) if index >= 0 else None
    return (index + 1, len(found[1]) + 1) if found else None


__all__ = [
    "Document",
    "KeyPath",
    "Marks",
    "assign",
    "content",
    "dump",
    "merge",
    "parse",
    "parse_value",
    "read",
    "unset",
]
