"""YAML text to plain data, with a place for every key and every value.

The text is YAML 1.2 core, cut down to what every YAML reader agrees on:

- null, true, false, decimal numbers (`1e-3`, `.5`, `.inf`) and text; `yes`, `on` and `2020-01-01` are text;
- what YAML 1.1 and 1.2 read differently (`010`, `0x1F`, `1_000`, `12:30`, the key `<<`) is an error that says what to
  write, and so are a repeated key, a key that is not text, a tag, a control character;
- an alias is a copy of its anchor; 32 levels, 10,000 values and 256 KiB are the limits, copies included.

Data is built from the parser's events, with the depth checked at each: the loaders of yaml recurse without a limit,
and deep nesting ends the process there. All mistakes that leave the rest readable, up to 100, are raised as one
SpecError.
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
DIGITS = 3_500  # of an integer, in whatever base: Python converts up to 4,300 decimal ones

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_INDENTED = re.compile("[ \t]*([\xa0\u1680\u2000-\u200a\u202f\u205f\u3000])")  # by no plain space
_OPEN, _WRONG = object(), object()  # in place of a value: still being read; a mistake that has been noted

_CHECK = "check indentation, quotes, brackets"
_HEXADECIMAL = re.compile(r"\\(x[\da-fA-F]{2}|u[\da-fA-F]{4}|U[\da-fA-F]{8})")


def read(path: str | os.PathLike[str]) -> Document:
    """The document in a file; its places show the path as given."""
    return parse(content(path), str(path))


def content(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file that may hold a spec, up to one more than a spec may have."""
    file = pathlib.Path(path)
    try:
        return regular.read(file, BYTES + 1)
    except FileNotFoundError:
        why = "no such file" + nearest(file.name, (other.name for other in file.parent.glob("*")))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = str(getattr(error, "strerror", None) or error).lower()
    raise SpecError(Problem("Y001", f"cannot be read: {why}", Place(str(path))))


def parse(text: str | bytes, name: str) -> Document:
    """The document in a text that must be one mapping: a whole spec."""
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
    """The document in any one value, such as that of `--set`; each of its places is just `name`."""
    here = Place(name)
    try:
        reader = _Reader(text, name)
        doc = document_of(reader.root() or Node(None, here, None), {name: reader.lines})
    except SpecError as error:
        raise SpecError([replace(problem, place=here) for problem in error.problems]) from None
    return replace(doc, marks={path: Marks(marks.key and here, here) for path, marks in doc.marks.items()})


