"""A stranger's SDE of f and g alone: learned by implicit score matching, run backwards; a kernel it has not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from driftspec.cli import main

PLUGIN = '''
from driftspec.registry import hookimpl
from driftspec_plugins.dynamics.sde import SDE


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
evaluate: [{type: energy_distance, samples: 1000}]
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


def test_what_needs_a_kernel_is_refused_with_the_reason(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "ism.yaml", "--plugin", "tanh.py", "--set", "estimator=denoising"]) == 3
    assert "needs noise_kernel" in capsys.readouterr().err.replace("a noise_kernel", "noise_kernel")
