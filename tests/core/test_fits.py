"""What fits what: capabilities and what follows from them, and what is said of two things that do not go together."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import small_spec
from pydantic import Field
from small_spec import TEXT, edited, loaded, said

from driftspec import source, spec
from driftspec.components import Draws, Dynamics, Estimator, Evaluation, Loss, Measured, Metric, Sampler
from driftspec.components.component import Component, Need
from driftspec.errors import Place, SpecError
from driftspec.experiment import build
from driftspec.registry import Registry, installed
from driftspec.source.files import Files
from driftspec.spec import fits

ENERGY = "[{type: energy_distance, samples: 50}]"


class Denoiser(Estimator):
    """Asks for what a neural ODE has not."""

    type = "denoiser"

    def needs(self) -> tuple[Need, ...]:
        return (Need("dynamics", ("noise_kernel",)), Need("dynamics", ("drift",)))

    def loss(self, *given: object) -> Loss:
        raise AssertionError("nothing is trained")


class Frozen(Dynamics):
    """Offers an energy, and nothing to train."""

    type = "frozen"
    default_sampler = "still"
    default_metrics = ("choosy",)

    things: tuple[str, ...] = Field(("energy",), description="")

    def offers(self) -> frozenset[str]:
        return frozenset(self.things)

    def build(self, *given: object) -> Any:
        raise AssertionError("nothing is built")


class Still(Sampler):
    """Needs nothing."""

    type = "still"

    def draw_block(self, *given: object) -> Draws:
        raise AssertionError("nothing is drawn")


class Choosy(Metric):
    """Takes one of two."""

    type = "choosy"

    def needs(self) -> tuple[Need, ...]:
        return (Need("dynamics", ("log_prob", "samples"), "to be sure"),)

    def measure(self, evaluation: Evaluation) -> Measured:
        raise AssertionError("it is never measured")


@pytest.fixture(scope="module")
def known() -> Registry:
    registry = Registry({key: list(found) for key, found in installed().providers.items()})
    for component in (Denoiser, Frozen, Still, Choosy):
        registry.add_component(component)
    return registry


MISFITS: list[tuple[tuple[tuple[str, str], ...], str]] = [
    (
        (("tanh", "relu"),),
        "7:12: error[X301] estimator 'hutchinson' needs a smooth dynamics (the loss contains a derivative "
        "of the network: its activation must be C1)"
        "; dynamics 'neural_ode' is not smooth (a.yaml:5:3); the same for metric 'nll'",
    ),
    (
        (("{type: hutchinson, noise: rademacher}", "denoiser"),),
        "7:12: error[X301] estimator 'denoiser' needs a noise_kernel; "
        "dynamics 'neural_ode' offers velocity, log_prob, score (a.yaml:5:3)",
    ),
    (
        (("type: moons, samples: 500, noise: 0.05", "type: spiral_trajectories"), ("[nll]", "[]")),
        "7:12: error[X301] estimator 'hutchinson' needs samples (to learn from); "
        "data 'spiral_trajectories' offers trajectories (a.yaml:3:7)",
    ),
    (
        (("estimator: {type: hutchinson, noise: rademacher}\n", ""),),
        "7:1: error[X302] section 'train' needs an 'estimator' beside it: the two come together",
    ),
    (
        (("{type: hutchinson, noise: rademacher}", "null"),),
        "8:1: error[X302] section 'train' needs an 'estimator' beside it: the two come together",
    ),
    (
        ((TEXT[TEXT.index("train:") : TEXT.index("evaluate:")], ""),),
        "7:1: error[X302] section 'estimator' needs 'train' beside it: the two come together",
    ),
    ((("data: {type: moons, samples: 500, noise: 0.05}\n", ""),), "1:1: error[S110] missing section 'data'"),
    ((("[nll]", "[nll, nll]"),), "13:17: error[X302] two metrics are called 'nll': give one a 'name'"),
    (
        (("[nll]", "[{type: energy_distance, samples: 200}]"),),
        "13:45: error[X303] metric 'energy_distance' reads 200 samples and sample.count is 100: "
        "raise it or lower 'samples'",
    ),
    (
        (("[nll]", "[energy_distance]"),),
        "13:12: error[X303] metric 'energy_distance' reads 2000 samples and sample.count is 100: "
        "raise it or lower 'samples'",
    ),
    (
        (("[nll]\nsample: {count: 100}\n", f"{ENERGY}\n"),),
        "13:12: error[X302] metric 'energy_distance' reads 50 samples and the spec draws none: add sample: {count: 50}",
    ),
    (
        (("  steps", "  monitor: energy_distance\n  steps"),),
        "9:12: error[X302] metric 'energy_distance' cannot monitor training: it reads the run's samples, "
        "drawn afterwards",
    ),
    (
        (("batch_size: 64", "batch_size: 401"),),
        "10:15: error[X303] 'batch_size' in train is 401: it must be at most the number of training rows, 400",
    ),
    (
        (("warmup: 5", "warmup: 100"),),
        "12:36: error[X303] schedule 'cosine': 'warmup' is 100: it must be less than train.steps, which is 100",
    ),
    (
        (("noise: 0.05", "split: [0.7, 0.1, 0.1]"),),
        "3:42: error[X303] 'split' in data is [0.7, 0.1, 0.1]: it takes fractions for training (more than 0), "
        "validation and test that sum to 1",
    ),
    (
        (("noise: 0.05", "split: [1.2, -0.1, -0.1]"),),
        "3:42: error[X303] 'split' in data is [1.2, -0.1, -0.1]: it takes fractions for training (more than 0), "
        "validation and test that sum to 1",
    ),
    (
        (("noise: 0.05", "split: [0.9, 0, 0.1]"), ("  steps", "  early_stopping: {every: 5}\n  steps")),
        "9:19: error[X303] 'early_stopping' in train reads the validation loss: 'split' in data leaves no "
        "validation rows",
    ),
    (
        (("  network", "  prior: {type: gaussian, mean: [0, 0, 0]}\n  network"),),
        "6:10: error[X301] dynamics.prior: data 'gaussian' has 3 dimensions, data 'moons' has 2",
    ),
]


@pytest.mark.parametrize(("edits", "message"), MISFITS, ids=[message[:60] for _, message in MISFITS])
def test_what_does_not_fit_is_one_message_at_its_place(
    edits: tuple[tuple[str, str], ...], message: str, known: Registry
) -> None:
    assert said(edited(*edits), registry=known) == [f"a.yaml:{message}"]


@pytest.mark.parametrize("sampler", ["ode", "euler_maruyama"])
def test_a_sampler_that_begins_at_a_prior_needs_one(sampler: str) -> None:
    """A target's SDE has a drift and a score, and a velocity follows: but there is no prior to begin at."""
    text = f"version: 1\nname: a\ndynamics: {{type: langevin, target: moons}}\nsampler: {sampler}\nevaluate: [ess]\n"
    assert said(f"{text}sample: {{count: 100}}\n") == [
        f"a.yaml:4:1: error[X303] sampler '{sampler}': it begins at the prior, and dynamics 'langevin' has none"
    ]


