"""The schedules of torch.optim.lr_scheduler by name, each as a closed form after a linear warm-up.

`base` is the lr of the optimiser, s counts the steps after the warm-up, and T is their number. In the warm-up the rate
is (step + 1) / (warmup + 1) times the rate at s = 0, which the first step after the warm-up has.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from driftspec.components import Schedule, Setting
from driftspec.components.component import Finding

if TYPE_CHECKING:
    from torch.optim import Optimizer as TorchOptimizer
    from torch.optim.lr_scheduler import LRScheduler

Fraction = Annotated[float, Field(ge=0, le=1)]


class Warmed(Schedule):
    """A closed form after a linear warm-up."""

    warmup: int = Field(0, ge=0, description="steps of linear warm-up; fewer than train.steps")

    def problems(self, around: Setting) -> Iterator[Finding]:
        if around.steps is not None and self.warmup >= around.steps:
            yield "warmup", f"'warmup' is {self.warmup}: it must be less than train.steps, which is {around.steps}"

    def rate(self, base: float, s: int, total: int) -> float:
        """Return the learning rate at step s of `total` steps after the warm-up."""
        raise NotImplementedError

    def build(self, optimizer: TorchOptimizer, steps: int) -> LRScheduler:
        from driftspec_plugins.schedules._closed_form import ClosedForm

        warmup, total = self.warmup, steps - self.warmup
        if total <= 0:
            raise ValueError(f"{self.label}: warmup {warmup} leaves none of the {steps} steps")

        def rate(base: float, step: int) -> float:
            if step < warmup:
                return self.rate(base, 0, total) * (step + 1) / (warmup + 1)
            return self.rate(base, min(step - warmup, total), total)

        return ClosedForm(optimizer, rate)


class Constant(Warmed):
    """The rate base, at every step."""

    type = "constant"

    def rate(self, base: float, s: int, total: int) -> float:
        return base


class Cosine(Warmed):
    """lr = eta_min + (base - eta_min) (1 + cos(π s / T)) / 2. Loshchilov and Hutter, "SGDR", 2016, without restarts."""

    type = "cosine"

    eta_min: float = Field(0.0, ge=0, description="learning rate at the end")

    def rate(self, base: float, s: int, total: int) -> float:
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * s / total)) / 2


class Linear(Warmed):
    """lr = base · (start_factor + (end_factor - start_factor) s / total_iters), then constant."""

    type = "linear"

    start_factor: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="factor of base at the start")
    end_factor: Fraction = Field(0.0, description="factor of base at the end")
    total_iters: int | None = Field(None, ge=1, description="steps from start to end; null: all after the warm-up")

    def rate(self, base: float, s: int, total: int) -> float:
        done = min(1.0, s / (self.total_iters or total))
        return base * (self.start_factor + (self.end_factor - self.start_factor) * done)


class Step(Warmed):
    """lr = base · gamma^⌊s / step_size⌋."""

    type = "step"
    example: ClassVar[Mapping[str, Any]] = {"step_size": 10}

    step_size: int = Field(ge=1, description="steps between two drops")
    gamma: float = Field(0.1, gt=0, description="factor of each drop")

    def rate(self, base: float, s: int, total: int) -> float:
        return base * self.gamma ** (s // self.step_size)


class MultiStep(Warmed):
    """lr = base · gamma^m, with m the number of milestones up to s."""

    type = "multi_step"
    example: ClassVar[Mapping[str, Any]] = {"milestones": [5, 10]}

    milestones: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=1, description="steps, counted from the end of the warm-up, at which the rate drops"
    )
    gamma: float = Field(0.1, gt=0, description="factor of each drop")

    def problems(self, around: Setting) -> Iterator[Finding]:
        yield from super().problems(around)
        left = math.inf if around.steps is None else around.steps - self.warmup
        if never := [milestone for milestone in self.milestones if milestone >= left]:
            text = f"milestone {min(never)} is never reached: {left} steps follow the warm-up"
            yield "milestones", text, "warning"

    def rate(self, base: float, s: int, total: int) -> float:
        return base * self.gamma ** bisect_right(sorted(self.milestones), s)


class Exponential(Warmed):
    """lr = base · gamma^s."""

    type = "exponential"
    example: ClassVar[Mapping[str, Any]] = {"gamma": 0.99}

    gamma: float = Field(gt=0, description="factor of each step")

    def rate(self, base: float, s: int, total: int) -> float:
        return base * self.gamma**s


class Polynomial(Warmed):
    """lr = base · (1 - s / total_iters)^power, then 0."""

    type = "polynomial"

    total_iters: int | None = Field(None, ge=1, description="steps until the rate is 0; null: all after the warm-up")
    power: float = Field(1.0, gt=0, description="exponent; with 1 the rate falls linearly")

    def rate(self, base: float, s: int, total: int) -> float:
        return base * (1 - min(1.0, s / (self.total_iters or total))) ** self.power


class OneCycle(Schedule):
    """torch's OneCycleLR: lr rises and then falls, momentum or β1 falls and then rises. Smith and Topin, 2017."""

    type = "one_cycle"

    max_lr: float | None = Field(None, gt=0, description="rate at the top; null: the optimiser's lr")
    pct_start: float = Field(0.3, gt=0, lt=1, description="fraction of the steps in which the rate rises")
    anneal_strategy: Literal["cos", "linear"] = Field("cos", description="shape of the rise and of the fall")
    cycle_momentum: bool = Field(True, description="change momentum or β1 too, which replaces the optimiser's value")
    base_momentum: float = Field(0.85, ge=0, lt=1, description="momentum or β1 at the top")
    max_momentum: float = Field(0.95, ge=0, lt=1, description="momentum or β1 at both ends")
    div_factor: float = Field(25.0, ge=1, description="the first rate is max_lr / div_factor")
    final_div_factor: float = Field(1e4, ge=1, description="the last rate is the first / final_div_factor")
    three_phase: bool = Field(False, description="fall to the first rate as fast as it rose, and then to the last")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.base_momentum > self.max_momentum:
            raise ValueError(f"base_momentum {self.base_momentum} is above max_momentum {self.max_momentum}")
        if self.three_phase and self.pct_start >= 0.5:
            raise ValueError(f"three_phase takes pct_start of the steps twice: {self.pct_start} is not below 0.5")
        return self

    def problems(self, around: Setting) -> Iterator[Finding]:
        if around.steps is not None and (few := self._too_few(around.steps)):
            yield "pct_start", few
        moved = around.optimizer
        if moved is not None and (still := self._without_momentum(moved.label, type(moved).model_fields)):
            yield "cycle_momentum", still

    def _too_few(self, steps: int) -> str:
        """Return the message if the rate would rise in 0 steps, by which torch divides, else "".

        The rise takes pct_start · steps - 1 steps.
        """
        return (
            f"pct_start {self.pct_start} of {steps} steps leaves the rise no step"
            if self.pct_start * steps <= 1
            else ""
        )

    def _without_momentum(self, label: str, keys: Iterable[str]) -> str:
        """Return the message if this optimiser has no momentum to change, else ""."""
        still = self.cycle_momentum and {"momentum", "betas"}.isdisjoint(keys)
        return f"{label} has no momentum to cycle: write cycle_momentum: false" if still else ""

    def build(self, optimizer: TorchOptimizer, steps: int) -> LRScheduler:
        from torch.optim.lr_scheduler import OneCycleLR

        if few := self._too_few(steps):
            raise ValueError(f"{self.label}: {few}")
        label = f"optimizer '{type(optimizer).__name__.lower()}'"
        if still := self._without_momentum(label, optimizer.defaults):
            raise ValueError(f"{self.label}: {still}")
        keys = self.model_dump(exclude={"max_lr"})
        top = optimizer.defaults["lr"] if self.max_lr is None else self.max_lr
        return OneCycleLR(optimizer, max_lr=top, total_steps=steps, **keys)
