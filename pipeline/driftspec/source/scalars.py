"""Scalars between text and data: YAML 1.2's core schema, less what YAML 1.1 reads differently; and data as text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from driftspec.errors import shown

# U+0085, U+2028 and U+2029 end a line in YAML 1.1 and not in 1.2, nor in most editors. Small sets compile ten times as
# fast as one large one.
FORBIDDEN = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\u2028|\u2029|[\ud800-\udfff]|\ufeff|\ufffe|\uffff")
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_CORE: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile("~|null|Null|NULL|"), lambda text: None),
    (re.compile("true|True|TRUE|false|False|FALSE"), lambda text: text[0] in "tT"),
    (INTEGER, int),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
)
ODD = re.compile(  # a number to some readers, and another number or text to others
    r"""[-+]?( 0[0-9_]+ | 0x[0-9a-fA-F][0-9a-fA-F_]* | 0o[0-7][0-7_]* | 0b[01][01_]*
             | (?=.*_)[0-9][0-9_]*(\.[0-9_]*([eE][-+]?[0-9]+)?)? | [0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)? )""",
    re.VERBOSE,
)


def plain(text: str) -> Any:
    """The value of an unquoted scalar in the core schema of YAML 1.2."""
    return next((convert(text) for pattern, convert in _CORE if pattern.fullmatch(text)), text)


def odd(text: str) -> str:
    """What to write instead of a number that is not one to every reader."""
    if ":" in text:
        return f"{shown(text)} counts in sixties in YAML 1.1 and is text in 1.2: put it in quotes"
    digits, what = text.replace("_", ""), "is not a number to every reader"
    base = {"0x": 16, "0o": 8, "0b": 2}.get(digits.lstrip("+-")[:2], 10)
    number = float(digits) if "." in digits else int(digits, base)
    if re.fullmatch("[-+]?0[0-7]+", digits):
        what = f"is {shown(int(digits, 8))} in YAML 1.1 and {shown(number)} in 1.2"
    return f"{shown(text)} {what}: write {shown(number)}, or quote it"


_BARE = re.compile(r"(?!(y|n|yes|no|on|off|true|false|null)$)[a-z_][\w./+-]*( [\w./+-]+)*", re.ASCII | re.IGNORECASE)
_WIDTH, _KEY = 88, 1_000  # the longest list on one line; the longest key on one (the parser's limit is 1,024)


def dump(data: Any) -> str:
    """Plain data as text that `parse` reads back as the same data, as do readers of YAML 1.1."""
    return "\n".join(_block(data)) + "\n"


def on_one_line(data: Any) -> str:
    """A value as a spec may have it, on one line."""
    return json.dumps(data, ensure_ascii=False) if isinstance(data, (dict, list, tuple)) else _written(data)


def with_error(value: float, stderr: float | None) -> str:
    """A number to the second digit of its standard error, as in "1.726 ± 0.022"; to four digits where it has none."""
    if stderr is None:
        return _decimal(value, 4)
    if not (math.isfinite(value) and math.isfinite(stderr) and value and stderr > 0):
        return f"{_decimal(value, 4)} ± {_decimal(stderr, 2)}"
    digits = math.floor(math.log10(abs(value))) - math.floor(math.log10(stderr)) + 2
    return f"{_decimal(value, min(max(1, digits), 12))} ± {_decimal(stderr, 2)}"


def _decimal(value: float, digits: int) -> str:
    """So many significant digits, without an exponent where that is short: 440, not 4.4e+02."""
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text and abs(value) < 1e6 else text


def no_character(character: str) -> str:
    return f"the character U+{ord(character):04X} cannot stand in a spec"


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
    return FORBIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)
