"""Markov chains: the loop, in one place; a method is one step.

    x_{n+1} = step(x_n, ε_n, u_n),   ε_n ~ N(0, I),  u_n ~ U[0, 1)

Every chain has its own noise, a function of (seed, chain, step): noise is drawn in whole blocks of 256 chains, a generator
a block, some steps ahead, and the chains are padded to whole blocks. So a chain is the same alone and in any company, and
asking for more chains keeps the first ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationInfo, model_validator

from driftspec.components import Distribution, Draws, Sampler
from driftspec.errors import RunFailed

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.model import Model
    from driftspec.streams import Streams

AHEAD = 16
"""Steps whose noise is drawn at once."""


@dataclass(frozen=True)
class Noise:
    """One step's chance: ε (chains, d) standard normal and u (chains,) uniform on [0, 1)."""

    normal: Tensor
    uniform: Tensor


@dataclass(frozen=True)
class Moved:
    """Where a step leads, the chains' own state (e.g. step sizes), and counters (chains,) that add up over steps."""

    x: Tensor
    state: Any = None
    counts: Mapping[str, Tensor] = field(default_factory=dict)


def noise(streams: Streams, chains: int, like: Tensor) -> Iterator[Noise]:
    """The noise of step 1, 2, ... for `chains` (a multiple of the block) of the dimensions, dtype and device of `like`."""
    import torch

    block, d = Sampler.BLOCK, like.shape[1]
    generators = [streams.at(index).generator("steps") for index in range(chains // block)]
    while True:
        normals, uniforms = [], []
        for generator in generators:
            normals.append(torch.randn(AHEAD, block, d, generator=generator, dtype=torch.float64))
            uniforms.append(torch.rand(AHEAD, block, generator=generator, dtype=torch.float64))
        normal, uniform = (torch.cat(parts, 1).to(like) for parts in (normals, uniforms))
        yield from map(Noise, normal, uniform)


def _law(body: Any, info: ValidationInfo) -> Any:
    """`data` and `prior` as they are; everything else is a law, by its name or its keys."""
    return body if body in ("data", "prior") else TypeAdapter(Distribution).validate_python(body, context=info.context)


Start = Annotated[Distribution | Literal["data", "prior"], BeforeValidator(_law)]
"""As a key's type: where chains begin."""


class ChainSampler(Sampler):
    """Chains of steps from a start. With `chains` left open each sample is the end of a chain of its own."""

    chains: int | None = Field(None, ge=1, description="chains side by side, several draws each; null: one a sample")
    steps: int | None = Field(
        None, ge=0, description="length of each chain, where every sample has its own (default 1000)"
    )
    burn_in: int | None = Field(
        None, ge=0, description="steps before a chain's first draw, where chains make several (default 1000)"
    )
    thin: int = Field(1, ge=1, description="steps from one draw of a chain to the next")
    start: Start | None = Field(
        None, description="where chains begin: a law, `data` (training rows) or `prior`; null: the prior if there is one"
    )

    @model_validator(mode="after")
    def _one_way_to_say_how_long(self) -> Self:
        if self.chains is None and self.burn_in is not None:
            raise ValueError("burn_in goes with chains; with one draw a chain say steps")
        if self.chains is not None and self.steps is not None:
            raise ValueError("steps goes with one draw a chain; with chains say burn_in")
        return self

    def begin(self, model: Model, x: Tensor) -> Any:
        """The chains' state before their first step."""
        return None

    def advance(self, model: Model, x: Tensor, state: Any, chance: Noise, warming: bool) -> Moved:
        """One step of every chain, row by row; `warming` during burn-in, when a step size may adapt."""
        raise NotImplementedError

    def draw(self, model: Model, count: int, streams: Streams) -> Draws:
        import torch

        chains = self.chains or count
        if count % chains:
            raise RunFailed(f"{self.label}: sample.count {count} is no multiple of {chains} chains")
        before = (self.steps if self.chains is None else self.burn_in)
        before = 1000 if before is None else before
        draws = count // chains
        x = model.first(self.start, chains, streams)
        state, counts = self.begin(model, x), {}
        kept, number = [], 0
        for chance in noise(streams.under("chains"), len(x), x):
            if number >= before and (number - before) % self.thin == 0:
                kept.append(x[:chains])
            if len(kept) == draws:
                break
            moved = self.advance(model, x, state, chance, warming=number < before)
            x, state, number = moved.x, moved.state, number + 1
            for name, value in moved.counts.items():
                counts[name] = counts.get(name, 0) + value
            if not bool(x.isfinite().all()):
                bad = int((~x.isfinite().all(1)).nonzero()[0])
                raise RunFailed(f"{self.label}: chain {bad} is no longer finite after step {number}", "diverged", number)
        stats = {name: float(value[:chains].mean()) for name, value in counts.items()}
        return Draws(torch.stack(kept, 1), {"steps": number, **stats})


__all__ = ["ChainSampler", "Moved", "Noise", "noise"]
