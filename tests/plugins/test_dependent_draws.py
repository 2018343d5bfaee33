"""Draws of chains that move slowly: values without bias, and error bars that are the spread, where draws depend."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import tiny
import torch
from torch import Tensor

from driftspec.components import Data, Draws, Evaluation, Metric
from driftspec.components.dataset import Dataset, Transform
from driftspec_plugins.metrics.c2st import accuracy
from driftspec_plugins.metrics.energy_distance import energy_distance
from driftspec_plugins.metrics.ksd import ksd
from driftspec_plugins.metrics.mmd import mmd
from driftspec_plugins.metrics.sliced_wasserstein import random_directions, sliced_wasserstein
from driftspec_plugins.metrics.wasserstein import wasserstein

CHAINS, EACH, PHI = 40, 10, 0.95
SHIFT = torch.tensor([1.0, -0.5], dtype=torch.float64)
THETA = random_directions(40, 2, torch.Generator().manual_seed(4))


def chains(g: torch.Generator, count: int = CHAINS) -> Tensor:
    """(count, EACH, 2) stationary draws of N(0, I), each 0.95 of the one before and noise."""
    noise = torch.randn(EACH, count, 2, generator=g, dtype=torch.float64)
    x = [noise[0]]
    for fresh in noise[1:]:
        x.append(PHI * x[-1] + math.sqrt(1 - PHI**2) * fresh)
    return torch.stack(x, 1)


def fresh(n: int, g: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=g, dtype=torch.float64)


Distance = Callable[[Tensor, Tensor, "int | None"], tuple[float, float]]
DISTANCES: dict[str, Distance] = {
    "energy_distance": lambda x, y, parts: energy_distance(x, y, parts)[:2],
    "mmd": lambda x, y, parts: mmd(x, y, 1.0, (1.0,), parts)[:2],
    "ksd": lambda x, y, parts: ksd(x, y.mean(0) - x, 1.0, parts)[:2],  # under N(m, I), m the data's mean
    "sliced_wasserstein": lambda x, y, parts: _sliced(x, y, parts),
    "wasserstein": lambda x, y, parts: wasserstein(x, y, 2, parts),
}


def _sliced(x: Tensor, y: Tensor, parts: int | None) -> tuple[float, float]:
    found = sliced_wasserstein(x, y, THETA, 2, parts)
    return found.value, found.stderr_points  # the directions are the same each time


def repeated(distance: Distance, shift: Tensor, times: int, parts: int | None) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    found = [distance(chains(g).flatten(0, 1), fresh(CHAINS * EACH, g) + shift, parts) for _ in range(times)]
    return torch.tensor(found, dtype=torch.float64).unbind(1)  # type: ignore[return-value]  # a pair


@pytest.mark.parametrize("name", DISTANCES)
def test_the_error_bar_is_the_spread_over_chains(name: str) -> None:
    """Away from the null. As if the draws were independent it would be less than half as large."""
    times = 60
    values, errors = repeated(DISTANCES[name], SHIFT, times, CHAINS)
    ratio = float(errors.square().mean().sqrt() / values.std())
    assert abs(math.log(ratio)) < 4 / math.sqrt(2 * times)
    _, naive = repeated(DISTANCES[name], SHIFT, 5, None)
    assert float(naive.mean()) < 0.6 * float(errors.mean())


@pytest.mark.parametrize("name", ["energy_distance", "mmd", "ksd"])
def test_pairs_within_a_chain_bias_no_estimate(name: str) -> None:
    """At the null, where D², MMD² and KSD² are 0: with pairs within a chain they would seem to be more."""
    times = 150
    distance = DISTANCES[name] if name != "ksd" else lambda x, y, parts: ksd(x, -x, 1.0, parts)[:2]
    values, errors = repeated(distance, 0 * SHIFT, times, CHAINS)
    assert abs(float(values.mean())) < 4 * float(values.std()) / math.sqrt(times)
    assert -4 / math.sqrt(2 * times) < math.log(float(errors.square().mean().sqrt() / values.std())) < math.log(2.3)
    biased, _ = repeated(distance, 0 * SHIFT, times, None)
    assert float(biased.mean()) > 10 * float(biased.std()) / math.sqrt(times)


def test_ksd_and_others_of_independent_rows_are_those_of_parts_of_one() -> None:
    g = torch.Generator().manual_seed(3)
    x, y = fresh(100, g), fresh(80, g)
    for name in ("energy_distance", "mmd", "ksd"):
        assert DISTANCES[name](x, y, None) == DISTANCES[name](x, y, 100)


def test_a_classifier_cannot_know_a_chain_by_its_other_draws() -> None:
    """Draws of the data's own law that hardly move: neighbours in another fold would tell them from data."""
    g = torch.Generator().manual_seed(2)
    x = chains(g, 60)[:, :1].expand(-1, EACH, -1) + 1e-3 * torch.randn(60, EACH, 2, generator=g, dtype=torch.float64)
    value, stderr = accuracy(x.flatten(0, 1), fresh(600, g), "knn", 5, 0, 60)
    leaked, naive = accuracy(x.flatten(0, 1), fresh(600, g), "knn", 5, 0)
    assert abs(value - 0.5) < 4 * stderr and stderr > 1.3 * naive
    assert leaked - 0.5 > 4 * naive


def evaluation(drawn: Tensor) -> Evaluation:
    """Chains (chains, draws, 2) against a mixture of N((-1, 0), I) and N((1, 0), I)."""
    data = Data.make({"type": "gaussian_mixture", "means": [[-3.0, 0.0], [3.0, 0.0]], "std": 1.0, "samples": 2000})
    rows = data.sample(2000, torch.Generator().manual_seed(5))  # type: ignore[attr-defined]  # a distribution
    dataset = Dataset(rows[400:], rows[:0], rows[:400], ("x1", "x2"), Transform.identity(2))
    return tiny.scene(Draws(drawn), dataset, data=data)


def test_shares_of_modes_are_as_certain_as_the_chains_are_many() -> None:
    """Chains that never leave their mode: the share's error is that of 40 draws, not of 400."""
    g = torch.Generator().manual_seed(6)
    side = torch.where(torch.arange(CHAINS) < 17, -3.0, 3.0).double()[:, None, None]
    drawn = chains(g) + torch.cat([side, 0 * side], -1)
    found = Metric.make({"type": "mode_coverage", "samples": 400}).measure(evaluation(drawn))
    assert found.value == pytest.approx(17 / 20, abs=0.05)
    assert found.stderr == pytest.approx(math.sqrt(17 / 40 * 23 / 40 / 39) / 0.5, rel=0.1)


@pytest.mark.parametrize("name", ["energy_distance", "mmd", "sliced_wasserstein", "wasserstein", "c2st"])
def test_whole_chains_are_read_and_too_few_have_no_error_bar(name: str) -> None:
    drawn = chains(torch.Generator().manual_seed(7))
    one = Metric.make({"type": name, "samples": 105})
    several = one.measure(evaluation(drawn))
    assert several.n == 100 and several.stderr is not None and several.details["chains"] == 10
    changed = torch.cat([drawn[:10], drawn[10:] + 9])
    assert one.measure(evaluation(changed)) == several
    few = one.measure(evaluation(drawn[:, :1].expand(-1, 50, -1)))
    assert few.n == 100 and few.value is not None and few.stderr is None
    assert few.stderr_reason is not None and "2 chains are too few" in few.stderr_reason
