"""What a network is held to."""

from __future__ import annotations

from driftspec.testing.component import ComponentTests


class NetworkTests(ComponentTests):
    """Checks of a network."""

    kind = "network"