class _Reader:
    """One text on its way to a tree, and the mistakes met."""

    def __init__(self, text: str | bytes, name: str) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self.anchors: dict[str, Node] = {}
        self.opened: list[Any] = []  # the events that begin the mappings and lists that have not ended
        self.values = 0  # read so far, before aliases are expanded: what is far too long is not read to its end
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
        self.problems.append(Problem(code, message, place, source=line_at(self.lines, place)))
        if len(self.problems) == MISTAKES:
            raise self.error()

    def stop(self, code: str, message: str, place: Place) -> NoReturn:
        self.wrong(code, message, place)
        raise self.error()

    def error(self) -> SpecError:
        return SpecError(in_order(self.problems))

    def place(self, mark: Any) -> Place:
        if mark.line >= len(self.lines):  # the parser's end of a text without a last line break
            return Place(self.name, len(self.lines), len(self.lines[-1]) + 1)
        return Place(self.name, mark.line + 1, mark.column + 1)

    def root(self) -> Node | None:
        """The tree of the only document; None if there is none."""
        try:
            next(self.events)
            event = next(self.events)
            if isinstance(event, yaml.StreamEndEvent):
                return None
            node = self.node(next(self.events), 0)
            next(self.events)
            event = next(self.events)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: an escape beyond Unicode, from the Python parser
            self.refuse(error)
        if not isinstance(event, yaml.StreamEndEvent):
            self.stop("Y011", "a second document: a spec is one document", self.place(event.start_mark))
        if self.problems:
            raise self.error()
        return node

    def node(self, event: Any, depth: int) -> Node:
        """The value that begins with `event`, inside `depth` others."""
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
        """The events up to the end of this collection; nodes take those of their own as they come."""
        while not isinstance(event := next(self.events), yaml.CollectionEndEvent):
            yield event

    def alias(self, event: Any, place: Place) -> Any:
        name = event.anchor
        if name not in self.anchors:
            self.wrong("Y008", f"no anchor '&{name}' before this alias", place)
        elif self.anchors[name].value is _OPEN:
            self.wrong("Y008", f"'*{name}' stands inside the value that it refers to", place)
        else:
            return self.anchors[name].value
        return _WRONG

    def mapping(self, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for event in self.inside():
            self.values -= 1  # a key is no value
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
        """Stop where the parser gives up. What is wrong is read from the text there: parsers word it differently."""
        context, mark = getattr(error, "context_mark", None), getattr(error, "problem_mark", None)
        said = f"{getattr(error, 'context', None)}: {getattr(error, 'problem', None)}"
        if mark is None:
            self.stop("Y004", "not YAML: a character or an escape in it cannot be read", Place(self.name, 1, 1))
        if "nesting depth" in said:  # some releases look ahead past 32 brackets, and stop at a limit of their own
            self.stop("Y007", TOO_DEEP, self.place(mark))
        found, begins = self.text[mark.index : mark.index + 1], self.text[context.index :][:1] if context else ""
        inside: Any = self.opened[-1] if self.opened else None
        within = bool(inside) and context is not None and inside.start_mark.index == context.index
        no_colon = "simple key" in said
        if no_colon or (found in (":", "\t") if not within else not inside.flow_style):
            self.refuse_glued(mark)
        code, text, at = "Y004", f"{shown(found)} cannot stand here: quote the text around it, or {_CHECK}", mark
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
        """What a list or mapping that has begun lacks."""
        is_list, opened = isinstance(inside, yaml.SequenceStartEvent), self.place(inside.start_mark)
        if inside.flow_style:
            what, end = ("list", "]") if is_list else ("mapping", "}")
            return f"expected ',' or '{end}' in the {what} opened at {opened.line}:{opened.column}"
        lacking = "'- '" if is_list else "a key"
        return f"expected {lacking} in the column of its neighbours: {_CHECK}"

    def quoted(self, start: Any, mark: Any) -> tuple[str, str, Any]:
        """An escape that is none, or a quote that is not closed: code, message, mark."""
        if "\\" not in self.text[max(0, mark.index - 2) : mark.index + 1]:
            return "Y004", "a quote that is not closed", start
        if _HEXADECIMAL.match(self.text, mark.index - 2):
            return "Y012", "this escape is not a character", mark
        text = r"an unknown escape (\x, \u and \U take 2, 4 and 8 hexadecimal digits)"
        return "Y004", f"{text}: in 'single quotes' a backslash is just a backslash", mark

    def refuse_glued(self, mark: Any) -> None:
        """Stop at `key:value`, unless there is none, or it is known."""
        if glued := _glued(self.lines, mark.line, mark.column):
            place, text = Place(self.name, *glued[:2]), glued[2].replace(":", ": ", 1)
            if any(problem.place == place for problem in self.problems):
                raise self.error()
            self.stop("Y004", f"a key needs ': ' after it: write {text}", place)


_GLUED = re.compile(r"(?<![\w.'\"])[A-Za-z_]\w*:(?![\s/:])[^\s,]*[^\s,:]")
_FIRST = re.compile(rf"\s*(?:- +)*(?={_GLUED.pattern})")


def _glued(lines: list[str], index: int, column: int) -> tuple[int, int, str] | None:
    """Line, column and text of `key:value`, on the line where the parser gives up or on those right above it."""
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
    """Line and column of what stands alone on a line, where the parser takes the next line's key for its end."""
    found = re.match(r"( *)[A-Za-z_]\w*(?! *#)[^:#]*$", lines[index]) if index >= 0 else None
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
