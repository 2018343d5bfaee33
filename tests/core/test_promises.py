"""What the core asks of a component is a method of its kind's base class: no coincidence of names decides anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from driftspec.cli import main
from driftspec.components import Distribution, Dynamics, Metric, Network, Sampler
from driftspec.numerics.model import build_model
from driftspec.registry import Registry, installed

BY_NAME = '''
from typing import Literal
from pydantic import Field
from driftspec.components import Distribution, Dynamics, Schedule
from driftspec.registry import hookimpl


class Held(Dynamics):
    """The Langevin SDE of a distribution whose key is `density`."""

    type = "held"
    default_sampler = "langevin"
    density: Distribution = Field(description="the distribution")

    def offers(self):
        return frozenset({"drift", "score", "log_prob"})

    def build(self, dim, generator):
        import torch

        module = torch.nn.Module()
        module.register_buffer("unit", torch.ones(()), persistent=False)
        return module

    def score(self, module, t, x):
        return self.density.score(x)

    def log_prob(self, module, x):
        return self.density.log_prob(x)

    def drift(self, module, t, x):
        return self.density.score(x) / 2

    def diffusion(self, t):
        return t * 0 + 1


class Warm(Schedule):
    """Constant; `warmup` is a shape."""

    type = "warm"
    warmup: Literal["linear", "none"] = Field("none", description="shape of the rise")

    def build(self, optimizer, steps):
        from torch.optim.lr_scheduler import LambdaLR

        return LambdaLR(optimizer, lambda step: 1.0)


@hookimpl
def driftspec_components():
    return {"dynamics": {"held": Held}, "schedule": {"warm": Warm}}
'''
TRAINED = "dynamics: neural_ode\nestimator: exact_trace\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("by_name.py").write_text(BY_NAME)
    return tmp_path


def spec(body: str) -> str:
    Path("a.yaml").write_text(f"version: 1\nname: a\n{body}")
    return "a.yaml"


@pytest.mark.parametrize(
    "body",
    [
        TRAINED
        + "data: moons\ntrain: {steps: 4, batch_size: 16, schedule: {type: warm, warmup: linear}}\nevaluate: []\n",
        "dynamics: {type: held, density: {type: gaussian, mean: [0, 0]}}\n"
        "sampler: {type: langevin, step: 0.1, steps: 20}\nevaluate: [moments]\nsample: {count: 100}\n",
    ],
    ids=["warmup is a word", "the target has another key"],
)
def test_a_strangers_key_may_have_any_name(body: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--plugin", "by_name.py", spec(body)]) == 0
    assert capsys.readouterr() == ("a.yaml: valid\n", "")
    assert main(["--plugin", "by_name.py", "a.yaml", "--quiet"]) == 0


# What a class lacks --------------------------------------------------------------------------------------------------


class Silent(Metric):
    """It measures nothing."""

    type = "silent"


class Halfway(Network):
    """It has parameters and no function."""

    type = "halfway"

    def parameters(self, *given: object) -> dict[str, torch.Tensor]:
        return {}


class Idle(Sampler):
    """It draws nothing."""

    type = "idle"


@pytest.mark.parametrize(
    ("lacking", "text"),
    [
        (Silent, "its class Silent has no method measure, which each metric must have"),
        (Halfway, "its class Halfway has no method apply, which each network must have"),
        (Idle, "its class Idle has no method draw_block, which each sampler must have"),
    ],
)
def test_a_class_without_a_method_of_its_kind_is_refused_when_it_is_first_imported(lacking: type, text: str) -> None:
    registry = Registry(dict(installed().providers))
    registry.add_component(lacking)
    found, problem = registry.look_up(lacking.kind, lacking.type)
    assert found is None and problem.code == "P204" and problem.message.endswith(text)


def test_an_abstract_class_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Silent()


# What a method returns -----------------------------------------------------------------------------------------------

WRONG = """
from driftspec.components import Draws, Metric, Sampler, Schedule
from driftspec.registry import hookimpl


