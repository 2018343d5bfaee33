"""Samplers that integrate an SDE in time: this file has the loop over time, and a sampler defines one step."""

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
    """A sampler with steps in time from t_prior to t_data. Each chain makes one draw."""

    steps: int = Field(500, ge=1, description="number of steps in time")

    def needs(self) -> tuple[Need, ...]:
        return (Need("dynamics", ("drift",), "to step the SDE"), Need("dynamics", ("score",), "to run it backwards"))

    def problems(self, around: Setting) -> Iterator[Finding]:
        if self.begins_at == "prior" and type(around.dynamics).prior_law is Dynamics.prior_law:
            yield "type", f"it begins at the prior, and {around.dynamics.label} has none"

    @property
    def begins_at(self) -> Literal["data", "prior"]:
        """Where chains begin: at training rows or at draws of the prior."""
        return "prior"

    def ends(self, model: Model) -> tuple[float, float]:
        """Return the first and the last time."""
        return model.dynamics.times()

    def grid(self, model: Model) -> Tensor:
        """Return N + 1 equally spaced times (N + 1,) float64, N = `steps`."""
        import torch

        return torch.linspace(*self.ends(model), self.steps + 1, dtype=torch.float64)

    def begin(self, model: Model, chains: int, streams: Streams) -> Tensor:
        """Return the first states (n, d), n ≥ `chains`. An override may raise RunFailed for keys that cannot work."""
        return starts(model, self.begins_at, chains, streams)

    def advance(self, model: Model, x: Tensor, t: Tensor, after: Tensor, noise: Iterator[Noise]) -> Tensor:
        """Return x' (B, d) at time `after` () from x (B, d) at time t (); `next(noise)` is the noise of one step."""
        raise NotImplementedError

    def finish(self, model: Model, x: Tensor, t: Tensor) -> Tensor:
        """Return the draws (B, d) from the last states x (B, d) at the last time t ()."""
        return x

    def length(self, model: Model) -> int:
        return len(self.grid(model)) - 1

    def states(self, model: Model, count: int, streams: Streams, after: Sequence[int]) -> Tensor:
        """Return the states (K, count, d) of the chains after each of the K step numbers in `after`, which rise."""
        import torch

        with torch.no_grad():
            path = enumerate(self._path(model, count, streams, self.grid(model)))
            return torch.stack([x[:count] for number, x in path if number in after])

    def halved(self) -> Self:
        return self.model_copy(update={"steps": 2 * self.steps})

    def _path(self, model: Model, count: int, streams: Streams, times: Tensor) -> Iterator[Tensor]:
        """Yield the states of the chains and of their padding at each of the times."""
        x = self.begin(model, count, streams)[: padded(count)]
        step_noise = noise(streams.under("chains"), len(x), x)
        yield x
        for number, (t, after) in enumerate(itertools.pairwise(times.to(x.device)), 1):
            x = self.advance(model, x, t, after, step_noise)
            if not bool(x[:count].isfinite().all()):
                text = f"{self.label}: samples are no longer finite after step {number}, t = {float(after):.4g}"
                raise RunFailed(text, "diverged", number)
            yield x

    def draw(self, model: Model, count: int, streams: Streams) -> Draws:
        import torch

        times = self.grid(model)
        with torch.no_grad():
            (x,) = collections.deque(self._path(model, count, streams, times), maxlen=1)
            x = self.finish(model, x, times[-1].to(x.device))
        if not bool(x[:count].isfinite().all()):
            raise RunFailed(f"{self.label}: samples are no longer finite at the end", "diverged", len(times) - 1)
        return Draws(x[:count, None, :], {"steps": len(times) - 1}, verdicts=self._verdicts())

    def _verdicts(self) -> tuple[Verdict, ...]:
        """Return the verdict `unknown` for a heuristic sampler; chains that run for a fixed time have no verdict."""
        reason = f"{self.label} does not run until its chains converge: the error of its draws is not known"
        return (Verdict("chains", "unknown", reason, "unknown"),) if self.heuristic else ()
