"""What a plugin may be: one open class a kind, with its conventions and shapes.

Symbols: batch B, dimension d; `x` data (B, d), `z` prior sample (B, d), `t` a scalar () or one time a row (B,), log
densities (B,) in nats. A dynamics names the ends of its own time, `t_prior` and `t_data`, and every formula is written
with those names. Components hold no state and no random stream: they receive both. torch is imported by the methods
that need it, so that reading and checking a spec never pays for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo

from driftspec.component import Component, Finding, Need, default, registry_of
from driftspec.errors import SolveFailed

if TYPE_CHECKING:
    from pathlib import Path as FilePath

    from torch import Generator, Tensor, nn
    from torch.optim import Optimizer as TorchOptimizer
    from torch.optim.lr_scheduler import LRScheduler

    from driftspec.evaluate import Evaluation
    from driftspec.files import Files
    from driftspec.model import Model
    from driftspec.observers import Observer
    from driftspec.streams import Streams

    VectorField = Callable[[Tensor, Tensor], Tensor]  # f(t, x) -> (B, d)
    Rates = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (t, x) -> f (B, d), integrands (B, m)


# --------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Table:
    """Data as read: `values` (n, d) float64, or (n, K, d) for trajectories observed at `times` (K,)."""

    values: Tensor
    columns: tuple[str, ...]
    times: Tensor | None = None
    digest: str | None = None  # sha256 of the file it came from


class Data(Component):
    """Which distribution: samples, log p, or both?"""

    kind = "data"
    hard_edges: ClassVar[bool] = False
    """The density jumps: implicit score matching has no minimum there."""

    split: tuple[float, float, float] = Field(
        (0.8, 0.1, 0.1), description="fractions for training, validation and test; they sum to 1"
    )
    standardize: Literal["none", "scale", "whiten"] = Field(
        "none", description="model units: as given, each column to mean 0 and deviation 1, or covariance I"
    )

    def dim(self) -> int | None:
        """d, or None while it is open (a file not read yet, a law that fits any d)."""
        return None

    def offers(self) -> frozenset[str]:
        return frozenset({"samples"})

    def read(self, files: Files, generator: Generator) -> Table:
        """Every row there is, in the data's own units. SpecError X304 for a bad file."""
        raise NotImplementedError


