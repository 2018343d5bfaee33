"""The rule by which every dynamics offers `smooth`: its velocity or score must have a continuous derivative."""

from __future__ import annotations

from driftspec.components import Network


def smooth(network: Network, predicts: str) -> frozenset[str]:
    """Return {"smooth"} if the derivative that a trace or a loss takes is continuous, else the empty set.

    The network must be C1 if it predicts a velocity, a score or a noise, and C2 if it predicts an energy E: s = -∇E.
    """
    needed = 2 if predicts == "energy" else 1
    return frozenset({"smooth"} if network.smoothness() >= needed else ())


__all__ = ["smooth"]
