"""Baselines against densities that are known, and what they say of how far they were tried."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from problems import points
from scipy.stats import multivariate_normal
from torch import Tensor

from driftspec_plugins.metrics import _baselines
from driftspec_plugins.metrics._baselines import compare, summary
from driftspec_plugins.metrics._likelihood import Scored


def scored(x: Tensor, log_p: Tensor | None = None, common: float = 0.0) -> Scored:
    """Test rows as a model scores them: with log p = 0 unless one is given."""
    log_p = torch.zeros(len(x), dtype=torch.float64) if log_p is None else log_p
    return Scored(x, log_p, torch.zeros_like(log_p), {}, "", common=common)


def one(name: Any, train: Tensor, test: Tensor, **keys: Any) -> dict[str, Any]:
    return compare([name], train, scored(test, **keys), 0)[name]


def clusters(n: int, seed: int, k: int = 12) -> tuple[Tensor, Tensor]:
    """Rows of a mixture of k narrow normal laws on a circle, and their true log p."""
    angle = 2 * math.pi * torch.arange(k) / k
    means = 10 * torch.stack([angle.cos(), angle.sin()], 1).double()
    generator = torch.Generator().manual_seed(seed)
    x = means[torch.randint(k, (n,), generator=generator)] + torch.randn(n, 2, generator=generator).double()
    log_p = torch.logsumexp(-torch.cdist(x, means).square() / 2, 1) - math.log(2 * math.pi * k)
    return x, log_p


def test_a_mixture_grows_to_the_clusters_there_are() -> None:
    """8 components, once the most that were tried, are 0.2 nats short of the truth; 12 to 18 are not."""
    train, (test, log_p) = clusters(2000, 0)[0], clusters(1000, 1)
    found = one("gaussian_mixture", train, test, log_p=log_p)
    assert 12 <= found["components"] <= 18 and found["edge"] is None and found["converged"]
    assert -0.01 < -found["difference"] < 0.1, "the truth is better, by what 2000 rows leave unknown"
    assert abs(found["value"] + float(log_p.mean()) + found["difference"]) < 1e-9


def test_the_value_and_the_paired_difference_are_their_definitions() -> None:
    root = torch.tensor([[2.0, 0.0], [1.5, 0.5]], dtype=torch.float64)
    train, test = points(4000, 2, seed=1) @ root.T + 3, points(500, 2, seed=2) @ root.T + 3
    law = multivariate_normal(train.mean(0).numpy(), np.cov(train.T.numpy(), bias=True))
    model = torch.from_numpy(multivariate_normal([3, 3], (root @ root.T).numpy()).logpdf(test.numpy()))
    found = one("gaussian", train, test, log_p=model)
    expected = torch.from_numpy(law.logpdf(test.numpy()))
    assert found["value"] == pytest.approx(-float(expected.mean()), abs=1e-4)
    assert found["stderr"] == pytest.approx(float(expected.std()) / math.sqrt(500), rel=1e-3)
    gap = expected - model
    assert found["difference"] == pytest.approx(float(gap.mean()), abs=1e-4)
    assert found["difference_stderr"] == pytest.approx(float(gap.std()) / math.sqrt(500), rel=0.05)
    assert found["difference_stderr"] < found["stderr"] / 10, "paired"
    assert one("gaussian", train, test, log_p=model, common=0.5)["difference_stderr"] == pytest.approx(0.5, rel=0.01)


def test_a_kernel_density_is_the_mean_of_its_kernels() -> None:
    train, test = points(300, 2, seed=1) * torch.tensor([1.0, 4.0]), points(50, 2, seed=2) * torch.tensor([1.0, 4.0])
    found = one("kde", train, test)
    u, v = (x / train.std(0) for x in (train, test))
    kernels = [multivariate_normal(row, found["width"] ** 2).pdf(v.numpy()) for row in u.numpy()]
    log_p = np.log(np.mean(kernels, axis=0)) - float(train.std(0).log().sum())
    assert found["value"] == pytest.approx(-log_p.mean(), abs=1e-9)
    assert 0.1 < found["width"] < 1 and found["edge"] is None


def test_the_width_is_the_best_of_all_that_held_out_rows_can_choose() -> None:
    """Three narrow clusters need a width ten times below that of one normal law."""
    train = points(600, 1, seed=3) * 0.02 + torch.arange(600)[:, None] % 3
    found = one("kde", train, train)
    u = ((train - train.mean(0)) / train.std(0)).numpy()
    squares = [_baselines._squares(test, fit) for fit, test in _baselines._folds(u)]

    def held_out(width: float) -> float:
        return sum(float(_baselines._kernel_log_p(one, width, 1).mean()) for one in squares) / 3

    best = max(map(held_out, np.geomspace(0.001, 2, 40)))
    assert held_out(found["width"]) == pytest.approx(best, abs=0.02)
    assert found["width"] < 0.02 and found["edge"] is None


def test_a_best_one_at_the_edge_of_what_was_tried_says_so() -> None:
    """Of rows that stand there twice the likelihood of ever narrower kernels rises without end."""
    twice = points(60, 2, seed=1).repeat(6, 1)
    found = one("kde", twice, points(40, 2, seed=2))
    assert found["edge"].endswith("the least that was tried") and f", at {found['edge']})" in summary({"kde": found})
    train, test = clusters(300, 0)[0], clusters(50, 1)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_baselines, "WORK", 2 * 300 * 4 * (1 + 2 + 3 + 5))
        found = one("gaussian_mixture", train, test)
    assert found["edge"] == "5 components, the most that were tried"


def test_sizes_grow_by_half_within_the_work_that_is_allowed() -> None:
    assert list(_baselines._sizes(5000, 15)) == [1, 2, 3, 5, 8, 12, 18, 27, 41, 62, 93, 140]
    assert list(_baselines._sizes(30, 2)) == [1, 2, 3, 5, 8]
    assert list(_baselines._sizes(5000, 784)) == [1]


def test_two_in_a_row_below_the_best_end_the_search() -> None:
    def until(*scores: float, best: float = -math.inf) -> tuple[int, bool]:
        found, fell = _baselines._until_it_falls(range(len(scores)), lambda i: scores[i], best)
        return len(found), fell

    assert until(1, 2, 1.5, 3, 2, 1, 9) == (6, True)
    assert until(1, 2, 3) == (3, False)
    assert until(1, 2, 3, best=5.0) == (2, True)


@pytest.mark.parametrize("name", _baselines.ALL)
def test_a_baseline_that_cannot_be_fitted_is_null_with_its_reason(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    still = torch.cat([points(50, 1), torch.ones(50, 1)], 1).double()
    found = one(name, still, still)
    assert found["value"] is None and found["reason"] == "column 2 is constant in the training rows"
    assert summary({name: found}) == f"no {name} (column 2 is constant in the training rows)"
    found = one(name, points(5, 2), points(5, 2))
    assert found["reason"] == "5 training rows are too few to choose by"

    def fails(*_: Any) -> Any:
        raise ValueError("Input X contains NaN.\nGaussianMixture does not accept missing values")

    monkeypatch.setitem(_baselines.FITS, name, fails)
    found = one(name, points(50, 2), points(5, 2))
    assert found["reason"] == "it cannot be fitted: ValueError: Input X contains NaN."


def test_how_many_rows_they_were_fitted_to_is_said_where_it_is_not_all() -> None:
    train, test = points(6000, 1, seed=1), points(50, 1, seed=2)
    found = compare(["gaussian"], train, scored(test), 0)
    assert found["gaussian"]["fitted_on"] == 5000 and found["gaussian"]["training_rows"] == 6000
    assert summary(found).endswith(", fitted to 5000 of 6000 training rows")
    assert "fitted to" not in summary(compare(["gaussian"], train[:4000], scored(test), 0))


def test_one_reason_for_all_is_told_once() -> None:
    found = compare(_baselines.ALL, points(5, 2), scored(points(5, 2)), 0)
    assert summary(found) == "no baselines (5 training rows are too few to choose by)"


@pytest.mark.slow
def test_thirty_clusters_in_fifteen_columns_are_found_within_half_a_minute() -> None:
    """8 components, once the most that were tried, are more than 6 nats worse."""
    rng = np.random.default_rng(0)
    means, roots = 2 * rng.normal(size=(30, 15)), 0.4 * rng.normal(size=(30, 15, 15))

    def draw(n: int) -> Tensor:
        k = rng.integers(0, 30, n)
        return torch.from_numpy(means[k] + np.einsum("nij,nj->ni", roots[k], rng.normal(size=(n, 15))))

    train, test = draw(5000), draw(1000)
    found = one("gaussian_mixture", train, test)
    assert 27 <= found["components"] <= 62 and found["edge"] is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_baselines, "WORK", 2 * 5000 * 225 * 31)
        few = one("gaussian_mixture", train, test)
    assert few["components"] == 8 and few["edge"] and few["value"] - found["value"] > 6
