"""Python beside the command: the same bytes, the same numbers, in the data's own units."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from pydantic import Field

import driftspec
from driftspec import source
from driftspec.accuracy import pointwise
from driftspec.arguments import options
from driftspec.cli import main
from driftspec.components import Evaluation, Measured, Metric, Network
from driftspec.errors import RunFailed, SolveFailed, SpecError, UsageError

PUBLIC = ["DriftspecError", "PluginError", "Run", "RunFailed", "SolveFailed", "SpecError", "UsageError", "load", "run"]


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
    side = np.linspace(-9, 9, 181)
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
    from driftspec.autodiff import gradient
    from driftspec.components import Estimator
    from driftspec.numerics import likelihood

    x = torch.tensor([[0.4, -0.7], [1.2, 0.1]], dtype=torch.float64)
    trace = Estimator.make({"type": "exact_trace", "solver": {"type": "lobatto", "steps": 20}})

    def log_p(y: torch.Tensor) -> torch.Tensor:
        return likelihood.differentiable_log_prob(flow, y, trace)

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
    with pytest.raises(RunFailed, match="only at t_data"):
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


# Options that reach every component ----------------------------------------------------------------------------------

TIGHT = "solver={type: dopri5, rtol: 1e-10, atol: 1e-10}"


@pytest.mark.parametrize("evaluate", ["", "evaluate=[{type: energy_distance, samples: 20}]", "evaluate=[]"])
def test_what_scores_a_run_has_the_specs_solver_whether_or_not_the_spec_names_it(evaluate: str) -> None:
    changes = [TIGHT, evaluate] if evaluate else [TIGHT]
    scorer = tiny.loaded(*changes).spec.scorers[0]
    trace, solver = scorer.solves_with() or (None, None)
    assert (scorer.type, solver.type, solver.rtol) == ("nll", "dopri5", 1e-10)  # type: ignore[union-attr]
    assert trace is not None and trace.exact()


def with_spec(made: driftspec.Run, *changes: str, **sections: Any) -> driftspec.Run:
    """The same trained weights under another spec."""
    run = driftspec.load(made.path)
    run.spec = tiny.loaded(*changes).spec.model_copy(update=sections)
    return run


def test_a_run_answers_with_the_specs_solver(made: driftspec.Run) -> None:
    """Neither the default's, nor that of training, which is looser: for log p, the way to z and back, and chains."""
    sampler = "sampler={type: langevin, step: 0.01, steps: 1}"
    run = with_spec(made, TIGHT, "runtime.dtype=float64", "evaluate=[]", sampler)
    x = np.array([[0.3, 0.2], [1.0, -0.4]])
    for _, error in (run.log_prob(x, error=True), run.encode(x, error=True), run.decode(x, error=True)):
        assert 0 < error.max() < 1e-8
    drawn = run._sampler().draw(run._model, 4, run._experiment.streams)
    assert 0 < drawn.stats["density_error"] < 1e-8
    nll = Metric.make({"type": "nll", "solver": {"type": "dopri5", "rtol": 1e-10, "atol": 1e-10}})
    assert np.array_equal(run.log_prob(x), nll.log_prob(run._evaluation(nll), run._points(x))[0].numpy())


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        (["sampler={type: langevin, step: 0.1}", "evaluate=[]"], 1e-4),
        (["sampler={type: langevin, step: 0.1}", "evaluate=[{type: nll, solver: {type: rk4, tolerance: 1e-6}}]"], 1e-6),
        (
            ["sampler={type: ode, solver: {type: rk4, tolerance: 1e-5}}", "solver={type: lobatto, tolerance: 1e-3}"],
            1e-5,
        ),
        (["sampler={type: langevin, step: 0.1}", "solver={type: lobatto, tolerance: 1e-3}", "evaluate=[]"], 1e-3),
    ],
)
def test_what_moves_points_and_chains_is_no_solver_of_training(changes: list[str], tolerance: float) -> None:
    experiment = tiny.experiment(*changes, "data.samples=200")
    run = driftspec.Run.__new__(driftspec.Run)
    run.spec = experiment.spec
    assert run._solver().tolerance == tolerance  # type: ignore[attr-defined]
    scoring = 1e-3 if "lobatto" in changes[1] else tolerance
    assert experiment.model.solver.tolerance == scoring  # type: ignore[union-attr]


