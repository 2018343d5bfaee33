"""Optimisers, which update parameters, and schedules, which change the learning rate with the step."""

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
    """A rule that updates parameters by their gradients."""

    kind = "optimizer"

    @abstractmethod
    def build(self, parameters: Sequence[nn.Parameter]) -> TorchOptimizer:
        """Return torch's optimiser of these parameters."""


class Schedule(Component):
    """The learning rate as a function of the step."""

    kind = "schedule"

    @abstractmethod
    def build(self, optimizer: TorchOptimizer, steps: int) -> LRScheduler:
        """Return torch's scheduler, which is stepped once after each of `steps` optimiser steps."""
