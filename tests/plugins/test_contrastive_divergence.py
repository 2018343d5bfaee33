"""Contrastive divergence: its gradient at known models, its minimiser, persistent chains, and a resumed run."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import quadratic
import small_spec
import tiny
import torch
from torch import Tensor

from driftspec.components import Estimator, Model
from driftspec.errors import RunFailed
from driftspec.experiment.records import CheckpointRecord
from driftspec.experiment.train import Training, train
from driftspec.runs import checkpoint
from driftspec.streams import Streams

MALA = {"type": "mala", "step": 0.8, "steps": 40}
SPEC = """\
version: 1
name: pcd
data: {type: rings, samples: 600, standardize: scale}
dynamics: {type: langevin, predicts: energy, network: {type: mlp, hidden: [8], activation: silu}}
estimator:
  type: contrastive_divergence
  sampler: {type: langevin, step: 0.05, steps: 5}
  persistent: {chains: 300, restart: 0.1}
  energy_l2: 0.01
sampler: {type: langevin, step: 0.05, steps: 10}
train: {steps: 6, batch_size: 64, optimizer: {type: adam, lr: 1e-2}}
sample: {count: 100}
"""


def divergence(**keys: object) -> Estimator:
    return Estimator.make({"type": "contrastive_divergence", **keys})


def with_rows(model: Model, rows: Tensor) -> Model:
    return replace(model, rows=lambda: rows)


def gaussian(k: Tensor, n: int, seed: int = 0) -> Tensor:
    """Rows whose second moments are exactly K⁻¹."""
    x = torch.randn(n, len(k), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    whiten = torch.linalg.cholesky((x.T @ x / n).inverse())
    return x @ whiten @ torch.linalg.cholesky(k.inverse()).T


@pytest.mark.parametrize("d", [1, 4])
def test_the_gradient_is_the_difference_of_second_moments_within_four_standard_errors(d: int) -> None:
    """∂L/∂K = ½ (M̂ - E_p[xxᵀ]) = ½ (M̂ - K⁻¹), with MALA from the data, far from K's own law, for 40 steps."""
    (x, moments), k = quadratic.data(d, 512), quadratic.symmetric(d)
    made, slopes = divergence(sampler=MALA), []
    for step in range(1, 41):
        at = k.clone().requires_grad_()
        loss = quadratic.value(made, quadratic.model(at, "energy"), x, Streams(2).at(step))
        slopes.append(torch.autograd.grad(loss, at)[0].flatten())
    for column, closed in zip(torch.stack(slopes).T, ((moments - k.inverse()) / 2).flatten(), strict=True):
        assert abs(tiny.z_score(column, closed.item())) < 4


@pytest.mark.parametrize("d", [1, 4])
def test_persistent_chains_lead_to_the_inverse_of_the_second_moments(d: int) -> None:
    """Averaged iterates of K by gradient steps: within four standard errors (by 20 means) of M̂⁻¹."""
    x, moments = quadratic.data(d, 512)
    k = torch.eye(d, dtype=torch.float64) * 2
    start = {"type": "gaussian", "std": 2.0}
    made = divergence(sampler={**MALA, "steps": 3}, persistent={"chains": 512, "restart": 0.0, "start": start})
    state = made.start(quadratic.model(k, "energy"), quadratic.STREAMS)
    kept = []
    for step in range(1, 501):
        at = k.clone().requires_grad_()
        loss = made.loss(quadratic.model(at, "energy"), x, state, Streams(4).at(step))
        slope = torch.autograd.grad(loss.value, at)[0]
        k, state = k - 0.3 * (slope + slope.T) / 2, loss.state
        if step > 100:
            kept.append(k.flatten())
    means = torch.stack(kept).view(20, 20, -1).mean(1)
    for column, closed in zip(means.T, moments.inverse().flatten(), strict=True):
        assert abs(tiny.z_score(column, closed.item())) < 4


def test_at_the_truth_one_short_run_from_the_data_has_no_gradient() -> None:
    """CD-1 with MALA keeps the law of the data, so that its gradient at K = M̂⁻¹ is noise alone."""
    k, slopes = quadratic.symmetric(2), []
    x = gaussian(k, 4096)
    for step in range(1, 41):
        at = k.clone().requires_grad_()
        made = divergence(sampler={**MALA, "steps": 1})
        loss = quadratic.value(made, quadratic.model(at, "energy"), x, Streams(6).at(step))
        slopes.append(torch.autograd.grad(loss, at)[0].flatten())
    spread = torch.stack(slopes)
    # the rows are one draw: their own mismatch is of the order of 1/√n
    assert (spread.mean(0).abs() < 4 * (spread.std(0) / math.sqrt(40) + 0.3 / math.sqrt(4096))).all()


