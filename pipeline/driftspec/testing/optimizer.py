"""What an optimizer and a schedule are held to."""

from __future__ import annotations

from driftspec.testing.component import ComponentTests


class OptimizerTests(ComponentTests):
    """Checks of an optimizer."""

    kind = "optimizer"


class ScheduleTests(ComponentTests):
    """Checks of a schedule."""

    kind = "schedule"
