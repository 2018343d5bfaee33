"""Networks against modules put together by hand, and the closed-form divergence against the dense Jacobian."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from driftspec.components import Network
from driftspec_plugins.networks._activations import SMOOTHNESS, ActivationName, activation
from driftspec_plugins.networks._trace import chain_trace
from driftspec_plugins.networks.concat_squash import ConcatSquash
from driftspec_plugins.networks.mlp import MLP

MODULES = {
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "mish": nn.Mish,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "selu": nn.SELU,
}
NETWORKS = [
    MLP(hidden=(7, 5)),
    MLP(hidden=(6, 5), activation="silu", time="fourier", frequencies=3),
    MLP(hidden=(6,), activation="gelu", time="none"),
    MLP(hidden=()),
    ConcatSquash(hidden=(7, 5)),
    ConcatSquash(hidden=()),
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parameters(network: Network, d: int = 3, out: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    made = network.parameters(d, d if out is None else out, generator(seed))
    return {name: value.double() for name, value in made.items()}


def points(rows: int = 9, d: int = 3) -> tuple[Tensor, Tensor]:
    t = torch.rand(rows, generator=generator(1), dtype=torch.float64)
    return t, 2 * torch.randn(rows, d, generator=generator(2), dtype=torch.float64)


# -------------------------------------------------------------------------------------------------------- activations


def test_the_table_is_the_literal_and_has_torchs_functions() -> None:
    assert set(get_args(ActivationName)) == set(SMOOTHNESS) == set(MODULES)
    a = torch.linspace(-6, 6, 401, dtype=torch.float64)
    for name, module in MODULES.items():
        torch.testing.assert_close(activation(name)[0](a), module()(a), rtol=0, atol=0)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slope_is_the_derivative(name: ActivationName, dtype: torch.dtype) -> None:
    value, slope = activation(name)
    a = torch.linspace(-6, 6, 400, dtype=dtype, requires_grad=True)  # without 0, where some have none
    expected = torch.autograd.grad(value(a).sum(), a)[0]
    found = slope(a, value(a))
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 if dtype == torch.float64 else 2e-6)


@pytest.mark.parametrize("name", MODULES)
def test_smoothness_counts_the_continuous_derivatives(name: ActivationName) -> None:
    """The derivatives to either side of 0, one after the other, until they differ."""
    sides = torch.tensor([-1e-9, 1e-9], dtype=torch.float64, requires_grad=True)
    derivative, continuous = activation(name)[0](sides), 0
    for _ in range(4):
        derivative = torch.autograd.grad(derivative.sum(), sides, create_graph=True)[0]
        if abs(derivative[1] - derivative[0]) > 1e-3:
            break
        if not derivative.requires_grad:
            pytest.fail("a derivative without a graph is constant, and has jumped before")
        continuous += 1
    assert continuous == min(4, SMOOTHNESS[name])
    assert MLP(activation=name).smoothness() == ConcatSquash(activation=name).smoothness() == SMOOTHNESS[name]


def test_a_linear_function_is_analytic_whatever_the_activation() -> None:
    assert MLP(hidden=(), activation="relu").smoothness() == math.inf


# --------------------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_parameters_come_from_the_generator_alone(network: Network) -> None:
    before = torch.get_rng_state()
    first, again, other = (network.parameters(3, 2, generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name]) for name in first)
    assert all(value.dtype == torch.float32 and "." not in name for name, value in first.items())
    values = torch.cat([value.flatten() for value in first.values()])
    assert len(values.unique()) > 0.99 * len(values)  # no two layers from one place of the stream


def test_parameters_have_the_law_of_nn_linear() -> None:
    """U(-b, b) with b = 1/√in: the bound, and mean and variance within 4 standard errors."""
    p = MLP(hidden=(400, 300), time="fourier", frequencies=2).parameters(11, 2, generator())
    assert {name: tuple(value.shape) for name, value in p.items()} == {
        "weight_0": (400, 16), "bias_0": (400,), "weight_1": (300, 400), "bias_1": (300,), "weight_2": (2, 300),
        "bias_2": (2,),
    }  # fmt: skip
    for layer, fan_in in enumerate((16, 400, 300)):
        for name in (f"weight_{layer}", f"bias_{layer}"):
            u = p[name].double().flatten() * math.sqrt(fan_in)
            assert u.abs().max() <= 1 + 1e-6
            if len(u) >= 300:
                assert u.abs().max() > 0.98
                assert abs(u.mean()) < 4 * math.sqrt(1 / 3 / len(u))
                assert abs(u.square().mean() - 1 / 3) < 4 * math.sqrt(4 / 45 / len(u))
    linear = nn.Linear(16, 400)
    assert linear.weight.abs().max() <= 0.25 and linear.bias.abs().max() <= 0.25  # torch's own still has this bound


# -------------------------------------------------------------------------------------------------------------- apply


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("time", ["concat", "fourier", "none"])
def test_mlp_is_a_sequential_of_linear_layers(name: ActivationName, time: str) -> None:
    network = Network.make({"type": "mlp", "hidden": [5, 4], "activation": name, "time": time})
    p, (t, x) = parameters(network, out=2), points()
    seen = []
    for ti, row in zip(t.tolist(), x.tolist()):
        tau = {"concat": [ti], "none": []}.get(time)
        if tau is None:
            angles = [math.pi * 2**k * ti for k in range(6)]
            tau = [ti, *map(math.sin, angles), *map(math.cos, angles)]
        seen.append([*row, *tau])
    inputs = torch.tensor(seen, dtype=torch.float64)
    layers = [nn.Linear(inputs.shape[1], 5), MODULES[name](), nn.Linear(5, 4), MODULES[name](), nn.Linear(4, 2)]
    reference = nn.Sequential(*layers).double()
    reference.load_state_dict(dict(zip(reference.state_dict(), p.values(), strict=True)))
    torch.testing.assert_close(network.apply(p, t, x), reference(inputs), rtol=0, atol=1e-13)


def test_concat_squash_is_ffjords_layer() -> None:
    """FFJORD's code: layer(x) * sigmoid(hyper_gate(t)) + hyper_bias(t), hyper_bias without a bias of its own."""
    network = ConcatSquash(hidden=(5, 4), activation="tanh")
    p, (t, x) = parameters(network, out=2), points()
    for i in range(len(x)):
        h, ti = x[i : i + 1], t[i].reshape(1, 1)
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise((3, 5, 4, 2))):
            linear, gate = nn.Linear(fan_in, fan_out).double(), nn.Linear(1, fan_out).double()
            shift = nn.Linear(1, fan_out, bias=False).double()
            linear.load_state_dict({"weight": p[f"weight_{layer}"], "bias": p[f"bias_{layer}"]})
            gate.load_state_dict({"weight": p[f"gate_{layer}"][:, None], "bias": p[f"gate_bias_{layer}"]})
            shift.load_state_dict({"weight": p[f"shift_{layer}"][:, None]})
            h = linear(h) * torch.sigmoid(gate(ti)) + shift(ti)
            h = torch.tanh(h) if layer < 2 else h
        torch.testing.assert_close(network.apply(p, t, x)[i : i + 1], h, rtol=0, atol=1e-13)


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_one_time_is_the_same_time_for_every_row(network: Network) -> None:
    p, (_, x) = parameters(network), points()
    t = torch.tensor(0.3, dtype=torch.float64)
    torch.testing.assert_close(network.apply(p, t, x), network.apply(p, t.expand(len(x)), x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_rows_do_not_see_each_other(network: Network) -> None:
    p, (t, x) = parameters(network), points()
    alone = torch.cat([network.apply(p, t[i : i + 1], x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(network.apply(p, t, x), alone, rtol=0, atol=1e-13)
    assert network.apply(p, t[:0], x[:0]).shape == (0, 3)


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_time_matters_where_it_is_an_input(network: Network) -> None:
    p, (t, x) = parameters(network), points()
    same = torch.equal(network.apply(p, t, x), network.apply(p, t + 0.1, x))
    assert same == (getattr(network, "time", "") == "none")


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_time_in_double_leaves_the_state_single(network: Network) -> None:
    p, (t, x) = network.parameters(3, 3, generator()), points()
    assert network.apply(p, t, x.float()).dtype == network.apply(p, t[0], x.float()).dtype == torch.float32


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_a_condition_is_refused(network: Network) -> None:
    p, (t, x) = parameters(network), points()
    with pytest.raises(ValueError, match=rf"network '{network.type}' takes no condition, .* of shape \(9, 3\)"):
        network.apply(p, t, x, x)


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_first_and_second_derivatives(network: Network) -> None:
    """Against finite differences, in x, in t and in every parameter."""
    p, (t, x) = parameters(network), points(3)
    names = list(p)

    def f(t: Tensor, x: Tensor, *values: Tensor) -> Tensor:
        return network.apply(dict(zip(names, values)), t, x)

    inputs = [value.clone().requires_grad_() for value in (t, x, *p.values())]
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs, atol=1e-4)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own, in its jvp
@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_function_transforms_agree_with_autograd(network: Network) -> None:
    p, (t, x) = parameters(network), points()
    jacobian = torch.stack([
        torch.autograd.functional.jacobian(lambda y, i=i: network.apply(p, t[i], y[None])[0], x[i]) for i in range(9)
    ])  # fmt: skip
    one_by_one = torch.vmap(torch.func.jacrev(lambda ti, y: network.apply(p, ti, y[None])[0], argnums=1))(t, x)
    torch.testing.assert_close(one_by_one, jacobian, rtol=0, atol=1e-12)
    for i, unit in enumerate(torch.eye(3, dtype=torch.float64)):
        column = torch.func.jvp(lambda y: network.apply(p, t, y), (x,), (unit.expand(9, 3),))[1]
        row = torch.func.vjp(lambda y: network.apply(p, t, y), x)[1](unit.expand(9, 3))[0]
        torch.testing.assert_close(column, jacobian[:, :, i], rtol=0, atol=1e-12)
        torch.testing.assert_close(row, jacobian[:, i], rtol=0, atol=1e-12)
    models = {name: torch.stack([value, 2 * value]) for name, value in p.items()}
    stacked = torch.vmap(lambda q: network.apply(q, t, x))(models)
    torch.testing.assert_close(stacked[1], network.apply({k: 2 * v for k, v in p.items()}, t, x), rtol=0, atol=1e-12)


# --------------------------------------------------------------------------------------------------------- divergence


def dense(network: MLP, p: dict[str, Tensor], t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """f and the trace of its Jacobian, row by row, the latter entry by entry."""
    f = network.apply(p, t, x)
    t = t.expand(len(x))
    rows = [torch.func.jacrev(lambda y, i=i: network.apply(p, t[i], y[None])[0])(x[i]) for i in range(len(x))]
    return f, torch.stack([sum(row[k, k] for k in range(x.shape[1])) for row in rows])


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5), (6, 5, 4), (6, 5, 4, 7), (6, 5, 4, 7, 5)])
@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("time", ["concat", "none"])
def test_divergence_and_its_gradient(hidden: tuple[int, ...], d: int, time: str) -> None:
    network = MLP(hidden=hidden, activation="silu", time=time)
    p, (t, x) = parameters(network, d), points(6, d)
    p = {name: 2 * value for name, value in p.items()}
    leaves = [value.requires_grad_() for value in (x, *p.values())]
    results, gradients = [], []
    for when in (t, t[2]):
        for f, trace in (network.divergence(p, when, x), dense(network, p, when, x)):
            results.append((f, trace))
            loss = (f * torch.arange(1, d + 1)).sum() + (trace * torch.arange(1, 7)).sum()
            gradients.append(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))
    for mine, reference in ((0, 1), (2, 3)):
        assert results[mine][1].shape == (6,)
        torch.testing.assert_close(results[mine], results[reference], rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(gradients[mine], gradients[reference], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("hidden", [(3, 3, 2), (3, 2, 3, 2)])
def test_divergence_closed_over_a_last_layer_narrower_than_d(hidden: tuple[int, ...]) -> None:
    network = MLP(hidden=hidden)
    p, (t, x) = parameters(network, 5), points(6, 5)
    torch.testing.assert_close(network.divergence(p, t, x), dense(network, p, t, x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", MODULES)
def test_divergence_for_every_activation(name: ActivationName) -> None:
    network = MLP(hidden=(6, 5, 4), activation=name, time="fourier")
    p, (t, x) = parameters(network), points()
    torch.testing.assert_close(network.divergence(p, t, x), dense(network, p, t, x), rtol=1e-12, atol=1e-13)


def test_divergence_has_a_second_derivative() -> None:
    network = MLP(hidden=(4, 3, 4))
    p, (t, x) = parameters(network, 2), points(3, 2)
    assert torch.autograd.gradgradcheck(lambda y: network.divergence(p, t, y), [x.requires_grad_()], atol=1e-4)


def test_divergence_in_single_precision_and_of_no_rows() -> None:
    network = MLP()
    p, (t, x) = network.parameters(2, 2, generator()), points(40, 2)
    f, trace = network.divergence(p, t, x.float())
    double = network.divergence({name: value.double() for name, value in p.items()}, t, x)
    assert f.dtype == trace.dtype == torch.float32
    torch.testing.assert_close((f, trace), (double[0].float(), double[1].float()), rtol=1e-5, atol=1e-6)
    assert torch.equal(f, network.apply(p, t, x.float()))
    assert network.divergence(p, t[:0], x[:0].float())[1].shape == (0,)


def test_divergence_of_an_energy_is_refused() -> None:
    network = MLP()
    t, x = points()
    with pytest.raises(ValueError, match="network 'mlp' has 3 inputs and 1 outputs: no divergence"):
        network.divergence(parameters(network, out=1), t, x)


def test_chain_trace_is_the_trace_of_the_product() -> None:
    widths = (2, 5, 4, 6, 3, 2)
    g = generator()
    weights = [torch.randn(n, m, generator=g, dtype=torch.float64) for m, n in itertools.pairwise(widths)]
    diagonals = [torch.randn(7, n, generator=g, dtype=torch.float64) for n in widths[1:-1]]
    product = weights[0].expand(7, -1, -1)
    for weight, diagonal in zip(weights[1:], diagonals):
        product = weight @ (diagonal[:, :, None] * product)
    expected = product.diagonal(dim1=1, dim2=2).sum(-1)
    torch.testing.assert_close(chain_trace(weights, diagonals), expected, rtol=1e-12, atol=1e-12)


# --------------------------------------------------------------------------------------------------------------- spec


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_build_binds_apply_to_the_parameters(network: Network) -> None:
    module = network.build(3, 2, generator(4))
    p, (t, x) = network.parameters(3, 2, generator(4)), points()
    assert torch.equal(module(t.float(), x.float()), network.apply(p, t.float(), x.float()))
    assert list(module.state_dict()) == list(p)
    module(t.float(), x.float()).sum().backward()
    assert all(value.grad is not None for value in module.parameters())


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_spec_form_and_back(network: Network) -> None:
    assert Network.make(network.body()) == network


def test_defaults() -> None:
    assert Network.make("mlp").body() == {
        "type": "mlp", "hidden": [64, 64, 64], "activation": "tanh", "time": "concat", "frequencies": 6
    }  # fmt: skip
    assert all(field.description for kind in (MLP, ConcatSquash) for field in kind.model_fields.values())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"hidden": [64, 0]}, "hidden.1\n  Input should be greater than or equal to 1"),
        ({"activation": "swish"}, "activation\n  Input should be 'tanh', 'silu'"),
        ({"time": "sine"}, "time\n  Input should be 'concat', 'fourier' or 'none'"),
        ({"frequencies": 4}, "'frequencies' has a use only with time: fourier, not with time: concat"),
        ({"time": "fourier", "frequencies": 0}, "frequencies\n  Input should be greater than or equal to 1"),
    ],
)
def test_what_a_spec_gets_wrong(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Network.make({"type": "mlp", **keys})
    assert message in str(caught.value)


def test_specs_are_read_without_torch() -> None:
    lines = [
        "import sys",
        "from driftspec.components import Network, Optimizer, Schedule",
        "[Network.make(name) for name in ('mlp', 'concat_squash')], Optimizer.make('adam'), Schedule.make('cosine')",
        "assert 'torch' not in sys.modules",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
