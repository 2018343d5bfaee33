"""Random sets that must differ do: each stream of a run is drawn from once, and rows that stand apart share nothing."""

from __future__ import annotations

import collections
import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from problems import points
from torch import Generator, Tensor

from driftspec.components import Data, Draws, Evaluation, Metric
from driftspec.components.dataset import Dataset, Transform
from driftspec.experiment.evaluate import evaluate, once, sample
from driftspec.experiment.train import Training, train
from driftspec.streams import Streams
from driftspec_plugins.metrics.fokker_planck import FokkerPlanck

Asked = dict[tuple[str, str, int], list[Generator | None]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Every stream that is asked for, as (scope, name, step), and its generators; None where it only gives a seed."""
    found: Asked = collections.defaultdict(list)
    plain_number, plain_generator = Streams.number, Streams.generator

    def number(streams: Streams, name: str) -> int:
        found[streams.scope, name, streams.step].append(None)
        return plain_number(streams, name)

    def generator(streams: Streams, name: str) -> Generator:
        made = plain_generator(streams, name)
        found[streams.scope, name, streams.step][-1] = made  # in place of its seed
        return made

    monkeypatch.setattr(Streams, "number", number)
    monkeypatch.setattr(Streams, "generator", generator)
    return found


def drawn_from(generator: Generator | None) -> bool:
    """Whether it has moved; a seed always counts."""
    if generator is None:
        return True
    fresh = torch.Generator().manual_seed(generator.initial_seed())
    return not torch.equal(generator.get_state(), fresh.get_state())


FLOW = tiny.TEXT
SCORES = """
version: 1
name: scores
data: {type: gaussian, mean: [0.5, -0.3], samples: 400, standardize: scale}
dynamics: {type: vp_sde, network: {type: mlp, hidden: [8], activation: silu}}
estimator: denoising
sampler: {type: euler_maruyama, steps: 20}
train: {steps: 4, batch_size: 32}
evaluate: [{type: nll, points: 8, confirm: {type: rk4, steps: 20}}, {type: score_fokker_planck, points: 20},
  {type: fisher_divergence, of: noised}]
sample: {count: 600}
"""
ENERGY = """
version: 1
name: energies
data: {type: gaussian_mixture, means: [[-2, 0], [2, 0]], samples: 400}
dynamics: {type: langevin, network: {type: mlp, hidden: [8], activation: silu}, predicts: energy}
estimator: {type: contrastive_divergence, persistent: {chains: 300, restart: 0.5}, sampler: {type: mala, step: 0.1, steps: 3}}
sampler: {type: langevin, step: 0.1, steps: 5}
train: {steps: 4, batch_size: 32}
evaluate: [{type: nll, log_z: {method: ais, temperatures: 3, chains: 300}}, {type: ksd, samples: 100},
  {type: log_z, method: ais, temperatures: 3, chains: 300}, {type: mode_coverage, samples: 100}]
sample: {count: 600}
"""  # noqa: E501
TARGET = """
version: 1
name: target
dynamics: {type: langevin, target: {type: gaussian, mean: [0.0]}}
sampler: {type: langevin, step: 0.1, steps: 4, start: {type: gaussian, mean: [1.0]}}
evaluate: [{type: fokker_planck, times: [0.2], box: [[-8, 8]], cells: 40}]
sample: {count: 600}
"""
CLASSIFIER = "{type: c2st, samples: 60, classifier: knn}"
TWO_SAMPLES = ("energy_distance", "mmd", "sliced_wasserstein", "wasserstein", "moments")
COMPARED = ", ".join([f"{{type: {name}, samples: 60}}" for name in TWO_SAMPLES] + [CLASSIFIER])
EARLY = "train.early_stopping={every: 3, patience: 9}"
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "flow": (FLOW, ("estimator={type: hutchinson, jacobian: 0.1}", "evaluate=[{type: nll, trace: {type: hutchinson, "
                    "probes: 2}, points: 60}]", "data.samples=600", EARLY)),
    "two samples": (FLOW, (f"evaluate=[{COMPARED}]", "data.samples=600")),
    "denoising": (SCORES, (EARLY,)),
    "sliced": (SCORES, ("estimator={type: score_matching, trace: hutchinson, form: sliced}", "evaluate=[]", EARLY)),
    "paths": (SCORES, ("estimator={type: score_matching, paths: {steps: 3, check_every: 2}}", "evaluate=[]", EARLY)),
    "corrector": (SCORES, ("sampler={type: predictor_corrector, steps: 5}", "evaluate=[]")),
    "forwards": (SCORES, ("sampler={type: euler_maruyama, steps: 4, direction: forward}",
                 "evaluate=[{type: fokker_planck, times: [0.5], cells: 16}]")),
    "energy": (ENERGY, (EARLY,)),
    "noise": (ENERGY, ("estimator.persistent.start={type: gaussian}", "sampler={type: hmc, step: 0.1, steps: 3}",
              "evaluate=[]")),
    "target": (TARGET, ()),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_no_stream_of_a_run_is_drawn_from_twice(name: str, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two training steps, two validation batches, blocks of samples, a floor's halves: each has a stream of its own."""
    text, sets = RUNS[name]
    monkeypatch.setattr(FokkerPlanck, "_picture", lambda *_: None)  # it shows paths of the same chains once more
    made = tiny.experiment(*sets, text=text)
    model = made.model
    if made.spec.train is not None:
        training = Training(made)
        collections.deque(itertools.islice(train(training), 4), maxlen=0)
        model = training.averaged()
    follows = any(metric.type == "fokker_planck" for metric in made.spec.evaluate or ())  # draws the run's own chains
    drawn = once(lambda: Draws(torch.zeros(1, 1, 1)) if follows else sample(made, model))
    drawn()
    collections.deque(evaluate(made, model, drawn), maxlen=0)
    seeds = [key for key, generators in asked.items() for one in generators if drawn_from(one)]
    twice = {key: count for key, count in collections.Counter(seeds).items() if count > 1}
    assert not twice and len(seeds) > 4


def test_a_stream_is_its_place_in_the_run() -> None:
    """Seeds differ by run, scope, name and step, however the three are put together."""
    roots = [Streams(seed) for seed in (0, 1)]
    scopes = [s for root in roots for s in (root, root.under("a"), root.under("a").under("b"), root.under("ab"))]
    steps = [s.at(step) for s in scopes for step in (0, 1, 11)] + [s.at(1).under("a") for s in scopes]
    numbers = [s.number(name) for s in steps for name in ("x", "y", "1")]
    assert len(set(numbers)) == len(numbers)


# The halves of a floor -----------------------------------------------------------------------------------------------


def evaluation(known: bool, train_rows: int = 90) -> Evaluation:
    data = Data.make({"type": "gaussian", "mean": [0.0, 0.0]})
    rows = points(train_rows + 60, 2, seed=9)
    dataset = Dataset(rows[60:], rows[:0], rows[:60], ("x1", "x2"), Transform.identity(2))
    draws = Draws(points(60, 2, seed=8)[:, None])
    return tiny.scene(draws, dataset, data=data if known else SimpleNamespace())


def shared(*sets: Tensor) -> int:
    """Rows that stand in more than one set, or twice in one."""
    rows = [tuple(row) for part in sets for row in part.tolist()]
    return len(rows) - len(set(rows))


@pytest.mark.parametrize("n", [30, 45, 200])
@pytest.mark.parametrize("known", [True, False], ids=["drawn", "table"])
def test_the_halves_of_a_floor_and_the_reference_share_no_row(known: bool, n: int) -> None:
    found: list[Tensor] = []

    def distance(first: Tensor, second: Tensor) -> float:
        found.extend((first, second))
        return 1.0

    scene = evaluation(known)
    assert scene.floor(distance, n) == 1.0
    first, second = found
    size = n if known else min(n, 45)
    assert len(first) == len(second) == size
    assert shared(first, second, scene.reference(n)) == 0


@pytest.mark.parametrize("name", TWO_SAMPLES)
@pytest.mark.parametrize("known", [True, False], ids=["drawn", "table"])
def test_a_metric_takes_its_floor_between_two_sets(name: str, known: bool) -> None:
    """A floor whose halves are one set would be 0, or half as large for halves that overlap."""
    one = Metric.make({"type": name, "samples": 40})
    scene = evaluation(known)
    floor = one.measure(scene).details["floor"]
    plain = Evaluation.floor

    def with_same(self: Evaluation, distance: Any, n: int) -> float | None:
        return plain(self, lambda first, _: distance(first, first.clone()), n)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluation, "floor", with_same)
        assert abs(floor - one.measure(scene).details["floor"]) > 1e-3


def test_training_validation_and_test_rows_are_apart() -> None:
    """And in another order than they were drawn in: the first rows drawn are not the training rows."""
    made = tiny.experiment().dataset
    assert shared(made.train, made.validation, made.test) == 0
    law = tiny.experiment().spec.data
    order = law.read(None, Streams(3).under("data").generator("data")).values  # type: ignore[union-attr, arg-type]
    place = {tuple(row): i for i, row in enumerate(order.tolist())}
    first = torch.tensor([place[tuple(row)] for row in made.train.tolist()]).double()
    assert abs(float(first.mean()) - 999.5) < 4 * 2000 / 12**0.5 * (1 / len(first) - 1 / 2000) ** 0.5
