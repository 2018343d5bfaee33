"""What fits what, and a checked spec made live: `check` compares components without torch, `build` makes an Experiment."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driftspec.component import Component

from driftspec.components import Data
from driftspec.errors import Place, Problem, RunFailed, SpecError
from driftspec.files import Files
from driftspec.source import Document
from driftspec.spec import Loaded, Spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from driftspec.dataset import Dataset, Transform
    from driftspec.model import Model
    from driftspec.streams import Streams

Path = tuple[str | int, ...]

FOLLOWS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"energy"}), "score"),
    (frozenset({"drift", "score"}), "velocity"),  # the probability-flow ODE
    (frozenset({"velocity", "prior"}), "log_prob"),
    (frozenset({"log_prob"}), "score"),  # by automatic differentiation
)
"""Capabilities that follow from others."""


def capabilities(component: Component) -> frozenset[str]:
    """What a component offers, with all that follows from it."""
    offered = set(component.offers())
    while more := {result for given, result in FOLLOWS if given <= offered} - offered:
        offered |= more
    return frozenset(offered)


def check(loaded: Loaded) -> list[Problem]:
    """Everything that does not fit together, in order of place. No tensor is made."""
    spec, document = loaded.spec, loaded.document
    found = [*_sections(spec, document), *_needs(spec, document), *_numbers(spec, document)]
    return sorted(found, key=lambda p: (p.place or Place("")))


def _problem(document: Document, code: str, message: str, path: Path, *, key: bool = False) -> Problem:
    place = document.place(path, key=key)
    if not place.line and path not in document.marks:  # a section left out
        place = Place(document.place(()).file, 1, 1)
    return Problem(code, message, place, source=document.source_line(place))


def _sections(spec: Spec, document: Document) -> Iterator[Problem]:
    """Sections that go together."""
    if (spec.estimator is None) != (spec.train is None):
        there, missing = ("estimator", "train") if spec.train is None else ("train", "estimator")
        yield _problem(document, "X302", f"'{there}' wants '{missing}' beside it: they come together", (there,), key=True)
    if spec.data is None and "target" not in spec.dynamics.nested():
        yield Problem("S110", "missing section 'data'", Place(document.place(()).file, 1, 1))
    keys: dict[str, int] = {}
    for index, metric in enumerate(spec.evaluate or ()):
        if metric.key() in keys:
            text = f"two metrics are called '{metric.key()}': give one a 'name'"
            yield _problem(document, "X302", text, ("evaluate", index))
        keys[metric.key()] = index
        if metric.draws_wanted is None:
            continue
        wanted = getattr(metric, metric.draws_wanted)
        if spec.sample is None:
            text = f"{metric.label} reads {wanted} samples and the spec draws none: add sample: {{count: {wanted}}}"
            yield _problem(document, "X302", text, ("evaluate", index))
        elif wanted > spec.sample.count:
            text = f"{metric.label} reads {wanted} samples and sample.count is {spec.sample.count}"
            yield _problem(document, "X303", text, ("evaluate", index, metric.draws_wanted))


def _needs(spec: Spec, document: Document) -> Iterator[Problem]:
    """Each component's first need that nobody meets."""
    there: dict[str, Component | None] = {
        "dynamics": spec.dynamics, "data": spec.data, "sampler": spec.sampler, "estimator": spec.estimator,
    }  # fmt: skip
    for path, component in spec.components().items():
        for need in component.needs():
            other = there.get(need.kind)
            offered = capabilities(other) if other is not None else frozenset()
            if offered.isdisjoint(need.any_of):
                wanted = " or ".join(need.any_of)
                has = f"{other.label} offers {', '.join(sorted(offered)) or 'nothing'}" if other else f"there is no {need.kind}"
                why = f" ({need.why})" if need.why else ""
                yield _problem(document, "X301", f"{component.label} needs {wanted}{why}; {has}", path)
                break
    if spec.estimator is not None and "trainable" not in capabilities(spec.dynamics):
        text = f"{spec.dynamics.label} has nothing to train for {spec.estimator.label}"
        yield _problem(document, "X301", text, ("estimator",), key=True)


