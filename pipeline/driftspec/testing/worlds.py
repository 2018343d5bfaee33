"""Small dynamics, data and networks with known results, which the kit combines with the component under test.

They are in no plugin, so a spec cannot name them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from driftspec.components import Data, Distribution, Dynamics, Model, Network, Setting, Table
from driftspec.components.component import Component
from driftspec.numerics.model import build_model
from driftspec.spec.fits import met

if TYPE_CHECKING:
    from driftspec.source.files import Files

A = ((0.4, 1.3), (-0.6, 0.2))
"""The matrix of a linear field, neither symmetric nor normal."""
SPIRAL = ((-0.1, 1.0), (-1.0, -0.1))
"""The matrix of a linear field whose solutions are spirals."""


class NormalLaw(Distribution):
    """The normal distribution N(m, L Lᵀ)."""

    type = "kit_normal"
    center: tuple[float, ...] = Field((0.0, 0.0), description="m")
    root: tuple[tuple[float, ...], ...] = Field(((1.0, 0.0), (0.0, 1.0)), description="L, lower triangular")

    def dim(self) -> int:
        return len(self.center)

    def matrix(self, like: Tensor) -> Tensor:
        """Return L (d, d) with the dtype and device of `like`."""
        return like.new_tensor(self.root)

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """Return draws m + L ε (n, d)."""
        noise = torch.randn(n, len(self.center), generator=generator, dtype=torch.float64)
        return noise @ self.matrix(noise).T + noise.new_tensor(self.center)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) = -‖z‖²/2 - log det L - d/2 log 2π (B,) with z = L⁻¹ (x - m)."""
        root = self.matrix(x)
        z = torch.linalg.solve_triangular(root, (x - x.new_tensor(self.center)).T, upper=False).T
        return -z.square().sum(1) / 2 - root.diagonal().log().sum() - len(self.center) / 2 * math.log(2 * math.pi)

    def entropy(self) -> float:
        root = torch.tensor(self.root, dtype=torch.float64)
        return len(self.center) / 2 * (1 + math.log(2 * math.pi)) + float(root.diagonal().log().sum())

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean m (d,) and the covariance L Lᵀ (d, d)."""
        root = torch.tensor(self.root, dtype=torch.float64)
        return torch.tensor(self.center, dtype=torch.float64), root @ root.T

    def normals(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights (K,), means (K, d) and covariances (K, d, d) of K = 1 normal distribution."""
        mean, covariance = self.moments()
        return mean.new_ones(1), mean[None], covariance[None]

    def smallest_variance(self) -> float:
        return float(torch.linalg.eigvalsh(self.moments()[1])[0])


class TwoNormals(Distribution):
    """A mixture of two normal distributions of width σ with weights 0.3 and 0.7; its moments are known."""

    type = "kit_two_normals"
    width: float = Field(0.5, gt=0, description="σ")

    CENTERS: ClassVar[tuple[tuple[float, ...], ...]] = ((-1.0, 0.0), (1.0, 0.5))
    WEIGHTS: ClassVar[tuple[float, ...]] = (0.3, 0.7)

    def dim(self) -> int:
        return 2

    def sample(self, n: int, generator: Generator, dim: int | None = None) -> Tensor:
        """Return draws σ (c_k + ε) (n, 2), k drawn with the weights."""
        which = torch.multinomial(torch.tensor(self.WEIGHTS), n, replacement=True, generator=generator)
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        return self.width * (noise + noise.new_tensor(self.CENTERS)[which])

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) = log Σ_k w_k N(x; σ c_k, σ² I) (B,)."""
        squares = (x[:, None] / self.width - x.new_tensor(self.CENTERS)).square().sum(-1)
        each = x.new_tensor(self.WEIGHTS).log() - squares / 2
        return torch.logsumexp(each, 1) - math.log(2 * math.pi * self.width**2)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean (2,) and the covariance (2, 2)."""
        centers, weights = (torch.tensor(v, dtype=torch.float64) for v in (self.CENTERS, self.WEIGHTS))
        mean = weights @ centers
        apart = centers - mean
        covariance = torch.eye(2, dtype=torch.float64) + apart.T @ (weights[:, None] * apart)
        return self.width * mean, self.width**2 * covariance

    def mode_of(self, x: Tensor) -> Tensor:
        """Return the number (B,) of the centre nearest to each x (B, 2)."""
        return torch.cdist(x / self.width, x.new_tensor(self.CENTERS)).argmin(1)


class Spirals(Data):
    """Trajectories of a linear field, observed with a little noise."""

    type = "kit_spirals"
    samples: int = Field(60, ge=1, description="trajectories")

    def dim(self) -> int:
        return 2

    def offers(self) -> frozenset[str]:
        return frozenset({"trajectories"})

    def read(self, files: Files, generator: Generator) -> Table:
        times = torch.linspace(0, 2, 5, dtype=torch.float64)
        start = torch.randn(self.samples, 2, generator=generator, dtype=torch.float64)
        a = torch.tensor(SPIRAL, dtype=torch.float64)
        paths = torch.stack([start @ torch.matrix_exp(a * t).T for t in times], 1)
        noise = torch.randn(paths.shape, generator=generator, dtype=torch.float64)
        return Table(paths + 0.02 * noise, ("x1", "x2"), times)


