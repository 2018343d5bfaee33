"""Sampling a continuous normalizing flow: draw z from the prior at t_prior and carry it along the ODE to t_data.

Chen, Rubanova, Bettencourt, Duvenaud, *Neural Ordinary Differential Equations*, 2018.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from driftspec.component import Need, default
from driftspec.components import Draws, Dynamics, Sampler, Setting, Solver

if TYPE_CHECKING:
    from torch import Generator

    from driftspec.model import Model


class ODE(Sampler):
    """x = z + ∫_{t_prior}^{t_data} f(x(t), t) dt, z ~ p_prior; one draw a chain."""

    type = "ode"

    solver: Solver = default("rk4", "integrates from the prior to the data")

    def needs(self) -> tuple[Need, ...]:
        return (Need("dynamics", ("velocity",), "to integrate"),)

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        if type(around.dynamics).prior_law is Dynamics.prior_law:
            yield "type", f"it begins at the prior, and {around.dynamics.label} has none"

    def draw_block(self, model: Model, generator: Generator) -> Draws:
        from driftspec.flow import transport

        t_prior, t_data = model.dynamics.times()
        z = model.like(model.prior().sample(self.BLOCK, generator, model.dim))
        solved = transport(model, z, t_prior, t_data, self.solver)
        stats = {"evaluations": solved.evaluations, "not_converged": solved.not_converged}
        return Draws(solved.value[:, None, :], stats)