class Distribution(Data):
    """A law that can be drawn from; most also know their log p. As a `target`, `prior` or `start` it is a law alone."""

    unused_nested = frozenset({"samples", "split", "standardize"})

    normalized: ClassVar[bool] = True
    """Whether `log_prob` integrates to one; without, it holds up to a constant and the law offers an energy alone."""

    samples: int = Field(10000, ge=1, description="rows drawn, before the split")

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """(n, d) float64, drawn from `generator` alone. `dim` is d where `dim()` leaves it open."""
        raise NotImplementedError

    def log_prob(self, x: Tensor) -> Tensor:
        """(B,) nats, for x (B, d) in the units `sample` draws in."""
        raise NotImplementedError

    def score(self, x: Tensor) -> Tensor:
        """∇log p(x) (B, d): by differentiating `log_prob`, until a law says it in closed form."""
        from driftspec.model import gradient

        return gradient(self.log_prob, x)[1]

    def entropy(self) -> float | None:
        """-E[log p] in nats, by closed form or quadrature; None if unknown."""
        return None

    def columns(self) -> tuple[str, ...]:
        """Names of the d coordinates."""
        return tuple(f"x{i + 1}" for i in range(self.dim() or 0))

    def reported(self, x: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """The quantities (n, m) that reports speak of, with their names: constrained where x (n, d) is not."""
        return x, self.columns() or tuple(f"x{i + 1}" for i in range(x.shape[1]))

    def moments(self) -> tuple[Tensor, Tensor] | None:
        """Exact mean (m,) and covariance (m, m) of the reported quantities, float64; None if unknown."""
        return None

    def normals(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Weights (K,), means (K, d) and covariances (K, d, d), float64, of a mixture of normal laws; else None."""
        return None

    def mode_of(self, x: Tensor) -> Tensor:
        """The mode (B,) that each row of x (B, d) lies near, -1 for none; of laws with separate modes."""
        raise NotImplementedError

    def smallest_variance(self) -> float | None:
        """Of a normal law the smallest variance along any direction, known without torch; None of every other law."""
        return None

    def offers(self) -> frozenset[str]:
        offered = {"samples"} if type(self).sample is not Distribution.sample else set()
        if type(self).log_prob is not Distribution.log_prob:
            offered.add("log_prob" if self.normalized else "energy")
        return frozenset(offered)

    def read(self, files: Files, generator: Generator) -> Table:
        values = self.sample(self.samples, generator)
        return Table(values, self.columns() or tuple(f"x{i + 1}" for i in range(values.shape[1])))


# ------------------------------------------------------------------------------------------------------------ network


class Network(Component):
    """Which function of (t, x, context)? `t` and `context` are optional; context is reserved."""

    kind = "network"

    def smoothness(self) -> float:
        """How many continuous derivatives in x the function has; `math.inf` for analytic activations."""
        return math.inf

    def parameters(self, d_in: int, d_out: int, generator: Generator) -> dict[str, Tensor]:
        """Initial parameters by name, drawn from `generator`."""
        raise NotImplementedError

    def apply(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, d_out), for x (B, d_in) and t () or (B,), row by row."""
        raise NotImplementedError

    def build(self, d_in: int, d_out: int, generator: Generator) -> nn.Module:
        """A module called as `module(t, x)`. By default `apply` bound to `parameters`; any nn.Module will do."""
        from driftspec.model import Bound

        return Bound(self, self.parameters(d_in, d_out, generator))


# ----------------------------------------------------------------------------------------------------------- dynamics


class Dynamics(Component):
    """Which ODE or SDE, and what it offers."""

    kind = "dynamics"
    default_sampler: ClassVar[str]
    """The sampler of a spec that names none."""
    default_metrics: ClassVar[tuple[str, ...]] = ()
    """What a spec without `evaluate` measures."""

    def lowest_noise(self) -> float | None:
        """σ at the end of time where the data are, known without torch; None where there is none, or none is known."""
        return None

    def times(self) -> tuple[float, float]:
        """(t_prior, t_data): the ends of time where the prior is, and where the data are; both 0 without a time."""
        return 0.0, 0.0

    def build(self, dim: int, generator: Generator) -> nn.Module:
        """What is trained."""
        raise NotImplementedError

    def velocity(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """dx/dt (B, d) of the ODE between the prior and the data. An SDE with a score has one without saying so."""
        raise NotImplementedError

    def drift(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """f(x, t) (B, d) of the SDE dx = f dt + g dw."""
        raise NotImplementedError

    def diffusion(self, t: Tensor) -> Tensor:
        """g(t), in t's shape."""
        raise NotImplementedError

    def kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(α(t), σ(t)) in t's shape: the SDE takes data x to N(α x, σ² I) by time t. Offered as `noise_kernel`."""
        raise NotImplementedError

    def score(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """s(x, t) (B, d), ∇ log of the density at time t."""
        raise NotImplementedError

    def energy(self, module: nn.Module, x: Tensor) -> Tensor:
        """E(x) (B,): the density is exp(-E) up to its constant."""
        raise NotImplementedError

    def log_prob(self, module: nn.Module, x: Tensor) -> Tensor:
        """log p(x) (B,), where it is known without a solve (a target's)."""
        raise NotImplementedError

    def prior_law(self) -> Distribution | None:
        """The law at t_prior."""
        return None

    def smallest_variance(self) -> float | None:
        """Of a stationary law that is known to be normal, the smallest variance along any direction; else None."""
        return None


# ------------------------------------------------------------------------------------------------------------- solver


@dataclass(frozen=True)
class Path:
    """One ODE solve: the state at t1, the integrals of the rates, and how it went."""

    state: Tensor  # (B, d)
    integrals: Tensor  # (B, m), with the sign of dt
    evaluations: int
    status: str = "ok"  # ok, non_finite, budget, step_underflow, not_converged
    stats: Mapping[str, int] = field(default_factory=dict)

    def require(self, what: str = "the ODE") -> Self:
        """Itself, or SolveFailed with the status by name."""
        if self.status != "ok":
            text = f"solving {what} ended with status {self.status} after {self.evaluations} evaluations"
            raise SolveFailed(text, self.status)
        return self


class Solver(Component):
    """How is an ODE integrated, and its gradient taken?"""

    kind = "solver"
    order: ClassVar[int]

    def solve(
        self,
        f: VectorField,
        x: Tensor,
        t0: float | Tensor,
        t1: float | Tensor,
        rates: Rates | None = None,
        steps: int | None = None,
        params: Sequence[Tensor] = (),
    ) -> Path:
        """dx/dt = f(t, x) from x at t0 to t1, forwards or backwards, and with it ∫ r dt of the integrands r.

        `rates(t, x) -> (f, r)` gives r (B, m), which do not feed back into the state (a divergence, ‖f‖², ...);
        without rates, integrals is (B, 0). Where `rates.controlled` is a number, only so many of the first integrals
        have a part in the choice of steps. `steps` is for solvers that take a number of them; `params` are the tensors
        beside x that gradients must reach, for solvers that differentiate by an adjoint equation.
        """
        raise NotImplementedError

    def start_steps(self) -> int | None:
        """The number of steps to begin with; None for a solver that chooses its own."""
        return None

    def finer(self) -> Solver | None:
        """The same solver ten times as accurate, for an error estimate; None where `steps` serves that purpose."""
        return None


def below_epsilon(key: str, value: float, around: Setting) -> Iterator[Finding]:
    """What is said of a tolerance that rounding alone exceeds."""
    text = (
        f"'{key}' is {value:g}, below {around.epsilon:.2g}, the epsilon of {around.dtype}: more steps, no more digits"
    )
    yield key, f"{text}; raise it, or take runtime.dtype: float64", "warning"


class FixedSteps(Solver):
    """A solver told its number of steps N; the difference between N and 2N says how good N is."""

    steps: int = Field(10, ge=1, description="N to begin with")
    tolerance: float = Field(
        1e-4,
        gt=0,
        description="largest |result(N) - result(2N)|: each point doubles its own N until it holds; "
        "in training (default 1e-2 there) N moves to hold it on the batch's mean",
    )
    max_steps: int = Field(
        1024, ge=2, description="largest N (default 96 in training); a point that needs more counts as not converged"
    )

    def problems(self, around: Setting) -> Iterator[Finding]:
        if self.steps > self.max_steps:
            yield "steps", f"'steps' is {self.steps}, more than 'max_steps', which is {self.max_steps}"
        if self.tolerance < around.epsilon:
            yield from below_epsilon("tolerance", self.tolerance, around)

    def start_steps(self) -> int | None:
        return self.steps

    def adapt(self, steps: int, difference: float) -> int:
        """The next N of training: up by half above twice the tolerance, down by 15 % below a quarter of it."""
        if difference > 2 * self.tolerance:
            return min(self.max_steps, math.ceil(1.5 * steps))
        if difference < self.tolerance / 4:
            return max(min(5, self.steps), int(0.85 * steps))
        return steps


def _for_training(body: Any, info: ValidationInfo) -> Any:
    """A solver as training wants it: looser, for a step's gradient is noisier than any error this allows."""
    keys = {"type": body} if isinstance(body, str) else body
    if not isinstance(keys, dict) or not isinstance(keys.get("type"), str):
        return body
    found, _ = registry_of(info).look_up("solver", keys["type"])
    loose = {"tolerance": 1e-2, "max_steps": 96} if found is not None and issubclass(found, FixedSteps) else {}
    return {**loose, **keys}


TrainingSolver = Annotated[Solver, BeforeValidator(_for_training)]
"""As a key's type: a solver that trains."""


# ---------------------------------------------------------------------------------------------------------- estimator


@dataclass(frozen=True)
class Loss:
    """`value` () to minimise, its parts for the record, and the estimator's next state."""

    value: Tensor
    terms: Mapping[str, float]
    state: Any
    evaluations: int = 0
    stats: Callable[[], Mapping[str, float]] = dict  # more terms, asked for after the backward pass


class Estimator(Component):
    """What is optimised? A component never holds state: the state is passed through and checkpointed."""

    kind = "estimator"

    def start(self, model: Model, streams: Streams) -> Any:
        """The state before the first step: a tree of tensors and plain values."""
        return {}

    def loss(self, model: Model, batch: Tensor, state: Any, streams: Streams) -> Loss:
        """One step's loss on a batch (B, d) in model units."""
        raise NotImplementedError


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

    def probe(self, x: Tensor, generator: Generator) -> Tensor | None:
        """Random vectors (K, B, d), drawn once a solve and held fixed during it; None for an exact trace."""
        return None

    def divergence(
        self, f: Callable[[Tensor], Tensor], x: Tensor, probe: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(f(x) (B, d), tr(∂f/∂x) (B,)), for f row by row at x (B, d)."""
        raise NotImplementedError

    def exact(self) -> bool:
        """Whether `divergence` is the trace itself, without chance."""
        return False

    def offers(self) -> frozenset[str]:
        return frozenset({"solver_gradient"} if "gradient" in type(self.solver).model_fields else ())

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
        from driftspec.flow import negative_log_likelihood

        return negative_log_likelihood(self, model, batch, state, streams)


# ------------------------------------------------------------------------------------------------ optimizer, schedule


class Optimizer(Component):
    """How are parameters moved?"""

    kind = "optimizer"

    def build(self, parameters: Sequence[nn.Parameter]) -> TorchOptimizer:
        raise NotImplementedError


class Schedule(Component):
    """How does the learning rate change with the step?"""

    kind = "schedule"

    def build(self, optimizer: TorchOptimizer, steps: int) -> LRScheduler:
        """A scheduler stepped once after each of `steps` optimiser steps."""
        raise NotImplementedError


# ------------------------------------------------------------------------------------------------------------ sampler


@dataclass(frozen=True)
class Draws:
    """`values` (chains, draws, d) in model units, and what is worth telling: of all, and of each chain (chains,)."""

    values: Tensor
    stats: Mapping[str, float] = field(default_factory=dict)
    each: Mapping[str, Tensor] = field(default_factory=dict)

    def flat(self) -> Tensor:
        """(chains · draws, d), chain by chain."""
        return self.values.flatten(0, 1)


EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52}


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
        target = self.dynamics.nested().get("target")
        return self.data if self.data is not None else target if isinstance(target, Data) else None


@dataclass(frozen=True)
class Course:
    """The way of chains that follow an SDE: equal steps of time, from 0 to `duration`, and the law they begin in.

    `data` and `prior` are those of the spec, None is N(0, I).
    """

    start: Distribution | Literal["data", "prior"] | None
    duration: float
    steps: int


class Sampler(Component):
    """model -> draws, chains kept apart. Sample i is a function of (seed, i)."""

    kind = "sampler"
    BLOCK: ClassVar[int] = 256
    """Noise is drawn in whole blocks of this many samples, a generator each: no sample depends on the count."""
    heuristic: ClassVar[bool] = False
    """Shorter steps do not lead to the model's law: it depends on how the sampler is tuned, and nobody states it."""

    def draw(self, model: Model, count: int, streams: Streams) -> Draws:
        """`count` samples: whole blocks by `draw_block`, one draw a chain, cut to the count."""
        import torch

        blocks = [
            self.draw_block(model, streams.at(block).generator("noise")) for block in range(-(-count // self.BLOCK))
        ]
        stats: dict[str, float] = {}
        for block in blocks:
            for name, value in block.stats.items():
                stats[name] = stats.get(name, 0) + value
        return Draws(torch.cat([block.values for block in blocks])[:count], stats)

    def draw_block(self, model: Model, generator: Generator) -> Draws:
        """BLOCK chains, in model units."""
        raise NotImplementedError

    def layout(self, count: int) -> tuple[int, int]:
        """(chains, draws a chain) of `count` samples."""
        return count, 1

    def course(self, around: Setting) -> Course:
        """From where, how long and in how many steps chains follow the SDE of `motion`. Offered as `motion`."""
        raise NotImplementedError

    def motion(self, model: Model) -> tuple[VectorField, Callable[[Tensor], Tensor]]:
        """f(t, x) (B, d) and g(t) of the SDE dx = f dt + g dw that steps approximate, t passed since the start."""
        raise NotImplementedError

    def length(self, model: Model) -> int | None:
        """Steps from a chain's start to its only draw, where `states` knows what lies between; else None."""
        return None

    def states(self, model: Model, count: int, streams: Streams, after: Sequence[int]) -> Tensor:
        """(K, count, d): where the chains of `draw` stand after these numbers of steps, which rise."""
        raise NotImplementedError

    def halved(self) -> Self:
        """The same with twice the steps, each half as long: what the step itself does to the law."""
        raise NotImplementedError

    def predicts(self, law: Distribution) -> bool:
        """Whether `predicted` knows the moments of draws from this target."""
        return False

    def predicted(self, law: Distribution) -> tuple[Tensor, Tensor]:
        """Mean (m,) and covariance (m, m), float64, of draws from this target, the sampler's own bias included."""
        raise NotImplementedError


# ------------------------------------------------------------------------------------------------------------- metric


@dataclass(frozen=True)
class Measured:
    """One number with its standard error, or the reason why none: `stderr_reason` for both.

    `details["curves"]`, where it is there, is drawn: a list of `{"title", "axis", "x", "density", "edges",
    "histogram"}`, a density at points x beside the histogram of what should have it, one longer in edges than in bars.
    """

    value: float | None
    stderr: float | None
    unit: str
    n: int
    details: Mapping[str, Any] = field(default_factory=dict)
    stderr_reason: str | None = None
    line: str | None = None  # the line a run ends with, where the metric has one to say


class Metric(Component):
    """One number with its error bar, or the reason why none."""

    kind = "metric"
    draws_wanted: ClassVar[str | None] = None
    """The key that says how many of the run's own draws it reads (null: all); None if it reads none, or all of them."""
    reads_chains: ClassVar[bool] = False
    """It reads all of the run's own draws, chains apart."""
    in_float64: ClassVar[frozenset[str]] = frozenset()
    """Keys whose component computes in float64, whatever the run's dtype."""

    name: str | None = Field(
        None, min_length=1, pattern=r"^[A-Za-z0-9_]+$", description="key in metrics.json; defaults to the type"
    )

    def key(self) -> str:
        return self.name or self.type

    def wanted(self) -> int:
        """How many of the run's own draws it reads."""
        return 0 if self.draws_wanted is None else int(getattr(self, self.draws_wanted) or 0)

    def measure(self, evaluation: Evaluation) -> Measured:
        raise NotImplementedError

    def log_prob(self, evaluation: Evaluation, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p (B,) float64 at points x (B, d), data units, as `measure` finds it, and each one's numerical error.

        Of a metric that offers `log_prob`; by it a run answers for its log p. Not finite where no error is known.
        """
        raise NotImplementedError


# ------------------------------------------------------------------------------------------------------------ tracker


class Tracker(Component):
    """Who is told how a run goes? The run's results and its digest do not depend on it."""

    kind = "tracker"

    def observer(self, folder: FilePath) -> Observer:
        """What is told of one run, and holds what that takes. `folder`, not made yet, is its own in the run directory.

        It is made anew where a run is resumed, and then told of steps that it may have been told of before.
        """
        raise NotImplementedError


KINDS: dict[str, type[Component]] = {
    base.kind: base
    for base in (Data, Network, Dynamics, Solver, Estimator, Optimizer, Schedule, Sampler, Metric, Tracker)
}
