"""YAML text to plain data with a place for every key and value; files that a spec names."""

from __future__ import annotations

from driftspec.source.text import (
    Document,
    KeyPath,
    Marks,
    assign,
    content,
    dump,
    merge,
    parse,
    parse_value,
    read,
    unset,
)

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
