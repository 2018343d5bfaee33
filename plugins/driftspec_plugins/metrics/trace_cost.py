"""Operations of a determinant, of the exact trace and of Hutchinson's estimate, against the dimension d.

    O(d³) for log |det ∂x'/∂x|, a discrete flow: the Jacobian by d products, then its LU factors, 2/3 d³
    O(d²) for tr(∂f/∂x), a continuous flow: d vector-Jacobian products
    O(d)  for vᵀ (∂f/∂x) v, FFJORD: one vector-Jacobian product

for a network f of fixed width, whose products cost O(d) each. The dynamics of the spec is built at each d, and the
floating-point operations for one row are counted: those of matrix products and of LU, not those of elementwise
functions. The value is the exponent of the exact trace between the two largest d. A network that knows its trace in
closed form may do better than d products; this is `closed_form`. Grathwohl et al., *FFJORD*, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from driftspec.components import Measured, Metric, Setting, Trace
from driftspec.components.component import Need
from driftspec.components.picture import Line, Panel, Picture, Points
from driftspec_plugins.metrics._slopes import exponent
from driftspec_plugins.metrics._unfit import no_flow
from driftspec_plugins.metrics.determinant_limit import jacobian

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation

WAYS = {
    "determinant": "determinant of the Jacobian",
    "exact_trace": "trace by d products",
    "hutchinson": "Hutchinson, one probe",
    "closed_form": "trace in closed form",
}
"""What is counted, and its name in the picture."""


class TraceCost(Metric):
    """The exponent of d in the number of operations of the exact trace; those of the others are in the details."""

    type = "trace_cost"

    dimensions: tuple[Annotated[int, Field(ge=2, le=2048)], ...] = Field(
        (8, 16, 32, 64, 128, 256, 512), min_length=2, description="d, ascending; the dynamics is built at each"
    )

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("velocity",), "to differentiate"),
            Need("dynamics", ("trainable",), "to be built in any dimension"),
            Need("dynamics", ("smooth",), "the trace is of a derivative of the velocity: its activation must be C1"),
        )

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        yield from no_flow(around)
        if list(self.dimensions) != sorted(set(self.dimensions)):
            yield "dimensions", "'dimensions' must ascend"

    def measure(self, evaluation: Evaluation) -> Measured:
        counted = [_counted(evaluation, d) for d in self.dimensions]
        operations = {way: [one[way] for one in counted] for way in WAYS if all(one.get(way) for one in counted)}
        exponents = {way: exponent(self.dimensions[-2:], found[-2:]) for way, found in operations.items()}
        details: dict[str, Any] = {
            "dimensions": list(self.dimensions),
            "operations": operations,
            "exponents": exponents,
        }
        reason = "the operations are counted, not estimated"
        picture = _picture(self.dimensions, operations, exponents)
        value = exponents["exact_trace"]
        return Measured(value, None, "", len(self.dimensions), details, reason, pictures={"cost": picture})


def _counted(evaluation: Evaluation, d: int) -> dict[str, int]:
    """Return the numbers of operations for one row in d dimensions."""
    import torch

    from driftspec.numerics.model import build_model

    dynamics = evaluation.setting.dynamics
    model = build_model(
        dynamics, d, evaluation.streams.number("parameters") % 2**32, torch.float64, torch.device("cpu")
    )
    x, t = torch.zeros(1, d, dtype=torch.float64), torch.tensor(model.t_data, dtype=torch.float64)
    exact, random = Trace.make("exact_trace"), Trace.make("hutchinson")
    own, v, unit = model.field(t), torch.ones(1, 1, d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)

    def field(y: Tensor) -> Tensor:
        return model.velocity(t, y.clone())  # the counter cannot hook an input of a module that is a leaf

    found = {
        "determinant": operations(lambda: torch.linalg.slogdet(unit + jacobian(field, x))),
        "exact_trace": operations(lambda: exact.divergence(field, x)),
        "hutchinson": operations(lambda: random.divergence(field, x, v)),
    }
    return found if own.divergence is None else {**found, "closed_form": operations(lambda: exact.divergence(own, x))}


def operations(work: Callable[[], object]) -> int:
    """Return the floating-point operations of matrix products and LU factorisations in `work()`."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten._linalg_slogdet: _of_lu}) as counter:
        work()
    return int(counter.get_total_flops())


def _of_lu(shape: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Return the operations of the LU factors of matrices (..., d, d): 2/3 d³ each."""
    return math.prod(shape[:-2]) * 2 * shape[-1] ** 3 // 3


def _picture(dimensions: tuple[int, ...], counted: dict[str, list[int]], exponents: dict[str, float]) -> Picture:
    """Return the operations against d."""
    marks: list[Line | Points] = []
    for way, found in counted.items():
        make = Points if way == "closed_form" else Line
        marks.append(make(dimensions, found, f"{WAYS[way]}: d^{exponents[way]:.2f}"))
    caption = (
        "Operations for one row against the dimension d, with the exponent between the two largest d. A discrete flow "
        "needs the determinant, a continuous flow the trace, FFJORD one product."
    )
    return Picture([Panel(marks, "d, dimension", "floating-point operations", log="xy")], caption)
