"""Markov chains: this file has the loop over steps, and a sampler defines one step.

    x_{n+1} = step(x_n, ε_n, u_n),   ε_n ~ N(0, I),  u_n ~ U[0, 1)

The noise of a chain is a function of (seed, chain, step). It is drawn for whole blocks of 256 chains, with one random
generator for each block, and for several steps at once. The number of chains is padded to a multiple of 16, because a
matrix product of fewer rows rounds a row differently if the other rows change. So a chain does not depend on the
other chains, and a run with more chains repeats the chains of a run with fewer.
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
"""The number of steps whose noise is drawn together."""
ROWS = 16
"""The number of chains is padded to a multiple of this."""
STEPS = 1000
"""The default number of steps before the first draw."""


@dataclass(frozen=True)
class Noise:
    """The random numbers of one step: ε (chains, d), standard normal, and u (chains,), uniform on [0, 1).

    `second` is another u (chains,), for a sampler that sets `two_uniforms`.
    """

    normal: Tensor
    uniform: Tensor
    second: Tensor | None = None


@dataclass(frozen=True)
class Moved:
    """The result of one step: x' (chains, d), the sampler's state (e.g. step sizes), and counts (chains,).

    The loop sums the counts over the steps.
    """

    x: Tensor
    state: Any = None
    counts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Recorded:
    """The result of the loop: the chains' states and log p after certain steps, sums of counts, and rates."""

    kept: list[Tensor]  # states (chains, d)
    log_p: list[Tensor]  # log p (chains,) of each state; empty if the sampler does not compute it
    counts: Mapping[str, Tensor]  # name -> (chains,)
    rates: Mapping[str, Tensor]  # name -> (chains,)
    steps: int

    def draws(self, which: slice = slice(None), verdicts: tuple[Verdict, ...] = ()) -> Draws:
        """Return the kept states as draws."""
        import torch

        stats = {name: float(value.double().sum()) for name, value in self.counts.items()}
        stats |= {name: float(value.double().mean()) for name, value in self.rates.items()}
        values, each = torch.stack(self.kept[which], 1), {**self.counts, **self.rates}
        return Draws(values, {"steps": self.steps, **stats}, each, verdicts)


def noise(streams: Streams, chains: int, like: Tensor, second: bool = False) -> Iterator[Noise]:
    """Yield the noise of step 1, 2, ...: ε (chains, d) and u (chains,), with the d, dtype and device of `like`."""
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
"""The message for `start: data` in a spec without data."""


