"""Round trip: data carried to the prior and back. A flow is invertible on paper; in floating point only as far as this.

A flow that contracts by e^c loses c nats of every coordinate's digits on the way: its inverse is then unreliable, and a
small-looking log p with it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from driftspec.component import Need, default
from driftspec.components import Measured, Metric, Solver

if TYPE_CHECKING:
    from driftspec.evaluate import Evaluation


class RoundTrip(Metric):
    """mean ‖x' - x‖ over test rows, x' = decode(encode(x)), in the data's own units."""

    type = "round_trip"

    solver: Solver = default("rk4", "integrates both ways")
    points: int = Field(1000, ge=2, description="test rows carried, the first ones")
    reliable: float = Field(1e-2, gt=0, description="largest error, in deviations of the data, that counts as reliable")
    reads_test_rows: ClassVar[bool] = True

    def needs(self) -> tuple[Need, ...]:
        return (Need("dynamics", ("velocity",), "to integrate"), Need("data", ("samples",), "to have test rows"))

    def measure(self, evaluation: Evaluation) -> Measured:
        import torch

        from driftspec import flow

        x = evaluation.test(self.points)
        with evaluation.naming_rows():
            solved = flow.round_trip(evaluation.model, evaluation.experiment.rows(x), self.solver)
        error = torch.linalg.vector_norm(evaluation.transform.to_data(solved.value.cpu()) - x, dim=1)
        largest, lost = float(error.max()), solved.not_converged
        reliable = largest <= self.reliable * float(x.std(0).mean()) and not lost
        problem = f"{lost} points not converged" if lost else f"errors up to {largest:.1e}"
        return Measured(
            float(error.mean()), float(error.std()) / math.sqrt(len(x)), "data units", len(x),
            {"max": largest, "reliable": reliable, "not_converged": lost},
            line=None if reliable else f"the inverse is unreliable: round trip with {problem}",
        )  # fmt: skip
