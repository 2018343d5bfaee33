"""The JSON Schema and the validator agree: neither refuses what the other takes, save where a schema has no words."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from jsonschema.exceptions import best_match

from driftspec import source, spec
from driftspec.cli import main
from driftspec.components import Distribution, Measured, Metric, Network, Solver
from driftspec.components.component import Component, default
from driftspec.errors import PluginError, Problem, SpecError
from driftspec.registry import Provider, Registry, installed
from driftspec.spec import envelope, fits
from driftspec.spec.schema import differences, schema, text

ROOT = Path(__file__).parents[2]
SPECS = sorted((ROOT / "specs").glob("*.yaml"))
SCHEMA = schema(installed())[0]
VALIDATOR = Draft7Validator(SCHEMA)

WHOLE = {path.stem: source.read(path).data for path in SPECS}
BASES = {name: data for name, data in WHOLE.items() if "extends" not in data}
EXTENDING = {name: data for name, data in WHOLE.items() if "extends" in data}


def judged(data: Any, folder: Path = ROOT / "specs") -> list[Problem]:
    """What the validator says of a spec, from its text on."""
    try:
        document = source.parse(source.dump(data), "a.yaml")
        if "extends" in document.data:
            document = envelope._extended(document, folder)
        return fits.errors(fits.check(spec.Loaded(spec.validate(document, installed()), document, b"", folder)))
    except (SpecError, PluginError) as error:
        return error.problems


BEYOND = (
    ("[YX]", "", "the text of a file; what does not fit together; what comes of a base that is not read"),
    ("S110", "section 'data'", "data is required where no target stands for it"),
    ("S110", "section 'sampler': write", "a key of the sampler that the dynamics names, where the spec names none"),
    ("S112", "should be a whole number, not -?[0-9.e+]+", "1.0 is a whole number to JSON, and no int in a spec"),
    ("S113", "it must be finite", "JSON has no infinity, and Python's reader takes one"),
    ("S114", r"'version' is 1\.0;", "the same"),
    ("S115", "", "a component's own rule for several of its values, or for one in code"),
    ("P", "", "a plugin that cannot be loaded"),
)  # fmt: skip
"""Why the validator alone refuses: code, what the message says, and the reason that no schema can."""

BEYOND_A_PART = (
    ("S110", "", "what is missing in a spec that extends another may stand in its base"),
    ("S111", "", "keys beside a type that stands in the base"),
    ("S1", "", "a value of the base, or a type there"),
)
"""The same of a spec that extends another."""


def beyond(problem: Problem, part: bool) -> bool:
    reasons = (*BEYOND, *(BEYOND_A_PART if part else ()))
    return any(re.match(code, problem.code) and re.search(said, problem.message) for code, said, _ in reasons)


def agree(data: Any) -> None:
    refused, problems = list(VALIDATOR.iter_errors(data)), judged(data)
    if refused:
        assert problems, f"the schema alone refuses: {[error.message[:200] for error in refused]}"
        assert any(problem.code[0] in "SP" or problem.code in ("X302", "Y013") for problem in problems), problems
    else:
        assert all(beyond(problem, "extends" in data) for problem in problems), f"the validator alone: {problems}"


NAMES = sorted({name for _, name in installed().providers})
KEYS = sorted({key for kind, name in installed().providers for key in installed().look_up(kind, name)[0].model_fields}
              | set(spec.Spec.model_fields) | set(spec.Train.model_fields))  # fmt: skip
PLAIN = st.sampled_from([None, True, False, 0, 1, 2, -1, 3.0, 0.5, -0.5, 1e300, 2**70, "", "x", "cpu", "none", "data"])
VALUES = st.one_of(
    PLAIN,
    st.sampled_from(NAMES),
    st.sampled_from([f"driftspec/{name}" for name in NAMES] + ["DriftSpec/mlp", "drift-spec/mlp", "other/mlp"]),
    st.lists(PLAIN, max_size=4),
    st.lists(st.lists(st.sampled_from([0, 1.0, -2.5]), max_size=3), max_size=3),
    st.dictionaries(st.sampled_from(KEYS), PLAIN, max_size=3),
    st.builds(lambda name, keys: {"type": name, **keys}, st.sampled_from(NAMES),
              st.dictionaries(st.sampled_from(KEYS), PLAIN, max_size=2)),
)  # fmt: skip


def inside(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything below the root."""
    for key, child in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield (*path, key)
        yield from inside(child, (*path, key))


