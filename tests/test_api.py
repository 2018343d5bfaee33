"""Python beside the command: the same bytes, the same numbers, in the data's own units."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from pydantic import Field

import driftspec
from driftspec import source
from driftspec.cli import main
from driftspec.components import Network
from driftspec.errors import RunFailed, SpecError, UsageError

PUBLIC = ["DriftspecError", "PluginError", "Run", "RunFailed", "SolveFailed", "SpecError", "load", "run"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("api")
    tiny.write(folder)
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> Iterator[driftspec.Run]:
    yield driftspec.run(folder / "tiny.yaml", out=folder / "script")


def test_the_public_names_are_a_list() -> None:
    assert sorted(driftspec.__all__) == PUBLIC
    assert callable(driftspec.run), "the function, whatever modules have been imported"
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        _ = driftspec.runn  # type: ignore[attr-defined]


def test_a_script_the_command_and_a_mapping_give_the_same_bytes(made: driftspec.Run, folder: Path) -> None:
    assert main([str(folder / "tiny.yaml"), "--out", str(folder / "command"), "--quiet"]) == 0
    mapping = driftspec.run(source.parse(tiny.TEXT, "tiny").data, out=folder / "mapping")
    assert isinstance(mapping.spec.seed, int)
    names = ["metrics.json", "samples.npy", "resolved.yaml", "checkpoints/step-00000040.safetensors"]
    for name in names:
        bytes_of = [(folder / run / name).read_bytes() for run in ("script", "command", "mapping")]
        assert bytes_of[0] == bytes_of[1] == bytes_of[2], name


def test_log_prob_is_evaluates_to_the_bit(made: driftspec.Run) -> None:
    loaded = driftspec.load(made.path)
    test = loaded._experiment.dataset.test[:100]
    log_p, error = loaded.log_prob(test.numpy(), error=True)
    assert -float(torch.from_numpy(log_p).mean()) == loaded.metrics["nll"]["value"]
    details = loaded.metrics["nll"]["details"]
    assert float(error.mean()) == pytest.approx(details["solver_error"]["mean"] + details["rounding"]["mean"], rel=1e-5)
    assert float(loaded.log_prob(test[7:8])[0]) == log_p[7]


def test_answers_come_as_the_question_did(made: driftspec.Run) -> None:
    x = np.array([[0.3, 0.2], [1.0, -0.4]])
    for question, kind in ((x, np.ndarray), (torch.from_numpy(x), torch.Tensor)):
        for answer in (made.log_prob(question), made.score(question), made.velocity(0.5, question)):
            assert isinstance(answer, kind)
    assert made.sample(5).dtype == np.float32


def test_a_trained_density_integrates_to_one(made: driftspec.Run) -> None:
    side = np.linspace(-9, 9, 361)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    mass = np.exp(made.log_prob(grid)).sum() * (side[1] - side[0]) ** 2
    assert abs(mass - 1) < 2e-3


def test_a_metric_more_changes_neither_samples_nor_the_others_numbers(made: driftspec.Run, folder: Path) -> None:
    metrics = ["round_trip", {"type": "energy_distance", "samples": 50}, {"type": "nll", "points": 100}]
    more = driftspec.run(folder / "tiny.yaml", out=folder / "more", overrides={"evaluate": metrics})
    assert (more.path / "samples.npy").read_bytes() == (made.path / "samples.npy").read_bytes()
    assert more.metrics["nll"] == made.metrics["nll"]


def test_samples_are_the_runs_own_and_follow_their_seed(made: driftspec.Run) -> None:
    own = np.load(made.path / "samples.npy")
    assert np.array_equal(made.sample(7), own[:7])
    assert not np.array_equal(made.sample(7, seed=99), own[:7])
    assert np.array_equal(made.sample(7, seed=99), made.sample(9, seed=99)[:7])


def test_decode_inverts_encode_in_data_units(made: driftspec.Run) -> None:
    x = made.sample(20).astype(np.float64)
    z = made.encode(x)
    assert np.abs(made.decode(z) - x).max() < 1e-4
    assert np.abs(z - x).max() > 0.1


def test_score_is_the_gradient_of_log_prob() -> None:
    flow = tiny.random_flow([16], 2, torch.float64, gain=2.0)
    from driftspec import flow as flows
    from driftspec.components import Estimator
    from driftspec.model import gradient

    x = torch.tensor([[0.4, -0.7], [1.2, 0.1]], dtype=torch.float64)
    trace = Estimator.make({"type": "exact_trace", "solver": {"type": "lobatto", "steps": 20}})

    def log_p(y: torch.Tensor) -> torch.Tensor:
        return flows.differentiable_log_prob(flow, y, trace)

    slope, h = gradient(log_p, x)[1].detach(), 1e-5
    for j in range(2):
        step = h * torch.eye(2, dtype=torch.float64)[j]
        difference = (log_p(x + step) - log_p(x - step)).detach() / (2 * h)
        assert torch.allclose(slope[:, j], difference, atol=1e-7)


def test_the_score_has_the_change_of_units(made: driftspec.Run) -> None:
    x, h = np.array([[0.3, 0.2], [1.0, -0.4]]), 1e-2
    slope = made.score(x)
    for j in range(2):
        step = h * np.eye(2)[j]
        difference = (made.log_prob(x + step) - made.log_prob(x - step)) / (2 * h)
        assert np.allclose(slope[:, j], difference, atol=0.05 * np.abs(slope).max())


def test_velocity_moves_data_along_the_flow(made: driftspec.Run) -> None:
    x = made.sample(10).astype(np.float64)
    scale = made._experiment.dataset.train.std(0, correction=0).numpy()
    u = (x - made._experiment.dataset.train.mean(0).numpy()) / scale
    with torch.no_grad():
        expected = made.module(torch.tensor(0.5), torch.from_numpy(u).float()).numpy() * scale
    assert np.allclose(made.velocity(0.5, x), expected, atol=1e-5)


MIXTURE = "{type: gaussian_mixture, means: [[-2, 0], [2, 1]], std: 0.6, samples: 2000, standardize: whiten}"
ENERGY = f"""
version: 1
name: energy
data: {MIXTURE}
dynamics: {{type: langevin, predicts: energy, network: {{type: mlp, hidden: [8], activation: silu}}}}
estimator: {{type: score_matching}}
sampler: {{type: langevin, step: 0.02, steps: 10}}
train: {{steps: 60, batch_size: 64, optimizer: {{type: adam, lr: 1e-2}}}}
evaluate: [log_z, {{type: nll, points: 200}}]
sample: {{count: 16}}
"""
SCORE = f"""
version: 1
name: score
data: {MIXTURE}
dynamics: {{type: vp_sde, network: {{type: mlp, hidden: [16]}}}}
estimator: denoising
train: {{steps: 60, batch_size: 64, optimizer: {{type: adam, lr: 1e-2}}}}
evaluate: [{{type: nll, points: 50, t_data: 0.05}}]
sample: {{count: 16}}
"""
TARGET = """
version: 1
name: target
dynamics: {type: langevin, target: {type: gaussian, mean: [1, 2], covariance: [[2.0, 0.3], [0.3, 1.0]]}}
sampler: {type: langevin, step: 0.1, steps: 20}
evaluate: [ess]
sample: {count: 16}
"""


def slopes(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, h: float) -> np.ndarray:
    steps = h * np.eye(x.shape[1])
    return np.stack([(function(x + step) - function(x - step)) / (2 * h) for step in steps], 1)


def test_an_energy_model_answers_in_data_units(folder: Path) -> None:
    """exp(-E) integrates to Z over the data's own units too, and log p is -E - log Z: evaluate's, to the bit."""
    run = driftspec.run(source.parse(ENERGY, "energy").data, out=folder / "energy")
    x = run._experiment.dataset.test[:200].numpy()
    energy, log_p = run.energy(x), run.log_prob(x)
    assert -float(torch.from_numpy(log_p).mean()) == run.metrics["nll"]["value"]
    log_z = run.metrics["nll"]["details"]["log_z"]["value"]
    assert np.allclose(-energy - log_z, log_p, atol=1e-5) and np.ptp(energy) > 1
    assert np.allclose(run.score(x), -slopes(run.energy, x, 1e-3), atol=2e-2)
    side = np.linspace(-12, 12, 241)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    assert np.log(np.exp(-run.energy(grid)).sum() * (side[1] - side[0]) ** 2) == pytest.approx(log_z, abs=2e-3)
    assert run.log_prob(x[:3], error=True)[1].max() < 1e-6
    with pytest.raises(RunFailed, match="at t_data alone"):
        run.score(x, t=0.5)


def test_a_score_model_answers_at_every_time(folder: Path) -> None:
    """log p is read at the metric's own end of time, and the score at the one asked for, with the change of units."""
    run = driftspec.run(source.parse(SCORE, "score").data, out=folder / "score")
    x = run._experiment.dataset.test[:50].numpy()
    assert -float(torch.from_numpy(run.log_prob(x)).mean()) == run.metrics["nll"]["value"]
    u, t = run._experiment.rows(torch.from_numpy(x)), 0.4
    with torch.no_grad():
        noise = run.module(torch.tensor(t), u).double()
    sigma = math.sqrt(1 - math.exp(-(0.1 * t + 19.9 * t * t / 2)))
    expected = (-noise / sigma).numpy() @ run._experiment.transform.matrix.numpy()
    assert np.allclose(run.score(x, t=t), expected, rtol=1e-4, atol=1e-4)
    assert np.allclose(run.score(x), run.score(x, t=1e-3)) and not np.allclose(run.score(x), run.score(x, t=t))


