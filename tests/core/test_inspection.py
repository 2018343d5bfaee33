"""What the rows of a data set alone decide is reported before training, at every place where it belongs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import points
from torch import Tensor

from driftspec.cli import main
from driftspec.components import Verdict
from driftspec.components.dataset import Dataset, Transform
from driftspec.experiment import inspection
from driftspec.experiment.inspection import Use, faults
from driftspec.streams import Streams

SPEC = """\
version: 1
name: t
data: {type: table, path: t.csv, standardize: none}
dynamics: {type: neural_ode, network: {type: mlp, hidden: [4]}}
estimator: exact_trace
train: {steps: 1}
evaluate: [{type: nll, baselines: []}]
"""
NOISING = ("dynamics={type: ve_sde, network: {type: mlp, hidden: [4]}}", "estimator=denoising")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("driftspec.report.plots.draw", lambda *_: iter(()))
    Path("a.yaml").write_text(SPEC)


def write(x: Tensor, names: str = "abcdef", file: str = "t.csv") -> None:
    rows = "\n".join(",".join(f"{value:.17g}" for value in row) for row in x.tolist())
    Path(file).write_text(f"{','.join(names[: x.shape[1]])}\n{rows}\n")


SCORED = Use(density=True, scored=True)


def found(x: Tensor, use: Use = SCORED, test: Tensor | None = None) -> list[Verdict]:
    """The verdicts of training rows x that nothing is done to."""
    test = points(20, x.shape[1], seed=9) if test is None else test
    made = Dataset(x, test[:0], test, tuple("abcdef"[: x.shape[1]]), Transform.identity(x.shape[1]))
    return list(inspection.verdicts(made, faults(x, made.columns), use))


def said(x: Tensor, **keys: Any) -> list[tuple[str, str]]:
    return [(one.subject, one.outcome) for one in found(x, **keys)]


# Rows without a density ---------------------------------------------------------------------------------------------

FREE = points(200, 3, seed=1)
A, B, C = FREE.T
ONE_HOT = torch.nn.functional.one_hot(torch.arange(200) % 3).double()
WITHOUT = {
    "constant": ([A, torch.full_like(A, 2.5), B], "column 'b' (2.5) is constant in all 200 training rows"),
    "constants": ([A, 0 * A, B, 0 * A + 1], "columns 'b' (0), 'd' (1) are constant in all 200 training rows"),
    "duplicated": ([A, B, A], "column 'c' repeats column 'a'"),
    "in other units": ([A, B, 32 + 1.8 * B], "column 'c' is a linear function of column 'b'"),
    "a sum": ([A, B, C, A + B], "column 'd' is a linear function of columns 'a', 'b'"),
    "far from 0": ([A + 1e6, B, 3 * (A + 1e6) - B], "column 'c' is a linear function of columns 'a', 'b'"),
    "one-hot": ([A, *ONE_HOT.T], "column 'd' is a linear function of columns 'b', 'c'"),
    "a copy of a thin column": ([A, A + 1e-4 * B, A + 1e-4 * B], "column 'c' repeats column 'b'"),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_columns_without_a_density_are_named_with_the_reason(name: str) -> None:
    columns, text = WITHOUT[name]
    assert [one.text for one in faults(torch.stack(columns, 1), "abcdef") if not one.near] == [text]


def test_independent_columns_have_no_fault_whatever_their_units() -> None:
    x = FREE * torch.tensor([1e-9, 1.0, 1e9]) + torch.tensor([1e-3, 0.0, 1e12])
    assert faults(x, "abc") == [] and faults(x @ torch.triu(torch.ones(3, 3).double()), "abc") == []
    assert faults(torch.stack([A, A**2, A * B], 1), "abc") == [], "what is not linear is not looked for"


def test_fewer_rows_than_dimensions_lie_in_a_plane() -> None:
    assert [one.text for one in faults(points(3, 3), "abc")] == [
        "3 training rows of 3 columns lie in a plane: more rows are needed"
    ]
    assert faults(points(5, 3), "abc") == []


@pytest.mark.parametrize("share", [1e-3, 9e-3, 1.2e-2])
def test_a_thin_layer_about_a_plane_is_a_warning(share: float) -> None:
    """c = a + b + noise: the noise has `share` of c's deviation, and |R_jj|/√n finds it."""
    noise = C - FREE[:, :2] @ torch.linalg.lstsq(FREE[:, :2], C[:, None]).solution.flatten()
    thin = (A + B) / (A + B).std() + share * (noise - noise.mean()) / noise.std()
    one = faults(torch.stack([A, B, thin], 1), "abc")
    assert [fault.near for fault in one] == ([True] if share < 1e-2 else [])
    if one:
        assert (
            one[0].text
            == f"column 'c' is a linear function of columns 'a', 'b', up to {share:g} of its standard deviation"
        )


