"""Random streams: one seed, named streams, each a function of (seed, scope, name, step).

No state passes from step to step. So a resumed run draws the same numbers as an uninterrupted one, and a metric can be
added or removed without a change in the numbers of another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator


@dataclass(frozen=True)
class Streams:
    """A node in the tree of streams, used as in `streams.under("train").at(7).generator("probes")`."""

    seed: int
    scope: str = ""
    step: int = 0

    def under(self, scope: str) -> Streams:
        """Return the streams of a part of the run, or of a part of the current step."""
        here = f"{self.scope}@{self.step}" if self.step else self.scope
        return replace(self, scope=f"{here}/{scope}", step=0)

    def at(self, step: int) -> Streams:
        """Return the same streams at another step (of training, or another block of draws)."""
        return replace(self, step=step)

    def number(self, name: str) -> int:
        """Return the 63-bit seed of one stream: the first bytes of sha256(seed, scope, name, step)."""
        text = f"{self.seed}{self.scope}:{name}:{self.step}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def generator(self, name: str) -> Generator:
        """Return a CPU generator at the start of the stream; each call returns the same numbers again."""
        import torch

        return torch.Generator().manual_seed(self.number(name))
