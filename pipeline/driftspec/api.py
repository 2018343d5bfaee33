"""The Python interface: `driftspec.run(...)` carries out a run, `driftspec.load(...)` opens an existing one.

    run = driftspec.run("specs/cnf_moons.yaml", overrides={"train.steps": 200})
    run.metrics["nll"], run.sample(100), run.log_prob(x)

A run from Python gives the same bytes as the command with the same spec. Arrays in and out are in data units. For
numpy arrays the results are numpy arrays, for torch tensors they are torch tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftspec import arguments, source, spec
from driftspec.arguments import Plugin
from driftspec.components import Draws, Metric, Sampler, Solver, Verdict
from driftspec.components.capabilities import capabilities
from driftspec.errors import RunFailed
from driftspec.experiment.build import Experiment, build
from driftspec.experiment.records import CheckpointRecord
from driftspec.runs import lifecycle as runs
from driftspec.runs.run_dir import meant
from driftspec.runs.session import RunUnderWay
from driftspec.runs.stages import evaluated_checkpoint, fitted
from driftspec.source.files import Files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from driftspec.accuracy.pointwise import Answer
    from driftspec.arguments import Array
    from driftspec.components import Evaluation, Model


def run(
    given: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    plugins: Sequence[Plugin] = (),
) -> Run:
    """Train, evaluate and sample a spec, given as the path of a file or as a mapping; return the run.

    `overrides` are values by dotted key, as for `--set`. Raises SpecError, PluginError, RunFailed or UsageError.
    """
    registry, changes = arguments.registry_with(plugins), spec.Changes(options=arguments.options(overrides))
    if isinstance(given, Mapping):
        loaded = spec.from_text(source.dump(arguments.plain(given, "spec")), "spec", Path(), registry, changes)
    else:
        loaded = spec.read(arguments.path("given", given), registry, changes)
    folder = None if out is None else arguments.path("out", out)
    return Run(runs.start(loaded, registry, out=folder, argv=["driftspec.run"]))


def load(path: str | Path, plugins: Sequence[Plugin] = ()) -> Run:
    """Open a run directory and return the run. Give the `plugins` that it was made with, unless they are installed.

    For a folder of runs, such as runs/NAME, open the newest run that does not measure or sample another run.
    """
    return Run(runs.opened(meant(arguments.path("path", path)), arguments.registry_with(plugins)))


class Run:
    """A trained model with its spec, its metrics and its directory. Points are (B, d) in data units."""

    def __init__(self, opened: RunUnderWay):
        self._run = opened
        self.path: Path = opened.path
        """The run directory."""
        self.spec: spec.Spec = opened.spec
        """The spec, every default filled in."""

    def __repr__(self) -> str:
        return f"Run('{self.path}', {self._run.record.status})"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json: {name: {"value", "stderr", "unit", "n", "details"}}; {} if there is none."""
        there = (self.path / "metrics.json").exists()
        return self._run.directory.read_json("metrics.json") if there else {}

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdicts in run.json: how far each aspect of the run can be trusted, and why."""
        return [one.verdict for one in self._run.verdicts]

    @cached_property
    def _experiment(self) -> Experiment:
        """The experiment of the checkpoint that was evaluated."""
        files = Files(self._run.loaded.root, allow_outside=True)  # the file was allowed when the run was made
        return build(self.spec, files, fitted=self._saved)

    @cached_property
    def _saved(self) -> CheckpointRecord:
        """The checkpoint that was evaluated."""
        return evaluated_checkpoint(self._run)

    @cached_property
    def _model(self) -> Model:
        """The trained model."""
        return fitted(self._experiment, self._saved)

    @property
    def module(self) -> nn.Module:
        """The trained torch module, in model units: the averaged weights if there are any."""
        return self._model.module

    def sample(self, n: int, seed: int | None = None) -> NDArray[np.float32]:
        """Return n draws (n, d) in float32, one chain after the other.

        Draw i depends only on the seed and on i. The default seed is that of the run.
        """
        import numpy as np

        n, streams = arguments.whole("n", n), self._experiment.streams
        if seed is not None:
            streams = replace(streams, seed=arguments.whole("seed", seed))
        if n == 0:
            return np.zeros((0, self._experiment.model.dim), np.float32)
        drawn = self._sampler().draw(self._model, n, streams.under("sample"))
        return self._experiment.transform.to_data(drawn.flat().cpu()).numpy().astype(np.float32)

    def log_prob(self, x: Array, error: bool = False) -> Any:
        """Return log p(x) (B,) in nats, float64, computed as in the run's evaluation; -E - log Z for an energy model.

        With `error`, return also the numerical error (B,) of each point: the difference from the next finer solve plus
        rounding, or the error of log Z. If a point is NaN, or its solve diverges, log p is NaN and the error is inf. If
        x is a torch tensor that requires grad, log p can be differentiated once. RunFailed for a model without log p.
        """
        self._offering("log_prob", "energy")
        value, off = self._number(x, self._log_p, self._log_p_gradient)
        return (value, off) if error else value

    def score(self, x: Array, t: float | None = None, error: bool = False) -> Any:
        """Return ∇ log p(x) (B, d) at the data time, or ∇ log p_t(x) at t for a model that knows the score at every t.

        With `error`, return also (B,): for each point a bound on the numerical error of every component of its score.
        It is 0 if the score needs no solve.
        """
        t_prior, t_data = self.spec.dynamics.times()
        if t is not None and (t_prior == t_data or "score" not in self._model.own):
            raise RunFailed(f"{self.spec.dynamics.label} knows the score only at t_data: leave t out")
        self._offering("score")

        def own(points: Tensor) -> tuple[Tensor, Tensor]:
            return self._own_score(points, t_data if t is None else t)

        known = self._model.own & {"score", "energy", "log_prob"}
        return self._vector("score", x, own if known else self._log_p_gradient, error)

    def energy(self, x: Array) -> Any:
        """Return the energy E(x) (B,) in float64, for a model that has one: p(x) = exp(-E(x)) / Z in data units.

        It includes the change of units, E(x) = E(u) - log |det du/dx| for model units u. If x is a torch tensor that
        requires grad, E can be differentiated once.
        """
        self._offering("energy")

        def value(points: Tensor) -> tuple[Tensor, Tensor]:
            log_p, error = self._log_density(points)
            return -log_p, error

        def gradient(points: Tensor) -> tuple[Tensor, Tensor]:
            score, error = self._own_score(points, self._model.t_data)
            return -score, error

        return self._number(x, value, gradient)[0]

    def velocity(self, t: float, x: Array) -> Any:
        """Return the velocity dx/dt (B, d) at time t of the ODE between the prior and the data."""
        import torch

        self._offering("velocity")

        def answer(points: Tensor) -> tuple[Tensor, Tensor]:
            rows = self._experiment.rows(points)
            with torch.no_grad():
                speed = self._model.velocity(torch.as_tensor(t, dtype=rows.dtype, device=rows.device), rows)
            return self._experiment.transform.to_data(speed.cpu()) - self._experiment.transform.shift, rows[:, 0]

        return self._vector("velocity", x, answer, error=False)

    def encode(self, x: Array, error: bool = False) -> Any:
        """Return the latent points z (B, d), in model units, that the ODE transports to the data x (B, d).

        With `error`, return also the numerical error (B,) of each: the difference from the next finer solve plus
        rounding.
        """
        from driftspec.numerics import transport

        self._offering("velocity")
        t_prior, t_data = self.spec.dynamics.times()

        def answer(points: Tensor) -> tuple[Tensor, Tensor]:
            solved = transport.transport(self._model, self._experiment.rows(points), t_data, t_prior, self._solver())
            return solved.value, solved.error + solved.rounding

        return self._vector("encode", x, answer, error)

    def decode(self, z: Array, error: bool = False) -> Any:
        """Return the data x (B, d) to which the ODE transports the points z (B, d) of the prior; z is in model units.

        With `error`, return also a bound (B,) on the numerical error of each: the difference from the next finer solve
        plus rounding.
        """
        from driftspec.numerics import transport

        self._offering("velocity")
        t_prior, t_data = self.spec.dynamics.times()
        transform = self._experiment.transform

        def answer(points: Tensor) -> tuple[Tensor, Tensor]:
            solved = transport.transport(self._model, self._model.like(points), t_prior, t_data, self._solver())
            error = (solved.error + solved.rounding).cpu()
            return transform.to_data(solved.value.cpu()), transform.error_to_data(error)

        return self._vector("decode", z, answer, error, named=False)

    def _number(self, x: Array, value: Answer, gradient: Answer) -> tuple[Any, Any]:
        """Return a number per point (B,) and its error (B,); the number has a graph if x requires grad."""
        from driftspec.accuracy import pointwise

        points, answer = self._points(x), arguments.like(x)
        found, error = pointwise.each(value, points)
        if (leaf := arguments.asking_for_gradient(x)) is not None:
            shape = tuple(points.shape[1:])
            found = pointwise.differentiable(leaf, found, lambda: pointwise.each(gradient, points, shape)[0])
        return answer(found), answer(error)

    def _vector(self, what: str, x: Array, answer: Answer, error: bool, named: bool = True) -> Any:
        """Return a vector per point (B, d), and with `error` its error (B,). RunFailed if x requires grad."""
        from driftspec.accuracy import pointwise

        if arguments.asking_for_gradient(x) is not None:
            raise RunFailed(f"{what} cannot be differentiated: pass x.detach()")
        points, like = self._points(x, named), arguments.like(x)
        value, off = pointwise.each(answer, points, tuple(points.shape[1:]))
        return (like(value), like(off)) if error else like(value)

    def _log_p(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p (B,) of points (B, d) in data units, and its error (B,)."""
        if "log_prob" in self._model.own:
            return self._log_density(points)
        measure = self._scorer()
        return measure.log_prob(self._evaluation(measure), points)

    def _log_p_gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return ∇ log p (B, d) of points (B, d), and a bound (B,) on the errors of its components."""
        if "log_prob" in self._model.own:
            return self._own_score(points, self._model.t_data)
        measure = self._scorer()
        return measure.log_prob_gradient(self._evaluation(measure), points)

    def _log_density(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the dynamics' own log p (B,) of points (B, d) in data units, up to a constant for an energy."""
        import torch

        with torch.no_grad():
            value = self._model.log_density(self._experiment.rows(points)).double().cpu()
        return value + self._experiment.transform.log_det(), torch.zeros_like(value)

    def _own_score(self, points: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Return the dynamics' own score (B, d) of points (B, d) at time t, which needs no solve, and its error 0."""
        import torch

        rows = self._experiment.rows(points)
        with torch.no_grad():
            slope = self._model.score(rows.new_tensor(t), rows).cpu()
        return self._experiment.transform.gradient_to_data(slope, slope.new_zeros(len(slope)))

    def _evaluation(self, measure: Metric) -> Evaluation:
        """Return what the metric reads when it is measured, with its own random streams."""
        from driftspec.experiment.evaluate import evaluation_of

        streams = self._experiment.streams.under("evaluate").under(measure.key())
        return evaluation_of(self._experiment, self._model, streams, _no_draws)

    def _points(self, x: Array, named: bool = True) -> Tensor:
        """Return x as points (B, d) in float64, with named columns in the run's order. RunFailed for a wrong shape."""
        columns = self._run.record.columns if named else None
        return arguments.points(arguments.in_order(x, columns), self._experiment.model.dim)

    def _offering(self, *what: str) -> None:
        """Raise RunFailed if the dynamics offers none of these capabilities."""
        offered = capabilities(self.spec.dynamics)
        if offered.isdisjoint(what):
            text = f"{self.spec.dynamics.label} offers no {' or '.join(what)}: it offers {', '.join(sorted(offered))}"
            raise RunFailed(text)

    def _sampler(self) -> Sampler:
        """Return the sampler of the spec. RunFailed if there is none."""
        if self.spec.sampler is None:
            raise RunFailed("the spec has no sampler")
        return self.spec.sampler

    def _scorer(self) -> Metric:
        """Return the metric that computes log p: the first of the spec's, or of those that its dynamics names."""
        if not self.spec.scorers:
            raise RunFailed(f"neither the spec nor {self.spec.dynamics.label} names a metric that scores data")
        return self.spec.scorers[0]

    def _solver(self) -> Solver:
        """Return the solver of the ODE: the sampler's own, or the spec's, or that of a metric that computes log p."""
        sampler, scoring = self.spec.sampler, [pair[1] for m in self.spec.scorers if (pair := m.solves_with())]
        own = [] if sampler is None else [one for one in sampler.nested().values() if isinstance(one, Solver)]
        others = [one for one in self.spec.components().values() if isinstance(one, Solver)]
        for solver in (*own, self.spec.solver, *scoring, *others):
            if solver is not None:
                return solver
        raise RunFailed("the spec names no solver")


def _no_draws() -> Draws:
    """Raise RunFailed: no draws are made to compute log p."""
    raise RunFailed("log p of a point does not depend on the draws of the run")


__all__ = ["Plugin", "Run", "load", "run"]
