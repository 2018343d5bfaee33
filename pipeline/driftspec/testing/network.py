"""Checks of a network: each row depends on itself only, every parameter is trained, f is as smooth as stated."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from driftspec.components import Network
from driftspec.components._bound import Bound
from driftspec.testing.checks import apart, expect, generator, no_global_draws, normal, rows_alone, same, unfit
from driftspec.testing.component import ComponentTests

D = 3
HALVINGS = 16
"""How often the intervals where a derivative changes most are halved. Elsewhere the change gets 2^16 times smaller,
at a jump it stays."""
LEFT = 0.02
"""The part of the change that must remain for a jump."""


class NetworkTests(ComponentTests):
    """Checks of a network, built with as many outputs as inputs, and also with one output as for an energy."""

    kind = "network"

    def module(self, d_out: int = D, seed: int = 1) -> nn.Module:
        """Return a float64 module with changed parameters: a last layer of zeros would hide the others."""
        module = built(self.made(), D, d_out, seed).double()
        moved(module)
        return module

    def test_values_have_a_row_a_sample_and_a_column_an_output(self) -> None:
        x, t = normal(5, D), torch.tensor(0.3, dtype=torch.float64)
        for d_out in (D, 1):
            module = self.module(d_out)
            shape = tuple(module(t, x).shape)
            expect(shape == (5, d_out), f"with {d_out} outputs a batch of 5 gives shape {shape}, not (5, {d_out})")
        one, each = self.module()(t, x), self.module()(t.expand(5), x)
        expect(apart(one, each) < 1e-9, "one time for all rows, t (), and the same time for each, t (B,), differ")

    def test_a_row_depends_on_no_other(self) -> None:
        module = self.module()
        rows_alone(module, normal(16).abs(), normal(16, D, seed=8), what=f"{self.made().label} in training mode")

    def test_the_same_input_gives_the_same_output(self) -> None:
        module, x, t = self.module(), normal(4, D), torch.tensor(0.5, dtype=torch.float64)
        with no_global_draws(self.made().label):
            first, second = module(t, x), module(t, x)
        expect(same(first, second), "called twice with one input, it gives two outputs: an ODE needs one velocity")

    def test_the_same_seed_gives_the_same_parameters(self) -> None:
        made = self.made()
        first, second = (dict(built(made, D, D, 1).state_dict()) for _ in range(2))
        expect(same(first, second), "built twice from one seed, it has two sets of parameters")
        if first:
            other = dict(built(made, D, D, 2).state_dict())
            expect(not same(first, other), "every seed gives the same parameters: draw them from the generator")
        if type(made).parameters is not Network.parameters:
            with no_global_draws(f"parameters() of {made.label}"):
                made.parameters(D, D, generator())

    def test_float32_and_float64_agree(self) -> None:
        module, x = self.module(), normal(6, D)
        t = torch.tensor(0.3, dtype=torch.float64)
        double = module(t, x)
        expect(double.dtype == torch.float64, f"in float64 it gives {double.dtype}")
        single = module.float()(t, x.float())
        expect(single.dtype == torch.float32, f"in float32, with a float64 time, it gives {single.dtype}")
        error = apart(single.double(), double)
        expect(error < 1e-3, f"float32 and float64 differ by {error:.1e}")

    def test_it_stays_on_its_device(self) -> None:
        module = self.module()
        stays_on_device(lambda at, t, x: module.to(at)(t, x), self.made().label)

    def test_gradients_reach_every_parameter(self) -> None:
        module, t = self.module(), normal(16).abs()
        if not list(module.parameters()):
            unfit(f"{self.made().label} has no parameters")
        value = module(t, normal(16, D, seed=8))
        reached(module, (value * normal(*value.shape, seed=9)).sum())

    def test_it_is_as_smooth_as_it_says(self) -> None:
        """Traces and likelihoods need one continuous derivative, energies under score matching need two."""
        smooth = self.made().smoothness()
        if smooth < 1:
            unfit(f"{self.made().label} states no continuous derivative: smoothness() is {smooth:g}")
        module = self.module()
        for order in range(1, int(min(smooth, 2)) + 1):
            jump = kink(lambda x: module(x.new_tensor(0.3), x), D, order)
            text = f"smoothness() is {smooth:g}, but derivative {order} jumps by {jump:.2g}"
            expect(jump == 0, text)

    def test_its_own_divergence_is_the_trace(self) -> None:
        module = self.module()
        own = module.closed_divergence() if isinstance(module, Bound) else None
        if own is None:
            unfit(f"{self.made().label} has no divergence of its own")
        x, t = normal(6, D), torch.tensor(0.3, dtype=torch.float64)
        value, divergence = own(t, x)
        expect(apart(value, module(t, x)) < 1e-9, "the value returned with its divergence is not its output")
        error = apart(divergence, trace(lambda y: module(t, y), x))
        expect(error < 1e-8, f"its divergence differs from the trace of its Jacobian by {error:.1e}")


def built(made: Network, d_in: int, d_out: int, seed: int) -> nn.Module:
    """Return the module as a run builds it.

    A torch layer may draw from torch's global generator, so that one is seeded here and restored afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return made.build(d_in, d_out, generator(seed))


