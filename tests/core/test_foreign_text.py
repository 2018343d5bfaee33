"""What other libraries say reaches a user with the name of who failed, in one line, and without their code."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest

from driftspec.cli import main

PLUGIN = '''
import warnings

from driftspec.components import Data, Distribution, Estimator, Loss, Measured, Metric, Network, Optimizer, Sampler
from driftspec.components import Schedule
from driftspec.registry import hookimpl

TEXT = "Input X contains NaN.\\nGaussianMixture does not accept missing values encoded as NaN natively."


class BadData(Data):
    """Raises what NumPy raises."""

    type = "bad_data"

    def read(self, files, generator):
        import numpy as np

        return np.load("there is no such file.npy")


class BadNetwork(Network):
    """Raises what torch raises."""

    type = "bad_network"

    def parameters(self, d_in, d_out, generator):
        import torch

        return {"w": torch.randn(-1, generator=generator)}

    def apply(self, p, t, x, condition=None):
        return x


class BadOptimizer(Optimizer):
    """Raises."""

    type = "bad_optimizer"

    def build(self, parameters):
        raise ValueError(TEXT)


class BadSchedule(Schedule):
    """Raises."""

    type = "bad_schedule"

    def build(self, optimizer, steps):
        raise KeyError("lr")


class BadEstimator(Estimator):
    """Raises at the first step."""

    type = "bad_estimator"

    def loss(self, model, batch, state, streams):
        return Loss(batch @ batch, {}, state)


class BadMetric(Metric):
    """Raises what scikit-learn raises."""

    type = "bad_metric"

    def measure(self, evaluation):
        import numpy as np
        from sklearn.mixture import GaussianMixture

        GaussianMixture().fit(np.full((9, 2), np.nan))


class BadSampler(Sampler):
    """Raises nothing but a name."""

    type = "bad_sampler"

    def draw_block(self, model, generator):
        raise RuntimeError


class Warns(Metric):
    """Lets NumPy and a module of its own warn."""

    type = "warns"

    def measure(self, evaluation):
        import numpy as np

        np.log(np.zeros(2))
        warnings.warn("a word\\nand more", stacklevel=1)
        return Measured(1.0, None, "", 1, stderr_reason="counted")


@hookimpl
def driftspec_components():
    found = [BadData, BadNetwork, BadOptimizer, BadSchedule, BadEstimator, BadMetric, BadSampler, Warns]
    kinds = {}
    for one in found:
        kinds.setdefault(one.kind, {})[one.type] = one
    return kinds
'''
SPEC = """\
version: 1
name: f
data: {type: moons, samples: 100}
dynamics: {type: neural_ode, network: {type: mlp, hidden: [4]}}
estimator: exact_trace
train: {steps: 1, batch_size: 16}
evaluate: []
sample: {count: 5}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("driftspec.report.plots.draw", lambda *_: iter(()))
    Path("mine.py").write_text(PLUGIN)
    Path("s.yaml").write_text(SPEC)


@pytest.mark.parametrize(
    ("change", "said", "written"),
    [
        ("data=bad_data",
         "data 'bad_data' failed: FileNotFoundError: [Errno 2] No such file or directory: 'there is no such file.npy'",
         False),
        ("dynamics.network=bad_network", "dynamics 'neural_ode' failed: RuntimeError: ", False),
        ("train.optimizer=bad_optimizer", "optimizer 'bad_optimizer' failed: ValueError: Input X contains NaN.", False),
        ("train.schedule=bad_schedule", "schedule 'bad_schedule' failed: KeyError: 'lr'", False),
        ("estimator=bad_estimator", "step 1: estimator 'bad_estimator' failed: RuntimeError: ", True),
        ("evaluate=[bad_metric]", "metric 'bad_metric' failed: ValueError: Input X contains NaN.", True),
        ("sampler=bad_sampler", "sampler 'bad_sampler' failed: RuntimeError", True),
    ],
)  # fmt: skip
def test_an_error_of_another_library_is_one_line_that_names_the_component(
    change: str, said: str, written: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["s.yaml", "--plugin", "mine.py", "--set", change, "--out", "out", "--quiet"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}") and line.endswith(" (-v shows where)")
    assert Path("out").exists() == written
    if written:
        assert json.loads(Path("out/run.json").read_text())["error"]["message"] == line.removeprefix("error: ")


def test_a_warning_of_another_library_is_one_line_that_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["s.yaml", "--plugin", "mine.py", "--set", "evaluate=[warns]", "--stage", "train,evaluate", "--quiet"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main([*words, "--out", "out"]) == 0
        assert sorted(capsys.readouterr().err.splitlines()) == [
            "warning: mine.py: a word and more",
            "warning: mine.py: divide by zero encountered in log",
        ]
        assert main([*words, "--out", "again", "-v"]) == 0
        assert re.search(r"warning: mine.py: a word and more \(mine.py:\d+\)", capsys.readouterr().err)
