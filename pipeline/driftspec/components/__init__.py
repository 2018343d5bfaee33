"""The kinds of component that a plugin can provide: one open class for each kind, with its conventions and shapes.

Symbols: batch B, dimension d; `x` data (B, d), `z` prior draw (B, d), `t` one time () or a time for each row (B,), log
densities (B,) in nats. A dynamics has the prior at time `t_prior` and the data at time `t_data`, and every formula uses
these names. Components hold no state and no random stream: their methods receive both. torch is imported only inside
the methods that need it, so that a spec is read and checked without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from driftspec.components.component import Component, Finding, Need, default
from driftspec.components.data import Data, Distribution, StandardNormal, Table
from driftspec.components.dynamics import Dynamics
from driftspec.components.estimator import Estimator, Loss, Trace
from driftspec.components.metric import Measured, Metric
from driftspec.components.network import Network
from driftspec.components.observer import Observer, Record, RunInfo
from driftspec.components.optimizer import Optimizer, Schedule
from driftspec.components.picture import Arrows, Bars, Line, Map, Panel, Picture, Points
from driftspec.components.sampler import (
    Course,
    Draws,
    DropsNoise,
    FollowsSDE,
    PredictsMoments,
    Refines,
    Sampler,
    ShowsStates,
)
from driftspec.components.setting import EPSILON, Setting, beginning
from driftspec.components.solver import FixedSteps, Gradient, Solution, Solver, TrainingSolver, below_epsilon
from driftspec.components.tracker import Tracker
from driftspec.components.verdict import Verdict

if TYPE_CHECKING:
    from driftspec.components.coupling import Coupling
    from driftspec.components.evaluation import Evaluation
    from driftspec.components.model import Model, VelocityAt
    from driftspec.components.solver import Rates as Rates
    from driftspec.components.solver import Solution as Path  # noqa: F401  # its old name
    from driftspec.components.solver import VectorField as VectorField

KINDS: dict[str, type[Component]] = {
    base.kind: base
    for base in (Data, Network, Dynamics, Solver, Estimator, Optimizer, Schedule, Sampler, Metric, Tracker)
}

__all__ = [
    "EPSILON",
    "KINDS",
    "Arrows",
    "Bars",
    "Component",
    "Coupling",
    "Course",
    "Data",
    "Distribution",
    "Draws",
    "DropsNoise",
    "Dynamics",
    "Estimator",
    "Evaluation",
    "Finding",
    "FixedSteps",
    "FollowsSDE",
    "Gradient",
    "Line",
    "Loss",
    "Map",
    "Measured",
    "Metric",
    "Model",
    "Need",
    "Network",
    "Observer",
    "Optimizer",
    "Panel",
    "Picture",
    "Points",
    "PredictsMoments",
    "Record",
    "Refines",
    "RunInfo",
    "Sampler",
    "Schedule",
    "Setting",
    "ShowsStates",
    "Solution",
    "Solver",
    "StandardNormal",
    "Table",
    "Trace",
    "Tracker",
    "TrainingSolver",
    "VelocityAt",
    "Verdict",
    "beginning",
    "below_epsilon",
    "default",
]


_LATER = {"Coupling": "coupling", "Evaluation": "evaluation", "Model": "model", "VelocityAt": "model"}
"""Classes that reading a spec does not need, with their modules: they are imported when first used."""


def __getattr__(name: str) -> Any:
    """Return a class that is imported when first used, or `Solution` for its old name `Path`, with a warning."""
    if name in _LATER:
        return getattr(importlib.import_module(f"driftspec.components.{_LATER[name]}"), name)
    if name == "Path":
        from driftspec._moved import warn

        warn("driftspec.components.Path", "driftspec.components", "Solution", depth=3)
        return Solution
    raise AttributeError(f"module 'driftspec.components' has no attribute '{name}'")
