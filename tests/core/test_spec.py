"""From text to a checked spec: what is said of every mistake, and where; what is filled in, and read back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field
from small_spec import TEXT, edited, loaded, said

from driftspec import source, spec
from driftspec.components import Evaluation, Measured, Metric
from driftspec.errors import CODES, Place, SpecError
from driftspec.registry import Registry, installed

# --- one mistake, one message ---

MISTAKES: list[tuple[str, str, str]] = [
    # (what stands in the small spec, what is written in its place, what is said)
    ("estimator:", "estimater:", "7:1: error[S111] unknown key 'estimater' (did you mean 'estimator'?)"),
    ("dynamics:", "dynmics:", "4:1: error[S111] unknown key 'dynmics' (did you mean 'dynamics'?)"),
    ("name: a", "nme: a", "2:1: error[S111] unknown key 'nme' (did you mean 'name'?)"),
    ("name: a", "name: a\nextend: b.yaml", "3:1: error[S111] unknown key 'extend' (did you mean 'extends'?)"),
    (
        "name: a",
        "name: a\nsweep: {grid: {seed: [1, 1]}}",
        "3:26: error[S130] points 1 and 2 of the sweep are the same run: leave one out",
    ),
    ("name: a", "name: a\nsweeps: 1", "3:1: error[S111] unknown key 'sweeps' (did you mean 'sweep'?)"),
    ("noise: rad", "nosie: rad", "7:31: error[S111] unknown key 'nosie' in estimator (did you mean 'noise'?)"),
    ("noise: rad", "NOISE: rad", "7:31: error[S111] unknown key 'NOISE' in estimator (did you mean 'noise'?)"),
    (
        "noise: rad",
        "zzz: rad",
        "7:31: error[S111] unknown key 'zzz' in estimator; "
        "allowed: solver, check_every, kinetic, jacobian, probes, noise",
    ),
    ("  batch_size", "  batchsize", "10:3: error[S111] unknown key 'batchsize' in train (did you mean 'batch_size'?)"),
    ("  steps", "  stpes", "9:3: error[S111] unknown key 'stpes' in train (did you mean 'steps'?)"),
    (
        "[nll]",
        "[{type: nll, trace: {type: hutchinson, porbes: 3}}]",
        "13:50: error[S111] unknown key 'porbes' in evaluate.0.trace (did you mean 'probes'?)",
    ),
    (
        "[nll]",
        "[{type: nll, trace: {type: hutchinson, solver: rk4}}]",
        "13:50: error[S111] key 'solver' has no use in evaluate.0.trace, where estimator 'hutchinson' is nested",
    ),
    (
        "network:",
        "prior: {type: gaussian, samples: 9}\n  network:",
        "6:27: error[S111] key 'samples' has no use in dynamics.prior, where data 'gaussian' is nested",
    ),
    (
        "network:",
        "prior: {type: gaussian, zzz: 9}\n  network:",
        "6:27: error[S111] unknown key 'zzz' in dynamics.prior; allowed: mean, std, covariance",
    ),
    ("version: 1\n", "", "1:1: error[S110] missing section 'version'"),
    ("  steps: 100\n", "", "8:1: error[S110] missing key 'steps' in train"),
    (
        "{type: cosine, warmup: 5}",
        "{type: multi_step}",
        "12:3: error[S110] missing key 'milestones' in train.schedule",
    ),
    ("{type: cosine, warmup: 5}", "multi_step", "12:3: error[S110] missing key 'milestones' in train.schedule"),
    ("type: hutchinson, ", "", "7:1: error[S110] missing key 'type' in estimator; allowed: "),
    (
        "type: hutchinson",
        "tpye: hutchinson",
        "7:13: error[S111] unknown key 'tpye' in estimator (did you mean 'type'?)",
    ),
    ("steps: 100", "steps: hundred", "9:10: error[S112] 'steps' in train should be a whole number, not 'hundred'"),
    (
        "steps: 100",
        "steps: '100'",
        "9:10: error[S112] 'steps' in train should be a whole number, not '100': write it without quotes",
    ),
    ("steps: 100", "steps: 1.5", "9:10: error[S112] 'steps' in train should be a whole number, not 1.5"),
    ("steps: 100", "steps: 1e3", "9:10: error[S112] 'steps' in train should be a whole number, not 1000.0: write 1000"),
    ("steps: 100", "steps: true", "9:10: error[S112] 'steps' in train should be a whole number, not true"),
    ("steps: 100", "steps:", "9:9: error[S112] 'steps' in train should be a whole number, not null"),
    ("steps: 100", "steps: {a: 1}", "9:10: error[S112] 'steps' in train should be a whole number, not a mapping"),
    ("lr: 1e-2", "lr: fast", "11:31: error[S112] 'lr' in train.optimizer should be a number, not 'fast'"),
    (
        "lr: 1e-2",
        "amsgrad: yes",
        "11:36: error[S112] 'amsgrad' in train.optimizer should be true or false, not 'yes': write true or false",
    ),
    ("name: a", "name: 3", "2:7: error[S112] 'name' should be text, not 3: put it in quotes"),
    ("[nll]", "nll", "13:11: error[S112] 'evaluate' should be a list, not 'nll': write [nll]"),
    ("[nll]", "{type: nll}", "13:11: error[S112] 'evaluate' should be a list, not a mapping: put [ ] around it"),
    ("[0.9, 0.99]", "0.9", "11:44: error[S112] 'betas' in train.optimizer should be a list, not 0.9: write [0.9]"),
    ("[8, 8]", "[8, 8.5]", "6:36: error[S112] 'hidden.1' in dynamics.network should be a whole number, not 8.5"),
    ("name: a", "name: a\nruntime: cpu", "3:10: error[S112] 'runtime' should be a mapping, not 'cpu'"),
    ("steps: 100", "steps: 0", "9:10: error[S113] 'steps' in train is 0: it must be at least 1"),
    ("  steps", "  clip_norm: 0\n  steps", "9:14: error[S113] 'clip_norm' in train is 0: it must be more than 0"),
    ("  steps", "  ema: 1\n  steps", "9:8: error[S113] 'ema' in train is 1: it must be less than 1"),
    ("lr: 1e-2", "lr: .inf", "11:31: error[S113] 'lr' in train.optimizer is inf: it must be finite"),
    ("lr: 1e-2", "lr: .nan", "11:31: error[S113] 'lr' in train.optimizer is nan: it must be finite"),
    ("[0.9, 0.99]", "[0.9, 1.5]", "11:50: error[S113] 'betas.1' in train.optimizer is 1.5: it must be less than 1"),
    ("[0.9, 0.99]", "[0.9]", "11:44: error[S113] 'betas' in train.optimizer is a list of 1: it takes 2"),
    ("[0.9, 0.99]", "[]", "11:44: error[S113] 'betas' in train.optimizer is a list of 0: it takes 2"),
    ("[0.9, 0.99]", "[0.9, 0.9, 0.9]", "11:44: error[S113] 'betas' in train.optimizer is a list of 3: it takes 2"),
    ("noise: 0.05", "split: [0.9, 0.1]", "3:42: error[S113] 'split' in data is a list of 2: it takes 3"),
    ("noise: 0.05", "split: [1, 0, 0, 0]", "3:42: error[S113] 'split' in data is a list of 4: it takes 3"),
    (
        "type: moons, samples: 500, noise: 0.05",
        "type: checkerboard, cells: 5",
        "3:35: error[S113] 'cells' in data is 5: it must be a multiple of 2",
    ),
    (
        "{type: cosine, warmup: 5}",
        "{type: multi_step, milestones: []}",
        "12:44: error[S113] 'milestones' in train.schedule is a list of 0: it takes 1 or more",
    ),
    (
        "noise: rademacher",
        "noise: rademaher",
        "7:38: error[S114] 'noise' in estimator is 'rademaher' (did you mean 'rademacher'?); "
        "allowed: 'rademacher' or 'gaussian'",
    ),
    (
        "noise: rademacher",
        "noise: 3",
        "7:38: error[S114] 'noise' in estimator is 3; allowed: 'rademacher' or 'gaussian'",
    ),
    ("version: 1", "version: 2", "1:10: error[S114] 'version' is 2; allowed: 1"),
    ("version: 1", "version: '1'", "1:10: error[S114] 'version' is '1'; allowed: 1"),
    ("version: 1", "version: true", "1:10: error[S114] 'version' is true; allowed: 1"),
    (
        "name: a",
        "name: a/b",
        "2:7: error[S114] 'name' is 'a/b'; "
        "allowed: up to 100 letters, digits, '_', '.' and '-', the first a letter or digit",
    ),
    (
        "name: a",
        "name: a\nruntime: {device: gpu}",
        "3:19: error[S114] 'device' in runtime is 'gpu'; allowed: 'cpu', 'cuda', 'cuda:1' or 'mps'",
    ),
    (
        "[nll]",
        "[{type: nll, name: a b}]",
        "13:30: error[S114] 'name' in evaluate.0 is 'a b'; allowed: letters, digits and '_'",
    ),
    (
        "type: adam,",
        "type: lbfgs,",
        "11:21: error[S120] unknown optimizer 'lbfgs' "
        "(did you mean 'adam', which evaluates the loss once a step as training does?); allowed: ",
    ),
    ("network:", "time: [1, 1]\n  network:", "6:9: error[S115] 'time' in dynamics: t_prior and t_data must differ"),
    (
        "hutchinson",
        "hutchison",
        "7:19: error[S120] unknown estimator 'hutchison' (did you mean 'hutchinson'?); allowed: ",
    ),
    ("[nll]", "[nil]", "13:12: error[S120] unknown metric 'nil' (did you mean 'nll'?); allowed: "),
    ("[nll]", "[xx/nll]", "13:12: error[S120] unknown metric 'xx/nll'; allowed: driftspec/nll"),
    ("type: moons", "type: ''", "3:14: error[S120] unknown data ''; allowed: "),
    (
        "network:",
        "prior: gausian\n  network:",
        "6:10: error[S120] unknown data 'gausian' (did you mean 'gaussian'?); allowed: ",
    ),
    (
        "type: hutchinson",
        "type: null",
        "7:19: error[S121] 'type' in estimator should name an estimator component, not null; ",
    ),
    (
        "{type: hutchinson, noise: rademacher}",
        "3",
        "7:12: error[S121] 'estimator' should name an estimator component, not 3; allowed: ",
    ),
    ("[nll]", "[[nll]]", "13:12: error[S121] 'evaluate.0' should name a metric component, not a list; allowed: "),
]


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES, ids=[f"{new!r:.40}" for _, new, _ in MISTAKES])
def test_a_mistake_is_one_message_at_its_place(old: str, new: str, message: str) -> None:
    (found,) = said(edited((old, new)))
    # The names of what is installed may be more tomorrow.
    more = message.endswith(("allowed: ", "; ")) and found.startswith(f"a.yaml:{message}")
    assert more or found == f"a.yaml:{message}"


def test_the_small_spec_itself_is_valid() -> None:
    assert said(TEXT) == []


def test_a_spec_of_nothing_lacks_its_sections() -> None:
    assert said("seed: 1\n") == [
        f"a.yaml:1:1: error[S110] missing section '{name}'" for name in ("version", "name", "dynamics")
    ]


def test_the_names_offered_are_those_that_fit() -> None:
    (found,) = said(edited(("[nll]", "[{type: nll, trace: zzz}]")))
    assert "hutchinson" in found
    assert "trajectory" not in found  # an estimator, but no trace
    (found,) = said(edited(("[nll]", "[{type: nll, trace: trajectory}]")))
    assert "13:31: error[S120] estimator 'trajectory' is not allowed here; allowed: exact_trace, hutchinson" in found


def test_a_name_of_another_kind_is_recognised() -> None:
    (found,) = said(edited(("hutchinson", "moons")))
    assert found.endswith("('moons' is a data)")


def test_several_mistakes_are_all_told_in_order_of_place() -> None:
    text = edited(("noise: 0.05", "nois: 0.05"), ("[8, 8]", "[8, -8]"), ("  steps", "  stpes"), ("[nll]", "[nil]"))
    places = [re.match(r"(.*): error\[(.*)\]", line) for line in said(text)]
    assert [(m[1], m[2]) for m in places if m] == [
        ("a.yaml:3:35", "S111"), ("a.yaml:6:36", "S113"), ("a.yaml:9:3", "S111"), ("a.yaml:13:12", "S120"),
    ]  # fmt: skip


def test_two_mistakes_in_one_component() -> None:
    text = edited(("[nll]", "[{type: nll, trace: {type: hutchinson, solver: rk4, probes: 0}}]"))
    assert [line.partition("] ")[0] for line in said(text)] == ["a.yaml:13:50: error[S111", "a.yaml:13:71: error[S113"]


def test_a_missing_key_is_told_beside_an_unknown_one_that_is_not_near_it() -> None:
    found = said(edited(("  steps: 100", "  zzz: 100")))
    assert [line.partition("; ")[0] for line in found] == [
        "a.yaml:8:1: error[S110] missing key 'steps' in train",
        "a.yaml:9:3: error[S111] unknown key 'zzz' in train",
    ]


def test_every_code_of_the_schema_is_among_the_mistakes() -> None:
    tried = set(re.findall(r"error\[(S\d+)\]", str(MISTAKES)))
    assert tried == {code for code in CODES if code.startswith("S")}


# --- keys of every type ---


class Keys(Metric):
    """A component with keys of many types."""

    type = "keys"

    flag: bool = Field(True, description="")
    whole: int = Field(2, gt=1, le=5, multiple_of=2, description="")
    number: float = Field(1.0, ge=0, lt=2, description="")
    text: str = Field("abc", min_length=2, max_length=4, description="")
    shape: str = Field("abc", pattern="^[a-c]+$", description="")
    word: Literal["up", "down"] | None = Field(None, description="")
    pair: tuple[float, int] = Field((1.0, 1), description="")
    many: tuple[int, ...] = Field((1, 2), min_length=1, max_length=3, description="")
    table: dict[str, int] = Field({}, description="")
    step: Annotated[float, Field(gt=0)] | Literal["auto"] = Field("auto", description="")
    widths: int | tuple[int, ...] | None = Field(1, description="")

    def measure(self, evaluation: Evaluation) -> Measured:
        raise AssertionError("it is never measured")


@pytest.fixture(scope="module")
def keys() -> Registry:
    registry = Registry(dict(installed().providers))
    registry.add_component(Keys)
    return registry


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("flag", "1", "S112] 'flag' in evaluate.0 should be true or false, not 1"),
        ("whole", "0", "S113] 'whole' in evaluate.0 is 0: it must be more than 1"),
        ("whole", "6", "S113] 'whole' in evaluate.0 is 6: it must be at most 5"),
        ("whole", "3", "S113] 'whole' in evaluate.0 is 3: it must be a multiple of 2"),
        ("number", "2", "S113] 'number' in evaluate.0 is 2: it must be less than 2"),
        ("number", "-.inf", "S113] 'number' in evaluate.0 is -inf: it must be finite"),
        ("text", "a", "S113] 'text' in evaluate.0 is 'a': the shortest text allowed has 2 characters"),
        ("text", "abcde", "S113] 'text' in evaluate.0 is 'abcde': the longest text allowed has 4 characters"),
        ("shape", "xyz", "S114] 'shape' in evaluate.0 is 'xyz'; allowed: text like ^[a-c]+$"),
        ("word", "upp", "S114] 'word' in evaluate.0 is 'upp' (did you mean 'up'?); allowed: 'up' or 'down'"),
        ("pair", "[1, x]", "S112] 'pair.1' in evaluate.0 should be a whole number, not 'x'"),
        ("pair", "[1, 1, 1]", "S113] 'pair' in evaluate.0 is a list of 3: it takes 2"),
        ("many", "[]", "S113] 'many' in evaluate.0 is a list of 0: it takes 1 or more"),
        ("many", "[1, 1, 1, 1]", "S113] 'many' in evaluate.0 is a list of 4: it takes 3 or fewer"),
        ("table", "[1]", "S112] 'table' in evaluate.0 should be a mapping, not a list"),
        ("table", "{a: x}", "S112] 'a' in evaluate.0.table should be a whole number, not 'x'"),
        ("step", "[1]", "S112] 'step' in evaluate.0 should be a number or 'auto', not a list"),
        ("step", "-1", "S113] 'step' in evaluate.0 is -1: it must be more than 0"),
        ("step", "aut", "S112] 'step' in evaluate.0 should be a number or 'auto', not 'aut'"),
        ("widths", "x", "S112] 'widths' in evaluate.0 should be a whole number or a list, not 'x'"),
    ],
)
def test_a_key_of_any_type_has_its_words(key: str, value: str, message: str, keys: Registry) -> None:
    (found,) = said(edited(("[nll]", f"[{{type: keys, {key}: {value}}}]")), registry=keys)
    assert found.partition("error[")[2] == message


JUNK: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.sampled_from(["", "x", "1", "up"])
    | st.lists(st.integers(-5, 5) | st.text("ab", max_size=2), max_size=4) | st.builds(dict)
    | st.builds(dict, a=st.just(1))
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(list(Keys.model_fields)), JUNK, min_size=1))
def test_whatever_a_value_is_pydantics_own_words_are_not_shown(junk: dict[str, Any]) -> None:
    registry = Registry(dict(installed().providers))
    registry.add_component(Keys)
    data = source.parse(TEXT, "a.yaml").data | {"evaluate": [{"type": "keys", **junk}]}
    for line in said(source.dump(data), registry=registry):
        assert re.match(r"a\.yaml:\d+:\d+: error\[S11\d\] '", line)
        assert not re.search(r"[Ii]nput|should have|valid |[Tt]uple|string|integer|dictionary", line), line


@st.composite
def broken(draw: st.DrawFn) -> dict[str, Any]:
    """A real spec's data with something renamed, dropped or replaced anywhere in it."""
    data = source.parse(TEXT, "a.yaml").data
    for _ in range(draw(st.integers(1, 3))):
        at: Any = data
        while True:
            key = draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
            if isinstance(at[key], (dict, list)) and at[key] and draw(st.booleans()):
                at = at[key]
            else:
                break
        what = draw(st.sampled_from(["drop", "rename", "junk", "add"]))
        if what == "drop" or (what == "rename" and isinstance(at, list)):
            del at[key]
        elif what == "rename":
            at[draw(st.sampled_from([key + "x", "x" + key, "type"]))] = at.pop(key)
        elif what == "junk":
            at[key] = draw(JUNK)
        elif isinstance(at, dict):
            at["solver"] = draw(JUNK)
        if not data or not at:
            break
    return data  # type: ignore[no-any-return]


