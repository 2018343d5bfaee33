"""The setting of a component: the other parts of its spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from driftspec.components.data import Data, Distribution, StandardNormal

if TYPE_CHECKING:
    from driftspec.components.dynamics import Dynamics
    from driftspec.components.estimator import Estimator
    from driftspec.components.optimizer import Optimizer
    from driftspec.components.sampler import Sampler


EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52}


def beginning(
    start: Distribution | Literal["data", "prior"] | None, prior: bool = False, data: bool = False
) -> Distribution | Literal["data", "prior"]:
    """Return where chains start: `start` if given, else the prior if there is one, else the data, else N(0, I)."""
    if start is not None:
        return start
    return "prior" if prior else "data" if data else StandardNormal()


@dataclass(frozen=True)
class Setting:
    """The other parts of the spec of a component, with which its own values must work."""

    dynamics: Dynamics
    data: Data | None = None
    sampler: Sampler | None = None
    count: int | None = None  # sample.count
    estimator: Estimator | None = None
    steps: int | None = None  # train.steps
    optimizer: Optimizer | None = None
    dtype: str = "float32"  # in which the component computes

    @property
    def epsilon(self) -> float:
        """The distance from 1 to the next larger number of the dtype."""
        return EPSILON.get(self.dtype, 0.0)

    @property
    def reference(self) -> Data | None:
        """The distribution with which draws are compared: the data, or the target that replaces them."""
        return self.data if self.data is not None else self.dynamics.target_law()
