"""Parameters of a linear layer, and the time a layer sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor


def uniform(*shape: int, fan_in: int, generator: Generator) -> Tensor:
    """U(-1/√fan_in, 1/√fan_in), the law torch.nn.Linear draws weight and bias from, float32, from `generator` alone."""
    import torch

    bound = fan_in**-0.5
    return torch.empty(shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)


def refuse_condition(label: str, condition: Tensor | None) -> None:
    """ValueError if a network that has no use for a condition is given one."""
    if condition is not None:
        raise ValueError(f"{label} takes no condition, and was given one of shape {tuple(condition.shape)}")
