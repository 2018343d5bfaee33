"""What a spec states about its own numbers: read, checked, judged and reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from driftspec import spec
from driftspec.cli import main
from driftspec.errors import SpecError
from driftspec.registry import discover
from driftspec.runs.provenance import identity
from driftspec.spec import fits
from driftspec.spec.statements import Statement

SETTLES = """\
version: 1
name: settles
dynamics: {type: langevin, target: {type: gaussian, mean: [0, 0], std: [1.0, 2.0]}}
sampler: {type: langevin, step: 0.5, steps: 60, start: {type: gaussian, mean: [0, 0], std: 1.5}}
evaluate: [{type: moments, predicted: true}]
sample: {count: 600}
shows:
  - statement: Its covariance
    equation: Σ (I - (η/4) Σ⁻¹)⁻¹
    metric: moments
    detail: [moments, variance x1]
    expect: 1.142857
quick: {sample.count: 100, sampler.steps: 30}
"""
ENTRY = {
    "value": 2.0, "stderr": 0.1, "unit": "nats",
    "details": {
        "kl": {"value": 0.5, "stderr": 0.02}, "gap": 0.3, "gap_stderr": 0.05, "levels": [0.1, 0.2], "of": "data",
        "exact": True,
    },
}  # fmt: skip


def made(**keys: Any) -> Statement:
    return Statement.model_validate({"statement": "a", "metric": "nll", **keys})


def outcome(**keys: Any) -> str | None:
    verdict = made(**keys).verdict({"nll": ENTRY})
    return None if verdict is None else verdict.outcome


def document(text: str) -> spec.Loaded:
    return spec.from_text(text, "a.yaml", Path(), discover(only_builtin=True))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, None),
        ({"expect": 2.29}, "as_expected"),  # 2.9 standard errors
        ({"expect": 2.31}, "not_as_expected"),
        ({"expect": 2.79, "within": 0.5}, "as_expected"),
        ({"expect": 1.19, "within": 0.5}, "not_as_expected"),
        ({"detail": ("kl",), "expect": 0.55}, "as_expected"),
        ({"detail": ("kl",), "expect": 0.43}, "not_as_expected"),
        ({"detail": ("gap",), "expect": 0.16}, "as_expected"),
        ({"detail": ("gap",), "expect": 0.14}, "not_as_expected"),
        ({"detail": ("levels", "1"), "expect": 0.2}, "as_expected"),
        ({"detail": ("levels", "1"), "expect": 0.2001}, "not_as_expected"),
        ({"above": 1.9}, "as_expected"),
        ({"above": 2.0}, "not_as_expected"),
        ({"above": 1.0, "below": 1.9}, "not_as_expected"),
        ({"below": 2.1}, "as_expected"),
        ({"detail": ("of",), "expect": 0.0}, "no_number"),
        ({"detail": ("exact",), "expect": 1.0}, "no_number"),
        ({"metric": "ksd", "expect": 0.0}, "no_number"),
    ],
)
def test_a_number_agrees_within_three_standard_errors_and_what_is_allowed(keys: Any, expected: str | None) -> None:
    assert outcome(**keys) == expected


def test_a_reason_names_what_is_missing_and_what_is_meant() -> None:
    text = made(detail=("k1",), expect=0).number({"nll": ENTRY})
    assert text == "'nll.details' has no 'k1' (did you mean 'kl'?)"
    assert made(detail=("levels", "7")).number({"nll": ENTRY}) == "'nll.details.levels' has no '7'"
    assert made().number({}) == "'nll' was not measured"
    assert str(made(detail=("kl",)).number({"nll": ENTRY})) == "0.5 ± 0.02"
    assert str(made().number({"nll": ENTRY})) == "2 ± 0.1 nats"
    assert str(made(detail=("gap",), unit="bits").number({"nll": ENTRY})) == "0.3 ± 0.05 bits"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "metric: moments", "metric: moment",
            "10:13: error[X302] 'moment' is no metric of this spec (did you mean 'moments'?); it measures: moments",
        ),
        ("    metric: moments\n", "", "8:5: error[S115] 'shows.0': 'detail' needs a 'metric'"),
        ("expect: 1.142857", "within: 0.1", "8:5: error[S115] 'shows.0': 'within' needs 'expect'"),
        ("expect: 1.142857", "above: 3\n    below: 1", "8:5: error[S115] 'shows.0': no number is above 3 and below 1"),
        ("expect: 1.142857", "expect: 1\n    above: 0", "8:5: error[S115] 'shows.0': it takes 'expect', or 'above'"),
        ("equation:", "equatoin:", "9:5: error[S111] unknown key 'equatoin' in shows.0 (did you mean 'equation'?)"),
        ("sampler.steps", "sampler.stpes", "13:28: error[S111] unknown key 'stpes' in sampler (did you mean 'steps'?)"),
        ("sampler.steps", "version", "13:28: error[S130] 'version' cannot be set in 'quick'"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_statement_is_found_with_its_place(
    old: str, new: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(SETTLES.replace(old, new))
    assert main(["validate", str(tmp_path / "a.yaml")]) == 3
    assert message in capsys.readouterr().err


def test_quick_sets_its_keys_and_changes_nothing_else() -> None:
    registry = discover(only_builtin=True)
    loaded = document(SETTLES)
    quick = spec.hastened(loaded, registry).spec
    assert (quick.sample.count, quick.sampler.model_dump()["steps"], quick.quick) == (100, 30, None)
    assert quick.model_copy(update={"sample": loaded.spec.sample, "sampler": loaded.spec.sampler}).resolved() == {
        key: value for key, value in loaded.spec.resolved().items() if key != "quick"
    }
    plain = document(SETTLES.partition("quick")[0])
    assert spec.hastened(plain, registry) is plain
    assert fits.check(loaded) == []
    fixed = spec.from_text(SETTLES, "a.yaml", Path(), registry, spec.Changes(sets=("sample.count=77",)))
    assert spec.hastened(fixed, registry).spec.sample.count == 77, "the command line wins"
    bare = SETTLES.replace("{sample.count: 100", "{shows.0.within: 0.5, sample.count: 100")
    without = spec.from_text(bare, "a.yaml", Path(), registry, spec.Changes(unsets=("shows",)))
    assert spec.hastened(without, registry).spec.sample.count == 100, "a bound goes with its statement"
    wider = spec.hastened(document(SETTLES.replace("{sample.count: 100", "{shows.0.within: 0.5")), registry).spec
    assert wider.shows and wider.shows[0].within == 0.5
    with pytest.raises(SpecError, match=r"13:9: error\[S130\] 'sweep.grid' cannot be set in 'quick'"):
        spec.hastened(document(SETTLES.replace("{sample.count: 100", "{sweep.grid: 100")), registry)


def test_what_a_spec_states_is_no_part_of_its_runs_identity() -> None:
    assert identity(document(SETTLES).spec, None) == identity(document(SETTLES.partition("shows")[0]).spec, None)
    assert identity(document(SETTLES).spec, None) != identity(document(SETTLES.replace("600", "601")).spec, None)


def test_a_base_lends_neither_its_statements_nor_its_quick_values(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(SETTLES)
    (tmp_path / "a.yaml").write_text("version: 1\nname: a\nextends: base.yaml\nevaluate: [ess]\n")
    made = spec.read(tmp_path / "a.yaml", discover(only_builtin=True))
    assert (made.spec.shows, made.spec.quick) == (None, None) and fits.check(made) == []


def test_a_run_judges_what_its_spec_expects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(SETTLES)
    arguments = [str(tmp_path / "a.yaml"), "--quiet", "--strict"]
    assert main([*arguments, "--out", str(tmp_path / "good")]) == 0
    entries = json.loads((tmp_path / "good" / "run.json").read_text())["verdicts"]
    assert [(one["source"], one["outcome"]) for one in entries if one["subject"] == "expected"] == [
        ("moments", "as_expected")
    ]
    assert main([*arguments, "--out", str(tmp_path / "bad"), "--set", "shows.0.expect=0.5"]) == 1
    assert capsys.readouterr().out.splitlines()[-2].startswith("not as expected: 1.1")
    arguments += ["--out", str(tmp_path / "typo")]
    assert main([*arguments, "--set", "shows.0.detail=[moments,variance x3]", "--set", "shows.0.picture=smaples"]) == 1
    said = capsys.readouterr()
    assert said.out.startswith(
        "expected no number: 'moments.details.moments' has no 'variance x3' (did you mean 'variance"
    )
    assert "warning: plots: pictures missing: the spec names 'smaples', and the run has " in said.err
    assert main(["evaluate", str(tmp_path / "good"), "--set", "evaluate=[ess]", "--out", str(tmp_path / "again")]) == 0
