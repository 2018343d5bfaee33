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

import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import yaml

from driftspec.errors import Place, Problem, SpecError, nearest, shown

Path = tuple[str | int, ...]

NESTING, VALUES, BYTES, MISTAKES = 32, 10_000, 256 * 1024, 100
DIGITS = 3_500  # of an integer, in whatever base: Python converts up to 4,300 decimal ones
TOO_DEEP = f"more than {NESTING} levels of nesting"
TOO_MANY = f"more than {VALUES:,} values, or {BYTES // 1024} KiB of text, with every alias expanded"


@dataclass(frozen=True)
class Marks:
    """Where a value and its key stand; list items and the root have no key."""

    key: Place | None
    value: Place


@dataclass
class Document:
    """Plain data, the marks of every path in it (the root's is `()`), and the lines of each file it comes from."""

    data: Any
    marks: dict[Path, Marks]
    lines: dict[str, list[str]]

    def place(self, path: Path, *, key: bool = False) -> Place:
        """The place of the value at `path`, or of its key; for an absent path, of the section that lacks it."""
        while path not in self.marks:
            path = path[:-1]
        marks = self.marks[path]
        return marks.key if key and marks.key else marks.value

    def source_line(self, place: Place) -> str:
        """The line that `place` points into; for a value of `--set`, its text."""
        return _line(self.lines.get(place.file, []), place)


def read(path: str | os.PathLike[str]) -> Document:
    """The document in a file; its places show the path as given."""
    file = pathlib.Path(path)
    try:
        with file.open("rb") as opened:
            return parse(opened.read(BYTES + 1), str(path))
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
    return _document(root, {name: reader.lines})


def parse_value(text: str, name: str) -> Document:
    """The document in any one value, such as that of `--set`; each of its places is just `name`."""
    here = Place(name)
    try:
        reader = _Reader(text, name)
        doc = _document(reader.root() or _Node(None, here, None), {name: reader.lines})
    except SpecError as error:
        raise SpecError([replace(problem, place=here) for problem in error.problems]) from None
    return replace(doc, marks={path: Marks(marks.key and here, here) for path, marks in doc.marks.items()})


def merge(base: Document, top: Document) -> Document:
    """`top` over `base`: mappings merge, unless both name a `type` and these differ; anything else is replaced.

    A bare name counts as {type: name} beside a mapping.
    """
    return _document(_blend(_tree(base), _tree(top)), base.lines | top.lines)


def assign(doc: Document, dotted: str, value: Document, name: str, append: bool = False) -> Document:
    """`doc` with `value` at `dotted` (`a.b`, `a.1.b`), or appended to the list there.

    On the way missing mappings are made, and a bare name becomes {type: name}.
    """
    here = Place(name)
    root = node = _tree(doc)
    for above, part in _steps(dotted, here):
        if node.value is None or isinstance(node.value, str):
            node.value = {} if node.value is None else _named(node)
        if isinstance(node.value, dict):
            node.value.setdefault(part, _Node(here, here, None))
        node = _child(node, above, part, here)
    given = _tree(value)
    if append and not (node.value is None or isinstance(node.value, list)):
        _absent(f"'{dotted}' is {shown(node.value)}: += appends to a list", here)
    elif append:
        node.value = [*(node.value or []), given]
    else:
        node.key, node.place, node.value = node.key and here, here, given.value
    return _document(root, doc.lines | value.lines)


def unset(doc: Document, dotted: str, name: str) -> Document:
    """`doc` without what stands at `dotted`."""
    here = Place(name)
    root = node = parent = _tree(doc)
    for above, part in _steps(dotted, here):
        parent, node = node, _child(node, above, part, here)
    del parent.value[int(part) if isinstance(parent.value, list) else part]
    return _document(root, doc.lines)


def dump(data: Any) -> str:
    """Plain data as text that `parse` reads back as the same data, as do readers of YAML 1.1."""
    return "\n".join(_block(data)) + "\n"


# --- the tree: what reading builds, and what merge, assign and unset change ---


@dataclass
class _Node:
    """A value and its places; a mapping or a list holds further nodes."""

    key: Place | None
    place: Place
    value: Any