def test_what_almost_does_not_fit_does() -> None:
    text = edited(
        ("samples: 500, noise: 0.05", "samples: 500, split: [0.8, 0.196, 0.004]"),
        ("batch_size: 64", "batch_size: 400"), ("warmup: 5", "warmup: 99"),
        ("[nll]", "[nll, {type: nll, name: b}, {type: energy_distance, samples: 100}]"),
        ("  steps", "  early_stopping: {every: 5}\n  monitor: nll\n  steps"),
        ("  network", "  prior: {type: gaussian, mean: [0, 0]}\n  network"), ("tanh", "elu"),
    )  # fmt: skip
    assert said(text) == []


@pytest.mark.parametrize(
    ("estimator", "dynamics", "said"),
    [
        ("{type: denoising, sigma: 0.1}", "neural_ode", ["needs a noise_kernel"]),
        ("denoising", "neural_ode", ["needs a noise_kernel"]),
        ("{type: denoising, sigma: 0.1}", "vp_sde", ["'sigma' is one level, and dynamics 'vp_sde' has a time"]),
        ("denoising", "vp_sde", []),
        ("denoising", "langevin", ["give one level, 'sigma'"]),
        ("{type: denoising, sigma: 0.1}", "langevin", []),
        ("score_matching", "neural_ode", ["needs a dynamics with a noise kernel or a drift"]),
        ("{type: score_matching, paths: {}}", "neural_ode", ["needs a drift"]),
    ],
)
def test_whoever_obeys_an_answer_gets_no_other_one(estimator: str, dynamics: str, said: list[str]) -> None:
    sampler = "{type: langevin, step: 0.01}" if dynamics == "langevin" else "ode"
    text = edited(("  type: neural_ode", f"  type: {dynamics}"), ("[nll]", f"[]\nsampler: {sampler}"))
    found = small_spec.said(text.replace("{type: hutchinson, noise: rademacher}", estimator))
    assert len(found) == len(said), found
    assert all(part in line for part, line in zip(said, found)), found