def at(data: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        data = data[key]
    return data


DEFAULTS = [
    (name.split(".")[-1], key, one["default"])
    for name, definition in sorted(SCHEMA["definitions"].items())
    for key, one in definition.get("properties", {}).items()
    if isinstance(one, dict) and "default" in one
]
"""(component, key, default), of every key that has one."""


def own_keys(component: object) -> list[tuple[str, Any]]:
    return [(key, default) for name, key, default in DEFAULTS if name == component]


HARSH = ["value", "remove", "add", "rename", "graft"]
GENTLE = ["number", "number", "own", "own", "bare", "null"]


@st.composite
def mutated(draw: st.DrawFn, specs: dict[str, Any]) -> Any:
    """A shipped spec with a value or two changed, removed, added or taken from another: harshly or gently."""
    data = copy.deepcopy(specs[draw(st.sampled_from(sorted(specs)))])
    for _ in range(draw(st.integers(1, 2))):
        paths = list(inside(data))
        if not paths:
            return data
        *above, last = draw(st.sampled_from(paths))
        holder = at(data, tuple(above))
        old = holder[last]
        change = draw(st.sampled_from([*HARSH, *GENTLE, *GENTLE]))
        if change == "remove":
            del holder[last]
        elif change == "value":
            holder[last] = draw(VALUES)
        elif change == "null":
            holder[last] = None
        elif change == "number" and isinstance(old, int | float) and not isinstance(old, bool):
            holder[last] = draw(st.sampled_from([2 * old, old + 1, old / 3, -old, float(old)]))
        elif change == "graft":
            other = specs[draw(st.sampled_from(sorted(specs)))]
            holder[last] = copy.deepcopy(at(other, draw(st.sampled_from(list(inside(other))))))
        elif change == "bare":
            spelt = draw(st.sampled_from(["{}", "driftspec/{}", "Drift.Spec/{}"]))
            holder[last] = spelt.format(old["type"]) if isinstance(old, dict) and "type" in old else old
        elif isinstance(holder, dict) and change == "own" and (known := own_keys(holder.get("type"))):
            key, usual = draw(st.sampled_from(known))
            holder[key] = draw(st.one_of(st.just(usual), st.just(usual), PLAIN))
        elif isinstance(holder, dict) and change == "add":
            holder[draw(st.sampled_from(KEYS))] = draw(VALUES)
        elif isinstance(holder, dict) and change == "rename":
            holder[last[:-1] + "x"] = holder.pop(last)
    return data


RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}


@given(mutated(BASES))
@settings(max_examples=150, **RELAXED)
def test_schema_and_validator_agree_on_mutated_specs(data: Any) -> None:
    agree(data)


@given(mutated(EXTENDING))
@settings(max_examples=50, **RELAXED)
def test_schema_and_validator_agree_on_mutated_parts(data: Any) -> None:
    agree(data)