class Wrong(Metric):
    "Each of its methods may return the wrong thing."
    type = "wrong"
    what: str = ""

    def offers(self):
        return ("a",) if self.what == "offers" else frozenset()

    def needs(self):
        return {}["oops"] if self.what == "needs" else ()

    def problems(self, around):
        yield from ([3] if self.what == "problems" else [])

    def measure(self, evaluation):
        return 3.0


class Flat(Sampler):
    "Its draws have no chains."
    type = "flat"

    def draw(self, model, count, streams):
        import torch

        return Draws(torch.zeros(count, 2))


class Three(Schedule):
    "It is no schedule."
    type = "three"

    def build(self, optimizer, steps):
        return 3


@hookimpl
def driftspec_components():
    return {"metric": {"wrong": Wrong}, "sampler": {"flat": Flat}, "schedule": {"three": Three}}
"""


@pytest.mark.parametrize(
    ("keys", "code", "text"),
    [
        (
            "evaluate: [{type: wrong, what: offers}]",
            4,
            "metric 'wrong': offers returns a frozenset of texts, not ('a',)",
        ),
        ("evaluate: [{type: wrong, what: needs}]", 4, "metric 'wrong' failed: KeyError: 'oops'"),
        ("evaluate: [{type: wrong, what: problems}]", 4, "metric 'wrong' failed: TypeError: cannot unpack"),
        ("evaluate: [wrong]", 1, "metric 'wrong' failed: TypeError: measure returned float, not Measured"),
        (
            "evaluate: []\nsample: {count: 9}\nsampler: flat",
            1,
            "sampler 'flat' failed: TypeError: draw returned values of",
        ),
        (
            "evaluate: []\n{schedule: three}",
            1,
            "schedule 'three' failed: TypeError: build returned int, not LRScheduler",
        ),
    ],
)
def test_a_wrong_answer_names_the_component(
    keys: str, code: int, text: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "wrong.py").write_text(WRONG)
    schedule = ", schedule: three" if "schedule" in keys else ""
    keys = keys.replace("\n{schedule: three}", "")
    body = f"data: {{type: moons, samples: 300}}\n{TRAINED}train: {{steps: 2, batch_size: 16{schedule}}}\n{keys}\n"
    assert main(["--plugin", "wrong.py", spec(body), "--quiet"]) == code
    err = capsys.readouterr().err
    assert text in err and "Traceback" not in err


# A row's condition ---------------------------------------------------------------------------------------------------


class Shifted(Network):
    """f(t, x, c) = c - x."""

    type = "shifted"

    def parameters(self, *given: object) -> dict[str, torch.Tensor]:
        return {"unused": torch.zeros(1)}

    def apply(self, p, t, x, condition=None):
        return (0 if condition is None else condition) - x


def test_a_model_given_a_condition_passes_row_i_of_it_with_row_i_of_x() -> None:
    registry = Registry(dict(installed().providers))
    registry.add_component(Shifted)
    dynamics = Dynamics.make({"type": "neural_ode", "network": "shifted"}, registry)
    model = build_model(dynamics, 2, 0, torch.float64, torch.device("cpu"))
    x, c = torch.randn(2, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(0.5, dtype=torch.float64)
    assert torch.equal(model.velocity(t, x), -x)
    given = model.given(c)
    assert torch.equal(given.velocity(t, x), c - x)
    stacked = torch.cat([x, 2 * x])  # as solvers stack stages of a whole batch
    assert torch.equal(given.velocity(t, stacked), torch.cat([c, c]) - stacked)
    assert torch.equal(given.double().velocity(t, x), c - x)


# The distribution that a dynamics holds ------------------------------------------------------------------------------


def test_a_dynamics_states_its_target() -> None:
    target = {"type": "gaussian", "mean": [1.0]}
    held = Dynamics.make({"type": "langevin", "target": target}).target_law()
    assert isinstance(held, Distribution) and held == Distribution.make(target)
    for name in ("neural_ode", "vp_sde", "ornstein_uhlenbeck", {"type": "langevin", "network": "mlp"}):
        assert Dynamics.make(name).target_law() is None