@settings(max_examples=200, deadline=None)
@given(broken())
def test_however_a_spec_is_broken_the_answer_is_a_list_of_problems_with_places(data: dict[str, Any]) -> None:
    text = source.dump(data)
    lines = said(text) if data else []
    assert len(lines) == len(set(lines))
    for line in lines:
        found = re.match(r"a\.yaml:(\d+):(\d+): (?:error|warning)\[([SXY]\d+)\] \S", line)
        assert found and found[3] in CODES, line
        assert 1 <= int(found[1]) <= text.count("\n") + 1


# --- from where a value comes ---


def test_a_mistake_in_the_base_has_its_place_there(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(edited(("noise: rad", "nosie: rad")))
    (tmp_path / "top.yaml").write_text("extends: base.yaml\nname: b\nsample: {cuont: 5}\n")
    with pytest.raises(SpecError) as caught:
        spec.read(tmp_path / "top.yaml", installed())
    first, second = caught.value.problems
    assert first.place == Place(str(tmp_path / "base.yaml"), 7, 31)
    assert first.source == edited(("noise: rad", "nosie: rad")).splitlines()[6]
    assert second.place == Place(str(tmp_path / "top.yaml"), 3, 10)


def test_a_spec_extends_its_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(TEXT)
    (tmp_path / "top.yaml").write_text("extends: base.yaml\nname: b\ntrain: {steps: 7}\ndata: {type: rings}\n")
    made = spec.read(tmp_path / "top.yaml", installed())
    assert (made.spec.name, made.spec.data.type, made.spec.train.steps, made.spec.train.batch_size) == (
        "b",
        "rings",
        7,
        64,
    )
    assert made.text == (tmp_path / "top.yaml").read_bytes()
    assert made.root == tmp_path


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("bse.yaml", "1:10: error[Y013] the base 'bse.yaml' cannot be read: no such file (did you mean 'base.yaml'?)"),
        ("3", "1:10: error[Y013] 'extends' names a file, not 3"),
        ("[a, b]", "1:10: error[Y013] 'extends' names a file, not a list"),
        (".", "1:10: error[Y013] the base '.' cannot be read: is a directory"),
    ],
)
def test_a_base_that_is_none(tmp_path: Path, extends: str, message: str) -> None:
    (tmp_path / "base.yaml").write_text(TEXT)
    (tmp_path / "top.yaml").write_text(f"extends: {extends}\nname: b\n")
    with pytest.raises(SpecError) as caught:
        spec.read(tmp_path / "top.yaml", installed())
    assert str(caught.value) == f"{tmp_path / 'top.yaml'}:{message}"


