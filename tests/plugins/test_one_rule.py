"""One rule has one copy: what two places answer for is asked in both, over every component that it is about."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from small_spec import TEXT, said

from driftspec.components import Dynamics, Network
from driftspec.registry import discover, installed
from driftspec.streams import Streams
from driftspec_plugins.networks._activations import SMOOTHNESS

REGISTRY = installed()

# What may be differentiated once more --------------------------------------------------------------------------------


def predictions() -> list[tuple[str, str]]:
    """Every dynamics with a network, and everything that its network may predict."""
    found = []
    for name in REGISTRY.names("dynamics"):
        component: Any = REGISTRY.look_up("dynamics", name)[0]
        predicts = component.model_fields.get("predicts")  # a field that is given has no network
        found += [(name, option) for option in (predicts.annotation.__args__ if predicts else ())]
    return found


@pytest.mark.parametrize("network", REGISTRY.names("network"))
@pytest.mark.parametrize(("name", "predicts"), predictions())
def test_an_energys_network_needs_one_derivative_more(name: str, predicts: str, network: str) -> None:
    """C2 for an energy, C1 for all else, whatever the dynamics and the network: an ELU's energy is not smooth."""
    for activation, derivatives in SMOOTHNESS.items():
        body = {"type": network, "activation": activation}
        offered = Dynamics.make({"type": name, "network": body, "predicts": predicts}).offers()
        assert ("smooth" in offered) == (derivatives >= (2 if predicts == "energy" else 1)), activation


TRAINED = {
    "langevin": "sampler={type: langevin, step: 0.1}",
    "vp_sde": "sampler={type: euler_maruyama}",
    "ornstein_uhlenbeck": "sampler={type: euler_maruyama}",
}


@pytest.mark.parametrize("trace", ["exact_trace", "hutchinson"])
@pytest.mark.parametrize("name", TRAINED)
def test_a_loss_that_differentiates_an_elus_energy_is_refused(name: str, trace: str) -> None:
    network = "network: {type: mlp, hidden: [8], activation: elu}"
    sets = [f"estimator={{type: score_matching, trace: {trace}}}", "evaluate=[]", TRAINED[name]]
    for predicts, refused in (("energy", True), ("score", False)):
        found = said(TEXT, f"dynamics={{type: {name}, {network}, predicts: {predicts}}}", *sets)
        assert any("needs a smooth dynamics" in one for one in found) == refused, found


class Twice(Network):
    """A stranger's network of two continuous derivatives, which no activation here has."""

    type = "twice"

    def smoothness(self) -> float:
        return 2

    def parameters(self, *given: object) -> dict[str, Any]:
        raise AssertionError("it is never built")

    def apply(self, *given: object) -> Any:
        raise AssertionError("it is never called")


def test_a_residual_of_the_score_needs_one_derivative_more_still() -> None:
    known = discover()
    known.add_component(Twice)
    evaluated = ("estimator=denoising", "sampler=euler_maruyama", "evaluate=[score_fokker_planck]")
    for predicts, refused in (("energy", True), ("score", False)):
        found = said(
            TEXT, f"dynamics={{type: vp_sde, network: twice, predicts: {predicts}}}", *evaluated, registry=known
        )
        assert any("2 continuous derivatives, 3 are needed" in one for one in found) == refused, found


def test_a_linear_network_has_every_derivative() -> None:
    for name in REGISTRY.names("network"):
        network = {"type": name, "hidden": [], "activation": "relu"}
        assert "smooth" in Dynamics.make({"type": "langevin", "network": network, "predicts": "energy"}).offers()
        assert Network.make(network).smoothness() == float("inf")


# Where chains begin --------------------------------------------------------------------------------------------------

FLOW = "dynamics={type: neural_ode, network: {type: mlp, hidden: [8]}, prior: {type: gaussian, mean: [-5.0, 0.0]}}"
SCORE = "dynamics={type: langevin, network: {type: mlp, hidden: [8]}}"
TARGET = "dynamics={type: langevin, target: {type: gaussian, mean: [3.0, 0.0]}}"
NOISING = "dynamics={type: ve_sde, network: {type: mlp, hidden: [8]}, sigma_max: 30.0, sigma_min: 0.01}"
STEP = "type: langevin, step: 0.1, steps: 4"
DATA, PRIOR, STANDARD, GIVEN = (10.0, 0.1), (-5.0, 1.0), (0.0, 1.0), (7.0, 0.5)
STARTS: list[tuple[str, str, tuple[float, float]]] = [
    (FLOW, f"{{{STEP}}}", PRIOR),
    (FLOW, f"{{{STEP}, start: data}}", DATA),
    (FLOW, f"{{{STEP}, start: prior}}", PRIOR),
    (FLOW, f"{{{STEP}, start: {{type: gaussian, mean: [7.0, 0.0], std: 0.5}}}}", GIVEN),
    (SCORE, f"{{{STEP}}}", DATA),
    (TARGET, f"{{{STEP}}}", STANDARD),
    (TARGET, f"{{{STEP}, start: {{type: gaussian, mean: [7.0, 0.0], std: 0.5}}}}", GIVEN),
    (NOISING, "{type: euler_maruyama, steps: 4}", (0.0, 30.0)),
    (NOISING, "{type: euler_maruyama, steps: 4, direction: forward}", DATA),
]


@pytest.mark.parametrize(("dynamics", "sampler", "law"), STARTS)
def test_chains_begin_where_their_course_says(dynamics: str, sampler: str, law: tuple[float, float]) -> None:
    """The first coordinate's mean and deviation at step 0, of the chains and of the law that metrics are told."""
    data = "data={type: gaussian, mean: [10.0, 0.0], std: 0.1, samples: 2000}"
    sets = [dynamics, f"sampler={sampler}", "evaluate=[]"]
    if dynamics == TARGET:
        text = "version: 1\nname: a\ndynamics: langevin\nsampler: langevin\nsample: {count: 100}\n"
        made = tiny.experiment(*sets, text=text)
    else:
        estimator = "estimator=exact_trace" if dynamics == FLOW else "estimator={type: denoising, sigma: 0.1}"
        made = tiny.experiment(*sets, data, "estimator=denoising" if dynamics == NOISING else estimator)
    spec = made.spec
    assert spec.sampler is not None
    x = spec.sampler.states(made.model, 1000, Streams(0), [0])[0, :, 0].double()
    mean, deviation = law
    assert abs(float(x.mean()) - mean) < 4 * deviation / 1000**0.5
    assert float(x.std()) == pytest.approx(deviation, rel=0.1)
    start: Any = spec.sampler.course(tiny.evaluation(made, made.model).setting).start
    told = spec.data if start == "data" else made.model.prior() if start == "prior" else start
    drawn = told.sample(1000, torch.Generator().manual_seed(0), 2)[:, 0]
    assert abs(float(drawn.mean()) - mean) < 4 * deviation / 1000**0.5
    assert float(drawn.std()) == pytest.approx(deviation, rel=0.1)