def moved(module: nn.Module) -> None:
    """Change every parameter by fixed normal numbers."""
    with torch.no_grad():
        for number, p in enumerate(module.parameters()):
            p.add_(normal(*p.shape, seed=100 + number, scale=0.3).to(p))


def reached(module: nn.Module, value: Tensor) -> None:
    """Check that the gradient of a value () reaches every parameter and is finite."""
    parameters = dict(module.named_parameters())
    slopes = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    lost = [name for name, one in zip(parameters, slopes) if one is None or not bool(one.any())]
    expect(not lost, f"no gradient reaches {', '.join(lost)}")
    broken = [name for name, one in zip(parameters, slopes) if one is not None and not bool(one.isfinite().all())]
    expect(not broken, f"the gradient is not finite in {', '.join(broken)}")


def stays_on_device(function: Callable[[str, Tensor, Tensor], Tensor], label: str) -> None:
    """Check that function(device, t (), x (B, d)) computes on the device of x: `meta`, and a GPU if there is one."""
    for at in ("meta", "cuda") if torch.cuda.is_available() else ("meta",):
        x, t = normal(4, D).to(at), torch.tensor(0.3, dtype=torch.float64).to(at)
        try:
            where = function(at, t, x).device.type
        except (RuntimeError, NotImplementedError) as error:
            first = str(error).splitlines()[0]
            expect(False, f"{label} on device '{at}' fails: {first}: make tensors on the device of x")
            raise
        expect(where == at, f"{label} on device '{at}' gives a value on '{where}'")


def trace(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return tr(∂f/∂x) (B,) of f: (B, d) -> (B, d) at x (B, d), by one backward pass per column."""
    x = x.detach().requires_grad_()
    columns = f(x).sum(0)
    parts = [torch.autograd.grad(one, x, retain_graph=True)[0][:, i] for i, one in enumerate(columns)]
    return torch.stack(parts).sum(0).detach()


def kink(f: Callable[[Tensor], Tensor], d: int, order: int, lines: int = 4, points: int = 2001) -> float:
    """Return the largest jump of a derivative of f: (B, d) -> (B, m) along some lines; 0 if there is none.

    The intervals where the derivative changes most are halved repeatedly. A jump stays; a large slope does not.
    """
    largest = 0.0
    for line in range(lines):
        start, along = normal(1, d, seed=20 + line), normal(1, d, seed=40 + line)
        along = along / along.norm()

        def derivative(s: Tensor, start: Tensor = start, along: Tensor = along) -> Tensor:
            return _derivative(lambda v: f(start + v[:, None] * along), s, order)

        s = torch.linspace(-4, 4, points, dtype=torch.float64)
        values = derivative(s)
        turns = (values[2:] - 2 * values[1:-1] + values[:-2]).norm(dim=1)
        worst = turns.topk(10).indices
        left, right = s[worst], s[worst + 2]
        before = (values[worst + 2] - values[worst]).norm(dim=1)
        for _ in range(HALVINGS):
            middle = (left + right) / 2
            at = [derivative(part) for part in (left, middle, right)]
            first = (at[1] - at[0]).norm(dim=1) > (at[2] - at[1]).norm(dim=1)
            left, right = torch.where(first, left, middle), torch.where(first, middle, right)
        after = (derivative(right) - derivative(left)).norm(dim=1)
        jumps = after[(after > LEFT * before) & (after > 1e-7 * (1 + values.norm(dim=1).max()))]
        largest = max(largest, float(jumps.max()) if len(jumps) else 0.0)
    return largest if math.isfinite(largest) else math.inf


def _derivative(f: Callable[[Tensor], Tensor], s: Tensor, order: int) -> Tensor:
    """Return d^k f/ds^k (n, m) of f: (n,) -> (n, m) with k = order, row by row."""
    s = s.detach().requires_grad_()
    columns = list(f(s).unbind(1))
    for _ in range(order):
        slopes = []
        for one in columns:
            found = (
                torch.autograd.grad(one.sum(), s, create_graph=True, allow_unused=True)[0]
                if one.requires_grad
                else None
            )
            slopes.append(torch.zeros_like(s) if found is None else found)
        columns = slopes
    return torch.stack([one.detach() for one in columns], 1)


__all__ = ["NetworkTests"]
