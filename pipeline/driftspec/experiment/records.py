"""The records of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from driftspec.file_record import FileRecord

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class BestCheck(FileRecord):
    """The best validation loss so far, its step, and the number of checks since."""

    value: float = math.inf
    step: int | None = None
    checks_since: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckpointRecord(FileRecord):
    """The weights and the transform to model units; during training also the whole training state."""

    step: int
    module: Mapping[str, Tensor]  # `module`, `ema`, `optimizer` and `schedule` are state_dicts of torch
    ema: Mapping[str, Tensor] | None = None
    optimizer: dict[str, Any] | None = None
    schedule: dict[str, Any] | None = None
    estimator: Any = None
    best: BestCheck | None = None
    transform: Mapping[str, Tensor]
    dim: int
    times: Tensor | None = None

    @classmethod
    def read(cls, entries: Mapping[str, Any]) -> Self:
        """Return the record of a checkpoint's entries."""
        record = super().read(entries)
        return replace(record, best=BestCheck.read(entries["best"])) if "best" in entries else record

    def entries(self) -> dict[str, Any]:
        """Return what the checkpoint's files hold, by name."""
        return super().entries() | ({} if self.best is None else {"best": self.best.entries()})


__all__ = ["BestCheck", "CheckpointRecord"]
