"""Euler-Maruyama: steps in time of the SDE dx = f dt + g dw, backwards from the prior or forwards from the data.

    forwards     x' = x + f h + g √h ε
    backwards    x' = x - (f - g² s) h + g √h ε,   s = ∇log p_t       (Anderson, *Reverse-time diffusion*, 1982)

Maruyama 1955. The weak error is of order h. By default the last backward step adds noise like every other step. Without
that noise every variance would be too small by g²h (4 % of a variance of 0.7 if g² = 3 and h = 0.008), but images look
sharper. `driftspec.numerics.sde` has the step and the reverse drift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from driftspec.components import Course, Setting
from driftspec.components.component import Need
from driftspec.numerics.chains import Noise
from driftspec_plugins.samplers._time_steps import TimeSteps

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Model, VectorField


class EulerMaruyama(TimeSteps):
    """Euler-Maruyama steps x' = x + drift · h + g √h ε of the SDE or of its reverse."""

    type = "euler_maruyama"

    direction: Literal["reverse", "forward"] = Field(
        "reverse", description="reverse: from the prior to t_data; forward: from training rows to t_prior"
    )
    last_noise: bool = Field(
        True, description="whether the last backward step adds noise; if not, all variances are too small by g²h"
    )

    def needs(self) -> tuple[Need, ...]:
        if self.direction == "forward":
            return (Need("dynamics", ("drift",), "to step the SDE"), Need("data", ("samples",), "to begin with"))
        return super().needs()

    def offers(self) -> frozenset[str]:
        return frozenset({"motion"} if self.last_noise or self.direction == "forward" else ())

    def course(self, around: Setting) -> Course:
        t_prior, t_data = around.dynamics.times()
        duration = t_prior if self.direction == "forward" else abs(t_prior - t_data)
        return Course(self.begins_at, duration, self.steps)

    def motion(self, model: Model) -> tuple[VectorField, Callable[[Tensor], Tensor]]:
        """Return the drift f(t, x) (B, d) and g(t) (); backwards g² s - f and g at the time t_prior - t."""
        from driftspec.numerics.sde import reverse_drift

        if self.direction == "forward":
            return model.drift, model.dynamics.diffusion
        t_prior, g = model.dynamics.times()[0], model.dynamics.diffusion

        def back(t: Tensor, x: Tensor) -> Tensor:
            return reverse_drift(model.drift(t_prior - t, x), g(t_prior - t), model.score(t_prior - t, x))

        return back, lambda t: g(t_prior - t)

    def ends(self, model: Model) -> tuple[float, float]:
        """Return the first and the last time: t_prior and t_data, or forwards 0 and t_prior."""
        t_prior, t_data = model.dynamics.times()
        return (t_prior, t_data) if self.direction == "reverse" else (0.0, t_prior)

    @property
    def begins_at(self) -> Literal["data", "prior"]:
        return "prior" if self.direction == "reverse" else "data"

    def advance(self, model: Model, x: Tensor, t: Tensor, after: Tensor, noise: Iterator[Noise]) -> Tensor:
        """Return x' = x + f h + g √h ε (B, d), h = |after - t|; backwards with g² s - f in place of f."""
        from driftspec.numerics.sde import euler_maruyama_step, reverse_drift

        h, g = (after - t).abs(), model.dynamics.diffusion(t)
        if self.direction == "forward":
            f, last = model.drift(t.to(x), x), False
        else:
            f = reverse_drift(model.drift(t.to(x), x), g, model.score(t.to(x), x))
            last = not self.last_noise and bool(after == model.dynamics.times()[1])
        added = (g * h.sqrt()).to(x) * next(noise).normal
        return euler_maruyama_step(x, f, h.to(x), None if last else added)
