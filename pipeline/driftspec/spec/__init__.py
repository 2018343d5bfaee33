"""Plain data to a Spec: the envelope, its reading and changes, what fits, messages, the schema, points of a sweep."""

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
    "loaded",
    "read",
    "validate",
]
