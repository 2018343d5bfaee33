"""Helpers for networks: the parameters of a linear layer, and the refusal of a condition."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor


def uniform(*shape: int, fan_in: int, generator: Generator) -> Tensor:
    """Return a float32 tensor, such as (d_out, d_in), from U(-1/√fan_in, 1/√fan_in), like torch.nn.Linear."""
    import torch

    bound = fan_in**-0.5
    return torch.empty(shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)


def refuse_condition(label: str, condition: Tensor | None) -> None:
    """Raise ValueError if a network that cannot use a condition (B, k) receives one."""
    if condition is not None:
        raise ValueError(f"{label} takes no condition, and was given one of shape {tuple(condition.shape)}")
