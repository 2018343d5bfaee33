"""Markov chains: the loop, in one place; a method is one step.

    x_{n+1} = step(x_n, ε_n, u_n),   ε_n ~ N(0, I),  u_n ~ U[0, 1)

Every chain has its own noise, a function of (seed, chain, step): noise is drawn in whole blocks of 256 chains, a
generator a block, some steps ahead, and cut; the chains are padded to a multiple of 16, below which a matrix product
rounds a row by its company. So a chain is the same alone and among others, and asking for more chains keeps the first.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationInfo, model_validator

from driftspec.components import Distribution, Draws, Sampler, Setting, beginning
from driftspec.errors import RunFailed

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from driftspec.components import Model, Verdict
    from driftspec.streams import Streams

AHEAD = 16
"""Steps whose noise is drawn at once."""
ROWS = 16
"""Chains are padded to a multiple of this."""
STEPS = 1000
"""Steps before the first draw, where the spec does not say."""


@dataclass(frozen=True)
class Noise:
    """One step's chance: ε (chains, d) standard normal and u (chains,) uniform on [0, 1).

    `second` is another u, for a method that sets `two_uniforms`.
    """

    normal: Tensor
    uniform: Tensor
    second: Tensor | None = None


@dataclass(frozen=True)
class Moved:
    """Where a step leads, the chains' own state (e.g. step sizes), and counters (chains,) that add up over steps."""

    x: Tensor
    state: Any = None
    counts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Walk:
    """What the loop leaves: where the chains stood when they were kept, their log p then, counters, the last state."""

    kept: list[Tensor]  # of (chains, d)
    log_p: list[Tensor]  # of (chains,); empty where the state does not know it
    counts: Mapping[str, Tensor]  # of (chains,)
    rates: Mapping[str, Tensor]  # of (chains,)
    steps: int

    def draws(self, which: slice = slice(None), verdicts: tuple[Verdict, ...] = ()) -> Draws:
        """What was kept, as draws."""
        import torch

        stats = {name: float(value.double().sum()) for name, value in self.counts.items()}
        stats |= {name: float(value.double().mean()) for name, value in self.rates.items()}
        values, each = torch.stack(self.kept[which], 1), {**self.counts, **self.rates}
        return Draws(values, {"steps": self.steps, **stats}, each, verdicts)