def test_a_known_target_answers_in_closed_form(folder: Path) -> None:
    run = driftspec.run(source.parse(TARGET, "target").data, out=folder / "target")
    x = np.array([[0.0, 1.0], [2.0, -1.0], [1.0, 2.5]])
    covariance, centred = np.array([[2.0, 0.3], [0.3, 1.0]]), x - np.array([1.0, 2.0])
    solved = np.linalg.solve(covariance, centred.T).T
    expected = -(centred * solved).sum(1) / 2 - math.log(2 * math.pi * math.sqrt(np.linalg.det(covariance)))
    value, error = run.log_prob(x, error=True)
    assert np.allclose(value, expected, atol=1e-5) and (error == 0).all()
    assert np.allclose(run.score(x), -solved, atol=1e-5)


def test_overrides_are_set_and_mistakes_name_them(folder: Path) -> None:
    with pytest.raises(SpecError, match=r"overrides\[train.stepz\]"):
        driftspec.run(folder / "tiny.yaml", out=folder / "never", overrides={"train.stepz": 3})
    assert not (folder / "never").exists()


def test_a_notebooks_own_network_comes_in_as_a_plugin(folder: Path) -> None:
    class Scaled(Network):
        """f(t, x) = θ x."""

        type = "scaled"
        start: float = Field(0.3, description="θ before training")

        def build(self, d_in: int, d_out: int, generator: torch.Generator) -> torch.nn.Module:
            class Module(torch.nn.Module):
                def __init__(self, start: float) -> None:
                    super().__init__()
                    self.theta = torch.nn.Parameter(torch.tensor(start))

                def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
                    return self.theta * x

            return Module(self.start)

    overrides = {"dynamics.network": {"type": "scaled"}, "train.steps": 5}
    run = driftspec.run(folder / "tiny.yaml", out=folder / "own", overrides=overrides, plugins=[Scaled])
    again = driftspec.load(folder / "own", plugins=[Scaled])
    x = np.array([[0.3, 0.2]])
    assert run.log_prob(x) == again.log_prob(x)
    with pytest.raises((SpecError, driftspec.PluginError), match="scaled"):
        driftspec.load(folder / "own")


def test_what_cannot_be_answered_says_why(made: driftspec.Run, folder: Path) -> None:
    with pytest.raises(RunFailed, match=r"shape \(B, 2\), not \(3,\)"):
        made.log_prob(np.zeros(3))
    with pytest.raises(RunFailed, match="offers no energy: it offers"):
        made.energy(np.zeros((1, 2)))
    with pytest.raises(RunFailed, match="leave t out"):
        made.score(np.zeros((1, 2)), t=0.5)
    with pytest.raises(UsageError, match="not a run"):
        driftspec.load(folder / "nothing")
