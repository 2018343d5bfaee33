"""Checks of a dynamics: everything it offers, row by row, and that its fields belong to one equation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from driftspec.components import KINDS, Data, Distribution, Dynamics, Model
from driftspec.components.capabilities import capabilities
from driftspec.testing.checks import apart, expect, no_global_draws, normal, rows_alone, same, slope, unfit
from driftspec.testing.component import ComponentTests
from driftspec.testing.network import kink, moved, reached, trace
from driftspec.testing.worlds import model

Fields = dict[str, Callable[[Tensor, Tensor], Tensor]]


class DynamicsTests(ComponentTests):
    """Checks of a dynamics."""

    kind = "dynamics"
    dim: ClassVar[int] = 2
    """d, if no distribution inside the dynamics fixes it."""

    def d(self) -> int:
        """Return the number of dimensions."""
        targets = (one for one in self.made().nested().values() if isinstance(one, Data))
        return next((dim for target in targets if (dim := target.dim())), self.dim)

    def model(self, dtype: torch.dtype = torch.float64) -> Model:
        """Return a new model with changed parameters: a last layer of zeros would hide the others."""
        made = model(self.made(), dtype, self.d())
        moved(made.module)
        return made

    def fields(self, on: Model) -> Fields:
        """Return the functions of (t, x) that it offers or that follow from them: vectors (B, d) or numbers (B,)."""
        offered = capabilities(on.dynamics)
        known: Fields = {"velocity": on.velocity, "drift": on.drift, "score": on.score}
        if "energy" in on.own:
            known["energy"] = lambda t, x: on.dynamics.energy(on.module, x)
        if "log_prob" in on.own:
            known["log_prob"] = lambda t, x: on.dynamics.log_prob(on.module, x)
        followed = on.own | ({"velocity"} if {"drift", "score"} <= offered else set())
        if "score" in offered and not on.own.isdisjoint(("score", "energy", "log_prob")):
            followed |= {"score"}
        found = {name: field for name, field in known.items() if name in followed}
        expect(found, f"{on.dynamics.label} offers no field: none of {', '.join(known)}")
        return found

    def times(self, n: int) -> Tensor:
        """Return n times (n,) between the prior time and the data time."""
        t_prior, t_data = self.made().times()
        return t_data + (t_prior - t_data) * torch.linspace(0.1, 0.9, n, dtype=torch.float64)

    def test_its_time_has_two_ends(self) -> None:
        ends = self.made().times()
        plain = len(ends) == 2 and all(isinstance(t, float) and math.isfinite(t) for t in ends)
        expect(plain, f"times() must be (t_prior, t_data), two finite numbers, not {ends!r}")

    def test_fields_have_a_row_a_sample(self) -> None:
        on, x = self.model(), normal(5, self.d())
        for name, field in self.fields(on).items():
            shape, wanted = (
                tuple(field(self.times(5), x).shape),
                (5,) if name in ("energy", "log_prob") else (5, self.d()),
            )
            expect(shape == wanted, f"{name} of a batch of 5 has shape {shape}, not {wanted}")
            t = self.times(5)[2]
            error = apart(field(t, x), field(t.expand(5), x))
            expect(
                error < 1e-9, f"{name} at one time for all, t (), and the same for each, t (B,), differ by {error:.1e}"
            )

    def test_a_row_depends_on_no_other(self) -> None:
        on = self.model()
        for name, field in self.fields(on).items():
            rows_alone(field, self.times(16), normal(16, self.d()), what=name)

    def test_float32_and_float64_agree(self) -> None:
        double, single = self.model(), self.model(torch.float32)
        t, x = self.times(6), normal(6, self.d())
        narrow = self.fields(single)
        for name, field in self.fields(double).items():
            value = narrow[name](t.float(), x.float())
            expect(value.dtype == torch.float32, f"{name} of float32 rows is {value.dtype}, not float32")
            error = apart(value.double(), field(t, x))
            expect(error < 1e-2, f"{name} in float32 and float64 differs by {error:.1e}")

    def test_it_is_the_same_each_time(self) -> None:
        t, x = self.times(6), normal(6, self.d())
        with no_global_draws(self.made().label):
            on = self.model()
            first, second = ([field(t, x).detach() for field in self.fields(on).values()] for _ in range(2))
        expect(same(first, second), "evaluated twice at one point, it gives two values")
        text = "built twice from one seed, it gives two models"
        expect(same(dict(on.module.state_dict()), dict(self.model().module.state_dict())), text)

    def test_it_stays_on_its_device(self) -> None:
        on = self.model()
        if "trainable" not in on.own:
            unfit(f"{on.dynamics.label} has nothing to train: its device is not fixed")
        t, x = self.times(6), normal(6, self.d())
        devices = ("meta", "cuda") if torch.cuda.is_available() else ("meta",)
        for device in devices:
            on.module.to(device)
            for name, field in self.fields(on).items():
                try:
                    where = field(t.to(device), x.to(device)).device.type
                except (RuntimeError, NotImplementedError) as error:
                    expect(False, f"{name} on device '{device}' fails: {str(error).splitlines()[0]}")
                    raise
                expect(where == device, f"{name} on device '{device}' gives a value on '{where}'")

    def test_gradients_reach_every_parameter(self) -> None:
        on = self.model()
        names = [name for name, _ in on.module.named_parameters()]
        expect(bool(names) == ("trainable" in on.own), "offers() and its parameters differ on whether it is trainable")
        if not names:
            unfit(f"{on.dynamics.label} has nothing to train")
        t, x = self.times(16), normal(16, self.d())
        values = [field(t, x) for field in self.fields(on).values()]
        reached(on.module, torch.stack([(v * normal(*v.shape, seed=9)).sum() for v in values if v.requires_grad]).sum())

    def test_the_score_is_the_slope_of_the_density(self) -> None:
        on = self.model()
        found = self.fields(on)
        if "score" not in found or not ({"energy", "log_prob"} & found.keys()):
            unfit(f"{on.dynamics.label} does not offer a score together with a density to compare it with")
        x, t = normal(6, self.d()), torch.tensor(on.t_data, dtype=torch.float64)
        error = apart(on.score(t, x), slope(lambda y: on.log_density(y).detach(), x))
        expect(error < 1e-4, f"the score differs from the slope of log p by {error:.1e}")

    def test_its_noise_kernel_is_that_of_its_sde(self) -> None:
        """For dx = f dt + g dw the mean α x and the variance σ² obey α' x = f(α x, t), (σ²)' = 2 (α'/α) σ² + g²."""
        on = self.model()
        if not {"noise_kernel", "drift"} <= on.own:
            unfit(f"{on.dynamics.label} offers no noise_kernel with a drift")
        t, h = self.times(9), 1e-5
        alpha, sigma = on.dynamics.kernel(t)
        expect(alpha.shape == sigma.shape == t.shape, "kernel(t) must give α and σ in the shape of t")
        (before, low), (after, high) = on.dynamics.kernel(t - h), on.dynamics.kernel(t + h)
        rate, growth = (after - before) / (2 * h), (high**2 - low**2) / (2 * h)
        x = normal(9, self.d())
        error = apart(on.drift(t, alpha[:, None] * x), rate[:, None] * x)
        expect(error < 1e-4, f"the mean α(t) x does not follow the drift: it differs by {error:.1e}")
        error = apart(growth, 2 * rate / alpha * sigma**2 + on.dynamics.diffusion(t) ** 2)
        expect(error < 1e-4, f"the variance σ(t)² does not follow drift and diffusion: it differs by {error:.1e}")

    def test_the_diffusion_has_the_shape_of_time(self) -> None:
        on = self.model()
        if "drift" not in on.own:
            unfit(f"{on.dynamics.label} offers no drift: it is no SDE")
        for t in (self.times(5), self.times(5)[1]):
            g = on.dynamics.diffusion(t)
            expect(g.shape == t.shape, f"diffusion of t {tuple(t.shape)} has shape {tuple(g.shape)}")
            expect(bool((g >= 0).all() and g.isfinite().all()), "g(t) is negative or not finite")

    def test_its_prior_is_a_law(self) -> None:
        made: Dynamics = self.made()
        distribution = made.prior_law()
        if "prior" not in made.offers():
            unfit(f"{made.label} offers no prior")
        if not isinstance(distribution, Distribution):
            expect(False, f"it offers a prior, but prior_law() is {distribution!r}")
            return
        value = distribution.log_prob(normal(3, self.d()))
        finite = value.shape == (3,) and bool(value.isfinite().all())
        expect(finite, "the prior's log p is not one finite number per row")

    def test_it_is_as_smooth_as_it_offers(self) -> None:
        on = self.model()
        if not {"smooth", "trainable"} <= on.own:
            unfit(f"{on.dynamics.label} does not offer to be smooth")
        t, found = self.times(3)[1], self.fields(on)
        for name in found.keys() & {"velocity", "score"}:
            jump = kink(lambda x, name=name: found[name](t, x), self.d(), 1, lines=2, points=501)  # type: ignore[misc]
            expect(jump == 0, f"it offers `smooth`, but a derivative of its {name} jumps by {jump:.2g}")

    def test_its_own_divergence_is_the_trace(self) -> None:
        on, t, x = self.model(), self.times(3)[1], normal(6, self.d())
        own = on.field(t).divergence if "velocity" in on.own else None
        if own is None:
            unfit(f"{on.dynamics.label} has no divergence in closed form")
        value, divergence = own(x)
        expect(apart(value, on.velocity(t, x)) < 1e-9, "the value returned with its divergence is not its velocity")
        error = apart(divergence, trace(lambda y: on.velocity(t, y), x))
        expect(error < 1e-8, f"its divergence differs from the trace of its Jacobian by {error:.1e}")

    def test_the_sampler_and_metrics_it_names_are_there(self) -> None:
        made, known = self.made(), self.registry()
        named = [("sampler", made.default_sampler), *(("metric", name) for name in made.default_metrics)]
        for kind, name in named:
            there = kind in KINDS and name in known.names(kind)
            expect(there, f"it names the {kind} '{name}', which no plugin provides")


__all__ = ["DynamicsTests"]
