"""The mechanism every component shares: keys, nesting by kind and name, spec form and back."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from driftspec.components import KINDS, Distribution, Dynamics, Evaluation, Measured, Metric, Network, Solver, Trace
from driftspec.components.component import Component, Need, default
from driftspec.errors import CODES, Interrupted, PluginError, Problem, SpecError, nearest, shown
from driftspec.registry import Registry


def test_a_component_is_frozen_strict_and_closed() -> None:
    solver = Solver.make({"type": "rk4", "steps": 3})
    with pytest.raises(ValidationError, match="frozen"):
        solver.steps = 4
    for keys in ({"steps": "3"}, {"steps": True}, {"steps": 3.5}, {"stepps": 3}, {"tolerance": float("nan")}):
        with pytest.raises(ValidationError):
            Solver.make({"type": "rk4", **keys})
    assert Solver.make({"type": "rk4", "tolerance": 1}).tolerance == 1.0


def test_a_bare_name_is_short_for_its_type() -> None:
    assert Solver.make("rk4") == Solver.make({"type": "rk4"}) == type(Solver.make("rk4"))()


def test_a_live_component_passes_as_it_is() -> None:
    solver = Solver.make("rk4")
    assert Solver.make(solver) is solver
    nll = type(Metric.make("nll"))
    assert nll(solver=solver).solver is solver
    with pytest.raises(ValidationError, match="solver"):
        nll(solver=Network.make("mlp"))


def test_nesting_keeps_the_subclass_and_its_keys() -> None:
    network = {"type": "concat_squash", "hidden": [5], "activation": "softplus"}
    made = Dynamics.make({"type": "neural_ode", "network": network})
    assert made.network.hidden == (5,)
    assert made.body()["network"] == network
    assert Dynamics.make(made.body()) == made
    assert set(made.nested()) == {"network", "prior"}


@pytest.mark.parametrize("name", ["nll", "round_trip", "energy_distance"])
def test_a_metric_goes_to_spec_form_and_back(name: str) -> None:
    made = Metric.make(name)
    assert Metric.make(made.body()) == made
    assert pickle.loads(pickle.dumps(made)) == made


def test_what_has_no_use_in_a_nested_component_is_not_in_its_spec_form() -> None:
    nll = Metric.make({"type": "nll", "trace": "hutchinson"})
    assert nll.body()["trace"] == {"type": "hutchinson", "probes": 1, "noise": "rademacher"}
    assert nll.trace.body()["check_every"] == 20
    assert type(nll).unused_in("trace") == Trace.unused_nested
    assert type(nll).unused_in("solver") == frozenset()
    assert Dynamics.make("neural_ode").unused_in("prior") == Distribution.unused_nested


def test_an_open_class_is_found_inside_a_unions_annotation() -> None:
    class From(Metric):
        """A metric."""

        type = "from"
        start: Annotated[Distribution | Literal["data"], Field()] | None = Field(None, description="")

    assert From.unused_in("start") == Distribution.unused_nested


def test_the_label_says_kind_and_spelling() -> None:
    assert Solver.make("rk4").label == "solver 'rk4'"
    made = Solver.make("driftspec/rk4")
    assert (made.label, made.type, made.body()["type"]) == ("solver 'driftspec/rk4'", "rk4", "driftspec/rk4")
    assert made != Solver.make("rk4")


def test_a_default_names_a_component_of_no_imported_plugin() -> None:
    class Walk(Metric):
        """A metric."""

        type = "walk"
        solver: Solver = default({"type": "rk4", "steps": 2}, "to walk with")

        def measure(self, evaluation: Evaluation) -> Measured:
            raise AssertionError("it is never measured")

    assert Walk().solver == Solver.make({"type": "rk4", "steps": 2})
    registry = Registry()
    registry.add_component(Walk)
    with pytest.raises(ValidationError, match="unknown solver 'rk4'; allowed: none"):
        Metric.make("walk", registry)


def test_a_component_says_by_default_that_it_offers_and_needs_nothing() -> None:
    class Idle(Metric):
        """A metric."""

        type = "idle"

        def measure(self, evaluation: Evaluation) -> Measured:
            raise AssertionError("it is never measured")

    assert (Idle().offers(), Idle().needs()) == (frozenset(), ())
    assert Need("data", ("samples",)).why == ""


def method(self: Any) -> int:
    return 3


@pytest.mark.parametrize(
    "body",
    [
        {"__annotations__": {"measure": int}, "measure": 3},
        {"__annotations__": {"offers": int}},
        {"__annotations__": {"label": str}, "label": "a"},
        {"__annotations__": {"make": str}},
        {"__annotations__": {"copy": bool}, "copy": True},
        {"__annotations__": {"schema": bool}, "schema": True},
        {"__annotations__": {"speed": int}, "speed": method},
        {"__annotations__": {"speed": int}, "speed": property(method)},
    ],
    ids=lambda body: next(iter(body["__annotations__"])),
)
def test_a_key_and_a_method_of_one_name_are_refused(body: dict[str, Any]) -> None:
    name = next(iter(body["__annotations__"]))
    with pytest.raises(PluginError, match=rf"error\[P204\] .*\.Bad: key and method share the name '{name}'"):
        type("Bad", (Metric,), {"type": "bad", "__module__": __name__, **body})


def test_a_key_beside_methods_and_class_variables_is_fine() -> None:
    class Good(Metric):
        """A metric."""

        type = "good"
        draws_wanted = "draws"
        TABLE: ClassVar[dict[str, int]] = {"a": 1}

        draws: int = Field(3, description="")

        def measure(self, evaluation: Evaluation) -> Measured:
            raise AssertionError("it is never measured")

        def drawn(self) -> int:
            return self.draws

    assert Good(draws=4).drawn() == 4


def test_each_kind_is_open_and_has_a_name() -> None:
    assert all(base.kind == kind and not base.type and issubclass(base, Component) for kind, base in KINDS.items())


def test_importing_components_imports_no_torch() -> None:
    code = "import sys, driftspec.components, driftspec.experiment.build as _"
    code += "; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


# --- errors ---


def test_the_nearest_name() -> None:
    assert nearest("nosie", ["probes", "noise"]) == " (did you mean 'noise'?)"
    assert nearest("TANH", ["tanh", "silu"]) == " (did you mean 'tanh'?)"
    assert nearest("mlp", ["MLP"]) == " (did you mean 'MLP'?)"
    assert nearest("zzz", ["noise"]) == nearest("", ["noise"]) == nearest("noise", []) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"), (True, "true"), (False, "false"), (3, "3"), (1e-3, "0.001"), ("a", "'a'"), ({}, "a mapping"),
        ([1], "a list"), ((1,), "a list"), ("a\x1b[31m", r"'a\x1b[31m'"), ("a\nb", r"'a\nb'"), ("\u202e", r"'\u202e'"),
    ],
)  # fmt: skip
def test_a_value_in_a_message(value: object, text: str) -> None:
    assert shown(value) == text


@given(st.text())
def test_a_text_in_a_message_is_printable_and_short(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) <= 60


def test_errors_end_with_the_exit_codes_of_the_contract() -> None:
    problem = Problem("S111", "unknown key 'nosie' in estimator (did you mean 'noise'?)")
    assert str(SpecError([problem, problem])).splitlines() == [f"error[S111] {problem.message}"] * 2
    assert (SpecError(problem).exit_code, PluginError(problem).exit_code) == (3, 4)
    assert (Interrupted("", 2).exit_code, Interrupted("", 15).exit_code) == (130, 143)
    assert SpecError(problem).problems == [problem]


def test_every_code_belongs_to_a_family() -> None:
    assert all(code[0] in "YSPX" and code[1] == {"Y": "0", "S": "1", "P": "2", "X": "3"}[code[0]] for code in CODES)
