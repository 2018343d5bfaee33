"""The adjoint a_z(t) along paths, compared with finite differences, and the state solved back in time.

    a_z(t) = ∂L/∂z(t),   L = ½ ‖z(t_1)‖²,   so a_z(t_1) = z(t_1)
    a_i ≈ (L(z(t) + δ e_i) - L(z(t) - δ e_i)) / (2 δ)              central differences, with an error of order δ²
    z(t) = z(t_1) + ∫_{t_1}^{t} f(z(s), s; θ) ds                   the state solved back from the end of the path
    (a(t + h) - a(t - h)) / (2 h) ≈ -aᵀ ∂f/∂z                      the adjoint ODE, at the times inside the path

The value is the largest ‖a - a_δ‖ / ‖a_δ‖ over rows and times. a is computed by the solver with `gradient: adjoint`
from t to t_1, so the adjoint ODE is solved from t_1 back to t. `ode_residual` is the largest difference of the sides of
the ODE, divided by the largest right side; h is 1 % of the time between two points. A path runs from the data to the
prior, or for trajectories from the first to the last observation. All is computed in float64, in model units.

L. S. Pontryagin et al., *The Mathematical Theory of Optimal Processes*, 1962; Chen et al., *Neural ODEs*, 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from driftspec.components import Measured, Metric, Setting, Solver
from driftspec.components.component import Need, default
from driftspec.components.picture import Line, Panel, Picture, Points
from driftspec_plugins.metrics._unfit import naming, no_flow, no_rows

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation, Model

CURE = "loosen rtol and atol of its 'solver' or raise max_evaluations; no solver follows a field that is not Lipschitz"
"""What to change if a solve fails."""


class AdjointPath(Metric):
    """Largest relative difference of ∂L/∂z(t) by the adjoint and by finite differences along paths."""

    type = "adjoint_path"
    reads_test_rows: ClassVar[bool] = True
    in_float64 = frozenset({"solver"})

    solver: Solver = default(
        {"type": "dopri5", "rtol": 1e-9, "atol": 1e-9},
        "solves the path and the adjoint; needs the key gradient, which is set to adjoint",
    )
    points: int = Field(4, ge=2, description="number of test rows, the first ones")
    times: int = Field(16, ge=2, description="number of times on the path, equally spaced, without its end")
    step: float = Field(1e-3, gt=0, description="δ of the differences, model units; their error is found by halving δ")

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("velocity",), "to integrate"),
            Need("data", ("samples", "trajectories"), "to have test rows"),
        )

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        yield from no_rows(around)
        yield from no_flow(around, path=True)
        if self.solver.differentiated("adjoint") is None:
            yield "solver", f"{self.solver.label} has no adjoint: take one with the key 'gradient', such as dopri5"

    def measure(self, evaluation: Evaluation) -> Measured:
        with naming(self, CURE):
            return self._measured(evaluation)

    def _measured(self, evaluation: Evaluation) -> Measured:
        import torch

        from driftspec.numerics import transport

        model = evaluation.model.double()
        rows = evaluation.rows(evaluation.test(self.points)).double()
        begin, end = transport.ends(model)
        times = torch.linspace(begin, end, self.times + 1, dtype=torch.float64, device=rows.device)
        with torch.no_grad():
            forth, _ = transport.states_at(model, rows if rows.dim() == 2 else rows[:, 0], times, self.solver)
            back = transport.states_at(model, forth[-1], times.flip(0), self.solver)[0].flip(0)
        path = [_At(model, self.solver, z, float(t), end) for t, z in zip(times[:-1], forth[:-1], strict=True)]
        adjoint = torch.stack([one.adjoint() for one in path])
        coarse, fine = (torch.stack([one.differences(step) for one in path]) for step in (self.step, self.step / 2))
        value, own_error = _relative(adjoint, fine), _relative(coarse, fine)
        h = float(times[1] - times[0]) / 100
        rates = torch.stack([(one.moved(h).adjoint() - one.moved(-h).adjoint()) / (2 * h) for one in path[1:]])
        rights = torch.stack([one.right_side(a) for one, a in zip(path[1:], adjoint[1:], strict=True)])
        residual, scale = (float(each.norm(dim=-1).max()) for each in (rates - rights, rights))
        details = {
            "largest_difference": float((adjoint - fine).abs().max()),
            "finite_differences": own_error,
            "ode_residual": residual / (scale or 1.0),
            "solved_back": {"max": float((back - forth).norm(dim=-1).max())},
            "largest": float(adjoint.abs().max()),
        }
        reason = "deterministic: `finite_differences` is what halving their step changes"
        line = f"∂L/∂z(t) by the adjoint and by finite differences agree to {value:.1e}"
        shown = torch.cat([adjoint, forth[-1:]])[:, 0]  # a(t_1) = z(t_1)
        at = times.tolist()
        pictures = {
            "adjoint": _picture(
                at, shown, "adjoint", at[:-1], fine[:, 0], "differences", "a(t), components",
                "a(t) = ∂L/∂z(t) of one path, its first two components: by the adjoint ODE (lines) and by finite "
                "differences of L (points).",
            ),
            "rate": _picture(
                at[1:-1], rights[:, 0], "-aᵀ ∂f/∂z", at[1:-1], rates[:, 0], "da/dt", "da/dt, components",
                "The two sides of the adjoint ODE on one path, in the first two components: -aᵀ ∂f/∂z (lines), and "
                "differences of a in time (points).",
            ),
            "solved_back": _picture(
                at, forth[:, 0], "forward", at, back[:, 0], "solved back", "z(t), model units",
                "The state of one path, its first two components: solved forward (lines), and back from the end "
                "(points).",
            ),
        }  # fmt: skip
        return Measured(value, None, "relative", len(rows), details, reason, line, pictures=pictures)


class _At:
    """One time t of the paths, with the states z(t) (n, d), and L = ½ ‖z(t_1)‖² as a function of them."""

    def __init__(self, model: Model, solver: Solver, z: Tensor, t: float, end: float):
        self.model, self.solver, self.z, self.t, self.end = model, solver, z, t, end

    def loss(self, z: Tensor) -> Tensor:
        """Return L (n,) of z (n, d) at t."""
        using = self.solver.differentiated("adjoint") or self.solver
        path = using.solve(self.model.velocity, z, self.t, self.end, params=self.model.parameters())
        return path.require("the path").state.square().sum(1) / 2

    def adjoint(self) -> Tensor:
        """Return ∂L/∂z(t) (n, d)."""
        import torch

        with torch.enable_grad():
            z = self.z.detach().requires_grad_()
            return torch.autograd.grad(self.loss(z).sum(), z)[0]

    def moved(self, h: float) -> _At:
        """Return the paths at t + h."""
        import torch

        with torch.no_grad():
            path = self.solver.solve(self.model.velocity, self.z, self.t, self.t + h)
        return _At(self.model, self.solver, path.require("the path").state, self.t + h, self.end)

    def right_side(self, a: Tensor) -> Tensor:
        """Return -aᵀ ∂f/∂z (n, d) for a (n, d)."""
        from driftspec.autodiff import pullback

        t = self.z.new_tensor(self.t)
        return -pullback(lambda z: self.model.velocity(t, z), self.z)[1](a).detach()

    def differences(self, step: float) -> Tensor:
        """Return (L(z + δ e_i) - L(z - δ e_i)) / (2 δ) (n, d)."""
        import torch

        n, d = self.z.shape
        shift = step * torch.eye(d, dtype=self.z.dtype, device=self.z.device)[:, None]
        with torch.no_grad():
            moved = torch.cat([self.z + shift, self.z - shift]).flatten(0, 1)
            above, below = self.loss(moved).view(2, d, n)
        return (above - below).T / (2 * step)


def _relative(found: Tensor, right: Tensor) -> float:
    """Return the largest ‖found - right‖ / ‖right‖ over all vectors (..., d); 0 if both are 0."""
    apart, size = (found - right).norm(dim=-1), right.norm(dim=-1)
    return float((apart / size.where(size > 0, size.new_ones(()))).max())


def _picture(
    along: list[float], lines: Tensor, what: str, at: list[float], points: Tensor, beside: str, y: str, caption: str
) -> Picture:
    """Return the first two components of lines (K, d), and of points (k, d) beside them, against the time."""

    def marks(make: Callable[..., Line | Points], x: list[float], values: Tensor, name: str) -> list[Line | Points]:
        return [make(x, column.tolist(), f"{name} {i + 1}") for i, column in enumerate(values.T[:2].cpu())]

    return Picture([Panel([*marks(Line, along, lines, what), *marks(Points, at, points, beside)], "t", y)], caption)