def test_a_base_extends_nothing(tmp_path: Path) -> None:
    (tmp_path / "top.yaml").write_text("extends: top.yaml\n")
    with pytest.raises(SpecError, match=r"top\.yaml:1:1: error\[Y013\] a base cannot extend another"):
        spec.read(tmp_path / "top.yaml", installed())


def test_a_base_that_is_no_yaml_is_told_at_its_own_place(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("a: [1\n")
    (tmp_path / "top.yaml").write_text("extends: base.yaml\n")
    with pytest.raises(SpecError, match=r"base\.yaml:1:4: error\[Y004\]"):
        spec.read(tmp_path / "top.yaml", installed())


@pytest.mark.parametrize(
    ("sets", "lines"),
    [
        (("train.steps=5", "train.steps=0"), ["--set[2]: error[S113] 'steps' in train is 0: it must be at least 1"]),
        (("estimator.nosie=1",), ["--set[1]: error[S111] unknown key 'nosie' in estimator (did you mean 'noise'?)"]),
        (
            ("evaluate+={type: nll, ponts: 3}",),
            ["--set[1]: error[S111] unknown key 'ponts' in evaluate.1 (did you mean 'points'?)"],
        ),
        (
            ("evaluate.3=nll", "seed=1", "train={a: 1, a: 2}", "name.x.y=1"),
            [
                "--set[1]: error[Y014] 'evaluate' is a list of 1, counted from 0: there is no '3' in it",
                "--set[3]: error[Y005] the key 'a' is repeated: it is on line 1",
            ],
        ),
        (("train",), ["--set[1]: error[Y014] 'train' is not KEY=VALUE"]),
    ],
)  # fmt: skip
def test_a_mistake_in_a_setting_has_its_number(sets: tuple[str, ...], lines: list[str]) -> None:
    assert said(TEXT, *sets)[: len(lines)] == lines


def test_changes_are_made_in_order_and_options_last() -> None:
    changes = spec.Changes(("seed=1", "evaluate+=round_trip", "sample=null"), ("train.ema",), (("--seed", "seed", 3),))
    document = changes.apply(source.parse(edited(("  steps", "  ema: 0.9\n  steps")), "a.yaml"))
    made = spec.validate(document, installed())
    assert (made.seed, [m.type for m in made.evaluate], made.train.ema) == (3, ["nll", "round_trip"], None)
    assert document.place(("seed",)) == Place("--seed")
    assert document.place(("evaluate", 1)) == Place("--set[2]")


# --- what is filled in ---


def test_the_dynamics_names_sampler_and_metrics_where_the_spec_names_none() -> None:
    made = loaded(edited(("evaluate: [nll]\n", ""))).spec
    assert made.sampler.type == made.dynamics.default_sampler
    assert tuple(metric.type for metric in made.evaluate) == made.dynamics.default_metrics
    assert loaded(edited(("[nll]", "[]"))).spec.evaluate == ()


def test_a_metric_is_appended_to_those_that_the_dynamics_names(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(TEXT.replace("evaluate: [nll]\n", ""))

    def measured(*sets: str) -> list[str]:
        return [one.type for one in spec.read(tmp_path / "a.yaml", installed(), spec.Changes(sets)).spec.evaluate or ()]

    named = measured()
    assert named
    assert measured("evaluate+=ksd") == measured("evaluate=null", "evaluate+=ksd") == [*named, "ksd"]
    assert measured("evaluate+=ksd", "evaluate+=mmd") == [*named, "ksd", "mmd"]
    assert measured("evaluate=[]", "evaluate+=ksd") == ["ksd"]
    with pytest.raises(SpecError, match="unknown dynamics 'nowhere'"):
        measured("dynamics=nowhere", "evaluate+=ksd")


def test_the_top_level_solver_is_taken_over_where_none_is_named() -> None:
    text = edited(
        ("name: a", "name: a\nsolver: {type: rk4, steps: 7}"),
        ("[nll]", "[{type: nll, trace: {type: hutchinson}}, round_trip, {type: nll, name: own, solver: dopri5}]"),
    )
    made = loaded(text).spec
    resolved = made.resolved()
    for path in (made.estimator, made.sampler, made.evaluate[0], made.evaluate[1]):
        assert (path.solver.type, path.solver.steps) == ("rk4", 7)
    assert made.estimator.solver.tolerance == 1e-2  # each place fills in its own defaults
    assert made.sampler.solver.tolerance == 1e-4
    assert made.evaluate[2].solver.type == "dopri5"
    assert resolved["sampler"]["solver"]["steps"] == resolved["evaluate"][0]["solver"]["steps"] == 7
    assert "solver" not in resolved["evaluate"][0]["trace"]
    assert resolved["evaluate"][0]["confirm"]["type"] == "dopri8"  # another key, not taken over


def test_a_wrong_top_level_solver_is_one_mistake() -> None:
    (found,) = said(edited(("name: a", "name: a\nsolver: {type: rk4, stepps: 7}")))
    assert found == "a.yaml:3:21: error[S111] unknown key 'stepps' in solver (did you mean 'steps'?)"


def test_components_are_found_with_their_paths_and_unused_ones_are_not() -> None:
    found = loaded().spec.components()
    assert found["evaluate", 0, "trace"].type == "exact_trace"
    assert ("evaluate", 0, "trace", "solver") not in found
    assert ("estimator", "solver") in found
    assert list(found)[:4] == [("data",), ("dynamics",), ("dynamics", "network"), ("dynamics", "prior")]


def one(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


def some(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of the keys."""
    return st.fixed_dictionaries({}, optional=keys)


SOLVERS = one("rk4", "lobatto", {"type": "rk4", "steps": 3}, {"type": "dopri5", "rtol": 1e-5}, "driftspec/rk4")
TRACES = one("exact_trace", {"type": "hutchinson", "probes": 2}, {"type": "driftspec/hutchinson", "noise": "gaussian"})
DATA = one("moons", "rings", {"type": "gaussian", "mean": [0, 1.5], "split": [0.5, 0.25, 0.25]})
DYNAMICS = some(
    network=one("mlp", {"type": "concat_squash", "hidden": []}, {"type": "driftspec/mlp", "hidden": [4]}),
    prior=one("gaussian", {"type": "gaussian", "mean": [1, -2], "std": 1e-3}, "moons"),
    time=one([0, 1], [1.0, 1e-5]),
)
TRAIN = some(
    optimizer=one("sgd", "adam", {"type": "driftspec/adamw", "lr": 1e-8, "betas": [0, 0.5]}),
    schedule=one("cosine", {"type": "multi_step", "milestones": [1, 2]}),
    early_stopping=one(None, {}, {"patience": 3}),
    monitor=one(None, "nll", {"type": "nll", "solver": "rk4"}),
)
NLL = some(solver=SOLVERS, trace=TRACES, points=st.integers(2, 50), confirm=SOLVERS)
OTHERS = some(
    solver=SOLVERS,
    seed=st.integers(0, 2**63 - 1),
    sampler=st.just("ode") | st.builds(dict, type=st.just("ode"), solver=SOLVERS),
    sample=st.just({"count": 9}),
    runtime=st.just({"dtype": "float64"}),
)


@st.composite
def valid(draw: st.DrawFn) -> dict[str, Any]:
    """The data of a valid spec."""
    return {
        "version": 1,
        "name": draw(one("a", "1", "no", "1e5", "a.b-c_d", "null")),
        "data": draw(DATA),
        "dynamics": {"type": "neural_ode", **draw(DYNAMICS)},
        "estimator": draw(TRACES | st.builds(dict, type=st.just("hutchinson"), solver=SOLVERS)),
        "train": {"steps": 100, "batch_size": 10, **draw(TRAIN)},
        "evaluate": draw(one(None, [], ["nll"], ["driftspec/round_trip"], [{"type": "nll", **draw(NLL)}])),
        **draw(OTHERS),
    }


@settings(max_examples=60, deadline=None)
@given(valid())
def test_the_resolved_spec_reads_back_as_the_same_spec(data: dict[str, Any]) -> None:
    made = spec.validate(source.parse(source.dump(data), "a.yaml"), installed())
    text = source.dump(made.resolved())
    again = spec.validate(source.parse(text, "resolved.yaml"), installed())
    assert again == made
    assert source.dump(again.resolved()) == text
    assert [c.spelling for c in again.components().values()] == [c.spelling for c in made.components().values()]


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].joinpath("specs").glob("*.yaml")), ids=lambda p: p.stem
)
def test_a_shipped_spec_resolves_and_reads_back(path: Path) -> None:
    made = spec.read(path, installed()).spec
    assert spec.validate(source.parse(source.dump(made.resolved()), "r"), installed()) == made


def test_a_spec_is_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        loaded().spec.seed = 3


def test_a_default_sampler_that_needs_a_key_is_written_out() -> None:
    text = "version: 1\nname: a\ndynamics: {type: langevin, target: {type: gaussian, mean: [0], std: [1.0]}}\n"
    with pytest.raises(SpecError) as caught:
        spec.from_text(text, "a.yaml", Path(), installed())
    expected = "missing section 'sampler': write sampler: {type: langevin, step: ...}, or another one"
    assert str(caught.value) == f"a.yaml:1:1: error[S110] {expected}"
