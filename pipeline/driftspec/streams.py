"""Random streams: one seed, named streams, each a function of (seed, scope, name, step).

Nothing is carried from step to step, so a resumed run draws what the uninterrupted one drew, and a metric more or less
shifts no other's numbers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator


@dataclass(frozen=True)
class Streams:
    """A place in the tree of streams: `streams.under("train").at(7).generator("probes")`."""

    seed: int
    scope: str = ""
    step: int = 0

    def under(self, scope: str) -> Streams:
        """The streams of a part of the run; of a step, where this is one."""
        here = f"{self.scope}@{self.step}" if self.step else self.scope
        return replace(self, scope=f"{here}/{scope}", step=0)

    def at(self, step: int) -> Streams:
        """The same streams at another step (of training, or block of samples)."""
        return replace(self, step=step)

    def number(self, name: str) -> int:
        """The 63-bit seed of one stream: the first bytes of sha256(seed, scope, name, step)."""
        text = f"{self.seed}{self.scope}:{name}:{self.step}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def generator(self, name: str) -> Generator:
        """A CPU generator at the start of the stream; asked twice, the same stream twice."""
        import torch

        return torch.Generator().manual_seed(self.number(name))
