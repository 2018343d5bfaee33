"""Optimisers and schedules: how are parameters moved, and how does the rate change with the step?"""

from __future__ import annotations

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

    def build(self, parameters: Sequence[nn.Parameter]) -> TorchOptimizer:
        raise NotImplementedError


class Schedule(Component):
    """How does the learning rate change with the step?"""

    kind = "schedule"

    def build(self, optimizer: TorchOptimizer, steps: int) -> LRScheduler:
        """A scheduler stepped once after each of `steps` optimiser steps."""
        raise NotImplementedError
