"""Optimisers and schedules: how are parameters moved, and how does the rate change with the step?"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from driftspec.components.component import Component

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer as TorchOptimizer
    from torch.optim.lr_scheduler import LRScheduler


class Optimizer(Component):
    """How are parameters moved?"""

    kind = "optimizer"

    @abstractmethod
    def build(self, parameters: Sequence[nn.Parameter]) -> TorchOptimizer:
        """Return the optimiser of these parameters."""


class Schedule(Component):
    """How does the learning rate change with the step?"""

    kind = "schedule"

    @abstractmethod
    def build(self, optimizer: TorchOptimizer, steps: int) -> LRScheduler:
        """Return the scheduler that is stepped once after each of `steps` optimiser steps."""
