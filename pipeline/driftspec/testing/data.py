"""What a data is held to."""

from __future__ import annotations

from driftspec.testing.component import ComponentTests


class DataTests(ComponentTests):
    """Checks of a data."""

    kind = "data"
