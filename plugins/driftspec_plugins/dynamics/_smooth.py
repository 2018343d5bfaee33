"""Whether a velocity, a score or an energy may be differentiated once more: the one rule for every dynamics."""

from __future__ import annotations

from driftspec.components import Network


def smooth(network: Network, predicts: str) -> frozenset[str]:
    """{"smooth"} for a network whose derivative by a trace or a loss is continuous, else nothing.

    C1 for a velocity, a score or a noise; C2 for an energy, whose score is a derivative already.
    """
    needed = 2 if predicts == "energy" else 1
    return frozenset({"smooth"} if network.smoothness() >= needed else ())


__all__ = ["smooth"]
