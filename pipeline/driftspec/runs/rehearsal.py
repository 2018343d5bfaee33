"""`validate --deep`: build everything, take one training step and draw a few samples. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from driftspec.components.observer import STAGES
from driftspec.errors import DriftspecError, Problem, RunFailed, blamed, cause
from driftspec.experiment.build import build, warnings_of
from driftspec.runs.lifecycle import check_rows
from driftspec.source.files import Files
from driftspec.spec.wording import place_of

if TYPE_CHECKING:
    from driftspec.components import Model
    from driftspec.experiment.build import Experiment
    from driftspec.spec import Loaded

SAMPLES = 16


def rehearse(loaded: Loaded, allow_outside: bool = False) -> list[Problem]:
    """Return X305 at the section in which the run fails, if it does, and the warnings about the data.

    SpecError if the spec or its data are wrong.
    """
    section, found = ["dynamics"], list[Problem]()
    try:
        with _foreign():
            experiment = build(loaded.spec, Files(loaded.root, allow_outside), document=loaded.document)
            check_rows(loaded, experiment, STAGES)
            found += warnings_of(experiment, loaded.document)
            section.append("estimator")
            model = _one_step(experiment)
            section.append("sampler")
            _few_draws(experiment, model)
    except RunFailed as error:
        place = place_of(loaded.document, (section[-1],))
        line = loaded.document.source_line(place)
        found.append(Problem("X305", f"{section[-1]}: {error}", place, source=line))
    return found


@contextmanager
def _foreign() -> Iterator[None]:
    """Turn any error of a component into RunFailed."""
    try:
        yield
    except DriftspecError:
        raise
    except Exception as error:
        raise RunFailed(cause(error)) from error


def _one_step(experiment: Experiment) -> Model:
    """Return the model after one training step, or the model as built if nothing is trained."""
    from driftspec.experiment.train import Training, train

    if experiment.spec.train is None:
        return experiment.model
    training = Training(experiment)
    next(train(training))
    return training.averaged()


def _few_draws(experiment: Experiment, model: Model) -> None:
    """Make a few draws and check that they are finite; a sampler with a fixed number of chains makes one per chain."""
    sampler, asked = experiment.spec.sampler, experiment.spec.sample
    if sampler is None or asked is None:
        return
    count = min(SAMPLES, asked.count)
    chains, draws = sampler.layout(count)
    n = count if chains * draws == count else chains
    with blamed(sampler.label):
        values = sampler.draw(model, n, experiment.streams.under("sample")).values
    if not bool(values.isfinite().all()):
        raise RunFailed(f"{sampler.label}: draws that are not finite")


__all__ = ["rehearse"]