def _document(root: _Node, lines: dict[str, list[str]]) -> Document:
    """The tree as data and marks; nodes that aliases share become copies, counted as such."""
    doc = Document(None, {}, lines)
    size = 0

    def lay(node: _Node, path: Path) -> Any:
        nonlocal size
        value = node.value
        doc.marks[path] = Marks(node.key, node.place)
        size += len(value) if isinstance(value, str) else sum(map(len, value)) if isinstance(value, dict) else 0
        deep = len(path) + isinstance(value, (dict, list)) > NESTING
        if deep or len(doc.marks) > VALUES or size > BYTES:
            message = TOO_DEEP if deep else TOO_MANY
            raise SpecError(Problem("Y007", message, node.place, source=doc.source_line(node.place)))
        if isinstance(value, dict):
            return {key: lay(child, (*path, key)) for key, child in value.items()}
        if isinstance(value, list):
            return [lay(child, (*path, index)) for index, child in enumerate(value)]
        return value

    doc.data = lay(root, ())
    return doc


def _tree(doc: Document) -> _Node:
    """The inverse of `_document`."""

    def node(value: Any, path: Path) -> _Node:
        if isinstance(value, dict):
            value = {key: node(child, (*path, key)) for key, child in value.items()}
        elif isinstance(value, list):
            value = [node(child, (*path, index)) for index, child in enumerate(value)]
        return _Node(doc.marks[path].key, doc.marks[path].value, value)

    return node(doc.data, ())


def _named(node: _Node) -> dict[str, _Node]:
    """A bare name as the mapping that it is short for."""
    return {"type": _Node(node.place, node.place, node.value)}


def _blend(base: _Node, top: _Node) -> _Node:
    under, over = (_named(node) if isinstance(node.value, str) else node.value for node in (base, top))
    bare = isinstance(base.value, str) and isinstance(top.value, str)
    if bare or not (isinstance(under, dict) and isinstance(over, dict)):
        return top
    if "type" in under and "type" in over and under["type"].value != over["type"].value:
        return top
    merged = {key: _blend(under[key], child) if key in under else child for key, child in over.items()}
    return _Node(top.key, top.place, under | merged)


def _steps(dotted: str, here: Place) -> Iterator[tuple[str, str]]:
    """Each part of a dotted path, after the path above it."""
    parts = dotted.split(".")
    if found := _FORBIDDEN.search(dotted):
        raise SpecError(Problem("Y012", _no_character(found[0]), here))
    if not all(parts):
        _absent(f"'{dotted}' has an empty part: write a.b or a.1.b", here)
    for index, part in enumerate(parts):
        yield ".".join(parts[:index]), part


def _child(node: _Node, above: str, part: str, here: Place) -> _Node:
    """What stands under `part` in `node`, the value at the path `above`."""
    found: _Node
    inside = f"'{above}'" if above else "the spec"
    if isinstance(node.value, dict):
        if part not in node.value:
            _absent(f"no key '{part}' in {inside}{nearest(part, node.value)}", here)
        found = node.value[part]
    elif isinstance(node.value, list):
        if not re.fullmatch("[0-9]{1,6}", part) or int(part) >= len(node.value):
            _absent(f"{inside} is a list of {len(node.value)}, counted from 0: there is no '{part}' in it", here)
        found = node.value[int(part)]
    else:
        _absent(f"{inside} is {shown(node.value)}: there is no '{part}' in it", here)
    return found


def _absent(message: str, here: Place) -> NoReturn:
    raise SpecError(Problem("Y014", message, here))