class Rows(Data):
    """Rows of uniform numbers between 0 and 1, without a known density."""

    type = "kit_rows"
    samples: int = Field(1000, ge=1, description="rows")

    def dim(self) -> int:
        return 2

    def read(self, files: Files, generator: Generator) -> Table:
        return Table(torch.rand(self.samples, 2, generator=generator, dtype=torch.float64), ("x1", "x2"))


class TanhNetwork(Network):
    """W_1 tanh(W_0 [x, t] + b_0). It has no last constant, which would have no gradient in an energy."""

    type = "kit_tanh"

    def parameters(self, d_in: int, d_out: int, generator: Generator) -> dict[str, Tensor]:
        """Return W_0 (12, d_in + 1), b_0 (12,) and W_1 (d_out, 12), drawn from N(0, 0.25)."""
        shapes = {"w0": (12, d_in + 1), "b0": (12,), "w1": (d_out, 12)}
        return {name: 0.5 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    def apply(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return W_1 tanh(W_0 [x, t] + b_0) (B, d_out) at x (B, d_in), t () or (B,)."""
        seen = torch.cat([x, t.to(x)[..., None].expand(len(x), 1)], 1)
        return torch.tanh(seen @ p["w0"].T + p["b0"]) @ p["w1"].T


class _Trained(Dynamics):
    """A dynamics with a network that is trained."""

    default_sampler = ""
    network: Network = Field(TanhNetwork(), description="the network that is trained")
    offered: ClassVar[frozenset[str]]

    def offers(self) -> frozenset[str]:
        return self.offered | {"trainable", "smooth"}

    def build(self, dim: int, generator: Generator) -> nn.Module:
        return self.network.build(dim, 1 if "energy" in self.offered else dim, generator)


class Flow(_Trained):
    """dx/dt = net(t, x) from N(0, I) at t = 0 to the data at t = 1."""

    type = "kit_flow"
    offered = frozenset({"velocity", "prior"})

    def times(self) -> tuple[float, float]:
        return 0.0, 1.0

    def velocity(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return net(t, x) (B, d)."""
        return module(t, x)

    def prior_law(self) -> Distribution:
        return NormalLaw()


class Score(_Trained):
    """dx = ½ s(x) dt + dw with the score s = net."""

    type = "kit_score"
    offered = frozenset({"score", "drift"})

    def score(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return net(0, x) (B, d)."""
        return module(x.new_zeros(()), x)

    def drift(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return s(x) / 2 (B, d)."""
        return self.score(module, t, x) / 2

    def diffusion(self, t: Tensor) -> Tensor:
        """Return 1 at t () or (B,), in its shape."""
        return torch.ones_like(t)


class Energy(_Trained):
    """p(x) ∝ exp(-E(x)) with E(x) = net(x) + ‖x‖²/2, and its Langevin SDE dx = -½ ∇E dt + dw."""

    type = "kit_energy"
    offered = frozenset({"energy", "drift"})

    def energy(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return E(x) (B,) at x (B, d)."""
        return module(x.new_zeros(()), x)[:, 0] + x.square().sum(1) / 2

    def drift(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return -∇E(x) / 2 (B, d)."""
        from driftspec.autodiff import gradient

        return -gradient(lambda y: self.energy(module, y), x)[1] / 2

    def diffusion(self, t: Tensor) -> Tensor:
        """Return 1 at t () or (B,), in its shape."""
        return torch.ones_like(t)


class _Noising(Dynamics):
    """dx = -x dt + √2 dw from the data at t = 0 to N(0, I), nearly, at t = 3."""

    default_sampler = ""
    t_data: float = Field(1e-3, gt=0, description="the data time")

    def times(self) -> tuple[float, float]:
        return 3.0, self.t_data

    def drift(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        return -x

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.full_like(t, math.sqrt(2))

    def kernel(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.exp(-t), (-torch.expm1(-2 * t)).sqrt()


class Noising(_Noising, _Trained):
    """A dynamics for tests: an SDE that adds noise to data, with a network as its score."""

    type = "kit_noising"
    offered = frozenset({"drift", "score", "noise_kernel", "prior"})

    def score(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return net(t, x) (B, d)."""
        return module(t, x)

    def prior_law(self) -> Distribution:
        return NormalLaw()


class Known(Dynamics):
    """A dynamics with a known distribution and nothing to train; its module has only a dtype and a device."""

    default_sampler = ""

    def build(self, dim: int, generator: Generator) -> nn.Module:
        known = nn.Module()
        known.register_buffer("unit", torch.ones(()), persistent=False)
        return known

    def distribution(self) -> Distribution:
        """Return the distribution at t_data."""
        raise NotImplementedError


class Target(Known):
    """The Langevin SDE dx = ½ ∇ log p dt + dw of a target p."""

    type = "kit_target"
    target: Distribution = Field(NormalLaw(), description="p")

    def offers(self) -> frozenset[str]:
        return frozenset({"drift", "score", "log_prob"})

    def score(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return ∇ log p(x) (B, d)."""
        return self.target.score(x)

    def log_prob(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return log p(x) (B,) at x (B, d)."""
        return self.target.log_prob(x)

    def drift(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return ∇ log p(x) / 2 (B, d)."""
        return self.target.score(x) / 2

    def diffusion(self, t: Tensor) -> Tensor:
        """Return 1 at t () or (B,), in its shape."""
        return torch.ones_like(t)

    def smallest_variance(self) -> float | None:
        return self.target.smallest_variance()

    def distribution(self) -> Distribution:
        return self.target


class KnownFlow(Known):
    """dx/dt = A x from N(0, I) at t = 0 to N(0, e^A (e^A)ᵀ) at t = 1."""

    type = "kit_known_flow"

    def offers(self) -> frozenset[str]:
        return frozenset({"velocity", "prior"})

    def times(self) -> tuple[float, float]:
        return 0.0, 1.0

    def velocity(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return A x (B, d)."""
        return x @ x.new_tensor(A).T

    def prior_law(self) -> Distribution:
        return NormalLaw()

    def distribution(self) -> NormalLaw:
        map_ = torch.matrix_exp(torch.tensor(A, dtype=torch.float64))
        return normal_law(torch.zeros(2, dtype=torch.float64), map_ @ map_.T)


class KnownNoising(_Noising, Known):
    """The noising SDE for normal data N(m, S); its score is known at every time."""

    type = "kit_known_noising"
    data: Distribution = Field(
        NormalLaw(center=(0.5, -0.3), root=((0.7, 0.0), (0.3, 0.5))), description="the distribution N(m, S) at t = 0"
    )

    def offers(self) -> frozenset[str]:
        return frozenset({"drift", "score", "noise_kernel", "prior"})

    def score(self, module: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        """Return -(α² S + σ² I)⁻¹ (x - α m) (B, d), with α and σ at t () or (B,)."""
        mean, covariance = (v.to(x) for v in cast(tuple[Tensor, Tensor], self.data.moments()))
        alpha, sigma = (v.to(x)[..., None] for v in self.kernel(t))
        values, vectors = torch.linalg.eigh(covariance)
        turned = (x - alpha * mean) @ vectors
        return -(turned / (alpha**2 * values + sigma**2)) @ vectors.T

    def prior_law(self) -> Distribution:
        return NormalLaw()

    def distribution(self) -> NormalLaw:
        """Return N(α m, α² S + σ² I), the distribution at t_data."""
        mean, covariance = cast(tuple[Tensor, Tensor], self.data.moments())
        alpha, sigma = self.kernel(torch.tensor(self.t_data, dtype=torch.float64))
        return normal_law(alpha * mean, alpha**2 * covariance + sigma**2 * torch.eye(2, dtype=torch.float64))


def normal_law(mean: Tensor, covariance: Tensor, **keys: Any) -> NormalLaw:
    """Return N(m, Σ) with m (d,) and Σ (d, d)."""
    root = torch.linalg.cholesky(covariance)
    return NormalLaw(center=tuple(mean.tolist()), root=tuple(tuple(row) for row in root.tolist()), **keys)


DATA = normal_law(torch.tensor([0.4, -0.2]), torch.tensor([[1.2, 0.4], [0.4, 0.6]]), samples=1000)
TRAINED: tuple[Dynamics, ...] = (Flow(), Score(), Energy(), Noising())
KNOWN: tuple[Dynamics, ...] = (Target(target=DATA), KnownFlow(), KnownNoising())


def unmet(component: Component, there: Mapping[str, Component | None]) -> str | None:
    """Return the first need of a component that these others do not meet, in words; None if all are met."""
    for need in component.needs():
        if need.severity == "error" and not met(need, there.get(need.kind)):
            return f"it needs {' or '.join(need.any_of)} of the {need.kind}"
    return None


def misfit(component: Any, around: Setting) -> str | None:
    """Return the first problem of a component's keys in this setting, in words; None if there is none."""
    return next((f"{key}: {text}" for key, text in component.problems(around)), None)


def model(dynamics: Dynamics, dtype: torch.dtype = torch.float64, dim: int = 2, seed: int = 1) -> Model:
    """Return a new model of a dynamics, on the CPU."""
    return build_model(dynamics, dim, seed, dtype, torch.device("cpu"))


__all__ = ["DATA", "KNOWN", "TRAINED", "NormalLaw", "Spirals", "TwoNormals", "misfit", "model", "unmet"]
