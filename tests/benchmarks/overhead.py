"""What the pipeline adds to a training step: `python tests/benchmarks/overhead.py` prints one ratio.

The same mathematics written out by hand (MLP 64-64-64 tanh with its closed-form trace, Lobatto with N = 10, Adam, clipped
gradient, averaged weights) against the pipeline's loop with its records and checkpoints. Steps of both are taken in turn,
so that a busy machine slows both alike, and both end with the same weights.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

sys.path.insert(0, str(Path(__file__).parent.parent))

import tiny

from driftspec.run_dir import RunDir
from driftspec.train import Training, train
from driftspec_plugins.networks._trace import chain_trace
from driftspec_plugins.solvers.lobatto import gauss_lobatto

STEPS, N, RATE, DECAY, CLIP, BATCH = 400, 10, 1e-2, 0.98, 5.0, 256
SPEC = (
    "data={type: moons, samples: 50000, noise: 0.05, standardize: scale}", "dynamics.network.hidden=[64, 64, 64]",
    "estimator={type: exact_trace, check_every: 100000}", f"train.steps={STEPS}", f"train.batch_size={BATCH}",
    f"train.optimizer={{type: adam, lr: {RATE}}}", f"train.clip_norm={CLIP}", f"train.ema={DECAY}",
    "train.checkpoint_every=200", "train.log_every=10",
)  # fmt: skip


def by_hand(rows: Tensor, batches: Iterator[Tensor], weights: list[Tensor]) -> Iterator[float]:
    """Processor seconds of each step."""
    p = [w.clone().requires_grad_() for w in weights]  # w0, b0, ..., w3, b3
    mean = [w.clone() for w in weights]
    optimizer = torch.optim.Adam(p, lr=RATE)
    nodes, lobatto = (torch.tensor(value) for value in gauss_lobatto(N))
    times = torch.lerp(torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64), (1 + nodes) / 2)
    lengths, middles = (value.float() for value in (times.diff(), (times[1:] + times[:-1]) / 2))
    ends, lobatto = times.float(), lobatto.float()

    def joined(t: Tensor, x: Tensor) -> Tensor:
        return torch.cat([x, t[..., None].expand(len(x), -1)], 1)

    def f(t: Tensor, x: Tensor) -> Tensor:
        h = torch.tanh(linear(joined(t, x), p[0], p[1]))
        h = torch.tanh(linear(h, p[2], p[3]))
        h = torch.tanh(linear(h, p[4], p[5]))
        return linear(h, p[6], p[7])

    def trace(t: Tensor, x: Tensor) -> Tensor:
        slopes, a = [], linear(joined(t, x), p[0], p[1])
        for i in (2, 4, 6):
            h = torch.tanh(a)
            slopes.append(1 - h * h)
            a = linear(h, p[i], p[i + 1])
        return chain_trace([p[0][:, :2], p[2], p[4], p[6]], slopes)

    for batch in batches:
        started = time.process_time()
        x, states = rows[batch], [rows[batch]]
        for t, middle, end, h in zip(ends[:-1], middles, ends[1:], lengths):
            k1 = f(t, x)
            k2 = f(middle, x + h / 2 * k1)
            k3 = f(middle, x + h / 2 * k2)
            k4 = f(end, x + h * k3)
            x = x + h / 6 * (k1 + 2 * (k2 + k3) + k4)
            states.append(x)
        traces = trace(ends.repeat_interleave(BATCH), torch.cat(states))
        integral = (times[-1] - times[0]).float() / 2 * (lobatto @ traces.view(N + 1, BATCH))
        loss = -(-(x.square().sum(1)) / 2 - 1.8378770664093453 + integral).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(p, CLIP)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(mean, p, 1 - DECAY)
        loss.item()
        yield time.process_time() - started
    for w, done in zip(weights, p, strict=True):
        w.copy_(done.detach())


def by_pipeline(training: Training, directory: RunDir) -> Iterator[float]:
    """Processor seconds of each step, with the record and the checkpoint that follow it."""
    started = time.process_time()
    for record in train(training):
        if record.step % training.settings.log_every == 0:
            directory.append_record(record.line())
        if record.step % training.settings.checkpoint_every == 0:
            directory.save_checkpoint(training.step, training.tree())
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
        pairs = list(zip(hand, by_pipeline(training, directory), strict=True))
    apart = max(float((a - b.detach()).abs().max()) for a, b in zip(weights, training.model.parameters(), strict=True))
    alone, within = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs))
    ratio = (within / alone).median()
    every = (within.sum() - alone.sum()) / alone.sum()
    print(
        f"a step by hand {1e3 * alone.median():.2f} ms, within the pipeline {1e3 * within.median():.2f} ms, "
        f"ratio {ratio:.3f} (median of {STEPS} pairs), {every:+.1%} in all with checkpoints; weights differ by {apart:.1e}"
    )


if __name__ == "__main__":
    main()
