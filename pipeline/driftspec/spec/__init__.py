"""Reads and checks a spec: sections, changes, messages, what fits together, JSON Schema, points of a sweep."""

from __future__ import annotations

from driftspec.spec.envelope import (
    Changes,
    EarlyStopping,
    Loaded,
    Runtime,
    Sample,
    Spec,
    Sweep,
    Train,
    from_text,
    hastened,
    loaded,
    read,
    validate,
)

__all__ = [
    "Changes",
    "EarlyStopping",
    "Loaded",
    "Runtime",
    "Sample",
    "Spec",
    "Sweep",
    "Train",
    "from_text",
    "hastened",
    "loaded",
    "read",
    "validate",
]