def test_a_flow_trained_by_probes_moves_chains_by_the_exact_trace() -> None:
    model = tiny.experiment("estimator=hutchinson", "data.samples=200").model
    assert model.trace is not None and model.trace.exact()


# Plugins -------------------------------------------------------------------------------------------------------------


class Net(Network):
    """f(t, x) = x; what a notebook passes."""

    type = "notebook_net"


class Unnamed(Network):
    """A network that no spec can name."""


@pytest.mark.parametrize(
    ("plugins", "message"),
    [
        ([Net()], r"plugins\[0\] is an object of class Net: pass its class, Net"),
        ([42], r"plugins\[0\] is 42: a plugin is a .py file, or a class derived from"),
        ([{}], r"plugins\[0\] is a mapping"),
        ([None], r"plugins\[0\] is null"),
        ([Net, torch.nn.Linear], r"plugins\[1\] is the class Linear: a plugin is a .py file, or a class"),
        ([Unnamed], r"plugins\[0\] is the class Unnamed: it has no 'type'"),
        ([Network], r"plugins\[0\] is the class Network: it has no 'type'"),
        (["missing.py"], r"plugins\[0\] missing.py: no such file"),
        (["tests"], r"plugins\[0\] tests: not a .py file"),
        ("net.py", r"'plugins' is 'net.py': it takes a list"),
        (None, r"'plugins' is null: it takes a list"),
        (Net, r"'plugins' is the class Net: it takes a list"),
    ],
    ids=str,
)
def test_a_plugin_of_the_wrong_kind_is_named_by_its_place(made: driftspec.Run, plugins: Any, message: str) -> None:
    with pytest.raises(driftspec.PluginError, match=message):
        driftspec.run("nowhere.yaml", plugins=plugins)
    with pytest.raises(driftspec.PluginError, match=message):
        driftspec.load(made.path, plugins=plugins)


