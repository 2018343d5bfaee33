"""Capabilities: what a component can compute, and what follows from that."""

from __future__ import annotations

from driftspec.components.component import Component
from driftspec.components.data import Data

FOLLOWS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"energy"}), "score"),
    (frozenset({"drift", "score"}), "velocity"),  # the probability-flow ODE
    (frozenset({"velocity", "prior"}), "log_prob"),
    (frozenset({"log_prob"}), "score"),  # by automatic differentiation
)
"""Pairs (capabilities, the capability that follows from all of them)."""


def capabilities(component: Component) -> frozenset[str]:
    """Return the capabilities that a component offers, and all that follow from them."""
    return frozenset(offered(component))


def offered(component: Component) -> list[str]:
    """Return the capabilities that the component offers, sorted, and then those that follow from them."""
    soft = {"smooth"} if isinstance(component, Data) and not component.hard_edges else set[str]()
    there = sorted(component.offers() | soft)
    while more := [result for given, result in FOLLOWS if given.issubset(there) and result not in there]:
        there += dict.fromkeys(more)
    return there


__all__ = ["FOLLOWS", "capabilities", "offered"]
