"""Checks of an estimator, and of a trace estimator: its mean is tr(∂f/∂x) for fields with a known trace."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from driftspec.autodiff import gradient
from driftspec.components import Data, Dynamics, Estimator, Loss, Model, Setting, Trace, Verdict
from driftspec.errors import DriftspecError
from driftspec.runs.checkpoint import decode, encode
from driftspec.source.files import Files
from driftspec.streams import Streams
from driftspec.testing.checks import (
    apart,
    expect,
    generator,
    no_global_draws,
    normal,
    rows_alone,
    same,
    unbiased,
    unfit,
)
from driftspec.testing.component import ComponentTests
from driftspec.testing.network import moved, reached, stays_on_device, trace
from driftspec.testing.worlds import DATA, TRAINED, Spirals, misfit, model, unmet

STREAMS = Streams(11).under("kit")
STEPS = 3
ROWS = 16_000


class EstimatorTests(ComponentTests):
    """Checks of an estimator, on the first of the kit's own dynamics that it fits."""

    kind = "estimator"
    dynamics: ClassVar[Mapping[str, Any] | None] = None
    """The dynamics to train, in spec form, if the estimator fits none of the kit's own."""
    data: ClassVar[Mapping[str, Any] | None] = None
    """The data to train on, in spec form, if the estimator fits none of the kit's own."""

    def around(self) -> tuple[Dynamics, Data]:
        """Return the dynamics that the estimator under test trains, and the data; a subclass may name its own."""
        made = self.made()
        own = [self.make("data", self.data)] if self.data is not None else [DATA, Spirals()]
        known = [self.make("dynamics", self.dynamics)] if self.dynamics is not None else TRAINED
        pairs = [(dynamics, data) for data in own for dynamics in known]
        lacks = [
            unmet(made, {"dynamics": dynamics, "data": data}) or misfit(made, Setting(dynamics, data, estimator=made))
            for dynamics, data in pairs
        ]
        if None not in lacks:
            unfit(f"{made.label} fits none of the kit's dynamics and data ({lacks[0]}): give `dynamics` and `data`")
        return pairs[lacks.index(None)]

    def model(self, dtype: torch.dtype = torch.float64) -> Model:
        """Return a new model with changed parameters: a last layer of zeros would hide the others."""
        dynamics, data = self.around()
        made = model(dynamics, dtype, data.dim() or 2)
        moved(made.module)
        rows = self.rows(10_000).to(dtype)
        times = data.read(Files(self.folder()), generator()).times
        return replace(made, times=times, rows=lambda: rows)

    def rows(self, n: int) -> Tensor:
        """Return the first n rows of the data (n, d) in float64."""
        return self.around()[1].read(Files(self.folder()), generator(4)).values[:n]

    def loss(self, on: Model, state: Any = None, step: int = 1, n: int = 16) -> Loss:
        """Return the loss of a step on a batch of n rows."""
        made: Estimator = self.made()
        state = made.start(on, STREAMS.under("start")) if state is None else state
        return made.loss(on, on.like(self.rows(n)), state, STREAMS.at(step))

    def test_the_loss_is_a_finite_number_with_a_graph(self) -> None:
        for dtype in (torch.float32, torch.float64):
            for n in (16, 1):
                loss = self.loss(self.model(dtype), n=n)
                what = f"the loss of a batch of {n} in {str(dtype).removeprefix('torch.')}"
                expect(loss.value.dim() == 0 and loss.value.requires_grad, f"{what} is not one number () with a graph")
                expect(loss.value.dtype == dtype, f"{what} is {loss.value.dtype}")
                expect(loss.value.isfinite(), f"{what} is {float(loss.value.detach())}")

    def test_terms_are_plain_numbers(self) -> None:
        loss = self.loss(self.model())
        loss.value.backward()  # type: ignore[no-untyped-call]  # torch declares none
        for name, value in {**loss.terms, **loss.stats()}.items():
            expect(isinstance(value, (int, float)), f"term '{name}' is a {type(value).__name__}, not a number")
            json.dumps({name: value})
        expect(isinstance(loss.evaluations, int), f"evaluations is {loss.evaluations!r}, not a whole number")
        for verdict in loss.verdicts():
            expect(isinstance(verdict, Verdict), f"a verdict is a {type(verdict).__name__}, not a Verdict")

    def test_the_same_streams_give_the_same_bits(self) -> None:
        on = self.model()
        before = {name: value.clone() for name, value in on.module.state_dict().items()}
        state = self.made().start(on, STREAMS.under("start"))
        kept = encode(state)
        with no_global_draws(self.made().label):
            first, second = self.loss(on, state), self.loss(on, state)
        text = "one step taken twice gives two losses: a component holds no state and draws only from its streams"
        expect(same(first.value.detach(), second.value.detach()), text)
        expect(same(first.state, second.state), "one step taken twice leads to two states")
        expect(encode(state) == kept, "a step changes the state it was given: return a new one")
        expect(same(before, dict(on.module.state_dict())), "a loss changes the parameters: only the optimizer may")

    def test_gradients_reach_every_parameter(self) -> None:
        on = self.model()
        reached(on.module, self.loss(on).value)

    def test_saved_and_restored_it_goes_on_to_the_same_bits(self) -> None:
        whole, half = self.model(), self.model()
        state = self.train(whole, None, range(1, 2 * STEPS + 1))
        middle = self.train(half, None, range(1, STEPS + 1))
        try:
            tree = decode(*encode({"module": half.module.state_dict(), "state": middle}))
        except DriftspecError as error:
            expect(False, f"its state cannot be saved: {error}")
            raise
        restored = self.model()
        restored.module.load_state_dict(tree["module"])
        after = self.train(restored, tree["state"], range(STEPS + 1, 2 * STEPS + 1))
        text = f"{2 * STEPS} steps without a checkpoint, and with one after {STEPS} steps, lead to different"
        expect(same(dict(whole.module.state_dict()), dict(restored.module.state_dict())), f"{text} parameters")
        expect(same(state, after), f"{text} states")

    def train(self, on: Model, state: Any, steps: range) -> Any:
        """Train by plain gradient descent; return the state after it."""
        for step in steps:
            loss = self.loss(on, state, step)
            slopes = torch.autograd.grad(loss.value, on.parameters(), materialize_grads=True)
            with torch.no_grad():
                for p, one in zip(on.parameters(), slopes):
                    p.sub_(1e-3 * one)
            state = loss.next_state()
        return state


