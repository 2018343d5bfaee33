"""Columns are bound by name: of a file that a finished run is measured on, and of points that are scored in Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from numpy.typing import NDArray

import driftspec
from driftspec.cli import main
from driftspec.registry import Registry
from driftspec.runs.lifecycle import resume

Array = NDArray[np.float64]

SPEC = """\
version: 1
name: t
data: {type: table, path: t.csv, standardize: scale}
dynamics: {type: neural_ode, network: {type: mlp, hidden: [4]}}
estimator: exact_trace
train: {steps: 1}
evaluate: [{type: nll, baselines: []}]
sample: {count: 4}
"""
ROWS = np.random.default_rng(0).normal(size=(120, 3)) * [1.0, 5.0, 0.2] + [0.0, 30.0, -2.0]
OTHER = np.random.default_rng(1).normal(size=(40, 3)) * [1.0, 5.0, 0.2] + [0.0, 30.0, -2.0]


def write(name: str, columns: Sequence[str], values: Array, *more: str) -> str:
    """A CSV file with these columns; `more` are texts that each row ends with."""
    rows = "\n".join(",".join([*(repr(float(v)) for v in row), *more]) for row in values)
    Path(name).write_text(f"{','.join([*columns, *('text' for _ in more)])}\n{rows}\n")
    return name


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `run` of a table with the columns a, b and n, and the run `toy` of moons."""
    folder = tmp_path_factory.mktemp("other_rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("driftspec.report.plots.draw", lambda *_: iter(()))
        write("t.csv", ("a", "b", "n"), ROWS)
        Path("a.yaml").write_text(SPEC)
        tiny.write(folder, tiny.TEXT.replace("steps: 40", "steps: 1"))
        assert main(["a.yaml", "--out", "run", "--quiet"]) == 0
        assert main(["tiny.yaml", "--out", "toy", "--quiet", "--set", "evaluate=[{type: nll, points: 20}]"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("driftspec.report.plots.draw", lambda *_: iter(()))


def evaluate(run: Path, *words: str, out: str = "out") -> dict[str, Any]:
    assert main(["evaluate", str(run), *words, "--out", out, "--quiet"]) == 0
    found: dict[str, Any] = json.loads(Path(out, "metrics.json").read_text())
    return found


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    capsys.readouterr()
    assert main(["evaluate", *words, "--quiet"]) == code
    return capsys.readouterr().err


# A file -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["--data", "--set"])
def test_a_file_in_another_order_with_more_columns_is_the_same_rows(trained: Path, how: str) -> None:
    write("plain.csv", ("a", "b", "n"), OTHER)
    ids = np.arange(40.0)[:, None]
    write("other.csv", ("n", "id", "b", "a"), np.hstack([OTHER[:, [2]], ids, OTHER[:, [1, 0]]]), "Adelie")
    words = {
        name: [how, name if how == "--data" else f"data.path={Path(name).resolve()}"]
        for name in ("plain.csv", "other.csv")
    }
    plain, other = (evaluate(trained / "run", *words[name], out=name.partition(".")[0]) for name in words)
    assert plain == other and plain["nll"]["n"] == 40
    assert json.loads(Path("other/run.json").read_text())["columns"] == ["a", "b", "n"]
    assert evaluate(Path("other"), out="again") == other, "a run of that run is bound in the same way"


def test_an_interrupted_measurement_is_bound_by_name_when_it_is_resumed(trained: Path, registry: Registry) -> None:
    write("other.csv", ("n", "b", "a"), OTHER[:, ::-1])
    before = evaluate(trained / "run", "--data", "other.csv")
    info = json.loads(Path("out/run.json").read_text())
    Path("out/run.json").write_text(json.dumps(info | {"status": "interrupted"}))
    Path("out/metrics.json").unlink()
    resume("out", registry)
    assert json.loads(Path("out/metrics.json").read_text()) == before


def test_each_column_that_is_missing_is_named(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("other.csv", ("A", "b", "m"), OTHER)
    assert refused(capsys, 3, str(trained / "run"), "--data", "other.csv").splitlines() == [
        "error[X304] other.csv: no column 'a' (did you mean 'A'?): it has A, b, m",
        "error[X304] other.csv: no column 'n': it has A, b, m",
    ]


def test_an_array_file_has_no_names_and_keeps_its_order(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("plain.csv", ("a", "b", "n"), OTHER)
    np.save("plain.npy", OTHER)
    np.save("wide.npy", np.hstack([OTHER, OTHER[:, :1]]))
    plain = evaluate(trained / "run", "--data", "plain.csv", out="a")
    assert plain == evaluate(trained / "run", "--data", "plain.npy", out="b")
    said = refused(capsys, 3, str(trained / "run"), "--data", "wide.npy")
    assert said == "error[X304] the data have 4 columns, the model was trained on 3: 'a', 'b', 'n'\n"


# A run of drawn data ------------------------------------------------------------------------------------------------


def test_a_run_of_drawn_data_is_measured_on_a_file_whose_columns_fit(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = driftspec.load(trained / "toy").sample(10, seed=5).astype(float)
    write("points.csv", ("x2", "x1"), points[:, ::-1])
    np.save("points.npy", points)
    nll = ["--set", "evaluate=[{type: nll, baselines: [gaussian]}]"]
    found = evaluate(trained / "toy", "--data", "points.csv", *nll, out="a")["nll"]
    assert found == evaluate(trained / "toy", "--data", "points.npy", *nll, out="b")["nll"]
    log_p = driftspec.load(trained / "toy").log_prob(points)
    assert found["value"] == pytest.approx(-log_p.mean(), abs=1e-6) and found["n"] == 10
    assert "kl" not in found["details"], "the law of these rows is not known"
    assert found["details"]["baselines"]["gaussian"]["training_rows"] == 1600, "the run's own"
    write("other.csv", ("a", "b"), points)
    said = refused(capsys, 3, str(trained / "toy"), "--data", "other.csv")
    assert said.startswith("error[X304] other.csv: no column 'x1': it has a, b\n")
    assert refused(capsys, 2, str(trained / "toy"), "--data", "a.parquet").startswith(
        "error: --data a.parquet: files that can be read end in .csv, .npy"
    )


def test_rows_that_were_trained_on_are_counted_in_any_file(trained: Path) -> None:
    """The run's own file: 96 of its 120 rows were trained on, also by the run that the run of a run comes from."""
    write("all.csv", ("n", "b", "a"), ROWS[:, ::-1])
    write("new.csv", ("n", "b", "a"), OTHER[:, ::-1])
    for out, run, name in (("a", trained / "run", "all.csv"), ("b", trained / "run", "new.csv"), ("c", "b", "all.csv")):
        evaluate(Path(run), "--data", name, out=out)
        verdicts = json.loads(Path(out, "run.json").read_text())["verdicts"]
        reasons = [one["reason"] for one in verdicts if one["outcome"] == "memorised"]
        expected = ["96 of 120 test rows are also training rows"] if name == "all.csv" else []
        assert [reason.partition(",")[0] for reason in reasons] == expected


def test_without_the_rows_that_were_trained_on_nothing_is_claimed(trained: Path) -> None:
    write("other.csv", ("a", "b", "n"), OTHER)
    text = (trained / "t.csv").read_text()
    try:
        for out, now in (("changed", f"{text}1,2,3\n"), ("removed", None)):
            (trained / "t.csv").unlink() if now is None else (trained / "t.csv").write_text(now)
            evaluate(trained / "run", "--data", "other.csv", out=out)
            (one,) = (v for v in json.loads(Path(out, "run.json").read_text())["verdicts"] if v["subject"] == "rows")
            assert (one["outcome"], one["severity"]) == ("unknown", "unknown")
    finally:
        (trained / "t.csv").write_text(text)


def test_rows_in_other_units_than_those_of_training_are_a_warning(trained: Path) -> None:
    write("other.csv", ("a", "b", "n"), OTHER * [1.0, 30.0, 1.0])
    evaluate(trained / "run", "--data", "other.csv", "--set", "evaluate=[{type: round_trip, points: 2}]")
    (one,) = (v for v in json.loads(Path("out/run.json").read_text())["verdicts"] if v["outcome"] == "off_scale")
    assert "column 'b' (mean " in one["reason"] and one["reason"].endswith("are the units those of training?")


# Points in Python ---------------------------------------------------------------------------------------------------


class Frame:
    """What a data frame of any library is here: columns by name."""

    def __init__(self, columns: Sequence[Any], values: Array):
        self.columns, self.values = list(columns), values

    def __getitem__(self, name: Any) -> Array:
        return self.values[:, self.columns.index(name)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.values.astype(dtype or float)


def test_points_with_names_are_bound_by_name_and_others_by_position(trained: Path) -> None:
    run = driftspec.load(trained / "run")
    x = OTHER[:5]
    plain = run.log_prob(x)
    named = np.zeros(5, dtype=[("n", "f8"), ("a", "f4"), ("id", "i8"), ("b", "f8")])
    named["n"], named["a"], named["b"] = x[:, 2], x[:, 0], x[:, 1]
    np.testing.assert_allclose(run.log_prob(named), plain, rtol=1e-5)
    frame = Frame(["n", "id", "b", "a"], np.hstack([x[:, [2]], np.arange(5.0)[:, None], x[:, [1, 0]]]))
    for ask in (run.log_prob, run.encode, run.score):
        np.testing.assert_array_equal(ask(frame), ask(x))
    np.testing.assert_array_equal(run.log_prob(Frame([0, 1, 2], x)), plain)
    with pytest.raises(driftspec.RunFailed, match=r"no column 'b', 'n': the points have a, c, d"):
        run.log_prob(Frame(["a", "c", "d"], x))
    z = run.encode(x)
    np.testing.assert_array_equal(run.decode(Frame(["z1", "z2", "z3"], z)), run.decode(z))