def test_the_value_is_the_difference_of_energies_with_l2_on_both() -> None:
    x, k = quadratic.data(2)[0], quadratic.symmetric(2)
    model = quadratic.model(k, "energy")
    still = {"type": "langevin", "step": 1e-12, "temperature": 0.0, "steps": 1}

    def energy(y: Tensor) -> Tensor:
        return ((y @ k) * y).sum(1) / 2

    away = torch.ones(64, 2, dtype=torch.float64) * 1.7
    made = divergence(sampler=still, persistent={"chains": 64, "restart": 0.0}, energy_l2=0.03)
    loss = made.loss(model, x, {"chains": away}, quadratic.STREAMS)
    own = energy(away[:1]).item()
    closed = energy(x).mean().item() - own + 0.03 * (energy(x).square().mean().item() + own**2)
    assert loss.value.item() == pytest.approx(closed, rel=1e-9)
    assert loss.terms == {
        "energy_data": pytest.approx(energy(x).mean().item()),
        "energy_samples": pytest.approx(own, rel=1e-9),
    }
    assert divergence(sampler=still).loss(model, x, {}, quadratic.STREAMS).value.item() == pytest.approx(0, abs=1e-9)


def test_a_batch_of_chains_moves_the_others_rest_and_some_begin_anew() -> None:
    x, rows = torch.zeros(50, 2).double(), torch.full((9, 2), 100.0).double()
    model = with_rows(quadratic.model(torch.eye(2).double(), "energy"), rows)
    still = {"type": "langevin", "step": 1e-12, "temperature": 0.0, "steps": 1}
    made = divergence(sampler=still, persistent={"chains": 400, "restart": 0.3})
    before = made.start(model, quadratic.STREAMS)["chains"]
    assert before.shape == (400, 2)
    assert (before == 100).all()  # they begin at training rows
    moved = {"chains": torch.randn(400, 2, generator=torch.Generator().manual_seed(0)).double()}
    anew, touched = 0, torch.zeros(400, dtype=torch.bool)
    for step in range(1, 61):
        now = made.loss(model, x, moved, Streams(1).at(step)).state["chains"]
        changed = (now != moved["chains"]).any(1)
        assert changed.sum() <= 50
        touched |= changed
        anew += int((now > 50).all(1).sum())
    assert abs(anew - 0.3 * 50 * 60) < 4 * math.sqrt(0.3 * 0.7 * 50 * 60)
    assert touched.float().mean() > 0.95  # every chain has its turn
    law = {"type": "gaussian", "mean": [7.0, 7.0], "std": 0.1}
    noisy = divergence(sampler=still, persistent={"chains": 400, "restart": 1.0, "start": law})
    now = noisy.loss(model, x, moved, quadratic.STREAMS).state["chains"]
    assert int(((now - 7).abs() < 1).all(1).sum()) == 50


def test_the_samples_carry_no_gradient_and_mala_says_how_many_it_accepts() -> None:
    x, k = quadratic.data(2)[0], quadratic.symmetric(2).requires_grad_()
    loss = divergence(sampler=MALA).loss(quadratic.model(k, "energy"), x, {}, quadratic.STREAMS)
    (slope,) = torch.autograd.grad(loss.value, k)
    assert slope.isfinite().all()
    assert 0.3 < loss.terms["acceptance"] < 1
    with pytest.raises(RunFailed, match="sampler 'langevin': chain 0 of 40 is no longer finite after step"):
        wild = {"type": "langevin", "step": 1e30, "steps": 20}
        divergence(sampler=wild).loss(quadratic.model(k, "energy"), x, {}, quadratic.STREAMS)


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    """Chains and all, through the checkpoint's bytes."""
    whole = Training(tiny.experiment(text=SPEC))
    records = list(train(whole))
    half = Training(tiny.experiment(text=SPEC))
    steps = train(half)
    first = [next(steps) for _ in range(3)]
    tree = CheckpointRecord.read(checkpoint.decode(*checkpoint.encode(half.checkpoint().entries())))
    again = Training(tiny.experiment(text=SPEC))
    again.restore(tree)
    rest = list(train(again))
    assert [r.loss for r in records] == [r.loss for r in [*first, *rest]]
    assert checkpoint.encode(whole.checkpoint().entries()) == checkpoint.encode(again.checkpoint().entries())
    chains = whole.checkpoint().estimator["chains"]
    assert chains.shape == (300, 2)
    assert not torch.equal(chains, tree.estimator["chains"])


def test_the_spec_is_valid_and_what_has_no_use_is_refused() -> None:
    assert small_spec.said(SPEC) == []
    assert small_spec.said(SPEC, "dynamics.network.activation=elu") == []  # the loss holds no second derivative
    made = small_spec.loaded(SPEC).spec.estimator
    assert made is not None
    assert made.body()["sampler"] == {"type": "langevin", "steps": 5, "step": 0.05, "temperature": 1.0}
    assert divergence().body()["sampler"]["steps"] == 20
    (text,) = small_spec.said(SPEC, "dynamics.predicts=score")
    assert "needs an energy (to lower at the data and raise at samples)" in text
    assert "'burn_in'" in small_spec.said(SPEC, "estimator.sampler.burn_in=3")[0]
    assert "is not allowed here" in small_spec.said(SPEC, "estimator.sampler={type: ode}")[0]
    adapting = "estimator.sampler={type: mala, step: 0.1, adapt: true}"
    assert "'adapt' has no use" in small_spec.said(SPEC, adapting)[0]
    assert "'chain' in estimator.persistent" in small_spec.said(SPEC, "estimator.persistent={chain: 3}")[0]
    bad = small_spec.said(SPEC, "estimator.persistent.start={type: mooons}")[0]
    assert "mooons" in bad
