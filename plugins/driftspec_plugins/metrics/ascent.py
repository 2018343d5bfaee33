"""What chains do without noise: with ε = 0 Langevin dynamics is gradient ascent, and each chain ends at a mode of p.

    x' = x + (η/2) ∇log p(x),   at the end ∇log p = 0

The sampler of the spec runs without noise from the starts of its own first chains, in float64. The value is the largest
‖∇log p‖ at the ends: 0 at a mode. (A saddle has 0 too, but only chains from a set of probability 0 end there.) So these
ends are no draws of p: `details` has the modes that they reach and how many chains each, and the mean of ‖∇log p‖ of
the same chains with noise, which is not 0. In 1 and 2 dimensions a picture has both kinds of paths.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field

from driftspec.components import DropsNoise, Line, Map, Measured, Metric, Panel, Picture, Points, Setting
from driftspec.components.component import Need
from driftspec.errors import RunFailed
from driftspec.numerics.chains import ChainSampler
from driftspec_plugins.metrics._scores import SOLVES, finite, mean
from driftspec_plugins.metrics._unfit import naming

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation, Model

SHOWN, STATES, CELLS, DEPTH = 6, 100, 80, 12.0
"""Of the picture: paths, intervals of a path, cells along an axis, range of log p in nats below the highest."""
APART = 0.01
"""Ends are one mode if they are nearer than this share of the range of all starts and ends."""


class Ascent(Metric):
    """The largest ‖∇log p‖ where chains of the spec's sampler end without noise: 0, for they end at modes."""

    type = "ascent"
    reads_test_rows = False

    chains: int = Field(100, ge=2, description="number of chains, the first ones of the run's sampler")

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("score",), "to climb"),
            Need("sampler", ("climb",), "chains that climb log p, with one draw of each chain"),
        )

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        sampler, dynamics = around.sampler, around.dynamics
        if dynamics.offers().isdisjoint({"score", "energy", "log_prob", "smooth"}):
            text = f"∇log p of {dynamics.label} follows from derivatives of its velocity, which is not smooth"
            yield "type", f"{text}: take an activation in C1, such as tanh, or an exponent of 1 or more"
        if isinstance(sampler, DropsNoise) and sampler.without_noise() == sampler:
            yield "type", f"{sampler.label} has no noise to leave out: give it a temperature above 0"
        if isinstance(sampler, ChainSampler) and sampler.chains is None and not sampler.before():
            yield "type", f"{sampler.label} takes no step: raise 'steps' in sampler"

    def measure(self, evaluation: Evaluation) -> Measured:
        sampler, model = evaluation.setting.sampler, evaluation.model.double()
        length = sampler.length(model) if isinstance(sampler, DropsNoise) else None
        if not isinstance(sampler, DropsNoise) or not length:
            raise RunFailed(f"{self.label}: the sampler has no chains that take steps to one draw")
        streams = evaluation.run_streams.under("sample")
        after = sorted({round(length * k / STATES) for k in range(STATES + 1)})
        with naming(self, SOLVES):
            calm, noisy = (one.states(model, self.chains, streams, after) for one in (sampler.without_noise(), sampler))
            slopes, others = (
                finite(self, _score(evaluation, model, one[-1]), "∇log p").norm(dim=1) for one in (calm, noisy)
            )
        calm, noisy = (evaluation.transform.to_data(one.cpu()) for one in (calm, noisy))
        value, modes = float(slopes.max()), _modes(calm[-1], APART * _range(calm))
        details: dict[str, Any] = {
            "modes": modes,
            "with_noise": dict(zip(("value", "stderr"), mean(others), strict=True)),
            "steps": length,
        }
        reason = "without noise an end follows from its start; the value is the largest of all chains"
        line = f"without noise {self.chains} chains end at {len(modes)} modes, ‖∇log p‖ at most {value:.2g}"
        line += f"; with noise it is {details['with_noise']['value']:.3g} on average"
        pictures = {} if calm.shape[2] > 2 else {"paths": _picture(evaluation, model, after, calm, noisy)}
        return Measured(value, None, "1/data units", self.chains, details, reason, line, pictures=pictures)


