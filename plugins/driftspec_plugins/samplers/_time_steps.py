"""Samplers that step an SDE's time: the loop from one end of time to the other, a method being one step."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from driftspec.components import Draws, Dynamics, Sampler, Setting, Verdict
from driftspec.components.component import Finding, Need
from driftspec.errors import RunFailed
from driftspec.numerics.chains import Noise, noise, padded, starts

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Model
    from driftspec.streams import Streams


class TimeSteps(Sampler):
    """From the prior's end of time to the data's, one draw a chain."""

    steps: int = Field(500, ge=1, description="steps of time")

    def needs(self) -> tuple[Need, ...]:
        return (Need("dynamics", ("drift",), "to step the SDE"), Need("dynamics", ("score",), "to run it backwards"))

    def problems(self, around: Setting) -> Iterator[Finding]:
        if self.begins_at == "prior" and type(around.dynamics).prior_law is Dynamics.prior_law:
            yield "type", f"it begins at the prior, and {around.dynamics.label} has none"

    @property
    def begins_at(self) -> Literal["data", "prior"]:
        """Where chains begin."""
        return "prior"

    def ends(self, model: Model) -> tuple[float, float]:
        """The times to go from and to."""
        return model.dynamics.times()

    def grid(self, model: Model) -> Tensor:
        """Times (steps + 1,) float64, equally spaced."""
        import torch

        return torch.linspace(*self.ends(model), self.steps + 1, dtype=torch.float64)

    def begin(self, model: Model, chains: int, streams: Streams) -> Tensor:
        """Where chains begin (at least `chains`, d). The place to refuse what cannot work."""
        return starts(model, self.begins_at, chains, streams)

    def advance(self, model: Model, x: Tensor, t: Tensor, after: Tensor, chance: Iterator[Noise]) -> Tensor:
        """One step of every chain from t to `after`; noise is taken as needed."""
        raise NotImplementedError

    def finish(self, model: Model, x: Tensor, t: Tensor) -> Tensor:
        """What is made of the last state."""
        return x

    def length(self, model: Model) -> int:
        return len(self.grid(model)) - 1

    def states(self, model: Model, count: int, streams: Streams, after: Sequence[int]) -> Tensor:
        import torch

        with torch.no_grad():
            way = enumerate(self._walk(model, count, streams, self.grid(model)))
            return torch.stack([x[:count] for number, x in way if number in after])

    def halved(self) -> Self:
        return self.model_copy(update={"steps": 2 * self.steps})

    def _walk(self, model: Model, count: int, streams: Streams, times: Tensor) -> Iterator[Tensor]:
        """The chains and their padding at each of the times."""
        x = self.begin(model, count, streams)[: padded(count)]
        chance = noise(streams.under("chains"), len(x), x)
        yield x
        for number, (t, after) in enumerate(itertools.pairwise(times.to(x.device)), 1):
            x = self.advance(model, x, t, after, chance)
            if not bool(x[:count].isfinite().all()):
                text = f"{self.label}: samples are no longer finite after step {number}, t = {float(after):.4g}"
                raise RunFailed(text, "diverged", number)
            yield x

    def draw(self, model: Model, count: int, streams: Streams) -> Draws:
        import torch

        times = self.grid(model)
        with torch.no_grad():
            (x,) = collections.deque(self._walk(model, count, streams, times), maxlen=1)
            x = self.finish(model, x, times[-1].to(x.device))
        if not bool(x[:count].isfinite().all()):
            raise RunFailed(f"{self.label}: samples are no longer finite at the end", "diverged", len(times) - 1)
        return Draws(x[:count, None, :], {"steps": len(times) - 1}, verdicts=self._verdicts())

    def _verdicts(self) -> tuple[Verdict, ...]:
        """Chains that are stopped at a time have nothing to converge to, unless their law is meant to be another."""
        reason = f"{self.label} leaves each law before it is reached: nothing tells how far its draws are from the last"
        return (Verdict("chains", "unknown", reason, "unknown"),) if self.heuristic else ()
