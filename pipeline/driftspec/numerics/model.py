"""A dynamics with its parameters, in model units: what estimators train, samplers draw from and metrics measure."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from driftspec.errors import RunFailed

if TYPE_CHECKING:
    from driftspec.components import Distribution, Dynamics, Network, Rates, Solver, Trace
    from driftspec.streams import Streams


class Bound(nn.Module):
    """A network component's `apply`, bound to its parameters."""

    def __init__(self, network: Network, parameters: Mapping[str, Tensor]):
        super().__init__()
        self.network = network
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.network.apply(self._named(), t, x, context)

    def closed_divergence(self) -> Rates | None:
        """(t, x) -> (f, tr ∂f/∂x) where the network knows its divergence in closed form."""
        own = getattr(self.network, "divergence", None)
        return None if own is None else functools.partial(own, self._named())

    def _named(self) -> dict[str, Tensor]:
        """Its parameters by name, without the walk that `named_parameters` takes: 1 % of a training step."""
        return self._parameters  # type: ignore[return-value]


@dataclass(frozen=True)
class Field:
    """y -> f(t, y) at a fixed t: what a trace estimator differentiates, or asks for its divergence if it knows it."""

    velocity: Callable[[Tensor, Tensor], Tensor]
    t: Tensor
    divergence: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

    def __call__(self, y: Tensor) -> Tensor:
        return self.velocity(self.t, y)