def test_every_wrong_plugin_is_named_and_one_that_fails_to_import_too(folder: Path) -> None:
    (folder / "broken.py").write_text("1 / 0")
    with pytest.raises(driftspec.PluginError) as caught:
        driftspec.run(folder / "tiny.yaml", plugins=[Net, 42, folder / "broken.py"])
    first, second = caught.value.problems
    assert "plugins[1] is 42" in first.message
    assert second.message.startswith("plugins[2] ") and second.message.endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"given": 42}, "'given' is 42: it takes a path"),
        ({"out": 3}, "'out' is 3: it takes a path"),
        ({"overrides": [1]}, "'overrides' is a list: it takes a mapping"),
        ({"overrides": {"train.steps": Path("a")}}, r"overrides\[train.steps\] is an object of class PosixPath"),
        ({"given": {"version": 1, "data": {"type": object}}}, "spec.data.type is the class object: it takes a number"),
    ],
    ids=str,
)
def test_arguments_of_the_wrong_kind_are_refused_in_words_of_our_own(
    folder: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(driftspec.DriftspecError, match=message):
        driftspec.run(**{"given": folder / "tiny.yaml", **arguments})


def test_numbers_of_numpy_are_numbers() -> None:
    given = {"a": np.int64(3), "b": [np.float32(0.5)], "c": {"d": True}}
    found = {key: value for _, key, value in options(given)}
    assert found == {"a": 3, "b": [0.5], "c": {"d": True}} and type(found["a"]) is int and type(found["b"][0]) is float


# Edge sizes and bad points -------------------------------------------------------------------------------------------


def test_empty_in_empty_out(made: driftspec.Run) -> None:
    nothing = made.sample(0)
    assert nothing.shape == (0, 2) and nothing.dtype == np.float32
    for empty in (np.zeros((0, 2)), torch.zeros(0, 2)):
        log_p, error = made.log_prob(empty, error=True)
        assert type(log_p) is type(empty) and tuple(log_p.shape) == tuple(error.shape) == (0,)
        for answer in (made.score(empty), made.encode(empty), made.decode(empty), made.velocity(0.5, empty)):
            assert tuple(answer.shape) == (0, 2)


@pytest.mark.parametrize("bad", [[math.nan, 1.0], [1.0, math.inf]], ids=str)
def test_a_bad_point_costs_its_own_answer_alone(made: driftspec.Run, bad: list[float]) -> None:
    good = np.array([[0.3, 0.2], [1.0, -0.4]])
    x = np.array([good[0], bad, good[1]])
    for ask in (made.log_prob, made.score, made.encode, made.decode):
        (value, error), (expected, stated) = ask(x, error=True), ask(good, error=True)
        assert np.isnan(value[1]).all() and error[1] == math.inf
        assert np.array_equal(value[[0, 2]], expected) and np.array_equal(error[[0, 2]], stated)
    assert np.isfinite(made.velocity(0.5, x[[0, 2]])).all()
    large, inf = made.encode([[0.3, 0.2], [1e300, 0.0]], error=True)
    assert np.array_equal(np.isnan(large), [[False] * 2, [True] * 2]) and inf[1] == math.inf, "too large for float32"


def test_points_at_fault_are_found_in_a_batch_that_fails_as_a_whole() -> None:
    """As of a solver that chooses its steps; but where nearly all fail, so does the call."""
    calls = []

    def square(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(x))
        if bool((x > 2).any()):
            raise SolveFailed("a point blows up", "budget")
        return x[:, 0] ** 2, 0 * x[:, 0]

    x = torch.arange(40.0)[:, None] / 10
    x[20:] = 0.1
    x[7] = 9.0
    value, error = pointwise.each(square, x)
    assert value.isnan().nonzero().tolist() == [[7]] and error.isinf().nonzero().tolist() == [[7]] and len(calls) < 16
    assert torch.equal(value[20:], x[20:, 0].square().double())
    value, error = pointwise.each(lambda x: (x.log(), torch.zeros(len(x))), torch.tensor([[-1.0], [1.0]]), (1,))
    assert value[:, 0].isnan().tolist() == error.isinf().tolist() == [True, False], "an answer that is no number"
    with pytest.raises(SolveFailed, match="blows up"):
        pointwise.each(square, 3 + torch.rand(200, 1))


@pytest.mark.parametrize(("n", "seed"), [(3, -1), (-1, None), (2.5, None), (True, None), (3, 2**63), ("3", None)])
def test_a_count_or_a_seed_that_is_none_is_refused(made: driftspec.Run, n: Any, seed: Any) -> None:
    with pytest.raises(UsageError, match="it takes a whole number from 0"):
        made.sample(n, seed=seed)
    assert made.sample(np.int64(2), seed=np.int64(4)).shape == (2, 2)


@pytest.mark.parametrize("x", [[["a", "b"]], None, np.array([[1 + 2j, 0]]), np.array([["a", "b"]]), [[1, 2], [3]]])
def test_points_that_are_no_numbers_are_refused(made: driftspec.Run, x: Any) -> None:
    with pytest.raises(RunFailed, match="points are"):
        made.log_prob(x)


def test_a_row_whose_solve_blows_up_is_named_as_the_file_counts_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)

    class Square(Network):
        """x² in each coordinate: solved backwards from below zero it blows up."""

        type = "square"

        def parameters(self, d_in: int, d_out: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
            return {"scale": torch.ones(())}

        def apply(self, p: Any, t: torch.Tensor, x: torch.Tensor, context: Any = None) -> torch.Tensor:
            return p["scale"] * x * x

    rows = [f"{0.01 * i},{0.02 * i}" for i in range(40)]
    rows[17] = "-1e9,0"
    (folder / "rows.csv").write_text("\n".join(["a,b", *rows]))
    text = """
version: 1
name: rows
data: {type: table, path: rows.csv, split: [0.05, 0.0, 0.95]}
dynamics: {type: neural_ode, network: {type: square}}
evaluate: [METRIC]
"""
    for metric in ("nll", "round_trip"):
        (folder / "rows.yaml").write_text(text.replace("METRIC", metric))
        with pytest.raises(
            driftspec.SolveFailed, match="of 1 of 38 points ended with status non_finite: row 19 of the"
        ):
            driftspec.run(folder / "rows.yaml", out=folder / metric, plugins=[Square])


# Gradients of points -------------------------------------------------------------------------------------------------


def test_log_p_of_a_tensor_keeps_its_graph(made: driftspec.Run) -> None:
    """Its gradient is the score, and its values those of points that ask for none."""
    points = np.array([[0.3, 0.2], [1.0, -0.4]])
    for dtype in (torch.float64, torch.float32):
        x = torch.tensor(points, dtype=dtype, requires_grad=True)
        value, error = made.log_prob(3 * x / 3, error=True)
        assert value.requires_grad and not error.requires_grad
        assert torch.equal(value.detach(), made.log_prob(3 * x.detach() / 3))
        (slope,) = torch.autograd.grad((value * torch.tensor([1.0, 2.0])).sum(), x)
        expected = made.score(x.detach()) * torch.tensor([[1.0], [2.0]])
        assert slope.dtype == dtype and torch.allclose(slope.double(), expected, rtol=1e-6)
    with torch.no_grad():
        assert not made.log_prob(x).requires_grad


def test_what_keeps_no_graph_says_so(made: driftspec.Run) -> None:
    x = torch.zeros(2, 2, requires_grad=True)
    for ask in (made.score, made.encode, made.decode, lambda at: made.velocity(0.5, at)):
        with pytest.raises(RunFailed, match=r"cannot be differentiated: pass x.detach\(\)"):
            ask(x)
        with torch.no_grad():
            assert ask(x).shape == (2, 2)
    with pytest.raises(RunFailed, match="only first derivatives"):
        torch.autograd.grad(made.log_prob(x).sum(), x, create_graph=True)


# A stranger's metric -------------------------------------------------------------------------------------------------


class OfItsOwn(Metric):
    """log p of N(0, I), whatever the model, by tensors or by numpy."""

    type = "of_its_own"
    numpy: bool = Field(False, description="in numpy, which keeps no graph")

    def offers(self) -> frozenset[str]:
        return frozenset({"log_prob"})

    def measure(self, evaluation: Evaluation) -> Measured:
        return Measured(1.0, 0.1, "nats", 1)

    def log_prob(self, evaluation: Evaluation, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value = torch.from_numpy(-(x.numpy() ** 2).sum(1) / 2) if self.numpy else -x.square().sum(1) / 2
        return value, torch.zeros(len(x))


def test_a_metric_that_knows_log_p_alone_gives_the_score_by_differentiating_it(made: driftspec.Run) -> None:
    run = with_spec(made, evaluate=(OfItsOwn(),))
    x = torch.tensor([[1.0, 2.0], [math.nan, 0.0]], dtype=torch.float64)
    score, error = run.score(x, error=True)
    assert torch.equal(score[0], -x[0]) and bool(score[1].isnan().all()) and error.tolist() == [math.inf] * 2
    x.requires_grad_()
    assert torch.equal(torch.autograd.grad(run.log_prob(x)[0], x)[0][0], -x[0].detach())
    with pytest.raises(RunFailed, match="metric 'of_its_own' gives a log p that cannot be differentiated"):
        with_spec(made, evaluate=(OfItsOwn(numpy=True),)).score(x.detach())


def test_what_cannot_be_answered_says_why(made: driftspec.Run, folder: Path) -> None:
    with pytest.raises(RunFailed, match=r"shape \(B, 2\), not \(3,\)"):
        made.log_prob(np.zeros(3))
    with pytest.raises(RunFailed, match="offers no energy: it offers"):
        made.energy(np.zeros((1, 2)))
    with pytest.raises(RunFailed, match="leave t out"):
        made.score(np.zeros((1, 2)), t=0.5)
    with pytest.raises(UsageError, match="not a run"):
        driftspec.load(folder / "nothing")