class TraceTests(EstimatorTests):
    """Checks of an estimator of a trace, which trains by maximum likelihood."""

    MATRIX: ClassVar[tuple[tuple[float, ...], ...]] = (
        (1.5, -1.1, 0.3, 0.9), (0.2, -0.4, 0.8, 0.6), (0.0, 0.7, 1.3, -0.9), (-0.8, 0.1, 0.4, 0.6),
    )  # fmt: skip
    """A, a matrix that is neither symmetric nor normal; its trace is 3."""

    def field(self) -> Callable[[Tensor], Tensor]:
        """Return the field (B, 4) -> (B, 4), x -> A sin(x) + x_1 x / 2, which is neither linear nor a gradient."""
        a = torch.tensor(self.MATRIX, dtype=torch.float64)
        return lambda x: torch.sin(x) @ a.to(x).T + x[:, :1] * x / 2

    def estimate(self, f: Callable[[Tensor], Tensor], x: Tensor, seed: int = 1) -> tuple[Tensor, Tensor]:
        """Return f(x) (B, d) and the estimate of tr(∂f/∂x) (B,) at x (B, d), without a graph."""
        made: Trace = self.made()
        value, divergence = made.divergence(f, x, made.probe(x, generator(seed)))
        return value.detach(), divergence.detach()

    def test_it_is_the_trace_of_a_linear_field(self) -> None:
        a = torch.tensor(self.MATRIX, dtype=torch.float64)
        self.check(lambda x: x @ a.T, "f = A x, A neither symmetric nor normal")

    def test_it_is_the_trace_of_a_nonlinear_field(self) -> None:
        self.check(self.field(), "a nonlinear field")

    def test_it_is_the_trace_of_a_field_that_is_itself_a_slope(self) -> None:
        """f = ∇ Σ (log cosh x_i + x_i⁴/4 + x_1 x_i²/2): like the score of an energy, f is itself a derivative."""

        def potential(x: Tensor) -> Tensor:
            return (torch.log(torch.cosh(x)) + x.pow(4) / 4 + x[:, :1] * x.square() / 2).sum(1)

        self.check(lambda x: gradient(potential, x)[1], "a field that is itself a slope")

    def check(self, f: Callable[[Tensor], Tensor], what: str) -> None:
        """Check the trace of f: (B, d) -> (B, d): to 1e-10 if it is exact, else on average over draws."""
        made, x = self.made(), normal(ROWS, 4)
        value, divergence = self.estimate(f, x)
        expect(apart(value, f(x)) < 1e-12, f"the value returned with the trace is not f(x), for {what}")
        expect(divergence.shape == (ROWS,), f"the trace of a batch must be ({ROWS},), not {tuple(divergence.shape)}")
        off = divergence - trace(f, x)
        if made.exact():
            expect(
                float(off.abs().max()) < 1e-10, f"the exact trace is wrong by {float(off.abs().max()):.1e} for {what}"
            )
        unbiased(off[:, None], 0.0, f"error of the trace of {what}")

    def test_every_row_has_its_own_probe(self) -> None:
        made: Trace = self.made()
        probe = made.probe(normal(64, 4), generator())
        if probe is None:
            expect(made.exact(), "probe() is None, but exact() is False")
            unfit(f"{made.label} has no probes: it is exact")
        expect(probe.dim() == 3 and probe.shape[1:] == (64, 4), f"probes must be (K, B, d), not {tuple(probe.shape)}")
        alike = bool((probe == probe[:, :1]).all())
        expect(not alike, "all rows share one probe: the error of a batch does not average out")
        with no_global_draws(made.label):
            again = made.probe(normal(64, 4), generator())
        expect(same(probe, again), "the same seed gives different probes: draw only from the generator")
        single = made.probe(normal(64, 4).float(), generator())
        kept = single is not None and single.dtype == torch.float32
        expect(kept, "probes for float32 rows are not float32")

    def test_the_trace_of_a_row_is_its_own(self) -> None:
        made: Trace = self.made()
        x, f = normal(6, 4), self.field()
        probe = made.probe(x, generator())
        if probe is None:
            rows_alone(lambda rows: made.divergence(f, rows)[1].detach(), x, what="the trace")
        else:
            each = probe.transpose(0, 1)
            rows_alone(
                lambda rows, v: made.divergence(f, rows, v.transpose(0, 1))[1].detach(), x, each, what="the trace"
            )

    def test_it_keeps_float32(self) -> None:
        value, divergence = self.estimate(self.field(), normal(6, 4).float())
        expect(value.dtype == divergence.dtype == torch.float32, f"for float32 rows the trace is {divergence.dtype}")

    def test_it_stays_on_its_device(self) -> None:
        made: Trace = self.made()
        f = self.field()

        def divergence(at: str, t: Tensor, x: Tensor) -> Tensor:
            x = torch.cat([x, x[:, :1]], 1)
            return made.divergence(f, x, made.probe(x, generator()))[1]

        stays_on_device(divergence, made.label)

    def test_gradients_flow_through_the_trace(self) -> None:
        """f = θ g has the trace θ tr(∂g/∂x), whose derivative in θ is the trace over θ. It is the same with no_grad."""
        made: Trace = self.made()
        factor = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        x, g = normal(6, 4), self.field()
        probe = made.probe(x, generator())
        divergence = made.divergence(lambda y: factor * g(y), x, probe)[1]
        expect(divergence.requires_grad, "the trace has no graph: the trained parameters would have no gradient")
        slope = torch.autograd.grad(divergence.sum(), factor)[0]
        expect(apart(slope, divergence.sum() / 0.7) < 1e-9, "the derivative of the trace in a factor of f is wrong")
        with torch.no_grad():
            plain = made.divergence(lambda y: factor * g(y), x, probe)[1]
        expect(apart(plain, divergence) < 1e-12, "under torch.no_grad the trace differs")


__all__ = ["EstimatorTests", "TraceTests"]
