"""What a checkpoint holds, as records."""

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
    """The best validation so far."""

    value: float = math.inf
    step: int | None = None
    checks_since: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckpointRecord(FileRecord):
    """The weights with the map to model units; of a training also all that it carries from step to step."""

    step: int
    module: Mapping[str, Tensor]  # this one, `ema`, `optimizer` and `schedule` are torch's state_dict
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
        record = super().read(entries)
        return replace(record, best=BestCheck.read(entries["best"])) if "best" in entries else record

    def entries(self) -> dict[str, Any]:
        return super().entries() | ({} if self.best is None else {"best": self.best.entries()})


__all__ = ["BestCheck", "CheckpointRecord"]
