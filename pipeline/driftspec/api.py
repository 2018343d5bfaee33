"""The same runs from Python: `driftspec.run(...)` makes one, `driftspec.load(...)` opens one.

    run = driftspec.run("specs/cnf_moons.yaml", overrides={"train.steps": 200})
    run.metrics["nll"], run.sample(100), run.log_prob(x)

A spec, a script and the command give the same bytes. Arrays in and out are in the data's own units, and an answer comes
as what was asked with: numpy for numpy, torch for torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftspec import runs, source, spec
from driftspec.build import Experiment, build
from driftspec.component import Component
from driftspec.components import Draws, Metric, Sampler, Solver, Verdict
from driftspec.errors import RunFailed, shown
from driftspec.files import Files
from driftspec.fits import capabilities
from driftspec.registry import Registry, discover
from driftspec.session import Run as Session
from driftspec.stages import evaluated_tree, fitted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from driftspec.model import Model

    Array = NDArray[np.floating[Any]] | Tensor

Plugin = str | Path | type[Component]
"""A one-file plugin by its path, or a component's class: a notebook's own network comes in as one."""


def run(
    given: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    plugins: Sequence[Plugin] = (),
) -> Run:
    """Train, evaluate and sample a spec: a file's path, or the spec itself as a mapping.

    `overrides` are values by dotted key, as `--set` takes them. Raises SpecError, PluginError, RunFailed.
    """
    registry = _registry(plugins)
    changes = spec.Changes(options=tuple((f"overrides[{key}]", key, value) for key, value in (overrides or {}).items()))
    if isinstance(given, Mapping):
        text = source.dump(dict(given))
        document = changes.apply(source.parse(text, "spec"))
        loaded = spec.Loaded(spec.validate(document, registry), document, text.encode(), Path())
    else:
        loaded = spec.read(given, registry, changes)
    made = runs.start(loaded, registry, out=Path(out) if out is not None else None, argv=["driftspec.run"])
    return Run(made)


def load(path: str | Path, plugins: Sequence[Plugin] = ()) -> Run:
    """A run directory, opened. `plugins` are those it was made with, unless they are installed."""
    return Run(runs.opened(path, _registry(plugins)))


def _registry(plugins: Sequence[Plugin]) -> Registry:
    registry = discover([plugin for plugin in plugins if isinstance(plugin, (str, Path))])
    for problem in [*registry.broken, *registry.held_back]:
        warnings.warn(str(problem), RuntimeWarning, stacklevel=3)
    for plugin in plugins:
        if isinstance(plugin, type):
            registry.add_component(plugin)
    return registry


class Run:
    """A trained model with its spec, its metrics and its directory. B points, d dimensions, data units throughout."""

    def __init__(self, opened: Session):
        self._run = opened
        self.path: Path = opened.path
        """The run directory."""
        self.spec: spec.Spec = opened.spec
        """The spec, every default filled in."""

    def __repr__(self) -> str:
        return f"Run('{self.path}', {self._run.info['status']})"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """metrics.json: {name: {"value", "stderr", "unit", "n", "details"}}; empty where nothing was measured."""
        there = (self.path / "metrics.json").exists()
        return self._run.directory.read_json("metrics.json") if there else {}

    @property
    def verdicts(self) -> list[Verdict]:
        """How far the run can be trusted, aspect by aspect, and why: run.json's verdicts."""
        return [one.verdict for one in self._run.verdicts]

    @cached_property
    def _experiment(self) -> Experiment:
        files = Files(self._run.loaded.root, allow_outside=True)  # the run was allowed its file where it was made
        return build(self.spec, files, fitted=self._tree)

    @cached_property
    def _tree(self) -> dict[str, Any]:
        return evaluated_tree(self._run)

    @cached_property
    def _model(self) -> Model:
        return fitted(self._experiment, self._tree)

    @property
    def module(self) -> nn.Module:
        """The trained torch module, in model units: the averaged weights if there are any."""
        return self._model.module

    def sample(self, n: int, seed: int | None = None) -> NDArray[np.float32]:
        """(n, d) float32, chain by chain. Sample i is a function of (seed, i), the seed by default the run's own."""
        import numpy as np

        streams = self._experiment.streams if seed is None else replace(self._experiment.streams, seed=seed)
        drawn = self._sampler().draw(self._model, n, streams.under("sample"))
        return self._experiment.transform.to_data(drawn.flat().cpu()).numpy().astype(np.float32)

    def log_prob(self, x: Array, error: bool = False) -> Any:
        """log p(x) (B,) in nats, float64, as the run's evaluation finds it; of an energy model -E - log Z.

        With `error` also each point's numerical error (B,): the difference to the next finer solve, or the error of
        log Z. Raises RunFailed for a model without a log p, SolveFailed when a solve blows up.
        """
        import torch

        from driftspec.evaluate import Evaluation

        points = self._points(x)
        if "log_prob" in self._model.own:
            with torch.no_grad():
                value = self._model.log_density(self._experiment.rows(points)).double().cpu()
            value, off = value + self._experiment.transform.log_det(), torch.zeros_like(value)
        else:
            self._offering("log_prob", "energy")
            measure = self._scorer()
            streams = self._experiment.streams.under("evaluate").under(measure.key())
            value, off = measure.log_prob(Evaluation(self._experiment, self._model, streams, _no_draws), points)
        answer = _like(x)
        return (answer(value), answer(off)) if error else answer(value)

    def score(self, x: Array, t: float | None = None) -> Any:
        """∇ log p(x) (B, d), at the data's end of time unless a model that knows every t is asked for one."""
        import torch

        t_prior, t_data = self.spec.dynamics.times()
        if t is not None and (t_prior == t_data or "score" not in self._model.own):
            raise RunFailed(f"{self.spec.dynamics.label} knows the score at t_data alone: leave t out")
        self._offering("score")
        rows = self._experiment.rows(self._points(x))
        if self._model.own & {"score", "energy", "log_prob"}:
            with torch.no_grad():
                slope = self._model.score(rows.new_tensor(t_data if t is None else t), rows)
        else:
            slope = self._slope(rows)
        return _like(x)(torch.einsum("bi,ij->bj", slope.double().cpu(), self._experiment.transform.matrix))

    def _slope(self, rows: Tensor) -> Tensor:
        """∇ log p (B, d) by differentiating the solve that evaluation makes."""
        from driftspec import flow
        from driftspec.model import gradient

        measure = self._scorer()
        trace = measure.trace.model_copy(update={"solver": measure.solver})
        return gradient(lambda u: flow.differentiable_log_prob(self._model, u, trace), rows)[1].detach()

    def energy(self, x: Array) -> Any:
        """E(x) (B,) float64, for a model that has one: exp(-E) is its density up to Z, whatever the units.

        Of data in other units than the model's it holds the change of units, E(x) = E(u) - log |det du/dx|.
        """
        import torch

        self._offering("energy")
        rows = self._experiment.rows(self._points(x))
        with torch.no_grad():
            value = -self._model.log_density(rows).double().cpu()
        return _like(x)(value - self._experiment.transform.log_det())

    def velocity(self, t: float, x: Array) -> Any:
        """dx/dt (B, d) at time t, of the ODE between the prior and the data."""
        import torch

        self._offering("velocity")
        rows = self._experiment.rows(self._points(x))
        with torch.no_grad():
            speed = self._model.velocity(torch.as_tensor(t, dtype=rows.dtype, device=rows.device), rows)
        shift = self._experiment.transform.shift
        return _like(x)(self._experiment.transform.to_data(speed.cpu()) - shift)

    def encode(self, x: Array) -> Any:
        """The latent points z (B, d), model units, that the ODE carries to the data x."""
        t_prior, t_data = self.spec.dynamics.times()
        return self._carried(x, self._experiment.rows(self._points(x)), t_data, t_prior, lambda u: u.double())

    def decode(self, z: Array) -> Any:
        """The data x (B, d) that the ODE carries the latent points z to."""
        t_prior, t_data = self.spec.dynamics.times()
        return self._carried(
            z, self._model.like(self._points(z, named=False)), t_prior, t_data, self._experiment.transform.to_data
        )

    def _carried(self, given: Array, rows: Tensor, start: float, end: float, units: Callable[[Tensor], Tensor]) -> Any:
        from driftspec import flow

        self._offering("velocity")
        solver = self._first(Solver)
        return _like(given)(units(flow.transport(self._model, rows, start, end, solver).value.cpu()))

    def _points(self, x: Array, named: bool = True) -> Tensor:
        """(B, d) float64, columns with names in the run's order; RunFailed for another shape."""
        import torch

        x = _in_order(x, self._run.info["columns"] if named else None)
        rows = torch.as_tensor(x, dtype=torch.float64).detach().cpu()
        if rows.dim() != 2 or rows.shape[1] != self._experiment.model.dim:
            raise RunFailed(f"points have the shape (B, {self._experiment.model.dim}), not {tuple(rows.shape)}")
        return rows

    def _offering(self, *what: str) -> None:
        offered = capabilities(self.spec.dynamics)
        if offered.isdisjoint(what):
            text = f"{self.spec.dynamics.label} offers no {' or '.join(what)}: it offers {', '.join(sorted(offered))}"
            raise RunFailed(text)

    def _sampler(self) -> Sampler:
        if self.spec.sampler is None:
            raise RunFailed("the spec has no sampler")
        return self.spec.sampler

    def _scorer(self) -> Any:
        """The metric that scores the data in this run, or the one its dynamics names."""
        named = [Metric.make(name, self._run.registry) for name in self.spec.dynamics.default_metrics]
        for metric in [*(self.spec.evaluate or ()), *named]:
            if "log_prob" in metric.offers():
                return metric
        raise RunFailed(f"neither the spec nor {self.spec.dynamics.label} names a metric that scores data")

    def _first(self, kind: type[Any]) -> Any:
        """The sampler's own solver, or the first the spec names."""
        components = self.spec.components()
        for path in sorted(components, key=lambda path: path[0] != "sampler"):
            if isinstance(components[path], kind):
                return components[path]
        raise RunFailed(f"the spec names no {kind.__name__.lower()}")


def _no_draws() -> Draws:
    raise RunFailed("a point's log p reads none of the run's draws")


def _in_order(x: Any, columns: Sequence[str] | None) -> Any:
    """Of a table that names its columns those asked for, in this order, or all of them; other arrays as they are."""
    import numpy as np

    names = getattr(x, "columns", getattr(getattr(x, "dtype", None), "names", None))
    if names is None:
        return x
    if columns is None or not all(isinstance(name, str) for name in names):  # numbered, as of a frame made of an array
        return np.asarray(x)
    if missing := [name for name in columns if name not in names]:
        there = ", ".join(map(str, names))
        raise RunFailed(f"no column {', '.join(map(shown, missing))}: the points have {there}")
    return np.stack([np.asarray(x[name], dtype=np.float64) for name in columns], axis=-1)


def _like(x: Array) -> Callable[[Tensor], Any]:
    """Answers come as what was asked with."""
    import torch

    return (lambda value: value) if isinstance(x, torch.Tensor) else (lambda value: value.numpy())


__all__ = ["Plugin", "Run", "load", "run"]