@pytest.mark.slow
@given(mutated(WHOLE))
@settings(max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_schema_and_validator_agree_on_thousands_of_mutated_specs(data: Any) -> None:
    agree(data)


# --- what it says ---


def refused(change: dict[str, Any], without: str = "", base: str = "cnf_moons") -> list[str]:
    data = {key: value for key, value in (copy.deepcopy(WHOLE[base]) | change).items() if key != without}
    assert bool(list(VALIDATOR.iter_errors(data))) <= bool(judged(data))
    errors = VALIDATOR.iter_errors(data)
    # Of a choice between a component and null the errors of the component, as checkers and editors tell them.
    told = [best_match([error]) for error in errors]
    return [f"/{'/'.join(map(str, one.absolute_path))} {one.message}" for one in told if one is not None]


def test_it_is_draft_07_and_takes_every_shipped_spec() -> None:
    Draft7Validator.check_schema(SCHEMA)
    assert {name: list(VALIDATOR.iter_errors(data)) for name, data in WHOLE.items()} == {name: [] for name in WHOLE}


UNKNOWN = "{} Additional properties are not allowed ('{}' was unexpected)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"type": "moons", "nosie": 1}}, UNKNOWN.format("/data", "nosie")),
        ({"data": {"type": "moons", "noise": "0.1"}}, "/data/noise '0.1' is not of type 'number'"),
        ({"data": {"noise": 0.1}}, "/data 'type' is a required property"),
        ({"data": {"type": "gaussian_mixture"}}, "/data 'means' is a required property"),
        ({"trian": {}}, UNKNOWN.format("/", "trian")),
        ({"train": {"steps": 0}}, "/train/steps 0 is less than the minimum of 1"),
        ({"train": {}}, "/train 'steps' is a required property"),
        ({"version": 2}, "/version 1 was expected"),
        ({"runtime": {"dtype": "half"}}, "/runtime/dtype 'half' is not one of ['float32', 'float64']"),
        ({"estimator": {"type": "exact_trace", "solver": {"type": "rk4", "step": 3}}},
         UNKNOWN.format("/estimator/solver", "step")),
        ({"data": {"type": "moons", "split": [0.5, 0.5]}}, "/data/split [0.5, 0.5] is too short"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_of_the_one_component_it_is_in(change: dict[str, Any], message: str) -> None:
    assert refused(change) == [message]


def test_a_bare_name_stands_for_a_component_without_required_keys() -> None:
    assert refused({"estimator": "hutchinson", "sampler": "driftspec/ode", "evaluate": ["nll", "round_trip"]}) == []
    assert refused({"data": "moons", "sampler": {"type": "DriftSpec/ode"}}) == []
    assert refused({"sampler": {"type": "drift-spec/ode"}}), "drift-spec is another distribution"
    assert refused({"data": "gaussian_mixture"})
    assert refused({"data": "moon"})
    assert refused({"data": "other/moons"})


def test_places_that_take_some_components_of_a_kind_refuse_the_others() -> None:
    target = {"type": "langevin", "target": {"type": "table", "path": "a.csv"}}
    assert refused({"dynamics": target, "data": None}), "a file has no log p"
    assert refused({"evaluate": [{"type": "nll", "trace": "score_matching"}]}), "no trace"
    assert refused({"evaluate": [{"type": "nll", "trace": "hutchinson"}]}) == []


def test_keys_without_a_use_where_a_component_is_nested_are_refused() -> None:
    def nested(**keys: Any) -> list[str]:
        dynamics = {"type": "langevin", "target": {"type": "gaussian", "mean": [0, 0], **keys}}
        return refused({"dynamics": dynamics, "data": None, "sampler": {"type": "langevin", "step": 0.1}})

    assert nested(std=1.0) == []
    for key, value in (("samples", 10), ("split", [1.0, 0.0, 0.0]), ("standardize", "none")):
        assert nested(**{key: value})
        assert refused({"data": {"type": "gaussian", "mean": [0, 0], key: value}}) == []
    trace = {"type": "hutchinson", "probes": 2}
    assert refused({"evaluate": [{"type": "nll", "trace": trace}]}) == []
    assert refused({"evaluate": [{"type": "nll", "trace": {**trace, "check_every": 5}}]})
    assert refused({"estimator": {**trace, "check_every": 5}}) == []


def test_estimator_and_train_come_together() -> None:
    assert refused({}, without="train") == ["/ 'train' is a required property"]
    assert refused({}, without="estimator") == ["/ 'estimator' is a required property"]
    assert refused({"train": None}) == ["/train None should not be valid under {'type': 'null'}"]
    assert refused({"train": None, "estimator": None}) == []


def test_a_part_may_leave_out_what_its_base_has_and_no_more() -> None:
    part = {"extends": "cnf_moons.yaml"}

    def taken(change: dict[str, Any]) -> bool:
        return VALIDATOR.is_valid(part | change)

    assert taken({})
    assert taken({"dynamics": {"network": {"hidden": [8]}}, "train": {"clip_norm": 1.0}, "estimator": "hutchinson"})
    assert taken({"data": "gaussian_mixture"}), "whose keys may be the base's"
    assert not taken({"dynamics": {"type": "neural_ode", "network": {"type": "mlp", "hiden": [8]}}})
    assert taken({"dynamics": {"network": {"type": "mlp", "hiden": [8]}}}), "of a dynamics that the base names"
    assert not taken({"train": {"clipnorm": 1.0}})
    assert not taken({"evaluate": [{"type": "energy_distance", "sample": 5}]})
    assert not taken({"evaluate": [{"samples": 5}]}), "a list is replaced: its items are whole"
    assert not VALIDATOR.is_valid({"extends": 3})
    assert not VALIDATOR.is_valid({"dynamics": {"network": {"hidden": [8]}}})


def keys_of(made: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(definition.key, its schema) of every key."""
    for name, definition in {"": made, **made["definitions"]}.items():
        for key, one in definition.get("properties", {}).items():
            if isinstance(one, dict):
                yield f"{name}.{key}", one


def test_an_editor_shows_of_every_key_its_name_its_meaning_and_its_default() -> None:
    for name, one in keys_of(SCHEMA):
        assert one["title"] == name.rpartition(".")[2]
        if one["title"] not in ("type", "extends"):
            *meaning, last = one["description"].split("\n")
            assert meaning != [one["title"]], f"{name} has no meaning"
            assert re.fullmatch("Required|Optional|Default: .+", last), name
            assert last.startswith("Default: ") is ("default" in one), name
            if "default" in one:
                assert source.parse(f"a: {last.removeprefix('Default: ')}", "a").data["a"] == one["default"], name
    known = dict(keys_of(SCHEMA))
    assert known["estimator.hutchinson.probes"]["description"] == "K, probe vectors averaged\nDefault: 1"
    assert known["spec:Train.steps"]["description"] == "optimiser steps\nRequired"
    assert known["spec:Train.optimizer"]["default"] == "adam"
    assert known["data.moons.split"]["description"].endswith("\nDefault: [0.8, 0.1, 0.1]")
    assert set(SCHEMA["properties"]) - {"extends"} == set(spec.Spec.model_fields)


def test_an_editor_shows_the_key_before_the_component_that_stands_in_it() -> None:
    network = dict(keys_of(SCHEMA))["dynamics.neural_ode.network"]
    first, second = network["allOf"]
    assert first == {"title": "network", "description": network["description"]}
    assert second == {"$ref": "#/definitions/network"}


def test_an_editor_completes_no_null_where_a_component_or_a_section_is_meant() -> None:
    for name in ("data", "estimator", "train", "sample"):
        assert "default" not in SCHEMA["properties"][name]
        assert SCHEMA["properties"][name]["type"][0] == "object", "it writes the key, and goes on in the next line"


def test_no_name_of_the_schemas_own_is_shown() -> None:
    for name, definition in SCHEMA["definitions"].items():
        assert definition["description"], name
        assert re.fullmatch(r"[a-z0-9_ ]+", definition["title"]), name
    titles = {name: SCHEMA["definitions"][name]["title"] for name in ("spec:Train", "estimator+keys", "data.moons")}
    assert titles == {"spec:Train": "train", "estimator+keys": "estimator", "data.moons": "moons"}


def test_every_name_of_a_component_is_completed_with_what_it_is() -> None:
    def choices(one: Any) -> Iterator[dict[str, Any]]:
        for inner in one.values() if isinstance(one, dict) else one if isinstance(one, list) else ():
            yield from choices(inner)
        if isinstance(one, dict) and "enum" in one and set(one["enum"]) <= set(NAMES):
            yield one

    found = list(choices(SCHEMA))
    assert set(NAMES) == {name for one in found for name in one["enum"]}
    for one in found:
        assert len(one["enumDescriptions"]) == len(one["enum"])
        assert all(one["enumDescriptions"])
    estimators = next(one for one in found if "hutchinson" in one["enum"])
    told = dict(zip(estimators["enum"], estimators["enumDescriptions"], strict=True))
    assert told["hutchinson"].startswith("tr(∂f/∂x) ≈ 1/K Σ_k v_kᵀ")


# --- plugins ---


class Colour(Enum):
    """One of two."""

    RED = "red"
    BLUE = "blue"


class Odd(Network):
    """Takes what JSON has no word for."""

    type = "odd.one-2"
    anything: Any = default(print, "a value of any type")
    colour: Colour | None = None
    tags: frozenset[str] = frozenset()
    inner: Network | None = None
    steps: int

    def build(self, *given: object) -> Any:
        raise AssertionError("it is never built")


class OwnMoons(Distribution):
    """A name that another provides too."""

    type = "moons"
    height: float = 1.0

    def log_prob(self, *given: object) -> Any:
        raise AssertionError("it is never asked")


class Broken(Metric):
    """Measures nothing."""

    type = "broken"
    solver: Solver

    def measure(self, evaluation: Any) -> Measured:
        raise NotImplementedError


def extended(**more: type[Component] | str) -> Registry:
    known = installed()
    registry = Registry({key: list(found) for key, found in known.providers.items()})
    for where, target in more.items():
        kind, name = where.split("__")
        name = target.type if isinstance(target, type) else name
        registry.providers.setdefault((kind, name), []).append(Provider("p", "My.Plugins", "1", target))
    return registry


def test_a_plugins_component_is_described_like_any_other() -> None:
    made, left_out = schema(extended(network__odd=Odd))
    assert left_out == []
    Draft7Validator.check_schema(made)

    def taken(network: Any) -> bool:
        dynamics = {"type": "neural_ode", "network": network}
        return Draft7Validator(made).is_valid({"version": 1, "name": "a", "dynamics": dynamics})

    spelt = ("odd.one-2", "My.Plugins/odd.one-2", "my-plugins/odd.one-2")
    for value, good in ((3, True), ("3", False)):
        for name in spelt:
            network = {"type": name, "steps": value, "anything": [{}]}
            assert taken(network) is good
    assert not taken("odd.one-2"), "it needs steps"
    assert taken({"type": "odd.one-2", "steps": 3, "tags": ["a", "a"]}), "a set takes a list with repetitions"
    assert taken({"type": "odd.one-2", "steps": 3, "inner": {"type": "odd.one-2", "steps": 3, "inner": "mlp"}})
    assert not taken({"type": "odd.one-2", "steps": 3, "inner": {"type": "odd.one-2", "inner": "mlp"}})
    for colour, good in (("red", True), (None, True), ("green", False), (3, False)):
        assert taken({"type": "odd.one-2", "steps": 3, "colour": colour}) is good
    assert not taken({"type": "oddxone-2", "steps": 3})


def test_a_name_of_two_providers_needs_its_distribution() -> None:
    check = Draft7Validator(schema(extended(data__moons=OwnMoons))[0])

    def taken(data: Any) -> bool:
        return check.is_valid({**WHOLE["cnf_moons"], "data": data})

    assert not taken("moons")
    assert not taken({"type": "moons"})
    assert taken("driftspec/moons")
    assert taken({"type": "driftspec/moons", "noise": 0.1})
    assert taken({"type": "my-plugins/moons", "height": 2.0})
    assert not taken({"type": "my-plugins/moons", "noise": 0.1})
    assert not taken({"type": "driftspec/moons", "height": 2.0})


def test_a_solver_that_a_component_needs_may_be_the_whole_specs() -> None:
    registry = extended(metric__broken=Broken)
    data = {**WHOLE["cnf_moons"], "solver": "rk4", "evaluate": ["broken"]}
    assert Draft7Validator(schema(registry)[0]).is_valid(data)
    document = source.parse(source.dump(data), "a.yaml")
    assert spec.validate(document, registry).evaluate


def test_a_component_that_cannot_be_loaded_is_left_out_with_a_warning() -> None:
    made, left_out = schema(extended(network__gone="no_such_module:Gone"))
    assert [problem.code for problem in left_out] == ["P201"]
    assert made == SCHEMA


# --- the command ---


def test_the_bytes_are_the_same_in_every_process_and_need_no_torch() -> None:
    code = (
        "import sys; from driftspec.cli import main; main(['schema']); "
        "print([m for m in ('torch', 'numpy', 'scipy', 'matplotlib') if m in sys.modules], file=sys.stderr)"
    )
    made = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True,
                       env={**os.environ, "PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    ]  # fmt: skip
    assert made[0].stdout == made[1].stdout == text(SCHEMA).encode()
    assert {one.stderr for one in made} == {b"[]\n"}


def test_a_file_is_written_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["schema", "-o", "s.json"]) == 0
    assert Path("s.json").read_text() == text(SCHEMA)
    assert main(["schema", "--check", "s.json"]) == 0
    assert capsys.readouterr() == ("s.json: up to date\n", "")
    Path("s.json").write_text(json.dumps(SCHEMA))  # laid out in another way
    assert main(["schema", "--check", "s.json"]) == 0
    changed = copy.deepcopy(SCHEMA)
    changed["definitions"]["data.moons"]["properties"]["noise"]["default"] = 9
    del changed["definitions"]["spec:Sample"]
    Path("s.json").write_text(json.dumps(changed))
    capsys.readouterr()
    assert main(["schema", "--check", "s.json"]) == 1
    assert capsys.readouterr() == ("", "error: 's.json' is not the schema of the installed plugins: it differs at "
        "/definitions/data.moons/properties/noise/default, /definitions/spec:Sample (new); "
        "write it again: run-spec schema -o s.json\n")  # fmt: skip
    assert list(map(str, Path().iterdir())) == ["s.json"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--check", "no.json"], 1, "error: 'no.json' cannot be read: no such file or directory; write it again"),
        (["--check", "bad.json"], 1, "error: 'bad.json' is not JSON"),
        (["-o", "no/s.json"], 2, "error: -o 'no/s.json': give a file in an existing folder"),
        (["-o", "."], 2, "error: -o '.': give a file in an existing folder"),
        (["-o", "s.json", "--check", "s.json"], 2, "error: argument --check: not allowed with argument -o"),
    ],
)
def test_what_cannot_be_written_or_checked(
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("{")
    assert main(["schema", *words]) == code
    assert capsys.readouterr().err.startswith(message)


def test_many_differences_are_counted() -> None:
    old = {"a": {str(i): i for i in range(9)}}
    assert list(differences(old, old)) == []
    assert len(list(differences(old, {"a": {}}))) == 9
    assert list(differences({"a": 1}, {"a": 1.0})) == ["/a"]