def test_several_misfits_are_all_told_in_order_of_place(known: Registry) -> None:
    text = edited(("tanh", "relu"), ("batch_size: 64", "batch_size: 401"), ("[nll]", "[nll, nll, choosy]"))
    lines = said(text, registry=known)
    assert [line.partition("] ")[0] for line in lines] == [
        "a.yaml:7:12: error[X301", "a.yaml:10:15: error[X303", "a.yaml:13:17: error[X302",
    ]  # fmt: skip


def frozen(things: str, evaluate: str = "[choosy]") -> str:
    return f"version: 1\nname: a\ndata: moons\ndynamics: {{type: frozen, things: {things}}}\nevaluate: {evaluate}\n"


def test_a_need_has_its_article_its_reason_and_its_alternatives(known: Registry) -> None:
    assert said(frozen("[]"), registry=known) == [
        "a.yaml:5:12: error[X301] metric 'choosy' needs a log_prob or samples (to be sure); "
        "dynamics 'frozen' offers none of its kind (a.yaml:4:11)"
    ]
    assert said(frozen("[drift, energy, my.thing, smooth, trainable]"), registry=known)[1:] == [
        "a.yaml:5:12: error[X301] metric 'choosy' needs a log_prob or samples (to be sure); "
        "dynamics 'frozen' offers drift, energy, my.thing, score, velocity (a.yaml:4:11)"
    ]
    assert said(frozen("[log_prob]"), registry=known) == said(frozen("[samples]"), registry=known) == []


def test_what_the_dynamics_names_by_default_is_checked_too(known: Registry) -> None:
    (found,) = said(frozen("[]", "null"), registry=known)
    assert found.startswith("a.yaml:5:1: error[X301] metric 'choosy' needs")


def test_nothing_to_train(known: Registry) -> None:
    text = frozen("[noise_kernel, drift]", "[]") + "estimator: denoiser\ntrain: {steps: 1}\n"
    assert said(text, registry=known) == [
        "a.yaml:6:12: error[X301] estimator 'denoiser' needs a trainable dynamics; "
        "dynamics 'frozen' has nothing to train"
    ]


@pytest.mark.parametrize(
    ("own", "all_of_them"),
    [
        (["energy"], {"energy", "score"}),
        (["log_prob"], {"log_prob", "score"}),
        (["velocity", "prior"], {"velocity", "prior", "log_prob", "score"}),
        (["velocity"], {"velocity"}),
        (["drift", "score", "prior"], {"drift", "score", "prior", "velocity", "log_prob"}),
        (["drift", "energy"], {"drift", "energy", "score", "velocity"}),
        (["drift"], {"drift"}),
    ],
)
def test_capabilities_follow_from_others(own: list[str], all_of_them: set[str]) -> None:
    component: Component = Frozen(things=tuple(own))
    assert fits.capabilities(component) == all_of_them


# --- what is checked is what the stages use ---

CHAINS = """\
version: 1
name: a
data: {type: moons, samples: 500}
dynamics: {type: langevin, network: {type: mlp, hidden: [8]}}
estimator: {type: score_matching}
sampler: {type: langevin, step: 0.01, chains: 7, burn_in: 5}
train: {steps: 100, batch_size: 401}
evaluate: [fisher_divergence]
sample: {count: 100}
"""