def _score(evaluation: Evaluation, model: Model, u: Tensor) -> Tensor:
    """Return ∇log p (n, d) in data units at u (n, d), model units."""
    import torch

    with torch.no_grad():
        return model.score(u.new_tensor(model.t_data), u).double().cpu() @ evaluation.transform.matrix


def _range(x: Tensor) -> float:
    """Return the largest range of the coordinates of x (..., d)."""
    flat = x.flatten(0, -2)
    return float((flat.amax(0) - flat.amin(0)).max())


def _modes(ends: Tensor, apart: float) -> list[dict[str, Any]]:
    """Return the places of the ends (n, d), those within a distance as one, and their shares; the largest first."""
    found, left = [], ends
    while len(left):
        near = (left - left[0]).norm(dim=1) <= apart
        found.append({"at": left[near].mean(0).tolist(), "share": float(near.double().sum()) / len(ends)})
        left = left[~near]
    return sorted(found, key=lambda mode: -mode["share"])


def _picture(evaluation: Evaluation, model: Model, after: list[int], calm: Tensor, noisy: Tensor) -> Picture:
    """Return the picture of paths (K, n, d) without and with noise, d = 1 or 2, in data units."""
    kinds = {"without noise, ε = 0": calm[:, :SHOWN], "with noise": noisy[:, :SHOWN]}
    if calm.shape[2] == 1:
        panels = [
            Panel([Line(after, path) for path in paths[..., 0].T.tolist()], "step", "x1 (data units)", name)
            for name, paths in kinds.items()
        ]
        return Picture(panels, "Chains without noise and with it, from the same starts.")
    both = [paths.flatten(0, 1) for paths in kinds.values()]
    ground = _map(evaluation, model, both)
    panels = []
    for name, paths in kinds.items():
        x, y = _joined(paths)
        ends = [_points(paths[at], label) for at, label in ((-1, "end"), (0, "start"))]
        marks: list[Map | Line | Points] = [*ground, Line(x, y, "paths"), *ends]
        panels.append(Panel(marks, "x1 (data units)", "x2 (data units)", name, equal=True))
    return Picture(panels, "Chains without noise and with it, from the same starts, on log p (light where it is high).")


def _joined(paths: Tensor) -> tuple[list[float], list[float]]:
    """Return x and y of the paths (K, n, 2) as one line; NaN, where it is interrupted, follows each path."""
    import torch

    gap = paths.new_full((1, *paths.shape[1:]), torch.nan)
    x, y = torch.cat([paths, gap]).permute(2, 1, 0).flatten(1).tolist()
    return x, y


def _points(x: Tensor, label: str) -> Points:
    first, second = x.T.tolist()
    return Points(first, second, label)


def _map(evaluation: Evaluation, model: Model, points: list[Tensor]) -> list[Map]:
    """Return the map of log p, less its highest value, around points (n, 2); none if log p is not known."""
    import torch

    x = torch.cat(points)
    room = 0.1 * _range(x)
    sides = [
        torch.linspace(low - room, high + room, CELLS, dtype=torch.float64) for low, high in zip(x.amin(0), x.amax(0))
    ]
    at = torch.cartesian_prod(*sides)
    if not model.solved:
        with torch.no_grad():
            log_p = model.log_density(model.like(evaluation.transform.to_model(at))).double().cpu()
    elif evaluation.truth is not None:
        log_p = evaluation.truth.log_prob(at)
    else:
        return []
    values = (log_p.max() - log_p).clamp_max(DEPTH).reshape(CELLS, CELLS).T.tolist()
    return [Map(sides[0].tolist(), sides[1].tolist(), values, f"max log p - log p (nats), cut off at {DEPTH:g}")]
