"""Trackers: they record the events of a run in a store such as MLflow."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from driftspec.components.component import Component

if TYPE_CHECKING:
    from driftspec.components.observer import Observer


class Tracker(Component):
    """Records the events of a run in a store. The results of the run and its digest do not depend on it."""

    kind = "tracker"

    @abstractmethod
    def observer(self, folder: Path) -> Observer:
        """Return the observer of one run, which may create `folder`, reserved for it in the run directory.

        A resumed run makes a new observer, which may receive steps that the observer before it received too.
        """
