"""Trackers: who is told how a run goes?"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from driftspec.components.component import Component

if TYPE_CHECKING:
    from driftspec.components.observer import Observer


class Tracker(Component):
    """Who is told how a run goes? The run's results and its digest do not depend on it."""

    kind = "tracker"

    @abstractmethod
    def observer(self, folder: Path) -> Observer:
        """What is told of one run, and holds what that takes. `folder`, not made yet, is its own in the run directory.

        It is made anew where a run is resumed, and then told of steps that it may have been told of before.
        """