ERROR = "the rows have no density, and their likelihood has no upper bound; leave the column out (name the others in"


def test_a_run_that_needs_a_density_is_refused_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    write(torch.stack([A, B, torch.full_like(A, 3.0)], 1))
    for words in (["a.yaml", "--out", "out"], ["plan", "a.yaml"], ["validate", "--deep", "a.yaml"]):
        assert main(words) == 3
        err = capsys.readouterr().err
        text = "column 'c' (3) is constant in all 160 training rows"
        assert err == f"a.yaml:3:27: error[X304] t.csv: {text}: {ERROR} 'columns')\n"
    assert not Path("out").exists()
    assert main(["plan", "a.yaml", "--set", "data.columns=[a, b]"]) == 0


def test_a_column_that_varies_in_rows_that_are_not_trained_on_is_constant_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    order = torch.randperm(200, generator=Streams(0).under("data").generator("split"))
    for row, code in ((order[-1], 3), (order[0], 0)):  # a test row, a training row
        rare = torch.full_like(A, 3.0)
        rare[row] = 4.0
        write(torch.stack([A, B, rare], 1))
        assert main(["plan", "a.yaml"]) == code
        assert ("column 'c' (3) is constant in all 160 training rows" in capsys.readouterr().err) == (code == 3)


def test_noise_gives_rows_a_density_to_train_on_and_the_likelihood_has_no_bound(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(torch.stack([A, B, torch.full_like(A, 0.5)], 1))
    sets = [word for one in NOISING for word in ("--set", one)]
    assert main(["plan", "a.yaml", *sets]) == 0
    out, err = capsys.readouterr()
    text = "columns without density: column 'c' (0.5) is constant in all 160 training rows: the rows have no density,"
    assert err == f"a.yaml:3:7: warning[X304] {text} so the model's NLL has no lower bound\n" and out
    distance = ["--set", "evaluate=[{type: energy_distance, samples: 10}]", "--set", "sample={count: 10}"]
    assert main(["plan", "a.yaml", *sets, *distance]) == 0
    assert capsys.readouterr().err == "", "nothing asks for a density"


def test_a_thin_layer_is_trained_on_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    write(torch.stack([A, B, A + B + 1e-3 * C], 1))
    assert main(["plan", "a.yaml"]) == 0
    text = (
        "a.yaml:3:7: warning[X304] columns nearly dependent: column 'c' is a linear function of columns 'a', 'b', up to"
    )
    assert capsys.readouterr().err.startswith(text)


# Columns that are hard to learn -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "expected"), [(1.0, True), (0.5, True), (0.25, False), (0.0, False)])
def test_few_different_values_are_a_warning(step: float, expected: bool) -> None:
    x = points(3000, 2, seed=4)
    x[:, 1] = (x[:, 1] / step).round() * step if step else x[:, 1]
    assert said(x) == ([("values", "repeated")] if expected else [])
    assert said(x, use=Use()) == [], "nothing scores the rows"


def test_how_few_is_how_often_two_rows_agree() -> None:
    """K equally likely values agree with probability 1/K, counted over pairs of different rows."""
    assert inspection._equally_likely(torch.tensor([1, 1, 1])) == torch.inf
    assert inspection._equally_likely(torch.tensor([2, 1])) == pytest.approx(3.0)
    assert inspection._equally_likely(torch.full((7,), 1000)) == pytest.approx(7, rel=1e-2)


def test_whole_numbers_are_named_with_how_many_there_are() -> None:
    count, half = torch.arange(200) % 5, torch.arange(200) % 3 / 2
    (one,) = found(torch.stack([A, count.double()], 1))
    assert one.severity == "warning" and one.reason.startswith(
        "column 'b' (5) has few different whole numbers in 200 rows: a density can rise without bound at each"
    )
    (one,) = found(torch.stack([A, count.double(), half.double()], 1))
    assert one.reason.startswith("columns 'b' (5), 'c' (3) have few different values in 200 rows")


@pytest.mark.parametrize(
    ("mean", "deviation", "severity"),
    [(0, 1, None), (50, 2, None), (0, 9, None), (0, 11, "warning"), (0, 0.04, None), (0, 0.03, "warning"),
     (1e3, 9, "warning"), (2e5, 9, "warning"), (1e6, 1e-3, "bad"), (1.7e9, 300, "bad")],
)  # fmt: skip
def test_a_column_that_is_far_off_the_models_scale(mean: float, deviation: float, severity: str | None) -> None:
    x = points(400, 2, seed=6) * torch.tensor([1.0, deviation]) + torch.tensor([0.0, mean])
    verdicts = found(x)
    assert [(one.outcome, one.severity) for one in verdicts] == ([("off_scale", severity)] if severity else [])
    if severity:
        assert "column 'b' (mean" in verdicts[0].reason and "set 'standardize: scale' in data" in verdicts[0].reason
        assert ("float32 rounds away" in verdicts[0].reason) == (severity == "bad")
    if severity == "bad":
        assert [one.severity for one in found(x, use=Use(dtype="float64"))] == ["warning"]


@pytest.mark.parametrize(("repeated", "expected"), [(0, False), (1, False), (3, True), (150, True)])
def test_test_rows_that_are_training_rows_are_counted(repeated: int, expected: bool) -> None:
    x, test = points(300, 2, seed=1), points(200, 2, seed=2)
    test[:repeated] = x[:repeated]
    verdicts = found(x, test=test)
    assert [one.outcome for one in verdicts] == ["memorised"] * expected
    if expected:
        assert verdicts[0].reason.startswith(f"{repeated} of 200 test rows are also training rows")


def test_the_shipped_table_needs_no_word() -> None:
    """Whole millimetres and grams in steps of 25: 164, 80, 55 and 94 different values in 342 rows."""
    rows = Path(__file__).parents[2] / "specs" / "penguins.csv"
    x = torch.tensor([[float(cell) for cell in row.split(",")] for row in rows.read_text().split()[1:]]).double()
    assert said((x - x.mean(0)) / x.std(0)) == []
    assert said(x) == [("units", "off_scale")]


def test_the_run_its_last_line_the_report_and_python_say_it(capsys: pytest.CaptureFixture[str]) -> None:
    import driftspec

    x = points(100, 2, seed=3).repeat(3, 1) * torch.tensor([1.0, 12.0])
    write(x)
    assert main(["a.yaml", "--out", "out", "--set", "evaluate.0.points=2"]) == 0
    out, err = capsys.readouterr()
    off = "units off scale: column 'b' (mean "
    assert err.index(f"warning: data: {off}") < err.index("train ..."), "before training"
    assert err.count("warning: data: ") == 2
    line = out.splitlines()[0]
    assert line.startswith("NLL ") and f"; {off}" in line and "; rows memorised: " in line
    assert "rows memorised: " in Path("out/report.html").read_text()
    verdicts = json.loads(Path("out/run.json").read_text())["verdicts"]
    assert [(one["source"], one["subject"], one["outcome"]) for one in verdicts[:2]] == [
        ("data", "units", "off_scale"), ("data", "rows", "memorised"),
    ]  # fmt: skip
    assert {"off_scale", "memorised"} <= {one.outcome for one in driftspec.load("out").verdicts}
    assert main(["validate", "--deep", "a.yaml"]) == 0
    assert "a.yaml:3:7: warning[X304] units off scale: column 'b'" in capsys.readouterr().err


# Rows that a metric cannot read -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "refused"), [(1.0, True), (0.3, True), (0.0, False)])
def test_levels_without_noise_are_refused_before_training(
    share: float, refused: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """64 levels on [0, 1]; a share of the values has no noise."""
    generator = torch.Generator().manual_seed(0)
    level, noise, chosen = torch.rand(3, 400, 2, generator=generator, dtype=torch.float64)
    write((level * 64).floor() / 64 + (chosen >= share) * noise / 64)
    metric = "evaluate=[{type: round_trip}, {type: bits_per_dim, levels: 64}]"
    for words in (["a.yaml", "--out", "out"], ["plan", "a.yaml"], ["validate", "--deep", "a.yaml"]):
        if refused or words[0] != "a.yaml":
            assert main([*words, "--set", metric]) == (3 if refused else 0)
            said = (
                " of the values lie on the edges of their 64 levels, where a density has no bound: add uniform noise of"
            )
            err = capsys.readouterr().err
            assert ("--set[1]: error[X303] metric 'bits_per_dim': " in err and said in err) == refused
    assert not Path("out").exists()


def test_rows_outside_the_range_of_the_levels_are_refused_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    write(FREE)
    assert main(["plan", "a.yaml", "--set", "evaluate=[{type: bits_per_dim, levels: 8, range: [0, 4]}]"]) == 3
    err = capsys.readouterr().err
    assert (
        err.startswith("--set[1]: error[X303] metric 'bits_per_dim': 1")
        and "of 20 rows lie outside range [0, 4]" in err
    )
