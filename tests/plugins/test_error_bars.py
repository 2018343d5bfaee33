"""Error bars against their definitions, and where they collapsed; tests/test_coverage.py counts coverage."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from arviz_stats.base import array_stats
from problems import points, tensor
from scipy.stats import t as student
from torch import Tensor

from driftspec.components import Metric
from driftspec.streams import Streams
from driftspec_plugins.metrics import _likelihood, _scores, _u_statistics
from driftspec_plugins.metrics._log_z import Estimate, Integral, ais, tail_index
from driftspec_plugins.metrics._two_samples import Compared
from driftspec_plugins.metrics._u_statistics import pairs
from driftspec_plugins.metrics.c2st import standard_error
from driftspec_plugins.metrics.energy_distance import energy_distance
from driftspec_plugins.metrics.ksd import ksd
from driftspec_plugins.metrics.mmd import mmd

# Kernel distances near P = Q -----------------------------------------------------------------------------------------

KERNELS: dict[str, Callable[[Tensor, Tensor], tuple[float, float, float]]] = {
    "energy_distance": energy_distance,
    "mmd": lambda x, y: mmd(x, y, 1.0),
    "ksd": lambda x, y: ksd(x, -x, 1.0),  # under N(0, I)
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shift", [0.0, 0.25, 0.35])
def test_no_bar_collapses_near_the_same_law(name: str, shift: float) -> None:
    """Of 150 values near P = Q, those that come out low have bars that still reach their mean."""
    x, y = points(150 * 60, 2, seed=1) + tensor(shift, 0.0), points(150 * 60, 2, seed=2)
    found = [KERNELS[name](a, b) for a, b in zip(x.chunk(150), y.chunk(150))]
    values, errors, chances = torch.tensor(found, dtype=torch.float64).unbind(1)
    z = (values - values.mean()) / errors
    assert float(z.min()) > -3
    assert float((z.abs() < 1.96).double().mean()) > 0.93
    assert bool((errors >= math.sqrt(3) * chances * (1 - 1e-9)).all()) or name == "ksd"  # its chance is uncentred


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("parts", [60, 20, 4])
@pytest.mark.parametrize("at_once", [1, 900])
def test_blocks_of_any_size_give_the_same_numbers(
    name: str, parts: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of 1, 3 and 15 draws; blocks of one row, and of some parts that do not fill the last block."""
    x, y = points(60, 2, seed=1) + tensor(0.5, 0.0), points(47, 2, seed=2)
    measure: Any = {
        "energy_distance": lambda: energy_distance(x, y, parts), "mmd": lambda: mmd(x, y, 1.0, (0.5, 2.0), parts),
        "ksd": lambda: ksd(x, -x, 1.0, parts),
    }[name]  # fmt: skip
    whole = measure()
    monkeypatch.setattr(_u_statistics, "AT_ONCE", at_once)
    assert measure() == pytest.approx(whole, rel=1e-12)


def test_the_sums_of_pairs_are_their_definitions() -> None:
    """Mean, leave-one-out means and doubly centred mean square of a kernel of 7 parts, diagonal left out."""
    k = points(7, 7, seed=3).square() + 5
    k = k + k.T
    at = torch.arange(7)[:, None]
    found, n = pairs(lambda a, b: k[a[:, 0]][:, b[:, 0]], at, 7), 7
    beside = k.clone().fill_diagonal_(0)
    assert float(found.mean) == pytest.approx(float(beside.sum()) / 42)
    for i in range(n):
        left = [j for j in range(n) if j != i]
        rest = beside[left][:, left]
        assert float(found.without[i]) == pytest.approx(float(rest.sum()) / 30)
    means = beside.sum(1) / 6
    centred = (k - means[:, None] - means[None, :] + found.mean).fill_diagonal_(0)
    assert float(found.second) == pytest.approx(2 * float(centred.square().sum()) / 42**2)


def test_the_bar_of_ksd_is_the_jackknife_of_its_chains() -> None:
    """By leaving out one chain of 6 after another, and not the square of the estimate, which bends it down."""
    x, each = points(6 * 3, 2, seed=4), 3
    s = 2.0 - x
    without = [ksd(torch.cat([x[: 3 * i], x[3 * i + each :]]), torch.cat([s[: 3 * i], s[3 * i + each :]]), 1.0, 5)[0]
               for i in range(6)]  # fmt: skip
    stderr = ksd(x, s, 1.0, 6)[1]
    assert stderr == pytest.approx(float(torch.tensor(without).double().std(correction=0)) * math.sqrt(5), rel=1e-6)


