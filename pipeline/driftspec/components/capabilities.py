"""Capabilities: what a component offers itself, and what follows from it."""

from __future__ import annotations

from driftspec.components.component import Component
from driftspec.components.data import Data

FOLLOWS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"energy"}), "score"),
    (frozenset({"drift", "score"}), "velocity"),  # the probability-flow ODE
    (frozenset({"velocity", "prior"}), "log_prob"),
    (frozenset({"log_prob"}), "score"),  # by automatic differentiation
)
"""Capabilities that follow from others."""


def capabilities(component: Component) -> frozenset[str]:
    """Return what a component offers, with all that follows from it."""
    return frozenset(offered(component))


def offered(component: Component) -> list[str]:
    """Return the component's own capabilities, then those that follow, in order."""
    soft = {"smooth"} if isinstance(component, Data) and not component.hard_edges else set[str]()
    there = sorted(component.offers() | soft)
    while more := [result for given, result in FOLLOWS if given.issubset(there) and result not in there]:
        there += dict.fromkeys(more)
    return there


__all__ = ["FOLLOWS", "capabilities", "offered"]
