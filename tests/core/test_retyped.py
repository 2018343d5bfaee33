"""Another type on a finished run: keys that defaults filled in for the old type fall away, written ones stay."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_spec import TEXT, edited

from driftspec import source, spec
from driftspec.errors import SpecError
from driftspec.registry import installed
from driftspec.source.document import filled_in, written
from driftspec.spec import envelope

SPECS = sorted((Path(__file__).parents[2] / "specs").glob("*.yaml"))


def resolved(text: str) -> source.Document:
    """A text's resolved spec, as a run directory keeps it, with what its text wrote told from defaults."""
    document = source.parse(text, "a.yaml")
    whole = source.parse(source.dump(spec.validate(document, installed()).resolved()), "resolved.yaml")
    return filled_in(whole, set(written(document)))


def retyped(text: str, *sets: str) -> list[str]:
    """What is wrong with a resolved spec after changes."""
    try:
        spec.validate(spec.Changes(sets).apply(resolved(text)), installed())
    except SpecError as error:
        return [problem.message.partition(";")[0] for problem in error.problems]
    return []


WROTE = edited(("name: a", "name: a\nsampler: {type: ode, solver: {type: rk4, steps: 10}}"))
NAMED = edited(("name: a", "name: a\nsampler: ode"))


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        (TEXT, ["sampler.solver.type=dopri5"]),
        (NAMED, ["sampler.solver.type=dopri5", "sampler.solver.rtol=1e-5"]),
        (NAMED, ["sampler.solver.type=dopri5", "sampler.solver.type=rk4", "sampler.solver.steps=3"]),
        (NAMED, ["sampler.type=mala", "sampler.step=0.1"]),
        (TEXT, ["evaluate.0.type=ksd"]),
        (edited(("[nll]", "null")), ["evaluate.0.type=ksd"]),
        (TEXT, ["evaluate+=round_trip", "evaluate.1.type=moments"]),
        (TEXT, ["estimator.solver.type=dopri5"]),
        (TEXT, ["train.schedule.type=constant"]),  # both take the key that was written
        (WROTE, ["sampler.solver.type=midpoint"]),
    ],
)
def test_beside_another_type_the_old_ones_defaults_fall_away(text: str, sets: list[str]) -> None:
    assert retyped(text, *sets) == []


@pytest.mark.parametrize(
    ("text", "sets", "said"),
    [
        (WROTE, ["sampler.solver.type=dopri5"], ["unknown key 'steps' in sampler.solver"]),
        (WROTE, ["sampler.type=mala", "sampler.step=0.1"], ["unknown key 'solver' in sampler"]),
        (NAMED, ["sampler.solver.steps=9", "sampler.solver.type=dopri5"], ["unknown key 'steps' in sampler.solver"]),
        (NAMED, ["sampler.solver.steps=9", "sampler.type=mala"], ["missing key 'step'", "unknown key 'solver'"]),
        (TEXT, ["estimator.type=exact_trace"], ["unknown key 'noise' in estimator"]),
        (TEXT, ["train.schedule.type=one_cycle"], ["unknown key 'warmup' in train.schedule"]),
    ],
)
def test_what_somebody_wrote_for_the_old_type_is_named(text: str, sets: list[str], said: list[str]) -> None:
    found = retyped(text, *sets)
    assert len(found) == len(said)
    assert all(one.startswith(wanted) for one, wanted in zip(sorted(found), said)), found


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_the_keys_that_a_spec_writes_are_told_from_defaults(path: Path) -> None:
    document = source.read(path)
    document = envelope._extended(document, path.parent) if "extends" in document.data else document
    whole = source.parse(source.dump(spec.validate(document, installed()).resolved()), "r.yaml")
    marks = filled_in(whole, set(written(document))).marks
    assert {path for path, one in marks.items() if one.filled} == {
        path for path in marks if path not in document.marks and path[-1] != "type"
    }