# Few chains ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chains", [4, 8, 50])
def test_a_bar_of_few_chains_is_students(chains: int) -> None:
    compared = Compared(points(chains * 2, 2), points(9, 2), chains)
    factor = student.ppf(0.975, chains - 1) / 1.959963984540054
    assert compared.stated(0.3) == pytest.approx(0.3 * factor)
    assert compared.measured(1.0, 0.3, "", {}).stderr == pytest.approx(0.3 * factor)


@pytest.mark.parametrize(("draws", "data", "parts"), [(12, 12, 4), (12, 30, 3), (40, 10, 8)])
def test_the_bar_of_a_share_over_chains(draws: int, data: int, parts: int) -> None:
    """Var = 2 (q² Var(draws) + (1 - q)² Var(data)), q squared in both."""
    hits = (points(draws + data, 1, seed=draws)[:, 0] > 0.2).double()
    hits[: draws // parts], hits[draws - draws // parts : draws] = 1.0, 0.0  # chains that are always guessed alike
    q, each = draws / (draws + data), hits[:draws].view(parts, -1).mean(1)
    of_draws = float((each - each.mean()).square().sum()) / (parts - 1) / parts
    of_data = float((hits[draws:] - hits[draws:].mean()).square().sum()) / (data - 1) / data
    variance = q**2 * of_draws + (1 - q) ** 2 * of_data
    right = float(hits.mean())
    assert variance > right * (1 - right) / len(hits)  # the chains decide, not the least there can be
    assert standard_error(hits, draws, parts) == pytest.approx(math.sqrt(2 * variance))
    independent = math.sqrt(2 * right * (1 - right) / len(hits))
    assert standard_error(hits, draws, draws) == pytest.approx(independent)
    assert standard_error(torch.ones(10).double(), 5, 5) == pytest.approx(math.sqrt(2) / 10)  # none wrong of 10


@pytest.mark.parametrize("mean", [_likelihood.mean, _scores.mean], ids=["likelihood", "scores"])
def test_the_bar_of_a_mean(mean: Callable[[Tensor], tuple[float, float]]) -> None:
    assert mean(tensor(1.0, 2.0, 6.0)) == pytest.approx((3.0, math.sqrt(7 / 3)))


# Weights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [30, 225, 226, 1000])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_the_tail_index_is_arvizs(n: int, spread: float) -> None:
    log_w = 3.0 + spread * points(n, 1, seed=n)[:, 0]
    assert tail_index(log_w) == pytest.approx(float(array_stats.psislw(-log_w.numpy())[1]), rel=1e-9)


def test_weights_that_say_nothing_of_their_tail() -> None:
    assert tail_index(points(24, 1)[:, 0]) is None  # four in the tail
    assert tail_index(torch.zeros(100).double()) is None


def annealed(width: float, temperatures: int) -> Estimate:
    unit = torch.eye(2, dtype=torch.float64)
    with torch.no_grad():
        how = Integral(temperatures=temperatures, chains=1000)
        return ais(lambda u: -(u / width).square().sum(1) / 2, unit[0] * 0, unit, how, Streams(3))


def test_weights_with_a_heavy_tail_get_a_verdict() -> None:
    """A base narrower than the law and two temperatures: the variance of the weights is infinite, and ess is 120."""
    assert annealed(0.8, 20).verdicts() == ()
    (bad,) = annealed(2.0, 2).verdicts()
    assert bad.severity == "bad" and bad.outcome == "heavy_tailed" and "1000 annealed chains" in bad.reason
    assert "take more temperatures" in bad.reason


@pytest.mark.parametrize(
    ("details", "severity"),
    [
        ({"ess": 50.0, "tail_index": 0.49}, None),
        ({"ess": 50.0, "tail_index": 0.51}, "warning"),
        ({"ess": 50.0, "tail_index": 0.71}, "bad"),
        ({"ess": 9.0, "tail_index": 0.1}, "bad"),
        ({"ess": 9.0, "tail_index": None}, "bad"),
        ({"ess": 11.0, "tail_index": None}, None),
    ],
)
def test_which_weights_are_doubtful(details: dict[str, Any], severity: str | None) -> None:
    verdicts = Estimate(0.0, 0.1, {"chains": 64, **details}).verdicts()
    assert [verdict.severity for verdict in verdicts] == ([] if severity is None else [severity])
    assert Estimate(0.0, None, {"error": 1e-9}).verdicts() == ()


def test_a_metric_passes_the_verdict_on(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Estimate(0.0, 0.1, {"chains": 64, "ess": 3.0, "tail_index": None})
    monkeypatch.setattr(Integral, "of", lambda *_: found)
    evaluation: Any = type("Evaluation", (), {"model": None, "streams": None})
    assert Metric.make("log_z").measure(evaluation).verdicts == found.verdicts()
