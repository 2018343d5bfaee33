"""Splits, standardisation and what they do to log p and samples."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import tiny
import torch
from problems import points
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn.functional import pad

from driftspec.components import Data, Distribution, Sampler, Solver, Table, Trace
from driftspec.components.dataset import Transform
from driftspec.errors import SpecError
from driftspec.experiment.dataset import prepare
from driftspec.numerics import likelihood
from driftspec.source.files import Files
from driftspec.streams import Streams

FILES, STREAMS = Files(Path()), Streams(4).under("data")
SKEWED = torch.tensor([[2.0, 0.0, 0.0], [1.5, 0.5, 0.0], [-0.3, 1.0, 0.1]], dtype=torch.float64)


def skewed(n: int = 500) -> Tensor:
    """Correlated columns of different scales, away from 0."""
    return points(n, 3, seed=2) @ SKEWED.T + torch.tensor([5.0, -2.0, 100.0])


class Rows(Data):
    """Given rows, numbered in the last column if asked."""

    type = "rows"
    n: int = 100

    def read(self, files: Files, generator: torch.Generator) -> Table:
        return Table(torch.arange(self.n, dtype=torch.float64)[:, None].square(), ("x",), digest="d")


# Split -------------------------------------------------------------------------------------------------------------


def test_a_split_is_a_permutation_cut_in_three() -> None:
    data = Rows(split=(0.7, 0.2, 0.1))
    made = prepare(data, FILES, STREAMS)
    assert [len(part) for part in (made.train, made.validation, made.test)] == [70, 20, 10]
    every = torch.cat([made.train, made.validation, made.test])
    assert not torch.equal(every, every.sort(0).values)
    assert torch.equal(every.sort(0).values, data.read(FILES, torch.Generator()).values)
    assert made.columns == ("x",) and made.digest == "d" and made.dim == 1


def test_a_split_is_a_function_of_the_seed() -> None:
    same, other = (prepare(Rows(), FILES, Streams(seed).under("data")).train for seed in (4, 5))
    assert torch.equal(prepare(Rows(), FILES, STREAMS).train, same)
    assert not torch.equal(same, other)


def test_too_few_rows_are_a_mistake_in_the_spec() -> None:
    with pytest.raises(SpecError, match=r"1 rows: split.*leaves 1 for training"):
        prepare(Rows(n=1), FILES, STREAMS)


def test_rows_to_be_measured_need_no_training_rows() -> None:
    given = Transform.identity(1)
    made = prepare(Rows(n=3, split=(0.0, 0.0, 1.0), standardize="scale"), FILES, STREAMS, given)
    assert len(made.train) == 0 and len(made.test) == 3 and made.transform is given


def test_columns_are_bound_by_name_or_without_names_by_position() -> None:
    """What holds for data that cannot choose columns themselves."""
    table = Table(skewed(5), ("a", "b", "c"))
    for names, order in ((("c", "a"), [2, 0]), (("b", "c", "a"), [1, 2, 0])):
        bound = table.with_columns(names)
        assert bound.columns == names and torch.equal(bound.values, table.values[:, order])
    numbered = replace(table, named=False).with_columns(("c", "a", "b"))
    assert numbered.columns == ("c", "a", "b") and torch.equal(numbered.values, table.values)
    with pytest.raises(SpecError) as caught:
        table.with_columns(("a", "B", "d"))
    assert [problem.message for problem in caught.value.problems] == [
        "no column 'B' (did you mean 'b'?): the data have a, b, c", "no column 'd': the data have a, b, c",
    ]  # fmt: skip
    with pytest.raises(SpecError, match="the data have 3 columns, the model was trained on 2: 'a', 'b'"):
        replace(table, named=False).with_columns(("a", "b"))


def test_rows_that_stand_in_training_and_test_are_counted() -> None:
    made = prepare(Rows(), FILES, STREAMS)
    assert made.repeated() == 0
    test = torch.cat([made.train[:3], made.train[:1], made.validation[:5], made.test[:2]])
    assert replace(made, test=test).repeated() == 4
    zero, other = torch.zeros(1, 1, dtype=torch.float64), -torch.zeros(2, 1, dtype=torch.float64)
    assert replace(made, train=zero, test=other).repeated() == 2, "-0.0 is the number 0.0"


# Transform ---------------------------------------------------------------------------------------------------------


def test_the_transform_is_fitted_on_the_training_rows_alone() -> None:
    made = prepare(Rows(standardize="scale"), FILES, STREAMS)
    torch.testing.assert_close(made.transform.shift, made.train.mean(0))
    assert abs(float(made.transform.shift - Rows().read(FILES, torch.Generator()).values.mean())) > 1


@pytest.mark.parametrize("how", ["none", "scale", "whiten"])
def test_model_units_and_back(how: str) -> None:
    x = skewed()
    made = Transform.fit(how, x)
    u = made.to_model(x)
    covariance = torch.cov(u.T, correction=0)
    if how == "none":
        assert torch.equal(u, x)
    else:
        torch.testing.assert_close(u.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-10)
        torch.testing.assert_close(covariance.diag(), torch.ones(3, dtype=torch.float64))
        off = (covariance - covariance.diag().diag()).abs().max()
        assert (off < 1e-10) == (how == "whiten")
    torch.testing.assert_close(made.to_data(u), x, rtol=1e-12, atol=1e-12)
    jacobian = torch.func.jacrev(made.to_model)(x[0])
    assert made.log_det() == pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet), abs=1e-12)
    trajectories = x.reshape(100, 5, 3)
    torch.testing.assert_close(Transform.fit(how, trajectories).to_model(trajectories), u.reshape(100, 5, 3))


@pytest.mark.parametrize("how", ["scale", "whiten"])
def test_the_units_of_a_column_make_no_difference(how: str) -> None:
    units = torch.tensor([1e-9, 1.0, 1e9], dtype=torch.float64)
    plain, scaled = (Transform.fit(how, x).to_model(x) for x in (skewed(), skewed() * units))
    torch.testing.assert_close(plain, scaled, rtol=0, atol=1e-8)


class Given(Data):
    """The rows that a test gives."""

    type = "given"
    given: ClassVar[Tensor]

    def read(self, files: Files, generator: torch.Generator) -> Table:
        return Table(self.given, tuple("abcdefgh"[: self.given.shape[1]]))


@pytest.mark.parametrize("how", ["scale", "whiten"])
def test_what_cannot_be_standardised_is_named(how: Literal["scale", "whiten"], monkeypatch: pytest.MonkeyPatch) -> None:
    x = skewed()
    for value, written in ((0.0, "0"), (0.1, "0.1"), (1e9, "1e+09")):
        still = torch.cat([x[:, :1], torch.full((500, 1), value).double(), x[:, 2:]], 1)
        monkeypatch.setattr(Given, "given", still, raising=False)
        text = f"column 'b' ({written}) is constant in all 400 training rows: standardize: {how} is impossible"
        with pytest.raises(SpecError, match=re.escape(text)):
            prepare(Given(standardize=how), FILES, STREAMS)
    monkeypatch.setattr(Given, "given", torch.cat([x, x.sum(1, keepdim=True)], 1))
    if how == "whiten":
        with pytest.raises(SpecError, match="column 'd' is a linear function of columns 'a', 'b', 'c': standardize"):
            prepare(Given(standardize=how), FILES, STREAMS)
    else:
        assert prepare(Given(standardize=how), FILES, STREAMS).dim == 4


@pytest.mark.parametrize("how", ["none", "scale", "whiten"])
def test_a_rows_units_depend_on_no_other_row(how: str) -> None:
    x = skewed()
    made = Transform.fit(how, x)
    u = made.to_model(x)
    for i in (0, 3, 499):
        assert torch.equal(made.to_model(x[i : i + 1])[0], u[i])
        assert torch.equal(made.to_data(u[i : i + 1])[0], made.to_data(u)[i])


# Through a flow ----------------------------------------------------------------------------------------------------


class Skewed(Distribution):
    """Correlated columns, as a spec's data."""

    type = "skewed"

    def dim(self) -> int:
        return 3

    def sample(self, n: int, generator: torch.Generator, dim: int | None = None) -> Tensor:
        return torch.randn(n, 3, generator=generator, dtype=torch.float64) @ SKEWED.T + 7


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", ["scale", "whiten"])
def test_a_flow_that_does_nothing_is_the_gaussian_of_the_training_rows(how: str, dtype: str) -> None:
    """log p and samples come back in the data's units: N(mean, covariance) of the rows the transform was fitted on."""
    made = tiny.experiment(f"runtime.dtype={dtype}")
    dataset = prepare(Skewed(standardize=how), FILES, STREAMS)
    still = tiny.flow_of(lambda t, x: 0 * x, 3, dtype=getattr(torch, dtype))
    u = dataset.transform.to_model(dataset.test).to(getattr(torch, dtype))
    solver, trace = Solver.make("lobatto"), Trace.make("exact_trace")
    log_p = likelihood.log_prob(still, u, solver, trace, made.streams).log_prob.double() + dataset.transform.log_det()
    covariance = torch.cov(dataset.train.T, correction=0)
    if how == "scale":
        covariance = covariance.diag().diag()
    law = MultivariateNormal(dataset.train.mean(0), covariance)
    torch.testing.assert_close(log_p, law.log_prob(dataset.test), rtol=0, atol=1e-4 if dtype == "float32" else 1e-10)

    drawn = dataset.transform.to_data(Sampler.make("ode").draw(still, 4000, made.streams).flat())
    white = torch.linalg.solve(torch.linalg.cholesky(covariance), (drawn - dataset.train.mean(0)).T).T
    products = torch.einsum("bi,bj->bij", pad(white, (1, 0), value=1.0), pad(white, (1, 0), value=1.0))
    expected = torch.eye(4, dtype=torch.float64)
    z = (products.mean(0) - expected) / (products.std(0) / 4000**0.5).clamp_min(1e-12)
    assert float(z.abs().max()) < 4


