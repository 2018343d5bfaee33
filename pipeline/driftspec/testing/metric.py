"""What a metric is held to."""

from __future__ import annotations

from driftspec.testing.component import ComponentTests


class MetricTests(ComponentTests):
    """Checks of a metric."""

    kind = "metric"
