"""A small valid spec, and what the checks say of its variants."""

from __future__ import annotations

from pathlib import Path

from driftspec import source, spec
from driftspec.errors import PluginError, SpecError
from driftspec.registry import Registry, installed
from driftspec.spec import fits

TEXT = """\
version: 1
name: a
data: {type: moons, samples: 500, noise: 0.05}
dynamics:
  type: neural_ode
  network: {type: mlp, hidden: [8, 8], activation: tanh}
estimator: {type: hutchinson, noise: rademacher}
train:
  steps: 100
  batch_size: 64
  optimizer: {type: adam, lr: 1e-2, betas: [0.9, 0.99]}
  schedule: {type: cosine, warmup: 5}
evaluate: [nll]
sample: {count: 100}
"""


def edited(*edits: tuple[str, str]) -> str:
    """TEXT with each old part, which stands in it once, replaced."""
    text = TEXT
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def loaded(text: str = TEXT, *sets: str, registry: Registry | None = None) -> spec.Loaded:
    """The spec in a text that stands in a file called a.yaml."""
    document = spec.Changes(sets).apply(source.parse(text, "a.yaml"))
    return spec.loaded(document, registry or installed(), text.encode(), Path())


def said(text: str, *sets: str, registry: Registry | None = None) -> list[str]:
    """Everything that is wrong with a text, as the command prints it."""
    try:
        return [str(problem) for problem in fits.check(loaded(text, *sets, registry=registry))]
    except (SpecError, PluginError) as error:
        return [str(problem) for problem in error.problems]
