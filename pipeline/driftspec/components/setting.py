"""The setting of a component: what stands around it in its spec."""

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
    """Where chains begin: `start`, or if that is open the prior if there is one, else the data, else N(0, I)."""
    if start is not None:
        return start
    return "prior" if prior else "data" if data else StandardNormal()


@dataclass(frozen=True)
class Setting:
    """What stands around a component in its spec: for numbers that cannot work with the rest."""

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
        """The distance from 1 to the next number of the dtype."""
        return EPSILON.get(self.dtype, 0.0)

    @property
    def law(self) -> Data | None:
        """What draws are compared with: the data, or the target that stands for them."""
        return self.data if self.data is not None else self.dynamics.target_law()
