"""Round trip: the error of solving from the data to the prior and back, which is 0 in exact arithmetic.

    mean ‖x' - x‖,   x' = decode(encode(x))
    x_1 < x_2 ⇒ z_1 < z_2,   z = encode(x),   for d = 1: solutions do not cross

If a flow contracts by a factor e^c, rounding errors grow by e^c in the solve back. Then the inverse of the flow and
log p are not reliable. With the solver and the points of `nll`, the value is the round trip in that metric's line.
For d = 1, `crossed` is the largest amount by which a z is below that of a smaller x.
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
    from torch import Tensor

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
            crossed = {} if x.shape[1] > 1 else {"crossed": self._crossed(evaluation, x)}
        largest, allowed = float(error.max()), self.reliable * float(x.std(0).mean())
        problems = [f"{lost} of {len(x)} points did not converge"] if lost else []
        if not largest <= allowed:
            problems.append(f"the largest error is {largest:.1e}, more than {allowed:.1e}")
        reason = f"the inverse is unreliable: in the round trip {' and '.join(problems)}"
        return Measured(
            float(error.mean()), float(error.std()) / math.sqrt(len(x)), "data units", len(x),
            {"max": largest, "reliable": not problems, "not_converged": lost} | crossed,
            line=reason if problems else None,
            verdicts=(Verdict("inverse", "unreliable", reason, "bad"),) if problems else (),
        )  # fmt: skip

    def _crossed(self, evaluation: Evaluation, x: Tensor) -> float:
        """Return the largest z_1 - z_2 over x_1 < x_2 (n, 1), model units, and 0 if the order is kept."""
        from driftspec.numerics import transport

        model = evaluation.model
        t_prior, t_data = model.dynamics.times()
        z = transport.transport(model, evaluation.rows(x.sort(0).values), t_data, t_prior, self.solver).value[:, 0]
        return float((z.cummax(0).values - z).max())