def noise(streams: Streams, chains: int, like: Tensor, second: bool = False) -> Iterator[Noise]:
    """The noise of step 1, 2, ... for `chains` of the dimensions, dtype and device of `like`."""
    import torch

    block, d = Sampler.BLOCK, like.shape[1]
    blocks = range(-(-chains // block))
    generators = [streams.at(index).generator("steps") for index in blocks]
    others = [streams.at(index).generator("second uniforms") for index in blocks if second]

    def joined(parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, 1)[:, :chains].to(like)

    def uniforms(generator: Generator) -> Tensor:
        return torch.rand(AHEAD, block, generator=generator, dtype=torch.float64)

    while True:
        normal, uniform = [], []
        for generator in generators:
            normal.append(torch.randn(AHEAD, block, d, generator=generator, dtype=torch.float64))
            uniform.append(uniforms(generator))
        more = [joined([uniforms(generator) for generator in others])] if others else []
        yield from map(Noise, joined(normal), joined(uniform), *more)


NO_ROWS = "chains begin at training rows, and there are no data"


def starts(
    model: Model, start: Distribution | Literal["data", "prior"] | None, chains: int, streams: Streams
) -> Tensor:
    """Return where chains begin (n, d), n at least `chains`, in whole blocks that have a generator each.

    `start` is a distribution, `data` (training rows) or `prior`; None stands for what `beginning` returns.
    """
    import torch

    start = beginning(start, prior="prior" in model.own, data=model.rows is not None)
    rows = None if start != "data" or model.rows is None else model.rows()
    blocks = []
    for block in range(-(-chains // Sampler.BLOCK)):
        generator = streams.at(block).generator("start")
        if start == "data":
            if rows is None:
                raise RunFailed(NO_ROWS)
            blocks.append(rows[torch.randint(len(rows), (Sampler.BLOCK,), generator=generator)])
        else:
            source = model.prior() if start == "prior" else start
            if not isinstance(source, Distribution):
                raise RunFailed(f"chains cannot begin at {source}: it cannot be drawn from")
            blocks.append(source.sample(Sampler.BLOCK, generator, model.dim))
    return model.like(torch.cat(blocks))


def in_chains(model: Model, first: Tensor) -> Model:
    """Return the model as chains that begin at `first` (n, d) read it: one number of steps for all solves.

    It is found at the first block's starts, whatever the number of chains: no chain depends on how many there are.
    """
    return model.at_pilot(first[: Sampler.BLOCK])


def with_error(model: Model, draws: Draws) -> Draws:
    """The draws with the error of the log p that moved the chains, where it came from solves."""
    if not model.solved:
        return draws
    from driftspec.numerics import density

    return density.with_error(model, draws)


def padded(chains: int) -> int:
    """How many chains run for this many asked for."""
    return -(-chains // ROWS) * ROWS


def _law(body: Any, info: ValidationInfo) -> Any:
    """`data` and `prior` as they are; everything else is a law, by its name or its keys."""
    return body if body in ("data", "prior") else TypeAdapter(Distribution).validate_python(body, context=info.context)


Start = Annotated[Distribution | Literal["data", "prior"], BeforeValidator(_law)]
"""As a key's type: where chains begin."""


class ChainSampler(Sampler):
    """Chains of steps from a start. With `chains` left open each sample is the end of a chain of its own."""

    unused_nested = frozenset({"chains", "burn_in", "thin", "start"})
    two_uniforms: ClassVar[bool] = False
    """A step takes a second uniform number, `chance.second`."""

    chains: int | None = Field(None, ge=1, description="chains side by side, several draws each; null: one a sample")
    steps: int | None = Field(
        None, ge=0, description="length of each chain, where every sample has its own (default 1000)"
    )
    burn_in: int | None = Field(
        None, ge=0, description="steps before a chain's first draw, where chains make several (default 1000)"
    )
    thin: int = Field(1, ge=1, description="steps from one draw of a chain to the next")
    start: Start | None = Field(
        None,
        description="where chains begin: a law, `data` (training rows) or `prior`; "
        "null: the prior if there is one, else the data, else N(0, I)",
    )

    @model_validator(mode="after")
    def _one_way_to_say_how_long(self) -> Self:
        if self.chains is None and self.burn_in is not None:
            raise ValueError("burn_in goes with chains; with one draw a chain say steps")
        if self.chains is not None and self.steps is not None:
            raise ValueError("steps goes with one draw a chain; with chains say burn_in")
        if self.chains is None and self.thin > 1:
            raise ValueError("thin goes with chains; with one draw a chain say steps")
        return self

    def offers(self) -> frozenset[str]:
        return frozenset() if self.chains is None else frozenset({"chains"})

    def layout(self, count: int) -> tuple[int, int]:
        chains = self.chains or count
        return chains, count // chains

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        if around.count is not None and (uneven := self._uneven(around.count)):
            yield "chains", uneven
        if self.start == "data" and around.data is None:
            yield "start", NO_ROWS
        if self.start == "prior" and "prior" not in around.dynamics.offers():
            yield "start", f"chains begin at the prior, and {around.dynamics.label} has none"
        if isinstance(self.start, Distribution) and "samples" not in self.start.offers():
            yield "start", f"chains begin at draws, and {self.start.label} cannot be drawn from"

    def _uneven(self, count: int) -> str:
        """Why chains cannot share this number of draws; empty if they can."""
        uneven = self.chains is not None and count % self.chains
        return f"sample.count is {count}, no multiple of {self.chains} chains" if uneven else ""

    def before(self) -> int:
        """Steps before a chain's first draw."""
        given = self.steps if self.chains is None else self.burn_in
        return STEPS if given is None else given

    def warm_up(self) -> int:
        """Steps in which a step size may adapt: the burn-in, or half the length of chains that make one draw."""
        return self.before() if self.chains is not None else self.before() // 2

    def begin(self, model: Model, x: Tensor, asked: int) -> Any:
        """The chains' own state before their first step; the first `asked` of them are no padding."""
        return None

    @abstractmethod
    def advance(self, model: Model, x: Tensor, state: Any, chance: Noise, warming: bool) -> Moved:
        """One step of every chain, row by row; `warming` while a step size may adapt."""

    def rates(self, state: Any, counts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What is worth telling of each chain (chains,) beside the counts; of all it is told as a mean.

        Of a method that proposes, the counts `accepted` and `proposed` tell the verdict whether anything was accepted.
        """
        return {}

    def log_p(self, state: Any) -> Tensor | None:
        """log p (B,) where the chains stand, up to a constant, if their state knows it: the verdict reads it too."""
        return None

    def no_law(self) -> str | None:
        """Why its chains settle at no law of which they could be draws; None where they do."""
        return None

    def doubts(self, log_p: Tensor | None) -> tuple[Verdict, ...]:
        """Verdicts of the method's own on its draws, given log p (chains, draws) if the state knows it."""
        return ()

    def draw(self, model: Model, count: int, streams: Streams) -> Draws:
        """`count` samples, each chain's `before()` steps after its start and then `thin` steps apart."""
        if uneven := self._uneven(count):
            raise RunFailed(f"{self.label}: {uneven}")
        chains, draws = self.layout(count)
        first = starts(model, self.start, chains, streams)
        x, model = first[: padded(chains)], in_chains(model, first)
        half, after = self.before() // 2, range(self.before(), self.before() + draws * self.thin, self.thin)
        walk = self._run(model, x, chains, [half, *after], self.warm_up(), streams.under("chains"))
        return with_error(model, walk.draws(slice(1, None), self._verdicts(walk, x[:chains], half)))

    def length(self, model: Model) -> int | None:
        return self.before() if self.chains is None else None

    def states(self, model: Model, count: int, streams: Streams, after: Sequence[int]) -> Tensor:
        import torch

        first = starts(model, self.start, count, streams)
        x, model = first[: padded(count)], in_chains(model, first)
        return torch.stack(self._run(model, x, count, after, self.warm_up(), streams.under("chains")).kept)

    def begins(self, around: Setting) -> Distribution | Literal["data", "prior"]:
        """Where chains begin: `start`, or what an open one stands for."""
        return beginning(self.start, prior="prior" in around.dynamics.offers(), data=around.data is not None)

    def settled(self, around: Setting) -> Self:
        start = self.begins(around)
        law = around.dynamics.prior_law() if start == "prior" else None
        return self.model_copy(update={"start": start if law is None else law})

    def carry(self, model: Model, x: Tensor, streams: Streams) -> Draws:
        """The chains that stand at x (n, d), `before()` steps on; no step adapts."""
        import torch

        model = in_chains(model, x)
        spare = x[:1].expand(padded(len(x)) - len(x), -1)
        walk = self._run(model, torch.cat([x, spare]), len(x), [self.before()], 0, streams.under("chains"))
        return walk.draws()

    def _run(self, model: Model, x: Tensor, chains: int, after: Sequence[int], warm_up: int, streams: Streams) -> Walk:
        """The loop, from x (chains and padding, d); kept is where they stand after these numbers of steps."""
        import torch

        counts: dict[str, Tensor] = {}
        kept: list[Tensor] = []
        log_p: list[Tensor] = []
        number = 0
        with torch.no_grad():
            state = self.begin(model, x, chains)
            for chance in noise(streams, len(x), x, self.two_uniforms):
                while len(kept) < len(after) and number == after[len(kept)]:
                    kept.append(x[:chains])
                    log_p += [] if (known := self.log_p(state)) is None else [known[:chains]]
                if len(kept) == len(after):
                    break
                moved = self.advance(model, x, state, chance, warming=number < warm_up)
                x, state, number = moved.x, moved.state, number + 1
                for name, value in moved.counts.items():
                    counts[name] = counts[name] + value if name in counts else value
                self.check(x[:chains], number)
        rates = {name: value[:chains] for name, value in self.rates(state, counts).items()}
        return Walk(kept, log_p, {name: value[:chains] for name, value in counts.items()}, rates, number)

    def _verdicts(self, walk: Walk, start: Tensor, half: int) -> tuple[Verdict, ...]:
        """On the draws that a walk kept, after where the chains stood at half of the steps."""
        import torch

        from driftspec.accuracy.chain_verdict import judge, seen, unknown

        log_p = torch.stack(walk.log_p, 1) if walk.log_p else None
        doubts = self.doubts(None if log_p is None else log_p[:, 1:])
        if reason := self.no_law():
            return (unknown(reason), *doubts)
        counts = {name: float(value.double().sum()) for name, value in walk.counts.items()}
        return (judge(seen(start, walk.kept, log_p, (half, walk.steps), counts)), *doubts)

    def check(self, x: Tensor, number: int) -> None:
        """RunFailed `diverged` with the step after which a chain is no longer finite."""
        finite = x.isfinite().all(1)
        if not bool(finite.all()):
            bad = int((~finite).nonzero()[0])
            text = f"{self.label}: chain {bad} of {len(x)} is no longer finite after step {number}: take a smaller step"
            raise RunFailed(text, "diverged", number)


__all__ = ["ChainSampler", "Moved", "Noise", "noise", "padded"]
