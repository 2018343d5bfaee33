"""Samplers: model -> draws, chains kept apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, runtime_checkable

from driftspec.components.component import Component

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from driftspec.components.data import Distribution
    from driftspec.components.model import Model
    from driftspec.components.setting import Setting
    from driftspec.components.solver import VectorField
    from driftspec.components.verdict import Verdict
    from driftspec.streams import Streams


@dataclass(frozen=True)
class Draws:
    """`values` (chains, draws, d) in model units, statistics of all and of each chain (chains,), and verdicts."""

    values: Tensor
    stats: Mapping[str, float] = field(default_factory=dict)
    each: Mapping[str, Tensor] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()  # whether the draws can be trusted, and why

    def flat(self) -> Tensor:
        """(chains · draws, d), chain by chain."""
        return self.values.flatten(0, 1)


@dataclass(frozen=True)
class Course:
    """The way of chains that follow an SDE: equal steps of time, from 0 to `duration`, and the law they begin in.

    `data` and `prior` are those of the spec, None is N(0, I).
    """

    start: Distribution | Literal["data", "prior"] | None
    duration: float
    steps: int


class Sampler(Component):
    """model -> draws, chains kept apart. Sample i is a function of (seed, i)."""

    kind = "sampler"
    BLOCK: ClassVar[int] = 256
    """Noise is drawn in whole blocks of this many samples, a generator each: no sample depends on the count."""
    heuristic: ClassVar[bool] = False
    """Shorter steps do not lead to the model's law: it depends on how the sampler is tuned, and nobody states it."""

    @classmethod
    def lacking(cls) -> list[str]:
        """A sampler gives `draw_block`, or `draw` alone."""
        neither = cls.draw is Sampler.draw and cls.draw_block is Sampler.draw_block
        return [*super().lacking(), *(["draw_block"] if neither else [])]

    def draw(self, model: Model, count: int, streams: Streams) -> Draws:
        """`count` samples, at least one: whole blocks by `draw_block`, one draw a chain, cut to the count."""
        import torch

        blocks = [
            self.draw_block(model, streams.at(block).generator("noise")) for block in range(-(-count // self.BLOCK))
        ]
        stats: dict[str, float] = {}
        for block in blocks:
            for name, value in block.stats.items():
                stats[name] = stats.get(name, 0) + value
        verdicts = tuple(dict.fromkeys(verdict for block in blocks for verdict in block.verdicts))
        each = {name: torch.cat([block.each[name] for block in blocks])[:count] for name in blocks[0].each}
        return Draws(torch.cat([block.values for block in blocks])[:count], stats, each, verdicts)

    def draw_block(self, model: Model, generator: Generator) -> Draws:
        """BLOCK chains, in model units."""
        raise NotImplementedError

    def layout(self, count: int) -> tuple[int, int]:
        """(chains, draws a chain) of `count` samples."""
        return count, 1

    def adapts(self) -> bool:
        """Return whether its step size adapts while chains burn in."""
        return False

    def settled(self, around: Setting) -> Self:
        """The same, with what its open keys stand for in this spec; by default itself."""
        return self


@runtime_checkable
class ShowsStates(Protocol):
    """A sampler that knows where its chains are between their start and their draw."""

    def length(self, model: Model) -> int | None:
        """Return the steps from a chain's start to its only draw; None for chains of several draws."""

    def states(self, model: Model, count: int, streams: Streams, after: Sequence[int]) -> Tensor:
        """Return the states (K, count, d) of the chains of `draw` after these K numbers of steps, which rise."""


@runtime_checkable
class Refines(Protocol):
    """A sampler with a step size, whose draws have a bias that falls with it."""

    label: str

    def halved(self) -> Any:
        """Return the same sampler with twice the steps, each half as long."""


@runtime_checkable
class FollowsSDE(ShowsStates, Refines, Protocol):
    """A sampler whose chains follow an SDE through time. It offers `motion`."""

    def course(self, around: Setting) -> Course:
        """Return where its chains start, how long they run, and in how many steps."""

    def motion(self, model: Model) -> tuple[VectorField, Callable[[Tensor], Tensor]]:
        """Return f(t, x) (B, d) and g(t) of the SDE dx = f dt + g dw, t the time since the start."""


@runtime_checkable
class PredictsMoments(Protocol):
    """A sampler that knows the moments of its own draws from some targets."""

    def predicts(self, law: Distribution) -> bool:
        """Return whether `predicted` knows the moments of draws from this target."""

    def predicted(self, law: Distribution) -> tuple[Tensor, Tensor]:
        """Return mean (m,) and covariance (m, m), float64, of draws from this target, the sampler's bias included."""
