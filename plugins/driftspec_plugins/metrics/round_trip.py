"""Round trip: the error of solving from the data to the prior and back, which is 0 in exact arithmetic.

    mean ‖x' - x‖,   x' = decode(encode(x))

If a flow contracts by a factor e^c, rounding errors grow by e^c in the solve back. Then the inverse of the flow and
log p are not reliable. With the solver and the points of `nll`, the value is the round trip in that metric's line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from driftspec.components import Measured, Metric, Setting, Solver, Verdict
from driftspec.components.component import Need, default
from driftspec_plugins.metrics._round_trip import distances
from driftspec_plugins.metrics._unfit import no_flow, no_rows

if TYPE_CHECKING:
    from driftspec.components import Evaluation


class RoundTrip(Metric):
    """mean ‖x' - x‖ over test rows, x' = decode(encode(x)), in data units."""

    type = "round_trip"

    solver: Solver = default("lobatto", "solves the ODE in both directions")
    points: int = Field(1000, ge=2, description="number of test rows, the first ones")
    reliable: float = Field(1e-2, gt=0, description="largest error of a reliable inverse, in deviations of the data")
    reads_test_rows: ClassVar[bool] = True

    def needs(self) -> tuple[Need, ...]:
        return (Need("dynamics", ("velocity",), "to integrate"), Need("data", ("samples",), "to have test rows"))

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        yield from no_rows(around)
        yield from no_flow(around, path=True)

    def measure(self, evaluation: Evaluation) -> Measured:
        x = evaluation.test(self.points)
        with evaluation.naming_rows():
            error, lost = distances(evaluation, x, self.solver)
        largest, allowed = float(error.max()), self.reliable * float(x.std(0).mean())
        problems = [f"{lost} of {len(x)} points did not converge"] if lost else []
        if not largest <= allowed:
            problems.append(f"the largest error is {largest:.1e}, more than {allowed:.1e}")
        reason = f"the inverse is unreliable: in the round trip {' and '.join(problems)}"
        return Measured(
            float(error.mean()), float(error.std()) / math.sqrt(len(x)), "data units", len(x),
            {"max": largest, "reliable": not problems, "not_converged": lost},
            line=reason if problems else None,
            verdicts=(Verdict("inverse", "unreliable", reason, "bad"),) if problems else (),
        )  # fmt: skip
