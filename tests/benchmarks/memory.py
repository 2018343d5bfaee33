"""Memory of one gradient step against the number of steps: the adjoint keeps none of them, backpropagation every one.

    python tests/benchmarks/memory.py [-o memory.png]

MiB that autograd holds at the highest moment of a forward and a backward pass: every saved tensor's storage, counted
once while it lives. That number is the same on every machine. Field [x, t]-64-64-64-2 of tanh, 512 points, float32, one
likelihood with the exact trace (d backward passes, no closed form) from t = 1 to 0. Measured:

    MiB, steps:               16       64      256
    adjoint, heun3           1.9      1.9      1.9
    backprop, heun3         90.3    361.2   1444.6
    backprop, lobatto       56.4    219.8    873.4

The adjoint holds one evaluation's graph, whatever N; `lobatto` differentiates the divergence at nodes alone.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from driftspec.components import Network, Solver
from driftspec_plugins.estimators.exact_trace import ExactTrace

STEPS = (16, 64, 256)
CASES = {
    "adjoint, heun3": {"type": "heun3", "gradient": "adjoint"},
    "backprop, heun3": {"type": "heun3", "gradient": "backprop"},
    "backprop, lobatto": {"type": "lobatto"},
}


class _Held:
    """What autograd keeps in a tensor's place."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor.detach()  # with its graph it would hold itself


class Saved(torch.autograd.graph.saved_tensors_hooks):
    """Bytes of the storages that autograd has saved and not yet freed: `now`, and at most `peak`."""

    def __init__(self) -> None:
        self.holders: Counter[int] = Counter()
        self.now = self.peak = 0
        super().__init__(self._pack, lambda held: held.tensor)

    def _pack(self, tensor: Tensor) -> _Held:
        held, storage = _Held(tensor), tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        self.now += 0 if self.holders[key] else size
        self.holders[key] += 1
        self.peak = max(self.peak, self.now)
        weakref.finalize(held, self._freed, key, size)
        return held

    def _freed(self, key: int, size: int) -> None:
        self.holders[key] -= 1
        self.now -= 0 if self.holders[key] else size


def gradient_step(solver: Solver, steps: int | None, rows: int = 512, width: int = 64) -> Saved:
    """One forward and backward pass of a likelihood, watched."""
    generator = torch.Generator().manual_seed(0)
    net = Network.make({"type": "mlp", "hidden": [width] * 3}).build(2, 2, generator)
    x, trace = torch.randn(rows, 2, generator=generator), ExactTrace()

    def rates(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        value, divergence = trace.divergence(lambda z: net(t, z), y)
        return value, divergence[:, None]

    saved = Saved()
    with saved:
        path = solver.solve(net, x, 1.0, 0.0, rates, steps, tuple(net.parameters()))
        (path.state.square().sum(1) / 2 - path.integrals[:, 0]).mean().backward()
    return saved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", type=Path, metavar="FILE", help="draw the curves into a picture")
    out = parser.parse_args().o
    torch.set_num_threads(1)
    sys.stdout.write(f"{'MiB, steps:':20}" + "".join(f"{n:>9}" for n in STEPS) + "\n")
    curves = {}
    for name, body in CASES.items():
        curves[name] = [gradient_step(Solver.make(body), n).peak / 2**20 for n in STEPS]
        sys.stdout.write(f"{name:20}" + "".join(f"{mib:9.1f}" for mib in curves[name]) + "\n")
    if out is not None:
        draw(curves, out)


def draw(curves: dict[str, list[float]], out: Path) -> None:
    """MiB against steps, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="steps N", ylabel="saved for the backward pass, MiB")
    for name, mib in curves.items():
        axes.loglog(STEPS, mib, marker="o", label=name)
    axes.set_xticks(STEPS, map(str, STEPS))
    axes.minorticks_off()
    axes.legend()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
