"""What the verbs print: numbers with their errors, errors by their name, and other libraries' text as one line."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest

from driftspec import cli
from driftspec.cli import foreign, main, tables
from driftspec.cli.progress import number
from driftspec.components import Measured, Verdict
from driftspec.components.verdict import Judged
from driftspec.errors import DriftspecError, Interrupted, RunFailed, UsageError
from driftspec.report.facts import in_words
from driftspec.runs.records import RunRecord
from driftspec.runs.session import RunUnderWay
from driftspec.source.scalars import with_error

# --- numbers ---


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (1.72594, 0.022, "1.726 ± 0.022"),
        (17.3717, 0.25, "17.37 ± 0.25"),
        (3.37438e-08, 1.4e-09, "3.37e-08 ± 1.4e-09"),
        (451.241, 442.3, "450 ± 440"),
        (-0.0132164, 0.026, "-0.013 ± 0.026"),
        (0.00052, 0.011, "0.0005 ± 0.011"),
        (123456.7, 0.5, "123456.7 ± 0.5"),
        (4.54545, None, "4.545"),
        (23456.0, None, "23460"),
        (3e17, None, "3e+17"),
        (0.0, 0.01, "0 ± 0.01"),
        (1e-05, 0.5, "1e-05 ± 0.5"),
        (1e15 / 3, 1e-3, "3.33333333333e+14 ± 0.001"),
        (0.5, 0.0, "0.5 ± 0"),
        (1.0, float("nan"), "1 ± nan"),
    ],
)
def test_a_number_has_the_digits_that_its_standard_error_allows(value: float, stderr: float | None, text: str) -> None:
    assert with_error(value, stderr) == text


@pytest.mark.parametrize(
    ("measured", "text"),
    [
        (Measured(1.72594, 0.022, "nats", 9), "1.726 ± 0.022 nats"),
        (Measured(0.77, 0.1, "", 9), "0.77 ± 0.1"),
        (Measured(4.54545, None, "draws", 9, {}, "it is a count"), "4.545 draws (no standard error: it is a count)"),
        (Measured(None, None, "draws", 9, {}, "no chain moves"), "no value: no chain moves"),
    ],
)
def test_a_metric_is_a_number_with_its_unit_and_its_error_or_the_reason_why_none(measured: Measured, text: str) -> None:
    assert number(measured) == text


def test_no_metric_has_the_word_none_for_its_unit() -> None:
    code = "".join(path.read_text() for path in Path(__file__).parents[2].glob("plugins/**/metrics/*.py"))
    assert "Measured(" in code and ', "none", ' not in code


# --- facts ---


@pytest.mark.parametrize(
    ("key", "fact", "text"),
    [
        ("evaluated", {"weights": "ema", "step": 600, "best": False}, "moving average (ema) at step 600"),
        ("evaluated", {"weights": "last", "step": 40, "best": True},
         "the last weights at step 40, the best of the checks"),
        ("evaluated", {"weights": "last", "step": 0, "best": False},
         "the initial weights: nothing was trained"),
        ("seconds", {"train": 1.712, "evaluate": 0.004}, "train 1.7, evaluate 0.0"),
        ("stages", ["train", "sample"], "train, sample"),
        ("plugins", {"driftspec": "0.1.0", "a.py": "0123456789abcdef"}, "driftspec 0.1.0, a.py 0123456789ab"),
        ("error", {"message": "loss inf", "status": "non_finite", "step": 3}, "loss inf"),
        ("seed", 0, "0"),
        ("git", None, None),
    ],
)  # fmt: skip
def test_a_fact_of_run_json_in_words(key: str, fact: Any, text: str | None) -> None:
    assert in_words({key: fact}, key) == text


def test_a_list_of_runs_names_what_is_bad() -> None:
    judged = [Judged("sample", Verdict("chains", "not_converged", "why", how)).entry() for how in ("bad", "bad")]  # type: ignore[arg-type]
    assert tables.standing("finished", judged) == "finished, bad: chains"
    assert tables.standing("finished", [{**judged[0], "severity": "warning"}]) == "finished"
    good = Judged("nll", Verdict("solver", "within_tolerance", "why", "good"))
    found = tables.verdicts_of(RunRecord(status="finished", verdicts=[good.entry(), {"damaged": 1}, judged[0]]))
    assert [one.verdict.severity for one in found] == ["bad", "good"]


def test_the_last_line_has_the_verdict_on_the_draws_and_of_the_others_what_is_wrong() -> None:
    def last(*judged: tuple[str, str]) -> list[str]:
        entries = [Judged(source, Verdict(how, "found", "why", how)).entry() for source, how in judged]  # type: ignore[arg-type]
        unused: Any = None
        measured = {"a": Measured(1.0, 0.5, "", 9, line="first"), "b": Measured(1.0, 0.5, "", 9, line="second")}
        record = RunRecord(status="finished", verdicts=entries)
        return RunUnderWay(unused, unused, unused, record, measured=measured).lines()

    assert last(("nll", "good"), ("nll", "unknown")) == ["first", "second"]
    assert last(("sample", "good")) == ["first", "good found: why; second"]
    assert last(("sample", "unknown"), ("nll", "warning"), ("data", "bad")) == [
        "first", "bad found: why; unknown found: why; second; warning found: why",
    ]  # fmt: skip


# --- errors ---


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UsageError("'runs/a' is not a run"), "error: 'runs/a' is not a run\n"),
        (RunFailed("loss inf"), "error: loss inf\n"),
        (Interrupted("interrupted after step 3; go on with: run-spec resume a", 2),
         "interrupted after step 3; go on with: run-spec resume a\n"),
    ],
)  # fmt: skip
def test_an_error_is_called_an_error_and_an_interruption_is_said_once(
    error: DriftspecError, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.print_error(error)
    assert capsys.readouterr().err == line


def test_a_default_that_is_a_mapping_is_shown_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "show", "metric/nll"]) == 0
    shown = capsys.readouterr().out
    assert 'a mapping of method, base, temperatures, chains (default {"method": null, "base": "data", ' in shown


# --- other libraries ---


@pytest.mark.filterwarnings("default")
def test_what_a_library_warns_of_or_logs_is_one_line_with_its_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's own
    place = "/somewhere/site-packages/numpy/core.py"
    for verbose, where in ((False, ""), (True, f" ({place}:7)")):
        with foreign.reported(verbose):
            warnings.showwarning("overflow\n  in \x1b[31mexp", RuntimeWarning, place, 7)
            logging.getLogger("matplotlib.font_manager").warning("no %s", "cache")
            logging.getLogger("matplotlib.font_manager").info("built")
        assert capsys.readouterr().err == (
            f"warning: numpy: overflow in \\x1b[31mexp{where}\nwarning: matplotlib: no cache\n"
        )


@pytest.mark.filterwarnings("default")
def test_every_verb_reports_warnings_so_and_leaves_the_callers_handlers_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = warnings.showwarning, logging.lastResort
    (tmp_path / "loud.py").write_text(
        "import warnings\nfrom driftspec.registry import hookimpl\n\n\n@hookimpl\ndef driftspec_components():\n"
        "    warnings.warn('an old one', stacklevel=1)\n    return {}\n"
    )
    assert main(["plugins", "list", "--plugin", str(tmp_path / "loud.py")]) == 0
    assert capsys.readouterr().err == "warning: loud.py: an old one\n"
    assert (warnings.showwarning, logging.lastResort) == before


def test_a_librarys_error_is_one_line_with_its_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "odd.py").write_text(
        "from driftspec.components import Metric\nfrom driftspec.registry import hookimpl\n\n\n"
        "class Odd(Metric):\n    \"Fails.\"\n    type = 'odd'\n\n    def measure(self, evaluation):\n"
        "        raise ValueError('Input X contains NaN.\\nUse an imputer.')\n\n\n"
        "@hookimpl\ndef driftspec_components():\n    return {'metric': {'odd': Odd}}\n"
    )
    spec = tmp_path / "a.yaml"
    spec.write_text(
        "version: 1\nname: a\ndynamics: {type: langevin, target: {type: gaussian, mean: [0.0]}}\n"
        "sampler: {type: langevin, step: 0.1}\nevaluate: [odd]\nsample: {count: 4}\n"
    )
    words = [str(spec), "--plugin", str(tmp_path / "odd.py"), "--out", str(tmp_path / "run"), "--quiet"]
    assert main(words) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "ValueError: Input X contains NaN." in err and err.count("\n") == 1
    assert "imputer" not in err
