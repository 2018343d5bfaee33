"""The conformance kit can fail: components of any kind and networks that break a promise, one for each check."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from kit import checks, held, outcome
from pydantic import ConfigDict, Field, field_validator
from torch import Generator, Tensor

from driftspec.components import (
    Network,
)
from driftspec.components.component import Component
from driftspec.testing import (
    DataTests,
    NetworkTests,
    TraceTests,
    checks_for,
)


class Plain(Network):
    """W x, and what mutants of it get wrong."""

    type = "plain"

    size: int = Field(3, ge=1, le=9, description="a number")
    rate: float = Field(0.5, gt=0, lt=1, description="a fraction")
    way: Literal["one", "other"] = Field("one", description="a choice")
    several: tuple[int, ...] | None = Field(None, description="some numbers")

    def parameters(self, d_in: int, d_out: int, generator: Generator) -> dict[str, Tensor]:
        return {"w": 0.5 * torch.randn(d_out, d_in, generator=generator), "b": torch.zeros(d_out)}

    def apply(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.tanh(x @ p["w"].T + p["b"])


class Silent(Plain):
    """A key without a word."""

    type = "silent"
    mute: int = 1


class Undocumented(Plain):
    type = "undocumented"


class Lenient(Plain):
    """Takes unknown keys."""

    type = "lenient"
    model_config = ConfigDict(extra="ignore")


class Clamps(Plain):
    """Changes a value in silence."""

    type = "clamps"

    @field_validator("size", mode="before")
    @classmethod
    def _clamp(cls, size: Any) -> Any:
        return max(1, size) if isinstance(size, int) else size


class Loose(Plain):
    """Takes text for a number."""

    type = "loose"
    rate: float = Field(0.5, gt=0, lt=1, strict=False, description="a fraction")
    model_config = ConfigDict(strict=False, extra="forbid")

    @field_validator("way", mode="before")
    @classmethod
    def _any(cls, way: Any) -> Any:
        return way if way in ("one", "other") else "one"


class Forgets(Plain):
    """Its spec form lacks a key."""

    type = "forgets"

    def body(self, without: Any = ()) -> dict[str, Any]:
        return super().body({*without, "size"})


class OffersList(Plain):
    """Offers no set."""

    type = "offers_list"

    def offers(self) -> Any:
        return ["smooth"]


def test_a_plain_component_passes_everything() -> None:
    tests = held(NetworkTests, Plain)
    said = {check: outcome(tests, check) for check in checks(tests)}
    assert [one for one in said.values() if one.startswith("failed")] == []
    assert {check for check, one in said.items() if one.startswith("skipped")} == {
        "it_is_read_quickly_and_without_torch",
        "its_own_divergence_is_the_trace",
    }


@pytest.mark.parametrize(
    ("found", "check", "word"),
    [
        (Silent, "it_says_what_it_is_and_what_each_key_means", "mute"),
        (Undocumented, "it_says_what_it_is_and_what_each_key_means", "docstring"),
        (Lenient, "an_unknown_key_is_refused", "is accepted"),
        (Clamps, "values_out_of_bounds_are_refused_at_their_key", "size: 0 is accepted"),
        (Loose, "values_out_of_bounds_are_refused_at_their_key", "way: 'no such value' is accepted"),
        (Forgets, "it_goes_to_spec_form_and_back", "differs"),
        (OffersList, "what_it_offers_and_needs_is_plain", "frozenset"),
    ],
    ids=lambda one: getattr(one, "type", None),
)
def test_what_a_component_of_any_kind_gets_wrong(found: type[Component], check: str, word: str) -> None:
    keys = {"size": 4} if found is Forgets else {}
    said = outcome(held(NetworkTests, found, **keys), check)
    assert said.startswith("failed: ")
    assert word in said


def test_a_value_that_the_author_calls_bad_must_be_refused() -> None:
    tests = held(NetworkTests, Plain)
    check = "values_out_of_bounds_are_refused_at_their_key"
    assert outcome(tests, check) == "passed"
    type(tests).bad = {"several": [1, -2]}
    assert "several: [1, -2] is accepted" in outcome(tests, check)


FILE = """
import time
import {heavy}
from driftspec.components import Network
from driftspec.registry import hookimpl

started = time.process_time()
while time.process_time() - started < {seconds}:
    pass


class Slow(Network):
    "A network."
    type = "slow"

    def parameters(self, d_in, d_out, generator):
        return {{}}

    def apply(self, p, t, x, condition=None):
        return x


@hookimpl
def driftspec_components():
    return {{"network": {{"slow": Slow}}}}
