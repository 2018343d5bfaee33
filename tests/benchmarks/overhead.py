"""What the pipeline adds to a training step: `python tests/benchmarks/overhead.py` prints one ratio.

With `--listen` a plugin that implements the step hook is told of every step too.

The same mathematics written out by hand (MLP 64-64-64 tanh with its closed-form trace, Lobatto with N = 10, Adam,
clipped gradient, averaged weights) against the pipeline's loop with its records, checkpoints and observers. Steps of
both are taken in turn, so that a busy machine slows both alike. Weights agree to rounding (1e-7) for some tens of
steps; training then magnifies it.
"""

from __future__ import annotations

import copy
import itertools
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.distributions import Normal

sys.path.insert(0, str(Path(__file__).parent.parent))

import tiny

from driftspec.components.observer import Observer, RunInfo
from driftspec.experiment.train import Training, train
from driftspec.registry import Registry, hookimpl, installed
from driftspec.runs.dispatch import Audience, members
from driftspec.runs.run_dir import RunDir
from driftspec_plugins.networks._trace import chain_trace
from driftspec_plugins.solvers.lobatto import gauss_lobatto

STEPS, N, RATE, DECAY, CLIP, BATCH = 400, 10, 1e-2, 0.98, 5.0, 256
SPEC = (
    "data={type: moons, samples: 50000, noise: 0.05, standardize: scale}", "dynamics.network.hidden=[64, 64, 64]",
    "estimator={type: exact_trace, check_every: 100000}", f"train.steps={STEPS}", f"train.batch_size={BATCH}",
    f"train.optimizer={{type: adam, lr: {RATE}}}", f"train.clip_norm={CLIP}", f"train.ema={DECAY}",
    "train.checkpoint_every=200", "train.log_every=10",
)  # fmt: skip


class Net(nn.Module):
    """MLP [x, t]-64-64-64-2, tanh, as one writes it."""

    def __init__(self, weights: list[Tensor]):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(w.shape[1], w.shape[0]) for w in weights[::2])
        with torch.no_grad():
            for p, w in zip(self.parameters(), weights, strict=True):
                p.copy_(w)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        h = torch.cat([x, t.expand(len(x), 1)], 1)
        for layer in self.layers[:-1]:
            h = torch.tanh(layer(h))
        return self.layers[-1](h)

    def trace(self, t: Tensor, x: Tensor) -> Tensor:
        slopes, h = [], torch.cat([x, t[:, None]], 1)
        for layer in self.layers[:-1]:
            h = torch.tanh(layer(h))
            slopes.append(1 - h * h)
        weights = [layer.weight for layer in self.layers]
        return chain_trace([weights[0][:, :2], *weights[1:]], slopes)


def by_hand(rows: Tensor, batches: Iterator[Tensor], weights: list[Tensor]) -> Iterator[float]:
    """Processor seconds of each step; at the end the weights are those reached."""
    net = Net(weights)
    mean = copy.deepcopy(net)
    prior = Normal(torch.zeros(2), torch.ones(2))
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    nodes, lobatto = (torch.tensor(value) for value in gauss_lobatto(N))
    times = torch.lerp(torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64), (1 + nodes) / 2)
    lengths, middles = (value.float() for value in (times.diff(), (times[1:] + times[:-1]) / 2))
    ends, lobatto = times.float(), lobatto.float()
    for batch in batches:
        started = time.process_time()
        x = rows[batch]
        states = [x]
        for t, middle, end, h in zip(ends[:-1], middles, ends[1:], lengths):
            k1 = net(t, x)
            k2 = net(middle, x + h / 2 * k1)
            k3 = net(middle, x + h / 2 * k2)
            k4 = net(end, x + h * k3)
            x = x + h / 6 * (k1 + 2 * (k2 + k3) + k4)
            states.append(x)
        traces = net.trace(ends.repeat_interleave(BATCH), torch.cat(states))
        integral = (times[-1] - times[0]).float() / 2 * (lobatto @ traces.view(N + 1, BATCH))
        loss = -(prior.log_prob(x).sum(1) + integral).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        with torch.no_grad():
            for average, now in zip(mean.parameters(), net.parameters()):
                average.lerp_(now, 1 - DECAY)
        if not math.isfinite(loss.item()):
            raise RuntimeError("the loss is no number")
        yield time.process_time() - started
    for w, p in zip(weights, net.parameters(), strict=True):
        w.copy_(p.detach())


def audience(training: Training, directory: RunDir, listen: bool) -> Audience:
    """Those who are told: nobody, or one plugin."""
    registry = Registry(dict(installed().providers))
    if listen:
        plugin = ModuleType("ears")
        plugin.driftspec_step = hookimpl(specname="driftspec_step")(lambda run, record: None)  # type: ignore[attr-defined]
        registry.add(plugin, "ears", "ears", "1")
    spec = training.experiment.spec
    told = Audience(Observer(), members(spec, registry, directory.path), print)
    told.started(RunInfo("", spec.name, directory.path, spec, (), STEPS, 0, False, None, directory.records))
    return told


def by_pipeline(training: Training, directory: RunDir, told: Audience) -> Iterator[float]:
    """Processor seconds of each step, with the record, the checkpoint and the news that follow it."""
    started = time.process_time()
    for record in train(training):
        if record.step % training.settings.log_every == 0:
            directory.append_record(record.line())
        told.step(record, STEPS)
        if record.step % training.settings.checkpoint_every == 0:
            directory.save_checkpoint(training.step, training.checkpoint().entries())
        yield time.process_time() - started
        started = time.process_time()


def main() -> None:
    torch.set_num_threads(1)
    training = Training(tiny.experiment(*SPEC))
    weights = [p.detach().clone() for p in training.model.parameters()]
    size = len(training.rows) // BATCH
    orders = (
        torch.randperm(len(training.rows), generator=training.streams.at(epoch).generator("order"))
        for epoch in itertools.count()
    )
    batches = (order[i * BATCH : (i + 1) * BATCH] for order in orders for i in range(size))
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDir.create(Path(folder) / "run", "overhead", "0" * 8, datetime.now(UTC))
        hand = by_hand(training.rows, itertools.islice(batches, STEPS), weights)
        told = audience(training, directory, "--listen" in sys.argv)
        pairs = list(zip(hand, by_pipeline(training, directory, told), strict=True))
    apart = max(float((a - b.detach()).abs().max()) for a, b in zip(weights, training.model.parameters(), strict=True))
    alone, within = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs))
    ratio = (within / alone).median()
    every = (within.sum() - alone.sum()) / alone.sum()
    print(
        f"a step by hand {1e3 * alone.median():.2f} ms, within the pipeline {1e3 * within.median():.2f} ms, "
        f"ratio {ratio:.3f} (median of {STEPS} pairs), {every:+.1%} in all with checkpoints; weights {apart:.0e} apart"
    )


if __name__ == "__main__":
    main()
