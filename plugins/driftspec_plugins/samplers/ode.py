"""Sampling a continuous normalizing flow: draw z from the prior and solve the ODE from z at t_prior to t_data.

    x = z + ∫_{t_prior}^{t_data} f(t, x(t)) dt,   by `driftspec.numerics.transport`

Chen, Rubanova, Bettencourt, Duvenaud, *Neural Ordinary Differential Equations*, 2018.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from driftspec.components import Draws, Dynamics, Sampler, Setting, Solver, Verdict
from driftspec.components.component import Need, default

if TYPE_CHECKING:
    from torch import Generator

    from driftspec.components import Model
    from driftspec.streams import Streams


class ODE(Sampler):
    """Draws x = z + ∫_{t_prior}^{t_data} f(t, x(t)) dt with z ~ p_prior, all independent."""

    type = "ode"

    solver: Solver = default("rk4", "solves the ODE from t_prior to t_data")

    def needs(self) -> tuple[Need, ...]:
        return (Need("dynamics", ("velocity",), "to integrate"),)

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        if type(around.dynamics).prior_law is Dynamics.prior_law:
            yield "type", f"it begins at the prior, and {around.dynamics.label} has none"

    def draw(self, model: Model, count: int, streams: Streams) -> Draws:
        """Return `count` draws, with the largest solver error, and a verdict if an error is above the tolerance."""
        drawn = super().draw(model, count, streams)
        bad, error = int((~drawn.each["converged"]).sum()), float(drawn.each["solver_error"].max())
        stats = dict(drawn.stats) | {"not_converged": bad} | ({"solver_error": error} if math.isfinite(error) else {})
        reason = (
            f"{bad} of {count} samples are off by up to {error:.1e}, more than the tolerance of {self.solver.label}"
        )
        verdicts = (Verdict("solver", "samples_inaccurate", reason, "bad"),) if bad else ()
        return replace(drawn, stats=stats, verdicts=verdicts)

    def draw_block(self, model: Model, generator: Generator) -> Draws:
        """Return one block of draws (BLOCK, 1, d), with the solver error of each."""
        from driftspec.numerics.transport import transport

        t_prior, t_data = model.dynamics.times()
        z = model.like(model.prior().sample(self.BLOCK, generator, model.dim))
        solved = transport(model, z, t_prior, t_data, self.solver)
        each = {"solver_error": solved.error, "converged": solved.converged}
        return Draws(solved.value[:, None, :], {"evaluations": solved.evaluations}, each)