@pytest.mark.parametrize("how", ["scale", "whiten"])
def test_a_density_in_the_datas_units_integrates_to_one(how: str) -> None:
    made = tiny.experiment(f"data.standardize={how}", "runtime.dtype=float64")
    x = made.dataset.train
    low, high = x.min(0).values - 4, x.max(0).values + 4
    sides = [torch.linspace(float(a), float(b), 121, dtype=torch.float64) for a, b in zip(low, high)]
    model = tiny.random_flow([16, 16], 2, torch.float64, gain=2.0)
    solver, trace = Solver.make("lobatto"), Trace.make("exact_trace")
    log_p = likelihood.log_prob(model, made.rows(torch.cartesian_prod(*sides)), solver, trace, made.streams).log_prob
    density = (log_p + made.transform.log_det()).exp().reshape(121, 121)
    mass = torch.trapezoid(torch.trapezoid(density, sides[1]), sides[0])
    assert float(mass) == pytest.approx(1, abs=2e-3)


def test_gradients_and_errors_change_units_as_the_rows_do() -> None:
    """By the chain rule; and an error's bound is reached by the worst direction."""
    matrix = torch.tensor([[2.0, -0.7], [0.3, 0.5]], dtype=torch.float64)
    change = Transform(torch.tensor([1.0, -2.0], dtype=torch.float64), matrix)
    x = torch.tensor([[0.4, 1.5], [-2.0, 0.1]], dtype=torch.float64, requires_grad=True)
    u = change.to_model(x)
    (expected,) = torch.autograd.grad(u.pow(3).sum(), x)
    slope, _ = change.gradient_to_data(3 * u.detach() ** 2, torch.zeros(2))
    torch.testing.assert_close(slope, expected)
    worst = [torch.tensor(signs, dtype=torch.float64)[None] for signs in ([1.0, 1.0], [1.0, -1.0])]
    reached = max(float(change.gradient_to_data(w, torch.zeros(1))[0].abs().max()) for w in worst)
    assert reached == pytest.approx(float(change.gradient_to_data(worst[0], torch.ones(1))[1]))
    reached = max(float((change.to_data(w) - change.shift).abs().max()) for w in worst)
    assert reached == pytest.approx(float(change.error_to_data(torch.ones(1))))
