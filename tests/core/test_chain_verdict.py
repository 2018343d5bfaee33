"""The verdict on chains: bad where they did not converge, good where they did, unknown where nothing can tell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution

from driftspec.accuracy import chain_verdict
from driftspec.accuracy.chain_verdict import judge, seen
from driftspec.accuracy.convergence import bulk, mean_error, size, split, split_r_hat, tail
from driftspec.components import Verdict


def autoregressive(chains: int, draws: int, phi: float, rng: np.random.Generator) -> Any:
    """(chains, draws), x' = φ x + √(1 - φ²) ε, stationary N(0, 1)."""
    noise = rng.standard_normal((chains, draws))
    x = noise.copy()
    for t in range(1, draws):
        x[:, t] = phi * x[:, t - 1] + math.sqrt(1 - phi**2) * noise[:, t]
    return x


def verdict(x: Any, half: Any = None, start: Any = None, log_p: Any = None, **counts: float) -> Verdict:
    """On draws x (chains, draws) or (chains, draws, d), which began far away and were at `half` of the steps."""
    values = torch.from_numpy(np.atleast_3d(x))
    first = torch.full_like(values[:, 0], 9.0) if start is None else torch.from_numpy(start)
    middle = first if half is None else torch.from_numpy(half)
    known = None if log_p is None else torch.from_numpy(log_p)
    return judge(seen(first, [middle, *values.unbind(1)], known, (50, 100), counts))


def test_several_draws_a_chain_are_judged_by_r_hat_and_effective_sizes() -> None:
    rng = np.random.default_rng(0)
    good = autoregressive(8, 1000, 0.3, rng)
    found = verdict(good)
    assert (found.subject, found.outcome, found.severity) == ("chains", "converged", "good")
    fewest = min(bulk(good), tail(good))
    assert found.reason.startswith(f"R-hat {split_r_hat(good):.3f} (x1) of 8 chains, {fewest:.0f} effective draws (")

    apart = good + 0.5 * np.arange(8)[:, None]
    found = verdict(np.stack([good, apart], -1))
    assert (found.outcome, found.severity) == ("not_converged", "bad")
    assert found.reason.startswith(f"R-hat {split_r_hat(apart):.3f} (x2)") and found.reason.endswith(
        "R-hat is above 1.01"
    )


