"""Reads YAML text into plain data with a place for every key and value, and reads the files that a spec names."""

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
