"""Score matching: fit s(x) ≈ ∇log π(x) without knowing π.

    ½ E_π ‖s - ∇log π‖² = E_π [½ ‖s‖² + tr(∇s)] + const

The trace is exact, or Hutchinson's: then it is sliced score matching, in its variance-reduced form E[½ ‖s‖² + vᵀ(∇s)v] or
plain, E[½ (vᵀs)² + vᵀ(∇s)v]. The proof drops a boundary term, so π must have no hard edges. Hyvärinen, *Estimation of
Non-Normalized Statistical Models by Score Matching*, 2005; Song, Garg, Shi, Ermon, *Sliced Score Matching*, 2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from driftspec.component import Need, default
from driftspec.components import Estimator, Loss, Trace

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.model import Model
    from driftspec.streams import Streams


class ScoreMatching(Estimator):
    """Implicit score matching: mean over the batch of ½ ‖s(x)‖² + tr(∂s/∂x)."""

    type = "score_matching"

    trace: Trace = default("exact_trace", "the estimate of tr(∇s); hutchinson makes it sliced score matching")
    form: Literal["variance_reduced", "sliced"] = Field(
        "variance_reduced", description="½ ‖s‖², or with probes ½ (vᵀs)² (sliced: unbiased too, noisier)"
    )

    @model_validator(mode="after")
    def _slices_need_probes(self) -> Self:
        if self.form == "sliced" and self.trace.exact():
            raise ValueError(f"form: sliced needs a trace with probes, and {self.trace.label} has none")
        return self

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("data", ("samples",), "to learn from"),
            Need("dynamics", ("score",), "to fit"),
            Need("dynamics", ("smooth",), "the loss holds ∇s: an activation C1 for a score, C2 for an energy"),
        )

    def loss(self, model: Model, batch: Tensor, state: Any, streams: Streams) -> Loss:
        t = batch.new_tensor(model.t_data)
        probe = self.trace.probe(batch, streams.generator("probes"))
        s, divergence = self.trace.divergence(lambda y: model.score(t, y), batch, probe)
        if self.form == "sliced" and probe is not None:
            half = (probe * s).sum(-1).square().mean(0) / 2
        else:
            half = s.square().sum(1) / 2
        terms = {"half_square": float(half.detach().mean()), "trace": float(divergence.detach().mean())}
        return Loss((half + divergence).mean(), terms, state)