# --- from text to the tree ---

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
# U+0085, U+2028 and U+2029 end a line in YAML 1.1 and not in 1.2, nor in most editors.
_FORBIDDEN = re.compile("[^\t\n\r -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_OPEN, _WRONG = object(), object()  # in place of a value: still being read; a mistake that has been noted

# What the parser says, in C and in Python, and what it means to the author of a spec.
_SYNTAX = (
    ("undefined tag|ing a tag", "Y006", "tags are refused: a spec is plain data"),
    ("invalid Unicode", "Y012", "this escape is not a character"),
    ("tab character", "Y004", "a tab cannot indent: use spaces"),
    ("mapping (values|keys)", "Y004", "{found} cannot stand here: quote the text around it, or check the indentation"),
    ("simple key", "Y004", "a key needs ': ' after it"),
    ("unknown escape", "Y004", "an unknown escape: in 'single quotes' a backslash is just a backslash"),
    ("hexa?decimal", "Y004", r"the escapes \x, \u and \U take 2, 4 and 8 hexadecimal digits"),
    ("quoted scalar", "Y004", "a quote that is not closed"),
    ("flow sequence", "Y004", "expected ',' or ']' in the list opened at {opened}"),
    ("flow mapping", "Y004", "expected ',' or '}}' in the mapping opened at {opened}"),
    ("block collection", "Y004", "expected '- ' in the column of the list's other items"),
    ("block mapping", "Y004", "expected a key in the column of its neighbours: check indentation, quotes, brackets"),
    ("sequence entries", "Y004", "'- ' cannot begin a list here: put it on the next line"),
    ("start any token|node content", "Y004", "{found} cannot begin a value: quote it"),
    ("an anchor|an alias", "Y004", "'&' and '*' need a name after them: quote them if they are text"),
    ("block scalar", "Y004", "'|' and '>' take the text from the lines below: quote them if they are text"),
    ("directive|incompatible", "Y004", "a line that begins with '%' is a directive: a spec has none"),
    ("document start", "Y004", "text after the end of the document: check indentation, quotes, brackets"),
)


class _Reader:
    """One text on its way to a tree, and the mistakes met."""

    def __init__(self, text: str | bytes, name: str) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self.anchors: dict[str, _Node] = {}
        # A byte that is not UTF-8 becomes a lone surrogate, which is among the forbidden characters.
        self.text = (text if isinstance(text, str) else text.decode(errors="surrogateescape")).removeprefix("\ufeff")
        self.lines = _LINE_BREAK.split(_FORBIDDEN.sub("\ufffd", self.text))
        if len(text.encode(errors="replace") if isinstance(text, str) else text) > BYTES:
            self.stop("Y007", f"more than {BYTES // 1024} KiB of text", Place(name))
        if found := _FORBIDDEN.search(self.text):
            *above, before = _LINE_BREAK.split(self.text[: found.start()])
            place = Place(name, len(above) + 1, len(before) + 1)
            if isinstance(text, bytes) and "\udc80" <= found[0] <= "\udcff":
                self.stop("Y002", f"byte 0x{ord(found[0]) - 0xDC00:02x} is not UTF-8: save the file as UTF-8", place)
            self.stop("Y012", _no_character(found[0]), place)
        self.events: Iterator[Any] = yaml.parse(self.text, Loader=_LOADER)

    def wrong(self, code: str, message: str, place: Place) -> None:
        self.problems.append(Problem(code, message, place, source=_line(self.lines, place)))
        if len(self.problems) == MISTAKES:
            raise self.error()

    def stop(self, code: str, message: str, place: Place) -> NoReturn:
        self.wrong(code, message, place)
        raise self.error()

    def error(self) -> SpecError:
        return SpecError(sorted(self.problems, key=lambda problem: problem.place or Place(self.name)))

    def place(self, mark: Any) -> Place:
        return Place(self.name, mark.line + 1, mark.column + 1)

    def root(self) -> _Node | None:
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

    def node(self, event: Any, depth: int) -> _Node:
        """The value that begins with `event`, inside `depth` others."""
        place = self.place(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            return _Node(None, place, self.alias(event, place))
        node = _Node(None, place, _OPEN)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        if event.tag is not None:
            tag = shown(event.tag.replace("tag:yaml.org,2002:", "!!"))
            self.wrong("Y006", f"the tag {tag} is refused: a spec is plain data, and quotes make text", place)
        if isinstance(event, yaml.ScalarEvent):
            node.value = self.scalar(event, place)
        elif depth == NESTING:
            self.stop("Y007", TOO_DEEP, place)
        elif isinstance(event, yaml.MappingStartEvent):
            node.value = self.mapping(depth + 1)
        else:
            node.value = [self.node(item, depth + 1) for item in self.inside()]
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

    def mapping(self, depth: int) -> dict[str, _Node]:
        entries: dict[str, _Node] = {}
        for event in self.inside():
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
            else:
                entries[key.value] = child
        return entries

    def scalar(self, event: Any, place: Place) -> Any:
        text = event.value
        if found := _FORBIDDEN.search(text):
            self.wrong("Y012", _no_character(found[0]), place)
        elif event.style:
            return text
        elif len(text) > DIGITS and (_INTEGER.fullmatch(text) or _ODD.fullmatch(text)):
            self.wrong("Y007", f"a number of more than {DIGITS:,} digits", place)
        elif _ODD.fullmatch(text):
            self.wrong("Y009", _odd(text), place)
        else:
            return _plain(text)
        return _WRONG

    def refuse(self, error: Exception) -> NoReturn:
        """Stop at what the parser refuses, and say it for the author of a spec."""
        context, mark = getattr(error, "context_mark", None), getattr(error, "problem_mark", None)
        said = f"{getattr(error, 'context', None) or 'the parser'}: {getattr(error, 'problem', error)}"
        if mark is None:
            self.stop("Y004", f"not YAML: {said}", Place(self.name, 1, 1))
        found = self.text[mark.index : mark.index + 1]
        if found == "\t":
            said = "tab character"
        elif context and (re.search("simple key|quoted scalar.*document", said) or not self.text[mark.index :].strip()):
            mark = context  # the end is where a mistake shows, not where it stands
        opened = f"{context.line + 1}:{context.column + 1}" if context else ""
        for pattern, code, message in _SYNTAX:
            if re.search(pattern, said):
                self.stop(code, message.format(opened=opened, found=shown(found)), self.place(mark))
        self.stop("Y004", f"not YAML: {said}", self.place(mark))


# --- scalars and text, both ways ---

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_CORE: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile("~|null|Null|NULL|"), lambda text: None),
    (re.compile("true|True|TRUE|false|False|FALSE"), lambda text: text[0] in "tT"),
    (_INTEGER, int),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
)
_ODD = re.compile(  # a number to some readers, and another number or text to others
    r"""[-+]?( 0[0-9_]+ | 0x[0-9a-fA-F][0-9a-fA-F_]* | 0o[0-7][0-7_]* | 0b[01][01_]*
             | (?=.*_)[0-9][0-9_]*(\.[0-9_]*([eE][-+]?[0-9]+)?)? | [0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)? )""",
    re.VERBOSE,
)
_BARE = re.compile(r"(?!(y|n|yes|no|on|off|true|false|null)$)[a-z_][\w./+-]*( [\w./+-]+)*", re.ASCII | re.IGNORECASE)
_WIDTH, _KEY = 88, 1_000  # the longest list on one line; the longest key on one (the parser's limit is 1,024)


