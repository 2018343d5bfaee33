"""Small specs that run in a second, and models whose field is known in closed form."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from problems import Problem
from torch import Tensor, nn

from driftspec import source, spec
from driftspec.components import Draws, Dynamics, Evaluation, Model, Setting
from driftspec.components.dataset import Dataset, Transform
from driftspec.experiment import build
from driftspec.experiment.evaluate import evaluation_of
from driftspec.numerics.model import BoundModel, build_model
from driftspec.registry import Registry, installed
from driftspec.source.files import Files
from driftspec.streams import Streams

TEXT = """\
version: 1
name: tiny
seed: 3
data: {type: moons, samples: 2000, noise: 0.1, standardize: scale}
dynamics: {type: neural_ode, network: {type: mlp, hidden: [16]}}
estimator: {type: exact_trace}
train:
  steps: 40
  batch_size: 32
  optimizer: {type: adam, lr: 1e-2}
  checkpoint_every: 20
  log_every: 5
evaluate: [{type: nll, points: 100}]
sample: {count: 100}
"""


def write(folder: Path, text: str = TEXT) -> Path:
    """A spec's file."""
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def loaded(*sets: str, text: str = TEXT, root: Path = Path(), registry: Registry | None = None) -> spec.Loaded:
    """The tiny spec with changes as `--set` makes them."""
    document = spec.Changes(sets).apply(source.parse(text, "tiny.yaml"))
    return spec.Loaded(spec.validate(document, registry or installed()), document, text.encode(), root)


def experiment(*sets: str, text: str = TEXT, registry: Registry | None = None) -> build.Experiment:
    return build.build(loaded(*sets, text=text, registry=registry).spec, Files(Path()))


def not_rendered(make: Callable[[], object], caption: str) -> bytes:
    """Return a PNG of one point with the caption, after the figure was made; `drawing.png` without the rendering."""
    make()
    about, buffer = PngInfo(), io.BytesIO()
    about.add_itxt("Description", caption)
    Image.new("L", (1, 1)).save(buffer, "png", pnginfo=about)
    return buffer.getvalue()


def evaluation(made: build.Experiment, model: Model, draws: Tensor | None = None) -> Evaluation:
    """What a metric sees, with `draws` (n, d) in model units for the run's own."""

    def drawn() -> Draws:
        assert draws is not None
        return Draws(draws[:, None])

    return evaluation_of(made, model, made.streams.under("evaluate"), drawn)


def scene(drawn: Draws, dataset: Dataset | None = None, stream: str = "metric", **around: Any) -> Evaluation:
    """What a metric sees of these draws beside a data set, without a model; `around` are fields of `Setting`."""
    d = drawn.values.shape[-1]
    around = {"dynamics": Dynamics.make("neural_ode"), **around}
    transform = Transform.identity(d) if dataset is None else dataset.transform

    def read() -> Dataset:
        assert dataset is not None
        return dataset

    model: Any = SimpleNamespace(dim=d)
    streams = Streams(7)
    return Evaluation(
        Setting(**around), model, streams.under(stream), lambda: drawn, read, transform, transform.to_model, streams
    )


class _Fixed(nn.Module):
    """A closed-form field as a module; the parameter says dtype and device."""

    def __init__(self, f: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype):
        super().__init__()
        self.f = f
        self.scale = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.scale * self.f(t, x)


def known(problem: Problem, time: tuple[float, float] = (0.0, 1.0), dtype: torch.dtype = torch.float64) -> Model:
    """A neural ODE with a problem's field and N(0, I) at time[0]."""
    return flow_of(problem.f, problem.d, time, dtype)


def flow_of(
    f: Callable[[Tensor, Tensor], Tensor],
    d: int,
    time: tuple[float, float] = (0.0, 1.0),
    dtype: torch.dtype = torch.float64,
) -> Model:
    return BoundModel(Dynamics.make({"type": "neural_ode", "time": list(time)}), _Fixed(f, dtype), d)


def random_flow(
    hidden: list[int], d: int, dtype: torch.dtype = torch.float32, gain: float = 1.0, seed: int = 0
) -> Model:
    """A neural ODE with an MLP of random weights, `gain` times those that training starts from."""
    dynamics = Dynamics.make({"type": "neural_ode", "network": {"type": "mlp", "hidden": hidden}})
    model = build_model(dynamics, d, seed, dtype, torch.device("cpu"))
    with torch.no_grad():
        for p in model.module.parameters():
            p.mul_(gain)
    return model


def z_score(values: Tensor, expected: float = 0.0) -> float:
    """(mean - expected) / standard error, for independent values."""
    return float((values.mean() - expected) / (values.std() / math.sqrt(len(values))))
