"""What a dynamics is held to."""

from __future__ import annotations

from driftspec.testing.component import ComponentTests


class DynamicsTests(ComponentTests):
    """Checks of a dynamics."""

    kind = "dynamics"
