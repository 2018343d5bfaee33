"""`validate --deep`: what only building, a step and a few draws can tell, at its place, with nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from driftspec.cli import main
from driftspec.runs import rehearsal

ROOT = Path(__file__).parents[2]
SPECS = sorted((ROOT / "specs").glob("*.yaml"))

DATA = "{type: moons, samples: 2000, noise: 0.1, standardize: scale}"

FAILING = """
from driftspec.components import Estimator, Loss, Sampler
from driftspec.registry import hookimpl

class Failing(Estimator):
    "Raises."
    type = "failing"

    def loss(self, model, batch, state, streams):
        raise KeyError("no such thing")

class Nowhere(Sampler):
    "Draws what is no number."
    type = "nowhere"

    def draw_block(self, model, generator):
        import torch
        from driftspec.components import Draws
        return Draws(torch.full((self.BLOCK, 1, model.dim), float("nan")))

@hookimpl
def driftspec_components():
    return {"estimator": {"failing": Failing}, "sampler": {"nowhere": Nowhere}}
"""

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file into the working directory."""
    monkeypatch.chdir(tmp_path)

    def make(text: str = tiny.TEXT, name: str = "a.yaml") -> str:
        Path(name).write_text(text)
        return name

    return make


def deep(*words: str) -> int:
    return main(["validate", "--deep", *words])


def listing() -> list[str]:
    return sorted(map(str, Path().iterdir()))


def test_what_runs_is_valid_and_leaves_nothing(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert deep(write()) == 0
    assert capsys.readouterr() == ("a.yaml: valid\n", "")
    assert listing() == ["a.yaml"]


def test_one_step_is_taken_and_a_few_samples_drawn(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    from driftspec.experiment import train as training
    from driftspec_plugins.samplers.ode import ODE

    steps: list[int] = []
    counts: list[int] = []
    average, draw = training._average, ODE.draw
    monkeypatch.setattr(training, "_average", lambda *words: steps.append(1) or average(*words))
    monkeypatch.setattr(ODE, "draw", lambda self, model, count, streams: counts.append(count) or draw(
        self, model, count, streams))  # fmt: skip
    assert deep(write()) == 0
    assert (len(steps), counts) == (1, [rehearsal.SAMPLES])


def test_a_loss_that_is_no_number_fails_the_run(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    words = [write(), "--set", "data={type: gaussian, mean: [0, 0], std: 1e+30}"]
    assert main(["validate", *words]) == 0
    capsys.readouterr()
    assert deep(*words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    warning, error = err.splitlines()
    assert warning.startswith("--set[1]: warning[X303] units off scale: columns 'x1' (mean ")
    assert error == "a.yaml:6:12: error[X305] estimator: step 1: loss inf (status non_finite)"
    assert listing() == ["a.yaml"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("exact_trace", "failing",
         "a.yaml:6:12: error[X305] estimator: step 1: estimator 'failing' failed: KeyError: 'no such thing' (-v shows "
         "where)\n"),
        ("evaluate:", "sampler: nowhere\nevaluate:",
         "a.yaml:13:10: error[X305] sampler: sampler 'nowhere': draws that are not finite\n"),
    ],
)  # fmt: skip
def test_what_a_plugin_gets_wrong_is_told_at_its_section(
    write: Write, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    assert deep(write(tiny.TEXT.replace(old, new)), "--plugin", write(FAILING, "mine.py")) == 1
    assert capsys.readouterr().err == said


def test_data_are_read_and_held_against_the_spec(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    table = tiny.TEXT.replace(
        "{type: moons, samples: 2000, noise: 0.1, standardize: scale}", "{type: table, path: t.csv}"
    )
    write(table)
    assert deep("a.yaml") == 3
    assert capsys.readouterr().err.startswith("a.yaml:4:27: error[X304] data file 't.csv' does not exist")
    Path("t.csv").write_text("a,b\n1,x\n")
    assert deep("a.yaml") == 3
    assert "a.yaml:4:27: error[X304] t.csv: row 2, column 'b': 'x' is no number" in capsys.readouterr().err
    Path("t.csv").write_text("a,b\n" + "1,2\n3,5\n2,9\n" * 7)
    assert deep("a.yaml") == 3
    assert "a.yaml:9:15: error[X303] 'batch_size' in train is 32" in capsys.readouterr().err
    assert deep("a.yaml", "--set", "train.batch_size=8") == 0
    capsys.readouterr()
    assert deep("a.yaml", "--set", "train.batch_size=8", "--set", "data.split=[1.0, 0.0, 0.0]") == 3
    assert "a.yaml:4:1: error[X303] metric 'nll' reads test rows, at least 2" in capsys.readouterr().err
    assert listing() == ["a.yaml", "t.csv"]


def test_a_spec_that_is_refused_is_not_built(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "build", lambda *words, **keys: pytest.fail("built"))
    assert deep(write(), "--set", "train.steps=0") == 3
    assert "error[S113]" in capsys.readouterr().err


def test_the_worst_of_several_is_the_exit_code_and_every_format_tells(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tiny.TEXT.replace(DATA, "{type: gaussian, mean: [0, 0], std: 1e+30}"), "b.yaml")
    assert deep(write(), "b.yaml", "--format", "json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [one["valid"] for one in found["files"]] == [True, False]
    problems = [(one["spec"], one["code"], one["line"]) for one in found["problems"]]
    assert problems == [("b.yaml", "X303", 4), ("b.yaml", "X305", 6)]
    assert deep("a.yaml", "b.yaml", "c.yaml") == 3


def test_chains_are_as_many_as_the_spec_says(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """\
version: 1
name: chains
dynamics: {type: langevin, target: {type: gaussian, mean: [0, 0], std: 1.0}}
sampler: {type: mala, step: 0.5, chains: 24, burn_in: 5}
evaluate: [acceptance]
sample: {count: 240}
"""
    assert deep(write(text)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS, ids=lambda path: path.stem)
def test_every_shipped_spec_stands_its_rehearsal(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert deep(str(spec)) == 0