def _numbers(spec: Spec, document: Document) -> Iterator[Problem]:
    """Numbers that cannot work with the rest."""
    if spec.data is not None:
        if abs(sum(spec.data.split) - 1) > 1e-9 or min(spec.data.split) < 0 or spec.data.split[0] == 0:
            text = f"split {list(spec.data.split)}: fractions for training (more than 0), validation and test that sum to 1"
            yield _problem(document, "X303", text, ("data", "split"))
        dim, prior = spec.data.dim(), spec.dynamics.prior_law()
        if prior is not None and None not in (dim, prior.dim()) and dim != prior.dim():
            text = f"the prior is a law of {prior.dim()} dimensions, {spec.data.label} has {dim}"
            yield _problem(document, "X301", text, ("dynamics", "prior"))
    if spec.train is None:
        return
    rows = getattr(spec.data, "samples", None)
    if spec.data is not None and isinstance(rows, int) and spec.train.batch_size > round(rows * spec.data.split[0]):
        text = f"batch_size {spec.train.batch_size} is larger than the {round(rows * spec.data.split[0])} training rows"
        yield _problem(document, "X303", text, ("train", "batch_size"))
    warmup = getattr(spec.train.schedule, "warmup", 0)
    if warmup >= spec.train.steps:
        text = f"warmup {warmup} leaves nothing of {spec.train.steps} steps"
        yield _problem(document, "X303", text, ("train", "schedule", "warmup"))
    if spec.train.early_stopping is not None and spec.data is not None and spec.data.split[1] == 0 and not spec.train.monitor:
        yield _problem(document, "X303", "early_stopping needs validation rows, and split leaves none", ("train", "early_stopping"))


@dataclass(frozen=True)
class Experiment:
    """A spec made live: its model, its random streams, the transform to model units, and its data when asked for."""

    spec: Spec
    files: Files
    model: Model
    transform: Transform
    streams: Streams
    dtype: torch.dtype
    device: torch.device

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data, read and split; a run that is only sampled from never asks."""
        from driftspec.dataset import prepare

        if self.spec.data is None:
            raise RunFailed(f"'{self.spec.name}' has no data")
        return prepare(self.spec.data, self.files, self.streams.under("data"))

    def rows(self, x: Tensor) -> Tensor:
        """Data (n, d) as the model sees them: in model units, dtype and device of the run."""
        return self.transform.to_model(x).to(self.device, self.dtype)


def build(spec: Spec, files: Files, fitted: Mapping[str, Any] | None = None) -> Experiment:
    """Everything a spec can still get wrong fails here: data files, dimensions, the device.

    `fitted` is a checkpoint's tree: its transform and dimensions are taken, and no data are read.
    """
    import torch

    from driftspec.dataset import Transform, prepare
    from driftspec.model import build_model
    from driftspec.streams import Streams

    torch.set_num_threads(spec.runtime.threads)
    device, dtype = torch.device(spec.runtime.device), getattr(torch, spec.runtime.dtype)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SpecError(Problem("X303", f"runtime.device is '{spec.runtime.device}' and this machine has no CUDA device"))
    streams = Streams(spec.seed)
    dataset = prepare(spec.data, files, streams.under("data")) if spec.data is not None and fitted is None else None
    if dataset is not None:
        dim, transform = dataset.dim, dataset.transform
    elif fitted is not None:
        dim, transform = fitted["dim"], Transform(**fitted["transform"])
    else:
        laws = (law for law in spec.dynamics.nested().values() if isinstance(law, Data))
        dim = next((d for law in laws if (d := law.dim())), 0)
        transform = Transform.identity(dim)
    if not dim:
        raise SpecError(Problem("X302", f"{spec.dynamics.label}: nothing says how many dimensions there are"))
    model = build_model(spec.dynamics, dim, streams.number("init"), dtype, device)
    experiment = Experiment(spec, files, model, transform, streams, dtype, device)
    if dataset is not None:
        vars(experiment)["dataset"] = dataset
    return experiment


__all__ = ["Experiment", "build", "capabilities", "check"]
