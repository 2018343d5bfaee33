"""A torch scheduler that sets the learning rate by a formula of the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer  # noqa: TID253  (this module is imported by a method)
from torch.optim.lr_scheduler import LRScheduler  # noqa: TID253


class ClosedForm(LRScheduler):
    """lr = rate(base, step), with `base` the lr of the optimiser. Its state dict has only numbers, not the formula."""

    def __init__(self, optimizer: Optimizer, rate: Callable[[float, int], float]):
        self.rate = rate
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        return [self.rate(float(base), self.last_epoch) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict().items() if name != "rate"}