def test_chains_whose_draws_are_worth_too_few_are_not_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-hat below its limit, and 400 effective draws are not reached."""
    x = autoregressive(4, 4000, 0.97, np.random.default_rng(3))
    assert min(bulk(x), tail(x)) < 400
    monkeypatch.setattr(chain_verdict, "R_HAT", 1.1)
    found = verdict(x)
    assert found.outcome == "not_converged" and found.reason.endswith(f"of {x.size}: at least 400 are needed")
    monkeypatch.setattr(chain_verdict, "R_HAT", 9.0)
    assert verdict(autoregressive(4, 30, 0.9, np.random.default_rng(1))).reason.endswith("120: at least 60 are needed")
    short = verdict(autoregressive(4, 30, 0.0, np.random.default_rng(1)))
    assert short.outcome == "converged"  # half of 120 draws are enough


def test_log_p_is_judged_too() -> None:
    """Chains that agree in every coordinate and differ in their distance from the mode."""
    rng = np.random.default_rng(0)
    x, levels = autoregressive(8, 500, 0.0, rng), autoregressive(8, 501, 0.0, rng) + np.arange(8)[:, None]
    found = verdict(x, log_p=levels)
    assert found.outcome == "not_converged" and "(log p)" in found.reason
    assert verdict(x, log_p=autoregressive(8, 501, 0.0, rng)).outcome == "converged"


def test_chains_that_do_not_move_are_not_converged() -> None:
    rng = np.random.default_rng(0)
    x = autoregressive(8, 50, 0.0, rng)
    refused = verdict(x, accepted=0.0, proposed=400.0, non_finite_proposals=300.0)
    assert refused.reason == "no proposal was accepted, of 400; 300 proposals were not finite"
    assert verdict(x, accepted=9.0, proposed=400.0).outcome == "converged"
    stuck = x.copy()
    stuck[2] = 9.0
    assert verdict(stuck).reason == "1 of 8 chains are still at their start"
    one = rng.standard_normal((1000, 1))
    one[:11] = 9.0
    assert verdict(one, half=rng.standard_normal((1000, 1))).reason == "11 of 1000 chains are still at their start"
    one[5:] = rng.standard_normal((995, 1))
    assert "still" not in verdict(one, half=rng.standard_normal((1000, 1))).reason  # 5 do not change the law
    held = np.stack([x, np.broadcast_to(np.arange(8.0)[:, None], x.shape)], -1)
    assert verdict(held).reason == "nothing moves within the chains: x2"
    rest = verdict(np.zeros((60, 1)), half=np.full((60, 1), 1e-16))
    assert rest.outcome == "unknown" and "came to rest: nothing moved from step 50 to step 100" in rest.reason


def test_one_draw_a_chain_is_judged_by_what_changed_since_half_of_the_steps() -> None:
    rng = np.random.default_rng(0)
    half, last = rng.standard_normal((2, 400, 3))
    assert verdict(last[:, None], half).outcome == "converged"
    for change, named in ((last + np.array([0, 0.5, 0]), "the mean of x2"), (last * [1, 1, 1.6], "the variance of x3")):
        found = verdict(change[:, None], half)
        assert (found.outcome, found.severity) == ("not_converged", "bad")
        assert f"from step 50 to step 100 {named} over 400 chains went from" in found.reason
    near = verdict((half + 0.3 * last)[:, None] / math.sqrt(1.09), half)
    assert (near.outcome, near.severity) == ("unknown", "unknown") and "stays near where it was" in near.reason
    few = "40 chains of 1 draw are too few for a verdict: at least 50 are needed"
    assert verdict(last[:40, None], half[:40]).reason == few
    assert verdict(last[:1, None], half[:1]).reason == "one chain of 1 draw is too short for a verdict"
    flipped = half[:, :1] * rng.choice([-1, 1], (400, 1))  # each keeps its distance from 0, and forgets its sign
    assert verdict(flipped[:, None], half[:, :1]).outcome == "unknown"


def test_many_chains_of_few_draws_are_judged_together() -> None:
    """R-hat of short chains that hardly move is large, however well all of them cover the law."""
    rng = np.random.default_rng(0)
    x = autoregressive(200, 8, 0.9, rng)
    assert split_r_hat(x) > 1.3
    assert verdict(x, half=rng.standard_normal((200, 1))).outcome == "converged"
    assert verdict(x[:10], half=rng.standard_normal((10, 1))).outcome == "not_converged"
    assert verdict(autoregressive(10, 8, 0.0, rng), half=rng.standard_normal((10, 1))).outcome == "unknown"


def test_chains_that_converged_are_hardly_ever_called_bad() -> None:
    """By chance less than once in 1000 runs, also of skewed laws: of 3000 at most 8 with probability 0.996."""
    rng = np.random.default_rng(0)
    bad = 0
    for _ in range(1500):
        before, after = rng.standard_normal((2, 50, 4))
        for x, y in ((before, 0.4 * before + math.sqrt(0.84) * after), (np.exp(before), np.exp(after))):
            z, limit = chain_verdict._changes(np.hstack([x, x**2]), np.hstack([y, y**2]), np.zeros(8))
            bad += bool(np.abs(z).max() > limit)
    assert bad <= 8


@pytest.mark.parametrize(("chains", "draws", "phi"), [(200, 8, 0.95), (4, 8, 0.9), (50, 10, 0.5), (30, 40, 0.9)])
def test_the_error_of_a_mean_covers_it(chains: int, draws: int, phi: float) -> None:
    """95 % of means are within 1.96 of it, which it takes from the spread of the chains' own means."""
    rng, times = np.random.default_rng(0), 600
    inside = 0
    for _ in range(times):
        x = autoregressive(chains, draws, phi, rng)
        error = mean_error(x)
        inside += error is not None and abs(x.mean()) < 1.96 * error
    assert abs(inside / times - 0.95) < 4 * math.sqrt(0.95 * 0.05 / times)


def test_the_limit_of_r_hat_is_what_short_chains_exceed_by_chance() -> None:
    """R-hat² = (F + n - 1)/n, F of 2M - 1 and 2M (n - 1) degrees of freedom for 2M halves of n independent draws."""
    quantile = f_distribution.isf(chain_verdict.ALPHA / 4, 19, 60)
    assert chain_verdict._r_hat_limit(10, 8, 2) == pytest.approx(math.sqrt((quantile + 3) / 4))
    assert chain_verdict._r_hat_limit(8, 1000, 2) == 1.01


def test_errors_of_many_chains_need_no_autocorrelation_and_of_a_few_long_ones_do() -> None:
    x = autoregressive(20, 60, 0.5, np.random.default_rng(0))
    assert mean_error(x) == pytest.approx(t_distribution.ppf(0.975, 19) / 1.96 * x.mean(1).std(ddof=1) / math.sqrt(20))
    assert mean_error(x[:4]) == pytest.approx(x[:4].std(ddof=1) / math.sqrt(size(split(x[:4]))))


def test_one_short_chain_has_no_error() -> None:
    x = autoregressive(1, 40, 0.0, np.random.default_rng(0))
    assert mean_error(x[:, :8]) is None and mean_error(x) is not None
