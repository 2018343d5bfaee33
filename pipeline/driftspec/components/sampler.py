"""Samplers: they draw from a model, in one or more chains."""

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
    """Draws `values` (chains, draws, d) in model units, statistics of all and of each chain (chains,), and verdicts."""

    values: Tensor
    stats: Mapping[str, float] = field(default_factory=dict)
    each: Mapping[str, Tensor] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()  # whether the draws can be trusted, and why

    def flat(self) -> Tensor:
        """Return the draws (chains · draws, d), chain after chain."""
        return self.values.flatten(0, 1)


@dataclass(frozen=True)
class Course:
    """The start, duration and number of steps of chains that follow an SDE, with equal time steps from 0 to `duration`.

    `start` is a distribution, the `data` or the `prior` of the spec, or None, which is N(0, I).
    """

    start: Distribution | Literal["data", "prior"] | None
    duration: float
    steps: int


class Sampler(Component):
    """Draws from a model, in one or more chains. Draw i is a function of (seed, i)."""

    kind = "sampler"
    BLOCK: ClassVar[int] = 256
    """Noise is drawn in whole blocks of this many draws, each with its own generator: no draw depends on the count."""
    heuristic: ClassVar[bool] = False
    """Whether its draws have an unknown distribution, which depends on tuning, also in the limit of short steps."""

    @classmethod
    def lacking(cls) -> list[str]:
        """Return the methods that are missing: a sampler needs `draw_block`, or only `draw`."""
        neither = cls.draw is Sampler.draw and cls.draw_block is Sampler.draw_block
        return [*super().lacking(), *(["draw_block"] if neither else [])]

    def draw(self, model: Model, count: int, streams: Streams) -> Draws:
        """Return `count` ≥ 1 chains of one draw, by default the first `count` of whole blocks from `draw_block`."""
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
        """Return the draws of BLOCK chains, in model units."""
        raise NotImplementedError

    def layout(self, count: int) -> tuple[int, int]:
        """Return the number of chains, and of draws in each chain, for `count` draws."""
        return count, 1

    def adapts(self) -> bool:
        """Whether its step size adapts during burn-in."""
        return False

    def settled(self, around: Setting) -> Self:
        """Return the sampler with the keys filled in that this spec determines; by default itself."""
        return self


@runtime_checkable
class ShowsStates(Protocol):
    """A sampler that can return the states of its chains between their start and their draw."""

    def length(self, model: Model) -> int | None:
        """Return the number of steps from the start of a chain to its only draw; None for chains of several draws."""

    def states(self, model: Model, count: int, streams: Streams, after: Sequence[int]) -> Tensor:
        """Return the states (K, count, d) of the chains of `draw` after K numbers of steps, in increasing order."""


@runtime_checkable
class Refines(Protocol):
    """A sampler with a step size; the bias of its draws decreases with the step size."""

    label: str

    def halved(self) -> Any:
        """Return the same sampler with twice as many steps, each half as long."""


@runtime_checkable
class FollowsSDE(ShowsStates, Refines, Protocol):
    """A sampler whose chains follow an SDE in time. It offers the capability `motion`."""

    def course(self, around: Setting) -> Course:
        """Return the start, the duration and the number of steps of its chains."""

    def motion(self, model: Model) -> tuple[VectorField, Callable[[Tensor], Tensor]]:
        """Return the functions f(t, x) (B, d) and g(t) of the SDE dx = f dt + g dw, with t the time since the start."""


@runtime_checkable
class DropsNoise(ShowsStates, Protocol):
    """A sampler that can run without noise: its chains then climb log p. It offers the capability `climb`."""

    def without_noise(self) -> Any:
        """Return the same sampler without noise; its chains have the same starts."""


@runtime_checkable
class PredictsMoments(Protocol):
    """A sampler that knows the exact moments of its draws, bias included, for some targets."""

    def predicts(self, law: Distribution) -> bool:
        """Whether `predicted` knows the moments of its draws for this target."""

    def predicted(self, law: Distribution) -> tuple[Tensor, Tensor]:
        """Return the mean (m,) and covariance (m, m), float64, of its draws for this target, bias included."""
