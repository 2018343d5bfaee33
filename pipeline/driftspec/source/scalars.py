"""Reads scalars (YAML 1.2's core schema, without what YAML 1.1 reads differently); writes data as YAML text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from driftspec.errors import shown

# U+0085, U+2028 and U+2029 end a line in YAML 1.1, but not in YAML 1.2 or in most editors. Several small sets compile
# ten times as fast as one large set.
FORBIDDEN = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\u2028|\u2029|[\ud800-\udfff]|\ufeff|\ufffe|\uffff")
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_CORE: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile("~|null|Null|NULL|"), lambda text: None),
    (re.compile("true|True|TRUE|false|False|FALSE"), lambda text: text[0] in "tT"),
    (INTEGER, int),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
)
ODD = re.compile(  # a number for some YAML readers, another number or text for others
    r"""[-+]?( 0[0-9_]+ | 0x[0-9a-fA-F][0-9a-fA-F_]* | 0o[0-7][0-7_]* | 0b[01][01_]*
             | (?=.*_)[0-9][0-9_]*(\.[0-9_]*([eE][-+]?[0-9]+)?)? | [0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)? )""",
    re.VERBOSE,
)


def plain(text: str) -> Any:
    """Return the value of an unquoted scalar in the core schema of YAML 1.2."""
    return next((convert(text) for pattern, convert in _CORE if pattern.fullmatch(text)), text)


def odd(text: str) -> str:
    """Return the message for a number that YAML readers read differently, with what to write instead."""
    if ":" in text:
        return f"{shown(text)} is a number in base 60 in YAML 1.1 and text in 1.2: put it in quotes"
    digits, what = text.replace("_", ""), "is not a number for every YAML reader"
    base = {"0x": 16, "0o": 8, "0b": 2}.get(digits.lstrip("+-")[:2], 10)
    number = float(digits) if "." in digits else int(digits, base)
    if re.fullmatch("[-+]?0[0-7]+", digits):
        what = f"is {shown(int(digits, 8))} in YAML 1.1 and {shown(number)} in 1.2"
    return f"{shown(text)} {what}: write {shown(number)}, or quote it"


_BARE = re.compile(r"(?!(y|n|yes|no|on|off|true|false|null)$)[a-z_][\w./+-]*( [\w./+-]+)*", re.ASCII | re.IGNORECASE)
_WIDTH, _KEY = 88, 1_000  # most characters on one line: of a list, of a key (the parser's limit is 1,024)


def dump(data: Any) -> str:
    """Return plain data as YAML text that `parse` and readers of YAML 1.1 read back as the same data."""
    return "\n".join(_block(data)) + "\n"


def on_one_line(data: Any) -> str:
    """Return a value on one line, as a spec may hold it."""
    return json.dumps(data, ensure_ascii=False) if isinstance(data, (dict, list, tuple)) else _written(data)


def with_error(value: float, stderr: float | None) -> str:
    """Return a number to the second digit of its standard error, "1.726 ± 0.022", or to four digits if it has none."""
    if stderr is None:
        return _decimal(value, 4)
    if not (math.isfinite(value) and math.isfinite(stderr) and value and stderr > 0):
        return f"{_decimal(value, 4)} ± {_decimal(stderr, 2)}"
    digits = math.floor(math.log10(abs(value))) - math.floor(math.log10(stderr)) + 2
    return f"{_decimal(value, min(max(1, digits), 12))} ± {_decimal(stderr, 2)}"


def _decimal(value: float, digits: int) -> str:
    """Return a number with this many significant digits; below a million without an exponent: 440, not 4.4e+02."""
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text and abs(value) < 1e6 else text


def no_character(character: str) -> str:
    """Return the message for a character that is not allowed in a spec."""
    return f"the character U+{ord(character):04X} is not allowed in a spec"


def _block(data: Any) -> list[str]:
    """Return the lines of a value; one line if it is a scalar, empty or a short list of scalars."""
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
    """Return a value on one line, or None if it needs more lines."""
    if isinstance(data, dict):
        return None if data else "{}"
    if not isinstance(data, (list, tuple)):
        return _written(data)
    if any(isinstance(item, (dict, list, tuple)) for item in data):
        return None
    text = f"[{', '.join(map(_written, data))}]"
    return text if len(text) <= _WIDTH else None


def _written(value: Any) -> str:
    """Return a scalar as text, without quotes only if every YAML version reads it alike."""
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