def _plain(text: str) -> Any:
    """The value of an unquoted scalar in the core schema of YAML 1.2."""
    return next((convert(text) for pattern, convert in _CORE if pattern.fullmatch(text)), text)


def _odd(text: str) -> str:
    """What to write instead of a number that is not one to every reader."""
    if ":" in text:
        return f"{shown(text)} counts in sixties in YAML 1.1 and is text in 1.2: put it in quotes"
    digits, what = text.replace("_", ""), "is not a number to every reader"
    base = {"0x": 16, "0o": 8, "0b": 2}.get(digits.lstrip("+-")[:2], 10)
    number = float(digits) if "." in digits else int(digits, base)
    if re.fullmatch("[-+]?0[0-7]+", digits):
        what = f"is {shown(int(digits, 8))} in YAML 1.1 and {shown(number)} in 1.2"
    return f"{shown(text)} {what}: write {shown(number)}, or quote it"


def _no_character(character: str) -> str:
    return f"the character U+{ord(character):04X} cannot stand in a spec"


def _line(lines: list[str], place: Place) -> str:
    return lines[max(place.line, 1) - 1] if place.line <= len(lines) and lines else ""


def _block(data: Any) -> list[str]:
    """The lines of a value; a single one if it is a scalar, empty or a short list of scalars."""
    if (flow := _flow(data)) is not None:
        return [flow]
    lines: list[str] = []
    for key, value in data.items() if isinstance(data, dict) else ((None, item) for item in data):
        head = "-" if key is None else f"{_written(key)}:"
        if len(head) > _KEY:
            lines, head = [*lines, f"? {head[:-1]}"], ":"
        first, *rest = _block(value)
        beside = key is None or _flow(value) is not None
        lines += [f"{head} {first}"] if beside else [head, f"  {first}"]
        lines += [f"  {line}" for line in rest]
    return lines


def _flow(data: Any) -> str | None:
    if isinstance(data, dict):
        return None if data else "{}"
    if not isinstance(data, (list, tuple)):
        return _written(data)
    if any(isinstance(item, (dict, list, tuple)) for item in data):
        return None
    text = f"[{', '.join(map(_written, data))}]"
    return text if len(text) <= _WIDTH else None


def _written(value: Any) -> str:
    """A scalar as text; plain only where each YAML version reads it alike."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        text = repr(value)
        if not math.isfinite(value):
            return f"{text[:-3]}.{text[-3:]}"
        return text if "." in text else text.replace("e", ".0e")  # 1e-05 is text to YAML 1.1
    if _BARE.fullmatch(value):
        return str(value)
    quoted = json.dumps(value, ensure_ascii=False)
    return _FORBIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)