def starts(
    model: Model, start: Distribution | Literal["data", "prior"] | None, chains: int, streams: Streams
) -> Tensor:
    """Return the first states of the chains (n, d), model units; n is `chains`, rounded up to whole blocks.

    `start` is a distribution, `data` (training rows) or `prior`; None: what `beginning` returns. Each block has a
    random generator of its own.
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
    """Return the model with one number of solver steps for log p, for chains that begin at `first` (n, d).

    That number is found at the starts of the first block only, so that it does not depend on the number of chains.
    """
    return model.at_pilot(first[: Sampler.BLOCK])


def with_error(model: Model, draws: Draws) -> Draws:
    """Return the draws with the numerical error of the log p that the chains used, if an ODE solve computed it."""
    if not model.solved:
        return draws
    from driftspec.numerics import density

    return density.with_error(model, draws)


def padded(chains: int) -> int:
    """Return the number of chains, rounded up to a multiple of ROWS."""
    return -(-chains // ROWS) * ROWS


def _start(body: Any, info: ValidationInfo) -> Any:
    """Return `data` and `prior` unchanged; any other value is the name or the keys of a distribution."""
    return body if body in ("data", "prior") else TypeAdapter(Distribution).validate_python(body, context=info.context)


Start = Annotated[Distribution | Literal["data", "prior"], BeforeValidator(_start)]
"""The type of the key `start`: where chains begin."""


class ChainSampler(Sampler):
    """A sampler that runs Markov chains. Without `chains`, each sample is the last state of a separate chain."""

    unused_nested = frozenset({"chains", "burn_in", "thin", "start"})
    two_uniforms: ClassVar[bool] = False
    """Whether a step needs a second uniform number for each chain, `noise.second`."""

    chains: int | None = Field(
        None, ge=1, description="number of chains, which make several draws each; null: one chain for each sample"
    )
    steps: int | None = Field(
        None, ge=0, description="length of each chain if every sample has its own chain (default 1000)"
    )
    burn_in: int | None = Field(
        None, ge=0, description="steps before the first draw of a chain if `chains` is given (default 1000)"
    )
    thin: int = Field(1, ge=1, description="steps from one draw of a chain to the next")
    start: Start | None = Field(
        None,
        description="where chains begin: a distribution, `data` (training rows) or `prior`; "
        "null: the prior if there is one, else the data, else N(0, I)",
    )

    @model_validator(mode="after")
    def _one_key_for_the_length(self) -> Self:
        if self.chains is None and self.burn_in is not None:
            raise ValueError("burn_in needs chains; without chains, give steps")
        if self.chains is not None and self.steps is not None:
            raise ValueError("steps is for one draw of each chain; with chains, give burn_in")
        if self.chains is None and self.thin > 1:
            raise ValueError("thin needs chains; without chains, each chain makes one draw")
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
        """Return why `count` draws cannot be divided among the chains; empty if they can."""
        uneven = self.chains is not None and count % self.chains
        return f"sample.count is {count}, no multiple of {self.chains} chains" if uneven else ""

    def before(self) -> int:
        """Return the number of steps before the first draw of a chain."""
        given = self.steps if self.chains is None else self.burn_in
        return STEPS if given is None else given

    def warm_up(self) -> int:
        """Return in how many steps the step size may adapt: the burn-in, or half of `steps`."""
        return self.before() if self.chains is not None else self.before() // 2

    def begin(self, model: Model, x: Tensor, asked: int) -> Any:
        """Return the sampler's state before the first step; the rows of x (chains, d) from `asked` on are padding."""
        return None

    @abstractmethod
    def advance(self, model: Model, x: Tensor, state: Any, noise: Noise, warming: bool) -> Moved:
        """Make one step of every chain from x (chains, d); while `warming`, the step size may adapt.

        A row of the result depends on the same row of x, state and noise only.
        """

    def rates(self, state: Any, counts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return statistics of each chain (chains,) beside the counts; the result reports their means over chains.

        If a sampler counts `accepted` and `proposed`, the verdict checks that some proposals were accepted.
        """
        return {}

    def log_p(self, state: Any) -> Tensor | None:
        """Return log p (chains,) of the current states, up to a constant; None if the state does not hold it."""
        return None

    def no_law(self) -> str | None:
        """Return why the chains have no stationary distribution; None if they have one."""
        return None

    def doubts(self, log_p: Tensor | None) -> tuple[Verdict, ...]:
        """Return the sampler's own verdicts on its draws; log_p is (chains, draws), or None if it is not known."""
        return ()

    def draw(self, model: Model, count: int, streams: Streams) -> Draws:
        """Return `count` draws; each chain makes its first after `before()` steps and the others every `thin` steps."""
        if uneven := self._uneven(count):
            raise RunFailed(f"{self.label}: {uneven}")
        chains, draws = self.layout(count)
        first = starts(model, self.start, chains, streams)
        x, model = first[: padded(chains)], in_chains(model, first)
        half, after = self.before() // 2, range(self.before(), self.before() + draws * self.thin, self.thin)
        recorded = self._run(model, x, chains, [half, *after], self.warm_up(), streams.under("chains"))
        return with_error(model, recorded.draws(slice(1, None), self._verdicts(recorded, x[:chains], half)))

    def length(self, model: Model) -> int | None:
        return self.before() if self.chains is None else None

    def states(self, model: Model, count: int, streams: Streams, after: Sequence[int]) -> Tensor:
        """Return the states (K, count, d) of the chains after each of the K step numbers in `after`, which rise."""
        import torch

        first = starts(model, self.start, count, streams)
        x, model = first[: padded(count)], in_chains(model, first)
        return torch.stack(self._run(model, x, count, after, self.warm_up(), streams.under("chains")).kept)

    def begins(self, around: Setting) -> Distribution | Literal["data", "prior"]:
        """Return where chains begin: `start`, or its default in this spec."""
        return beginning(self.start, prior="prior" in around.dynamics.offers(), data=around.data is not None)

    def settled(self, around: Setting) -> Self:
        start = self.begins(around)
        prior = around.dynamics.prior_law() if start == "prior" else None
        return self.model_copy(update={"start": start if prior is None else prior})

    def carry(self, model: Model, x: Tensor, streams: Streams) -> Draws:
        """Return the states after `before()` steps from x (n, d), as draws; the step size does not adapt."""
        import torch

        model = in_chains(model, x)
        spare = x[:1].expand(padded(len(x)) - len(x), -1)
        return self._run(model, torch.cat([x, spare]), len(x), [self.before()], 0, streams.under("chains")).draws()

    def _run(
        self, model: Model, x: Tensor, chains: int, after: Sequence[int], warm_up: int, streams: Streams
    ) -> Recorded:
        """Run the loop from x (chains and padding, d) and keep the states after each number of steps in `after`."""
        import torch

        counts: dict[str, Tensor] = {}
        kept: list[Tensor] = []
        log_p: list[Tensor] = []
        number = 0
        with torch.no_grad():
            state = self.begin(model, x, chains)
            for step_noise in noise(streams, len(x), x, self.two_uniforms):
                while len(kept) < len(after) and number == after[len(kept)]:
                    kept.append(x[:chains])
                    log_p += [] if (known := self.log_p(state)) is None else [known[:chains]]
                if len(kept) == len(after):
                    break
                moved = self.advance(model, x, state, step_noise, warming=number < warm_up)
                x, state, number = moved.x, moved.state, number + 1
                for name, value in moved.counts.items():
                    counts[name] = counts[name] + value if name in counts else value
                self.check(x[:chains], number)
        rates = {name: value[:chains] for name, value in self.rates(state, counts).items()}
        return Recorded(kept, log_p, {name: value[:chains] for name, value in counts.items()}, rates, number)

    def _verdicts(self, recorded: Recorded, start: Tensor, half: int) -> tuple[Verdict, ...]:
        """Return the verdicts on the draws; the first recorded state is that after `half` steps, no draw."""
        import torch

        from driftspec.accuracy.chain_verdict import judge, seen, unknown

        log_p = torch.stack(recorded.log_p, 1) if recorded.log_p else None
        doubts = self.doubts(None if log_p is None else log_p[:, 1:])
        if reason := self.no_law():
            return (unknown(reason), *doubts)
        counts = {name: float(value.double().sum()) for name, value in recorded.counts.items()}
        return (judge(seen(start, recorded.kept, log_p, (half, recorded.steps), counts)), *doubts)

    def check(self, x: Tensor, number: int) -> None:
        """Raise RunFailed with status `diverged` if x (chains, d) is not finite after step `number`."""
        finite = x.isfinite().all(1)
        if not bool(finite.all()):
            bad = int((~finite).nonzero()[0])
            text = f"{self.label}: chain {bad} of {len(x)} is no longer finite after step {number}: take a smaller step"
            raise RunFailed(text, "diverged", number)


__all__ = ["ChainSampler", "Moved", "Noise", "noise", "padded"]