def found_in(text: str, *stages: str, registry: Registry | None = None) -> list[str]:
    """The places of what is wrong in a run of these stages."""
    problems = fits.check(loaded(text, registry=registry), stages)
    return [f"{one.place.line}:{one.place.column}" for one in problems if one.place is not None]


def test_a_stage_is_asked_for_what_it_uses() -> None:
    """Rows for a batch, a multiple of the chains, draws for a metric that reads them."""
    assert found_in(CHAINS, "train", "evaluate", "sample") == ["6:47", "7:33"]
    assert found_in(CHAINS, "train") == ["7:33"]
    assert found_in(CHAINS, "sample") == ["6:47"]
    assert found_in(CHAINS, "evaluate") == []
    for metric in ("ess", "{type: moments}", "{type: energy_distance, samples: 50}", "{type: ksd, samples: 50}"):
        assert found_in(CHAINS.replace("fisher_divergence", metric), "evaluate") == ["6:47"], metric
    of_data = CHAINS.replace("fisher_divergence", "{type: ksd, of: data, samples: 5000}")
    assert found_in(of_data, "evaluate") == []


def test_a_metric_that_is_not_measured_is_asked_for_nothing(known: Registry) -> None:
    class Rich(Metric):
        """Needs more than is installed, and more samples than there are."""

        type = "rich"
        libraries: ClassVar[Mapping[str, str]] = {"no_such_module": "rich"}
        draws_wanted = "samples"
        samples: int = Field(5000, description="")

        def needs(self) -> tuple[Need, ...]:
            return (Need("dynamics", ("noise_kernel",)),)

        def measure(self, evaluation: Evaluation) -> Measured:
            raise AssertionError("it is never measured")

    registry = Registry(dict(known.providers))
    registry.add_component(Rich)
    text = edited(("[nll]", "[rich, rich]"))
    assert found_in(text, "sample", registry=registry) == found_in(text, "train", registry=registry) == []
    assert len(found_in(text, "evaluate", registry=registry)) == 6
    with_monitor = edited(("  steps", "  monitor: {type: rich, samples: 0}\n  steps"))
    assert found_in(with_monitor, "sample", "evaluate", registry=registry) == []
    assert len(found_in(with_monitor, "train", registry=registry)) == 3


# --- what only the data can tell ---

TABLE = edited(("type: moons, samples: 500, noise: 0.05", "type: table, path: d.csv"), ("[nll]", "[]"))


def built(text: str, root: Path) -> build.Experiment:
    document = source.parse(text, "a.yaml")
    made = spec.validate(document, installed())
    return build.build(made, Files(root, allow_outside=True), document=document)


def test_a_missing_data_file_is_told_at_its_path(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        built(TABLE, tmp_path)
    (problem,) = caught.value.problems
    assert (problem.code, problem.place, problem.source) == ("X304", Place("a.yaml", 3, 27), TABLE.splitlines()[2])


def test_a_file_that_does_not_fit_the_rest_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a,b\n" + "".join(f"{i},{i * i % 7}\n" for i in range(50)))
    text = TABLE.replace("  network", "  prior: {type: gaussian, mean: [0, 0, 0]}\n  network")
    with pytest.raises(SpecError) as caught:
        built(text, tmp_path)
    assert [str(problem) for problem in caught.value.problems] == [
        "a.yaml:6:10: error[X301] dynamics.prior: data 'gaussian' has 3 dimensions, the data have 2",
        "a.yaml:11:15: error[X303] 'batch_size' in train is 64: it must be at most the number of training rows, 40",
    ]
    assert built(TABLE.replace("64", "40"), tmp_path).model.dim == 2


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(SpecError, match=r"a\.yaml:15:19: error\[X303\] 'device' in runtime is 'cuda'"):
        built(f"{TEXT}runtime: {{device: cuda}}\n", tmp_path)


def test_without_a_document_a_problem_has_no_place(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        build.build(loaded(TABLE).spec, Files(tmp_path, allow_outside=True))
    assert caught.value.problems[0].place is None


def test_checking_a_spec_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from small_spec import TEXT, said; assert said(TEXT) == []; "
        "heavy = ('torch', 'numpy', 'matplotlib', 'subprocess', 'driftspec.runs'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    here = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
