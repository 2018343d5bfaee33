"""Estimators: the losses that train a model. A trace estimator trains by maximum likelihood."""

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
    """The loss `value` () of one step, its parts for train.jsonl, and the next state of the estimator."""

    value: Tensor
    terms: Mapping[str, float]
    state: Any
    evaluations: int = 0
    stats: Callable[[], Mapping[str, float]] = dict  # more terms; called after the backward pass
    verdicts: Callable[[], Sequence[Verdict]] = tuple  # whether to trust this step; called after the backward pass
    final_state: Callable[[], Any] | None = None  # replaces `state` if the next state depends on the backward pass

    def next_state(self) -> Any:
        """Return the next state of the estimator; to be called after the backward pass."""
        return self.state if self.final_state is None else self.final_state()


class Estimator(Component):
    """A loss to minimise. It holds no state: its methods take the state and return the next one."""

    kind = "estimator"

    def needs_density(self, dynamics: Dynamics) -> bool:
        """Whether the loss for this dynamics has no lower bound if the data have no density.

        Data have no density if a column is constant or a function of others. Noise added to the rows gives them one.
        """
        return False

    def noise_level(self) -> float | None:
        """Return σ, model units, of the noise that the loss adds to the data; None if it is not one number."""
        return None

    def start(self, model: Model, streams: Streams) -> Any:
        """Return the state before the first step: a tree of tensors and plain values."""
        return {}

    @abstractmethod
    def loss(self, model: Model, batch: Tensor, state: Any, streams: Streams) -> Loss:
        """Return the loss of one step on a batch (B, d) in model units."""


class Trace(Estimator):
    """Trains by maximum likelihood with an estimate of tr(∂f/∂x); the `trace` of another component only estimates.

    log p(x) = log p_prior(z) + ∫_{t_data}^{t_prior} tr(∂f/∂x) dt, along the solution from x at t_data to z at t_prior.
    The loss is -E log p(x) + λ_K E ∫ ‖f‖² dt + λ_J E ∫ ‖∂f/∂x‖²_F dt, with λ_K = `kinetic` and λ_J = `jacobian`:
    C. Finlay et al., *How to Train Your Neural ODE: the World of Jacobian and Kinetic Regularization*, 2020.
    """

    unused_nested = frozenset({"solver", "check_every", "kinetic", "jacobian"})
    joint_probes: ClassVar[bool] = False
    """Whether `divergence` combines its probes: it is then not a mean over probes, and has no standard error."""

    solver: TrainingSolver = default("lobatto", "integrates the state and log p in training")
    check_every: int = Field(
        20, ge=1, description="training steps between comparisons with a finer solve, which adapt the solver's N if any"
    )
    kinetic: float = Field(
        0.0, ge=0, description="weight in the loss of ∫ ‖f‖² dt, which favours straight trajectories of constant speed"
    )
    jacobian: float = Field(
        0.0, ge=0, description="weight in the loss of ∫ ‖∂f/∂x‖²_F dt, estimated with one probe v by ‖vᵀ ∂f/∂x‖²"
    )

    def needs_density(self, dynamics: Dynamics) -> bool:
        return True

    def probe(self, x: Tensor, generator: Generator) -> Tensor | None:
        """Return random vectors (K, B, d), drawn once for each solve and fixed during it; None for an exact trace."""
        return None

    @abstractmethod
    def divergence(
        self, f: Callable[[Tensor], Tensor], x: Tensor, probe: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return f(x) (B, d) and tr(∂f/∂x) (B,) at x (B, d); row i of f(x) depends only on row i of x."""

    def probe_count(self) -> int | None:
        """Return the number of probes for each point; None for an exact trace, or if it is not known."""
        return None

    def exact(self) -> bool:
        """Whether `divergence` is the exact trace, without random probes."""
        return False

    def offers(self) -> frozenset[str]:
        return frozenset() if self.solver.differentiated("adjoint") is None else frozenset({"solver_gradient"})

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("data", ("samples",), "to learn from"),
            Need("dynamics", ("velocity",), "to integrate"),
            Need("dynamics", ("smooth",), "the loss contains a derivative of the network: its activation must be C1"),
            Need("dynamics", ("log_prob",), "maximum likelihood needs the prior's log p"),
        )

    def start(self, model: Model, streams: Streams) -> Any:
        return {"steps": self.solver.start_steps()}

    def loss(self, model: Model, batch: Tensor, state: Any, streams: Streams) -> Loss:
        """Return the mean of -log p over a batch (B, d), in nats, with the penalties `kinetic` and `jacobian`."""
        return model.negative_log_likelihood(self, batch, state, streams)