@dataclass(frozen=True)
class Model:
    """A dynamics, its trained module and d."""

    dynamics: Dynamics
    module: nn.Module
    dim: int
    times: Tensor | None = None  # (K,), of data that are trajectories
    trace: Trace | None = None  # by which log p follows from the velocity, where nothing else is named

    rows: Callable[[], Tensor] | None = None  # the training rows (n, d), read when asked for
    solver: Solver | None = None  # which integrates log p with `trace`; None: the trace's own
    pilot: Tensor | None = None  # of chains: the points (n, d) at which their one number of steps is found

    def first(self, start: Distribution | Literal["data", "prior"] | None, chains: int, streams: Streams) -> Tensor:
        """Where chains begin, in whole blocks (n, d) of a generator each: a law, `data` (training rows) or `prior`.

        None stands for what `beginning` makes of an open start.
        """
        from driftspec.components import Distribution, Sampler, beginning

        start = beginning(start, prior="prior" in self.own, data=self.rows is not None)
        rows = None if start != "data" or self.rows is None else self.rows()
        blocks = []
        for block in range(-(-chains // Sampler.BLOCK)):
            generator = streams.at(block).generator("start")
            if start == "data":
                if rows is None:
                    raise RunFailed("chains begin at training rows, and there are no data")
                blocks.append(rows[torch.randint(len(rows), (Sampler.BLOCK,), generator=generator)])
            else:
                law = self.prior() if start == "prior" else start
                if not isinstance(law, Distribution):
                    raise RunFailed(f"chains cannot begin at {law}: it cannot be drawn from")
                blocks.append(law.sample(Sampler.BLOCK, generator, self.dim))
        return self.like(torch.cat(blocks))

    def observed_at(self) -> Tensor:
        """The times (K,) at which the data were observed."""
        if self.times is None:
            raise RunFailed("the data have no times: they are no trajectories")
        return self.times

    @functools.cached_property
    def own(self) -> frozenset[str]:
        """What the dynamics itself offers; the rest follows here."""
        return self.dynamics.offers()

    @property
    def t_data(self) -> float:
        """The end of time where the data are."""
        return self.dynamics.times()[1]

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        """dx/dt (B, d) at x (B, d), t () or (B,): the ODE's, or an SDE's probability flow f - ½ g² s."""
        if "velocity" in self.own:
            return self.dynamics.velocity(self.module, t, x)
        g = self.dynamics.diffusion(t)
        half = (g * g / 2).to(x)
        return self.drift(t, x) - (half[:, None] if half.dim() else half) * self.score(t, x)

    def drift(self, t: Tensor, x: Tensor) -> Tensor:
        """f(x, t) (B, d) of dx = f dt + g dw."""
        return self.dynamics.drift(self.module, t, x)

    def score(self, t: Tensor, x: Tensor) -> Tensor:
        """s(x, t) = ∇log p_t(x) (B, d): the dynamics' own, or by differentiating its energy or its log p."""
        if "score" in self.own:
            return self.dynamics.score(self.module, t, x)
        return self.log_density_and_score(x)[1]

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) (B,), up to a constant where the dynamics offers an energy."""
        if "energy" in self.own:
            return -self.dynamics.energy(self.module, x)
        if "log_prob" in self.own:
            return self.dynamics.log_prob(self.module, x)
        from driftspec.numerics import density

        return density.log_density(self, x)

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B,) and (B, d) from one evaluation; log p in float64 where nothing is trained.

        A ratio of densities is a difference of two log p: of values near 1e8 float32 leaves nothing of it.
        """
        if self.solved:
            from driftspec.numerics import density

            return density.log_density_and_score(self, x)
        if self.parameters() or x.device.type == "mps":  # which has no float64
            return gradient(self.log_density, x)
        value, slope = gradient(self._in_double.log_density, x.double())
        return value, slope.to(x)

    @functools.cached_property
    def _in_double(self) -> Model:
        return self.double()

    def score_and_error(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """∇log p(x) (B, d) at t_data, and a bound (B,) of its components' errors: 0 where it takes no solve."""
        if "score" not in self.own and self.solved:
            from driftspec.numerics import density

            return density.score_and_error(self, x)
        with torch.no_grad():
            return self.score(x.new_tensor(self.t_data), x), x.new_zeros(len(x))

    @property
    def solved(self) -> bool:
        """Whether log p follows from the velocity by a solve: the dynamics has neither it nor an energy."""
        return self.own.isdisjoint({"energy", "log_prob"})

    @functools.cached_property
    def steps(self) -> int | None:
        """The number of steps that solves for log p take in chains, found at the pilot points when first asked for."""
        from driftspec.numerics import density

        return None if self.pilot is None else density.enough_steps(self, self.pilot)

    def field(self, t: Tensor) -> Field:
        """The velocity at a fixed t, with its divergence where the dynamics knows it in closed form."""
        known = getattr(self.dynamics, "closed_divergence", None)
        own = None if known is None else known(self.module)
        return Field(self.velocity, t, None if own is None else functools.partial(own, t))

    def prior(self) -> Distribution:
        """The law at t_prior."""
        law = self.dynamics.prior_law()
        if law is None:
            raise RunFailed(f"{self.dynamics.label} has no prior")
        return law

    def parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(self.module.parameters())

    def like(self, x: Tensor) -> Tensor:
        """`x` in the module's dtype and on its device."""
        first = next(itertools.chain(self.module.parameters(), self.module.buffers()), None)
        return x if first is None else x.to(device=first.device, dtype=first.dtype)

    def double(self) -> Model:
        """A float64 copy, for checks beyond the run's own precision."""
        return replace(self, module=copy.deepcopy(self.module).double())


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """(h(x) (B,), ∇h(x) (B, d)), with a graph behind them where gradients are being recorded and without elsewhere."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if graph and x.requires_grad else x.detach().requires_grad_()
        value = function(x)
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=graph)
    return (value, slope) if graph else (value.detach(), slope)


def pullback(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """f(x) (B, d), and v (B, d) -> vᵀ ∂f/∂x (B, d), for f row by row at x (B, d).

    Plain autograd: as fast as torch.func's transforms or faster, and f may itself differentiate in either way. The
    results carry a graph if f(x) does: not under `torch.no_grad`, where they are the same.
    """
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        at = x if graph and x.requires_grad else x.detach().requires_grad_()
        value = f(at)
    graph = graph and (x.requires_grad or _leads_elsewhere(value, at))

    def pull(v: Tensor) -> Tensor:
        if not value.requires_grad:  # f depends neither on x nor on a parameter
            return torch.zeros_like(x)
        return torch.autograd.grad(value, at, v, create_graph=graph, retain_graph=True, materialize_grads=True)[0]

    return value if graph else value.detach(), pull


def _leads_elsewhere(value: Tensor, at: Tensor) -> bool:
    """Whether the graph of `value` has another leaf than `at`: a parameter that asks for its gradient."""
    nodes, seen = [value.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if getattr(node, "variable", at) is not at:
            return True
        nodes.extend(following for following, _ in node.next_functions)
    return False


def build_model(dynamics: Dynamics, dim: int, seed: int, dtype: torch.dtype, device: torch.device) -> Model:
    """The dynamics with fresh parameters, a function of `seed` alone."""
    with torch.random.fork_rng(devices=[]):  # nn.Linear and dropout draw from the global generator whatever is passed
        torch.manual_seed(seed)
        module = dynamics.build(dim, torch.Generator().manual_seed(seed))
    return Model(dynamics, module.to(device=device, dtype=dtype), dim)


__all__ = ["Bound", "Field", "Model", "build_model", "gradient", "pullback"]
