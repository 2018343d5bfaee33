"""A stranger's SDE of f and g alone: learned by implicit score matching, run backwards; a kernel it has not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from scipy.integrate import quad
from torch import Tensor

from driftspec.cli import main
from driftspec.components import Model
from driftspec.numerics.model import BoundModel
from driftspec.numerics.sde import simulated
from driftspec.registry import Registry
from driftspec_plugins.dynamics.sde import SDE
from driftspec_plugins.metrics._likelihood import ends_of_time

PLUGIN = '''
from driftspec.registry import hookimpl
from driftspec_plugins.dynamics.sde import SDE
from driftspec_plugins.metrics._likelihood import ends_of_time


class Tanh(SDE):
    """dx = -2 tanh(x) dt + dw, at rest with p ~ cosh(x)^-4 of deviation 0.57 in each coordinate."""

    type = "tanh_sde"

    def drift(self, module, t, x):
        return -2 * x.tanh()

    def diffusion(self, t):
        return t.new_ones(t.shape)


@hookimpl
def driftspec_components():
    return {"dynamics": {"tanh_sde": Tanh}}
'''
SPEC = """
version: 1
name: plugin_sde_ism
data: {type: gaussian, mean: [0.0, 0.0], std: 0.8, samples: 4000}
dynamics: {type: tanh_sde, network: {type: mlp, hidden: [32], activation: silu}, prior: {type: gaussian, std: 0.6}}
estimator: {type: score_matching, trace: hutchinson, paths: {steps: 50}}
sampler: {type: euler_maruyama, steps: 100}
train: {steps: 150, batch_size: 256, optimizer: {type: adam, lr: 5e-3}}
evaluate: [{type: energy_distance, samples: 1000}, score_fokker_planck]
sample: {count: 2000}
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tanh.py").write_text(PLUGIN)
    (tmp_path / "ism.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_f_and_g_are_enough(files: Path) -> None:
    """Trained briefly, its samples have the data's spread, which the prior and f alone would not give back."""
    assert main(["ism.yaml", "--plugin", "tanh.py", "--out", "run", "--quiet"]) == 0
    samples = np.load(files / "run" / "samples.npy")
    assert samples.shape == (2000, 2)
    assert np.abs(samples.mean(0)).max() < 0.12
    assert np.abs(samples.std(0) - 0.8).max() < 0.12
    residual = json.loads((files / "run" / "metrics.json").read_text())["score_fokker_planck"]
    assert residual["value"] > 0 and 0 < residual["details"]["path_error"] < 0.05
    errors = [
        record.get("path_error") for record in map(json.loads, (files / "run" / "train.jsonl").read_text().splitlines())
    ]
    assert len([error for error in errors if error is not None and 0 < error < 0.05]) == 7, "every 20 steps"


def pulled() -> Model:
    """dx = -1.5 x dt + √(1 + t) dw, whose Euler steps have moments in closed form."""

    class Pulled(SDE):
        """dx = -1.5 x dt + √(1 + t) dw."""

        type = "pulled"

        def drift(self, module: Any, t: Tensor, x: Tensor) -> Tensor:
            return -1.5 * x

        def diffusion(self, t: Tensor) -> Tensor:
            return (1 + t).sqrt()

    return BoundModel(Pulled.model_validate({}), torch.nn.Linear(1, 1).double(), 1)


def test_paths_have_the_moments_of_their_recursion_at_a_time_of_each_row() -> None:
    n, steps, start = 40_000, 8, 2.0
    model, generator = pulled(), torch.Generator().manual_seed(0)
    t = torch.tensor([0.3, 1.0], dtype=torch.float64).repeat_interleave(n)
    x, _ = simulated(model, torch.full((2 * n, 1), start, dtype=torch.float64), t, steps, generator)
    for end, rows in zip((0.3, 1.0), x[:, 0].chunk(2)):
        h = (end - 1e-3) / steps
        mean, variance = start, 0.0
        for k in range(steps):
            mean, variance = (1 - 1.5 * h) * mean, (1 - 1.5 * h) ** 2 * variance + (1 + 1e-3 + k * h) * h
        assert abs(float(rows.mean()) - mean) < 4 * math.sqrt(variance / n)
        assert abs(float(rows.var()) - variance) < 4 * variance * math.sqrt(2 / n)


def test_the_error_of_paths_is_told_and_falls_with_the_step() -> None:
    """Against half the step the error of order h is half of itself: over 16 times the steps it falls 16 times."""
    x, t = torch.full((2000, 1), 2.0, dtype=torch.float64), torch.ones(2000, dtype=torch.float64)
    errors = []
    for steps in (10, 160):
        fine = simulated(pulled(), x, t, 2 * steps, torch.Generator().manual_seed(1))[0]
        coarse, error = simulated(pulled(), x, t, steps, torch.Generator().manual_seed(1), compare=True)
        assert error == pytest.approx(float((coarse - fine).square().mean().sqrt()), rel=1e-9), "one Wiener process"
        errors.append(error)
    assert 11 < errors[0] / errors[1] < 22


def test_how_far_the_prior_is_from_where_the_sde_leads(registry: Registry) -> None:
    """Two normal laws: of p_1, by its moments in closed form, and of the prior."""
    known = Registry(dict(registry.providers))
    known.add_component(type(pulled().dynamics))
    law, s, m = "{type: gaussian, mean: [1.5], std: 0.7, samples: 20000, standardize: none}", 0.7, 1.5
    made = tiny.experiment(
        f"data={law}", "dynamics={type: pulled}", "estimator=denoising", "evaluate=[]", registry=known
    )
    told = ends_of_time(tiny.evaluation(made, made.model))
    span = 1 - 1e-3
    mean = math.exp(-1.5 * span) * m
    noise = quad(lambda t: math.exp(-3 * (1 - t)) * (1 + t), 1e-3, 1)[0]
    variance = math.exp(-3 * span) * s**2 + noise
    expected = (variance + mean**2 - 1 - math.log(variance)) / 2
    assert expected > 0.01
    assert abs(told["prior_mismatch"] - expected) < 4 * told["prior_mismatch_stderr"] + 0.01
    assert told["prior_mismatch_stderr"] < 0.01 and told["path_steps"] == 100 and 0 < told["path_error"] < 0.02


def test_what_needs_a_kernel_is_refused_with_the_reason(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "ism.yaml", "--plugin", "tanh.py", "--set", "estimator=denoising"]) == 3
    assert "needs noise_kernel" in capsys.readouterr().err.replace("a noise_kernel", "noise_kernel")
