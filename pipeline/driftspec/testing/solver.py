"""What a solver is held to."""

from __future__ import annotations

from driftspec.testing.component import ComponentTests


class SolverTests(ComponentTests):
    """Checks of a solver."""

    kind = "solver"
