"""What an estimator is held to, and what a trace is beside."""

from __future__ import annotations

from driftspec.testing.component import ComponentTests


class EstimatorTests(ComponentTests):
    """Checks of an estimator."""

    kind = "estimator"


class TraceTests(EstimatorTests):
    """Checks of an estimate of a trace, which trains by maximum likelihood."""
