"""Estimators: what is optimised? A trace estimator trains by maximum likelihood."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from driftspec.components.component import Component, Need, default
from driftspec.components.solver import TrainingSolver

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from driftspec.components.dynamics import Dynamics
    from driftspec.components.model import Model
    from driftspec.components.verdict import Verdict
    from driftspec.streams import Streams


@dataclass(frozen=True)
class Loss:
    """`value` () to minimise, its parts for the record, and the estimator's next state."""

    value: Tensor
    terms: Mapping[str, float]
    state: Any
    evaluations: int = 0
    stats: Callable[[], Mapping[str, float]] = dict  # more terms, asked for after the backward pass
    verdicts: Callable[[], Sequence[Verdict]] = tuple  # whether this step can be trusted, asked for likewise
    final_state: Callable[[], Any] | None = None  # the next state instead, where it follows from the backward pass

    def next_state(self) -> Any:
        """The estimator's next state, once the backward pass is done."""
        return self.state if self.final_state is None else self.final_state()


class Estimator(Component):
    """What is optimised? A component never holds state: the state is passed through and checkpointed."""

    kind = "estimator"

    def needs_density(self, dynamics: Dynamics) -> bool:
        """Whether the loss of this dynamics has no lower bound on data without a density.

        Data have none where a column is constant or follows from others. Noise added to the rows gives them one.
        """
        return False

    def noise_level(self) -> float | None:
        """Return σ, model units, of the noise that its loss adds to the data, if it is one number; else None."""
        return None

    def start(self, model: Model, streams: Streams) -> Any:
        """The state before the first step: a tree of tensors and plain values."""
        return {}

    @abstractmethod
    def loss(self, model: Model, batch: Tensor, state: Any, streams: Streams) -> Loss:
        """One step's loss on a batch (B, d) in model units."""


class Trace(Estimator):
    """Trains by maximum likelihood with this estimate of tr(∂f/∂x); nested, lends the estimate alone.

    log p(x) = log p_prior(z) + ∫_{t_data}^{t_prior} tr(∂f/∂x) dt, along the path from x at t_data to z at t_prior.
    The loss is -E log p(x), and with `kinetic` and `jacobian` + λ_K E ∫ ‖f‖² dt + λ_J E ∫ ‖∂f/∂x‖²_F dt: C. Finlay et
    al., *How to Train Your Neural ODE: the World of Jacobian and Kinetic Regularization*, 2020.
    """

    unused_nested = frozenset({"solver", "check_every", "kinetic", "jacobian"})
    joint_probes: ClassVar[bool] = False
    """`divergence` is no mean over probes taken one at a time: they work together, and have no standard error."""

    solver: TrainingSolver = default("lobatto", "integrates the state and log p in training")
    check_every: int = Field(
        20, ge=1, description="steps from one comparison with a finer solve to the next; it moves N where there is one"
    )
    kinetic: float = Field(
        0.0, ge=0, description="weight in the loss of ∫ ‖f‖² dt along each path: straight paths at an even speed"
    )
    jacobian: float = Field(
        0.0, ge=0, description="weight in the loss of ∫ ‖∂f/∂x‖² dt, the Frobenius norm by one probe ‖vᵀ ∂f/∂x‖²"
    )

    def needs_density(self, dynamics: Dynamics) -> bool:
        return True

    def probe(self, x: Tensor, generator: Generator) -> Tensor | None:
        """Random vectors (K, B, d), drawn once a solve and held fixed during it; None for an exact trace."""
        return None

    @abstractmethod
    def divergence(
        self, f: Callable[[Tensor], Tensor], x: Tensor, probe: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(f(x) (B, d), tr(∂f/∂x) (B,)), for f row by row at x (B, d)."""

    def probe_count(self) -> int | None:
        """Return the number of probes a point; None for an exact trace, or if it is not known."""
        return None

    def exact(self) -> bool:
        """Whether `divergence` is the trace itself, without chance."""
        return False

    def offers(self) -> frozenset[str]:
        return frozenset() if self.solver.differentiated("adjoint") is None else frozenset({"solver_gradient"})

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("data", ("samples",), "to learn from"),
            Need("dynamics", ("velocity",), "to integrate"),
            Need("dynamics", ("smooth",), "the loss holds a derivative of the network: its activation must be C1"),
            Need("dynamics", ("log_prob",), "maximum likelihood asks for the prior's log p"),
        )

    def start(self, model: Model, streams: Streams) -> Any:
        return {"steps": self.solver.start_steps()}

    def loss(self, model: Model, batch: Tensor, state: Any, streams: Streams) -> Loss:
        return model.negative_log_likelihood(self, batch, state, streams)
