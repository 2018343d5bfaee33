"""Score matching: fit s(x) ≈ ∇log π(x) from samples of π alone.

    ½ E_π ‖s - ∇log π‖² = E_π [½ ‖s‖² + tr(∇s)] + const,   at the optimum -½ E_π ‖∇log π‖²

The trace is exact or Hutchinson's. The latter gives sliced score matching, in its variance-reduced form
E[½ ‖s‖² + vᵀ(∇s)v] or its plain form E[½ (vᵀs)² + vᵀ(∇s)v]. The proof needs a boundary term that is zero, so π must
have no hard edges. An SDE is fitted at uniform random times t: x_t comes from its noise kernel or, with `paths`, from
simulating the SDE forward from the data (`driftspec.numerics.sde`).
Hyvärinen, *Estimation of Non-Normalized Statistical Models by Score Matching*, 2005; Song, Garg, Shi, Ermon, *Sliced
Score Matching*, 2019.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from driftspec.components import Estimator, Loss, Setting, Trace
from driftspec.components.component import Need, default

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Dynamics, Model
    from driftspec.streams import Streams


class Paths(BaseModel):
    """x_t by Euler-Maruyama from x at t_data: each row has its own random t and reaches it in `steps` equal steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)

    steps: int = Field(100, ge=1, description="Euler-Maruyama steps from the data to x_t")
    check_every: int = Field(
        20, ge=1, description="training steps between comparisons with twice the steps (term path_error)"
    )


class ScoreMatching(Estimator):
    """Implicit score matching: the mean over the batch of ½ ‖s(x)‖² + tr(∂s/∂x)."""

    type = "score_matching"

    trace: Trace = default("exact_trace", "the estimate of tr(∇s); hutchinson makes it sliced score matching")
    form: Literal["variance_reduced", "sliced"] = Field(
        "variance_reduced", description="½ ‖s‖², or ½ (vᵀs)² with the probes v (sliced: also unbiased, more variance)"
    )
    paths: Paths | None = Field(
        None, description="simulate x_t from the data, for an SDE without a noise kernel; null: its kernel"
    )

    @model_validator(mode="after")
    def _slices_need_probes(self) -> Self:
        if self.form == "sliced" and self.trace.exact():
            raise ValueError(f"form: sliced needs a trace with probes, and {self.trace.label} has none")
        return self

    def needs(self) -> tuple[Need, ...]:
        drift = () if self.paths is None else (Need("dynamics", ("drift",), "to simulate paths"),)
        return (
            Need("data", ("samples",), "to learn from"),
            Need("dynamics", ("score",), "to fit"),
            *drift,
            Need("dynamics", ("smooth",), "the loss contains ∇s: an activation C1 for a score, C2 for an energy"),
            Need("data", ("smooth",), "at hard edges the loss has no minimum: denoise, or stop early", "warning"),
        )

    def needs_density(self, dynamics: Dynamics) -> bool:
        first, last = dynamics.times()
        return first == last  # an SDE is fitted to rows with its noise, which have a density

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        first, last = around.dynamics.times()
        if first == last and self.paths is not None:
            yield "paths", f"'paths' needs a time, and {around.dynamics.label} has none: leave it out"
        offered = around.dynamics.offers()
        if first != last and self.paths is None and "noise_kernel" not in offered:
            label = around.dynamics.label
            if "drift" in offered:
                yield "paths", f"it needs 'paths' to reach x_t, for {label} has no noise kernel"
            else:
                needed = "it needs a dynamics with a noise kernel or a drift, such as vp_sde or langevin"
                yield "paths", f"{needed}: {label} has neither"

    def loss(self, model: Model, batch: Tensor, state: Any, streams: Streams) -> Loss:
        """Return the mean of ½ ‖s(x_t, t)‖² (or ½ (vᵀs)²) + tr(∂s/∂x), for a batch (B, d) of data."""
        t, x, terms = self._noised(model, batch, streams)
        probe = self.trace.probe(x, streams.generator("probes"))
        s, divergence = self.trace.divergence(lambda y: model.score(t, y), x, probe)
        if self.form == "sliced" and probe is not None:
            half = (probe * s).sum(-1).square().mean(0) / 2
        else:
            half = s.square().sum(1) / 2
        terms |= {"half_square": float(half.detach().mean()), "trace": float(divergence.detach().mean())}
        return Loss((half + divergence).mean(), terms, state)

    def _noised(self, model: Model, x: Tensor, streams: Streams) -> tuple[Tensor, Tensor, dict[str, float]]:
        """Return t () or (B,), x_t (B, d) and terms; x_t is the data x (B, d) if the dynamics has no time."""
        import torch

        from driftspec.numerics.sde import noised, simulated

        t_prior, t_data = model.dynamics.times()
        if t_prior == t_data:
            return x.new_tensor(t_data), x, {}
        u = torch.rand(len(x), generator=streams.generator("times"), dtype=torch.float64)
        t = (t_data + u * (t_prior - t_data)).to(x)
        generator = streams.generator("noise")
        if self.paths is not None:
            compare = streams.step % self.paths.check_every == 0
            x_t, error = simulated(model, x, t, self.paths.steps, generator, compare)
            return t, x_t, {"path_error": error} if compare else {}
        return t, noised(model, x, t, generator), {}
