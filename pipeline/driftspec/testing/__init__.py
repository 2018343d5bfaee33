"""The conformance kit: the rules for a component of each kind, as checks for pytest. The built-in components pass it.

    from driftspec.testing import TraceTests

    class TestOrthogonalProbes(TraceTests):
        component = "orthogonal_probes"        # a name, or {"type": ..., keys}
        plugins = ["orthogonal.py"]            # one-file plugins to load, relative to this file
        bad = {"probes": 0}                    # keys, each with a value that must be an error at that key

The component is looked up in the registry, as for a spec. A check that does not apply is skipped; the reason names what
the component does not offer. `pip install 'driftspec[test]'` installs pytest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from driftspec.components import Trace
from driftspec.testing.component import ComponentTests
from driftspec.testing.data import DataTests
from driftspec.testing.dynamics import DynamicsTests
from driftspec.testing.estimator import EstimatorTests, TraceTests
from driftspec.testing.metric import MetricTests
from driftspec.testing.network import NetworkTests
from driftspec.testing.optimizer import OptimizerTests, ScheduleTests
from driftspec.testing.sampler import SamplerTests
from driftspec.testing.solver import SolverTests
from driftspec.testing.tracker import TrackerTests

BY_KIND: dict[str, type[ComponentTests]] = {
    tests.kind: tests
    for tests in (
        DataTests, NetworkTests, DynamicsTests, SolverTests, EstimatorTests,
        OptimizerTests, ScheduleTests, SamplerTests, MetricTests, TrackerTests,
    )
}  # fmt: skip


def checks_for(
    kind: str, component: str | Mapping[str, Any], plugins: Sequence[str] = (), **attributes: Any
) -> type[ComponentTests]:
    """Return a test class for one component, with these class attributes.

    A kind without checks of its own gets the checks that every component has.
    """
    name = component if isinstance(component, str) else component["type"]
    given = {"kind": kind, "component": component, "plugins": plugins, **attributes}
    made: type[ComponentTests] = type(f"Test_{kind}_{name}", (BY_KIND.get(kind, ComponentTests),), given)
    found, _ = made.registry().look_up(kind, name)
    return type(made.__name__, (TraceTests,), given) if found is not None and issubclass(found, Trace) else made


__all__ = [
    "ComponentTests",
    "DataTests",
    "DynamicsTests",
    "EstimatorTests",
    "MetricTests",
    "NetworkTests",
    "OptimizerTests",
    "SamplerTests",
    "ScheduleTests",
    "SolverTests",
    "TraceTests",
    "TrackerTests",
    "checks_for",
]
