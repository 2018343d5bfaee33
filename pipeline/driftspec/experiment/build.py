"""Build an experiment from a spec: the model, the random streams and the data, with the checks that need them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from driftspec.components import Data, Solver, Trace
from driftspec.components.observer import STAGES
from driftspec.errors import Problem, RunFailed, SpecError, blamed
from driftspec.source import Document
from driftspec.source.files import Files
from driftspec.spec import Spec
from driftspec.spec.fits import enough_rows, fitted_to, laws, measured, problem_at

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from driftspec.components.dataset import Dataset, Transform
    from driftspec.components.model import Model
    from driftspec.experiment.inspection import Use
    from driftspec.experiment.records import CheckpointRecord
    from driftspec.streams import Streams


@dataclass(eq=False)
class LazyDataset:
    """The data of a spec: they are read and split at the first call, and kept."""

    read: Callable[[], Dataset] | None = None
    made: Dataset | None = None

    def __call__(self) -> Dataset:
        if self.made is None:
            if self.read is None:
                raise RunFailed("the spec has no data")
            self.made = self.read()
        return self.made


@dataclass(frozen=True)
class Experiment:
    """A spec with its model, its random streams, the transform to model units, and its data, read when needed."""

    spec: Spec
    files: Files
    model: Model
    transform: Transform
    streams: Streams
    dtype: torch.dtype
    device: torch.device
    data: LazyDataset

    @property
    def dataset(self) -> Dataset:
        """The data, read and split. A run that only draws samples never reads them."""
        return self.data()

    def has_data(self) -> bool:
        """Whether the data have been read."""
        return self.data.made is not None

    def with_dataset(self, dataset: Dataset) -> Experiment:
        """Return the same experiment with this data set, which has already been read."""
        data = LazyDataset(made=dataset)
        return replace(self, data=data, model=self._on(data))

    def _on(self, data: LazyDataset) -> Model:
        """Return the model with the training rows of these data."""
        return replace(self.model, rows=None if self.spec.data is None else lambda: self.rows(data().rows()))

    def rows(self, x: Tensor) -> Tensor:
        """Return data rows (n, d) in model units, with the dtype and on the device of the run."""
        return self.transform.to_model(x).to(self.device, self.dtype)


def build(
    spec: Spec,
    files: Files,
    fitted: CheckpointRecord | None = None,
    document: Document | None = None,
    stages: Collection[str] = STAGES,
) -> Experiment:
    """Return the experiment of a spec. SpecError for unusable data, an unknown dimension or a missing device.

    In the experiment's spec, numbers that depend on the data (such as a default batch size) are filled in.
    `fitted` is a checkpoint: the transform and the dimensions are taken from it, and no data are read. `document`
    gives the line and column of a mistake. `stages` are the stages for which the spec is checked.
    """
    import torch

    from driftspec.components.dataset import Transform
    from driftspec.experiment.dataset import prepare
    from driftspec.numerics.model import build_model
    from driftspec.streams import Streams

    torch.set_num_threads(spec.runtime.threads)
    device, dtype = torch.device(spec.runtime.device), getattr(torch, spec.runtime.dtype)
    if device.type == "cuda" and not torch.cuda.is_available():
        text = f"'device' in runtime is '{spec.runtime.device}': this machine has no CUDA device"
        raise SpecError(problem_at(document, "X303", text, ("runtime", "device")))
    streams = Streams(spec.seed)
    dataset = None
    if spec.data is not None and fitted is None:
        dataset = _read(spec, spec.data, files, streams, document, stages)
    times = None
    if dataset is not None:
        dim, transform, times = dataset.dim, dataset.transform, dataset.times
        spec = fitted_to(spec, len(dataset.train))
    elif fitted is not None:
        dim, transform, times = fitted.dim, Transform(**fitted.transform), fitted.times
    else:
        targets = (one for one in spec.dynamics.nested().values() if isinstance(one, Data))
        dim = next((d for target in targets if (d := target.dim())), 0)
        transform = Transform.identity(dim)
    if not dim:
        text = f"{spec.dynamics.label}: neither the data nor the dynamics give the number of dimensions"
        raise SpecError(problem_at(document, "X302", text, ("dynamics",)))
    with blamed(spec.dynamics.label):
        model = build_model(spec.dynamics, dim, streams.number("init"), dtype, device)
    trace, solver = _density(spec)
    model = replace(
        model,
        times=None if times is None else times.to(device),
        trace=trace,
        solver=solver,
    )
    data = LazyDataset(made=dataset)
    if spec.data is not None:
        data.read = functools.partial(prepare, spec.data, files, streams.under("data"), transform)
    experiment = Experiment(spec, files, model, transform, streams, dtype, device, data)
    return replace(experiment, model=experiment._on(data))


def _density(spec: Spec) -> tuple[Trace | None, Solver | None]:
    """Return the trace and the solver that compute log p from a velocity.

    Those of a metric that computes log p come before those of the estimator. An exact trace comes before the others,
    because its log p can be differentiated.
    """
    found = [pair for metric in spec.scorers if (pair := metric.solves_with()) is not None]
    if isinstance(spec.estimator, Trace):
        found.append((spec.estimator, spec.solver or spec.estimator.solver))
    traces = [trace for trace, _ in found]
    return next((one for one in traces if one.exact()), traces[0] if traces else None), found[0][1] if found else None


def _read(
    spec: Spec, data: Data, files: Files, streams: Streams, document: Document | None, stages: Collection[str]
) -> Dataset:
    """Return the data set. SpecError if it does not fit the rest of the spec."""
    from driftspec.experiment.dataset import prepare

    try:
        dataset = prepare(data, files, streams.under("data"), use=use_of(spec, stages))
    except SpecError as error:
        place = ("data",) if data.file_key is None else ("data", data.file_key)
        raise SpecError([problem_at(document, p.code, p.message, place) for p in error.problems]) from error
    if found := [*laws(spec, dataset.dim, stages), *enough_rows(spec, len(dataset.train), len(dataset.validation))]:
        raise SpecError([problem_at(document, *one) for one in found])
    return dataset


def use_of(spec: Spec, stages: Collection[str] = STAGES) -> Use:
    """Return what these stages of the spec do with the data rows."""
    from driftspec.experiment.inspection import Use

    density = "train" in stages and spec.estimator is not None and spec.estimator.needs_density(spec.dynamics)
    scored = any("log_prob" in metric.offers() for metric in measured(spec, stages))
    return Use(density, density or scored, spec.runtime.dtype)


def warnings_of(experiment: Experiment, document: Document) -> list[Problem]:
    """Return the verdicts on the data as warnings at the section `data` of the spec; nothing is trained yet."""
    data = experiment.spec.data
    if data is None or not experiment.has_data():
        return []
    code = "X303" if data.file() is None else "X304"
    return [problem_at(document, code, str(verdict), ("data",), "warning") for verdict in experiment.dataset.verdicts]


__all__ = ["Experiment", "build", "use_of", "warnings_of"]
