"""The entries of run.json as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def in_words(info: Mapping[str, Any], key: str) -> str | None:
    """Return the entry under `key` as text; None if there is none."""
    fact = info.get(key)
    if fact is None or fact == {}:
        return None
    if key == "evaluated":
        return _weights(fact)
    if key == "git":
        return f"commit {fact['commit'][:12]}" + (" with changes that are not committed" if fact["dirty"] else "")
    if key == "error":
        return str(fact["message"])
    if isinstance(fact, Mapping):
        return ", ".join(f"{name} {_short(one)}" for name, one in fact.items())
    return ", ".join(map(str, fact)) if isinstance(fact, list) else str(fact)


def _weights(evaluated: Mapping[str, Any]) -> str:
    """Return which weights were evaluated: "moving average (ema) at step 600, the best of the checks"."""
    if not evaluated["step"]:
        return "the initial weights: nothing was trained"
    kind = "moving average (ema)" if evaluated["weights"] == "ema" else "the last weights"
    return f"{kind} at step {evaluated['step']}" + (", the best of the checks" if evaluated["best"] else "")


def _short(value: object) -> str:
    """Return seconds with one decimal, and any other text (a plugin's version or digest) cut to twelve characters."""
    if isinstance(value, float):
        return f"{value:.1f}"
    return str(value)[:12]


__all__ = ["in_words"]