"""


@pytest.mark.parametrize(
    ("heavy", "seconds", "said"),
    [
        ("math", 0, "passed"),
        ("math", 0.05, "more than 20 ms"),
        ("numpy", 0, "imports numpy"),
        ("torch", 0, "imports torch"),
    ],
)
def test_reading_its_code_is_timed_and_watched(heavy: str, seconds: float, said: str, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(FILE.format(heavy=heavy, seconds=seconds))
    tests = checks_for("network", "slow", [str(tmp_path / "slow.py")])()
    assert said in outcome(tests, "it_is_read_quickly_and_without_torch")


def test_a_name_that_nobody_provides_is_said_as_a_spec_says_it() -> None:
    said = outcome(checks_for("solver", "rk5")(), "an_unknown_key_is_refused")
    assert said.startswith("failed: unknown solver 'rk5' (did you mean 'rk4'?)")


def test_the_class_of_checks_follows_the_kind() -> None:
    assert issubclass(checks_for("estimator", "hutchinson"), TraceTests)
    assert not issubclass(checks_for("estimator", "denoising"), TraceTests)
    assert issubclass(checks_for("data", {"type": "moons", "noise": 0.2}), DataTests)


class MixesRows(Plain):
    """Normalises by its batch."""

    type = "mixes_rows"

    def apply(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().apply(p, t, x - x.mean(0), context)


class Drops(Plain):
    """Drops units at random."""

    type = "drops"

    def apply(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.nn.functional.dropout(super().apply(p, t, x, context), 0.5)


class Unseeded(Plain):
    """Draws its parameters from where it should not."""

    type = "unseeded"

    def parameters(self, d_in: int, d_out: int, generator: Generator) -> dict[str, Tensor]:
        w = torch.from_numpy(np.random.standard_normal((d_out, d_in))).float()
        return {"w": w, "b": torch.zeros(d_out)}


class Always(Plain):
    """Has one set of parameters whatever the seed."""

    type = "always"

    def parameters(self, d_in: int, d_out: int, generator: Generator) -> dict[str, Tensor]:
        return {"w": torch.ones(d_out, d_in), "b": torch.zeros(d_out)}


class Widens(Plain):
    """Goes to float64."""

    type = "widens"

    def apply(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().apply(p, t, x, context).double()


class OnCpu(Plain):
    """Makes a tensor without asking where."""

    type = "on_cpu"

    def apply(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().apply(p, t, x, context) * torch.ones(len(x), 1)


class Detached(Plain):
    """Loses the gradient of its bias."""

    type = "detached"

    def apply(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().apply({**p, "b": p["b"].detach()}, t, x, context)


class Kinked(Plain):
    """A rectifier that claims to be smooth."""

    type = "kinked"

    def apply(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.relu(x @ p["w"].T + p["b"])


class Bent(Kinked):
    """Whose second derivative jumps, and which claims any number."""

    type = "bent"

    def apply(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.nn.functional.elu(x @ p["w"].T + p["b"])


class OnceSmooth(Bent):
    """Which claims one derivative."""

    type = "once_smooth"

    def smoothness(self) -> float:
        return 1


class WrongTrace(Plain):
    """Whose divergence is another matrix's."""

    type = "wrong_trace"

    def divergence(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        f = self.apply(p, t, x)
        return f, ((1 - f * f) * p["w"].sum(1)).sum(1)


class OneColumn(Plain):
    """Gives one output whatever is asked."""

    type = "one_column"

    def apply(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().apply(p, t, x, context)[:, :1]


class TimeByRow(Plain):
    """Reads a time for each row as one for all."""

    type = "time_by_row"

    def apply(self, p: Mapping[str, Tensor], t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().apply(p, t, x, context) * t.sum()


@pytest.mark.parametrize(
    ("found", "check"),
    [
        (MixesRows, "a_row_depends_on_no_other"),
        (Drops, "the_same_input_gives_the_same_output"),
        (Unseeded, "the_same_seed_gives_the_same_parameters"),
        (Always, "the_same_seed_gives_the_same_parameters"),
        (Widens, "float32_and_float64_agree"),
        (OnCpu, "it_stays_on_its_device"),
        (Detached, "gradients_reach_every_parameter"),
        (Kinked, "it_is_as_smooth_as_it_says"),
        (Bent, "it_is_as_smooth_as_it_says"),
        (WrongTrace, "its_own_divergence_is_the_trace"),
        (OneColumn, "values_have_a_row_a_sample_and_a_column_an_output"),
        (TimeByRow, "values_have_a_row_a_sample_and_a_column_an_output"),
    ],
    ids=lambda one: getattr(one, "type", None),
)
def test_what_a_network_gets_wrong(found: type[Component], check: str) -> None:
    assert outcome(held(NetworkTests, found), check).startswith("failed: ")


def test_a_network_that_claims_no_more_than_it_has_passes() -> None:
    assert outcome(held(NetworkTests, OnceSmooth), "it_is_as_smooth_as_it_says") == "passed"
