"""How many rows there are, from which file, and who reads them: asked of data and metrics, never of a key's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small_spec
import yaml

from driftspec.cli import main
from driftspec.components import Data, Metric
from driftspec.registry import Registry, discover
from driftspec.spec import fits

PLUGIN = '''
from typing import Literal

from driftspec.components import Data, Measured, Metric, Table
from driftspec.registry import hookimpl


class Blobs(Data):
    """Two blobs; `samples` is a number of rows for each of ten, `path` is a shape."""

    type = "blobs"
    samples: int = 40
    path: Literal["round", "long"] = "round"

    def dim(self):
        return 2

    def read(self, files, generator):
        import torch

        rows = torch.randn(10 * self.samples, 2, generator=generator, dtype=torch.float64)
        return Table(rows, ("a", "b"))


class Mine(Metric):
    """A log p of its own; it reads no rows."""

    type = "mine"

    def offers(self):
        return frozenset({"log_prob"})

    def measure(self, evaluation):
        return Measured(1.0, 0.1, "nats", 1)

    def log_prob(self, evaluation, x):
        value = -x.square().sum(1) / 2
        return value, value * 0


class Rows(Metric):
    """The mean of the test rows."""

    type = "rows"

    def measure(self, evaluation):
        return Measured(float(evaluation.test().mean()), 0.1, "", 1)


class Against(Metric):
    """The mean of the rows that draws are compared with, through a method of its own."""

    type = "against"

    def measure(self, evaluation):
        return Measured(self.mean(evaluation), 0.1, "", 1)

    def mean(self, evaluation):
        return float(evaluation.reference(10).mean())


class Said(Rows):
    """What it says of itself counts, not its code."""

    type = "said"
    reads_test_rows = False

    def measure(self, evaluation):
        return Measured(0.0, 0.1, "", 1)


@hookimpl
def driftspec_components():
    return {"data": {"blobs": Blobs}, "metric": {"mine": Mine, "rows": Rows, "against": Against, "said": Said}}
'''
BLOBS = """\
version: 1
name: c
data: {type: blobs}
dynamics: neural_ode
estimator: exact_trace
train: {steps: 2, batch_size: 64}
evaluate: []
"""
MOONS = BLOBS.replace("{type: blobs}", "{type: moons, samples: 100, split: [1.0, 0.0, 0.0]}")
TABLE = BLOBS.replace("{type: blobs}", "{type: table, path: t.csv, split: [1.0, 0.0, 0.0]}")


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("driftspec.report.plots.draw", lambda *_: iter(()))
    Path("mine.py").write_text(PLUGIN)
    Path("t.csv").write_text("a,b\n" + "".join(f"{i % 17},{i * i % 23}\n" for i in range(100)))
    return ["--plugin", "mine.py"]


def spec(text: str, **sections: Any) -> str:
    Path("s.yaml").write_text(yaml.safe_dump(yaml.safe_load(text) | sections))
    return "s.yaml"


def test_the_keys_samples_and_path_of_a_stranger_are_its_own(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It has 400 rows, of which 320 for training, and reads no file."""
    assert main(["validate", *words, spec(BLOBS)]) == 0
    assert capsys.readouterr() == ("s.yaml: valid\n", "")
    assert main(["plan", *words, "s.yaml", "--set", "train.batch_size=321"]) == 3
    assert "at most the number of training rows, 320" in capsys.readouterr().err
    made = discover(["mine.py"]).look_up("data", "blobs")[0]
    assert made is not None and made().rows() is None and made().file() is None  # type: ignore[attr-defined]


def test_a_metric_that_reads_no_rows_runs_without_test_rows(words: list[str]) -> None:
    assert main([*words, spec(TABLE, evaluate=["mine", "said"]), "--out", "out", "--quiet"]) == 0
    assert json.loads(Path("out/metrics.json").read_text())["mine"]["value"] == 1.0


@pytest.mark.parametrize(
    ("text", "metric", "refused"),
    [(MOONS, "rows", True), (TABLE, "rows", True), (MOONS, "against", False), (TABLE, "against", True),
     (MOONS, "mine", False), (MOONS, "said", False)],
)  # fmt: skip
def test_a_metric_that_reads_test_rows_is_refused_without_them(
    words: list[str], text: str, metric: str, refused: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """At validation where the number of rows is known, and as soon as the file is read where it is not."""
    deep = ["--deep"] if text == TABLE else []
    assert main(["validate", *deep, *words, spec(text, evaluate=[metric])]) == (3 if refused else 0)
    said = f"metric '{metric}' reads test rows, at least 2: 'split' in data leaves 0"
    assert (said in capsys.readouterr().err) == refused


def test_every_built_in_that_draws_says_how_many_rows_and_each_metric_whether_it_reads_test_rows(
    registry: Registry,
) -> None:
    laws = [Data.make(name) for name in ("moons", "spiral_trajectories")]
    assert [law.rows() for law in laws] == [law.samples for law in laws]  # type: ignore[attr-defined]
    table = Data.make({"type": "table", "path": "t.csv"})
    assert table.rows() is None and table.file() == "t.csv"
    reading = set[str]()
    for name in registry.names("metric"):
        found = registry.look_up("metric", name)[0]
        assert found is not None
        made = Metric.make({"type": name, **found.example})
        of_a_table, of_a_law = made.reads_rows(table), made.reads_rows(laws[0])
        assert of_a_table >= of_a_law
        reading |= {name} if of_a_law else {f"{name} of a table"} if of_a_table else set()
    assert {"nll", "bits_per_dim", "round_trip", "trajectory_error", "gradient_agreement"} <= reading
    assert {"energy_distance of a table", "c2st of a table", "moments of a table"} <= reading
    assert reading.isdisjoint({"ess", "r_hat", "acceptance", "mode_coverage", "log_z"})


# The batch ----------------------------------------------------------------------------------------------------------


def test_a_default_batch_is_no_larger_than_the_training_rows(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "{type: table, path: t.csv, split: [0.8, 0.0, 0.2]}"
    text = BLOBS.replace(", batch_size: 64", "").replace("{type: blobs}", rows)
    assert main(["plan", spec(text), "--format", "json"]) == 0
    values = {one["key"]: one for one in json.loads(capsys.readouterr().out)["values"]}
    assert values["train.batch_size"] == {
        "key": "train.batch_size", "value": 80, "from": "default 256, lowered to fit the data",
    }  # fmt: skip
    assert main(["s.yaml", "--out", "out", "--quiet"]) == 0
    assert yaml.safe_load(Path("out/resolved.yaml").read_text())["train"]["batch_size"] == 80
    capsys.readouterr()
    assert main(["plan", "s.yaml", "--set", "train.batch_size=256"]) == 3
    said = "--set[1]: error[X303] 'batch_size' in train is 256: it must be at most the number of training rows, 80\n"
    assert capsys.readouterr().err == said


def test_checking_asks_nothing_of_a_default_batch() -> None:
    few = small_spec.edited(("  batch_size: 64\n", ""), ("samples: 500", "samples: 100"))
    assert small_spec.said(few) == []
    spec = small_spec.loaded(few).spec
    assert spec.train is not None and spec.train.batch_size == 256
    fitted = fits.fitted_to(spec, 80)
    assert fitted.train is not None and fitted.train.batch_size == 80
    assert fits.fitted_to(spec, 256) is spec
    written = small_spec.loaded().spec
    assert fits.fitted_to(written, 10) is written, "what is written stays, and is refused"
