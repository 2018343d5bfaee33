"""`run-spec plugins check`: the conformance kit over what is installed and what is loaded."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kit import checks
from pages import snippet

from driftspec.cli import conformance, main
from driftspec.testing import TraceTests

BAD = """
from driftspec.components import Schedule
from driftspec.registry import hookimpl


class Bad(Schedule):
    "A rate below 0."
    type = "bad"

    def build(self, optimizer, steps):
        import torch

        return torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor)

    def factor(self, step):
        return -1.0


class Needy(Schedule):
    "One that needs a key."
    type = "needy"
    factor: float

    def build(self, optimizer, steps):
        return None


@hookimpl
def driftspec_components():
    return {"schedule": {"bad": Bad, "needy": Needy}}
"""


def test_what_keeps_its_word_is_a_row_of_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(conformance, "check", lambda *given: [conformance.Checked("schedule/cosine", passed=9)])
    assert main(["plugins", "check", "schedule/cosine"]) == 0
    out, err = capsys.readouterr()
    first, second = out.splitlines()
    assert first.split() == ["component", "passed", "failed", "skipped"]
    assert re.fullmatch(r"schedule/cosine +9 +0 +0", second)
    assert err == ""


def test_what_breaks_it_is_said_and_ends_with_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    file = ["--plugin", str(tmp_path / "bad.py")]
    named = ["schedule/cosine", "schedule/bad", "schedule/needy"]
    assert main(["plugins", "check", *named, *file, "--format", "json"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert told["schedule/cosine"] == {"checked": True, "passed": 9, "failed": {}, "skipped": {}}
    assert told["schedule/needy"] == {"checked": False, "reason": "needs keys: factor"}
    assert told["schedule/bad"]["checked"] is True
    assert told["schedule/bad"]["failed"]["rates are finite and not negative"] == "the rate of step 0 is -0.1"
    assert main(["plugins", "check", "schedule/needy", *file]) == 0
    assert re.search(r"schedule/needy +not checked: needs keys: factor", capsys.readouterr().out)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.py"], "nothing is left behind"


def test_the_pages_test_file_passes_beside_its_plugin(tmp_path: Path) -> None:
    (tmp_path / "orthogonal.py").write_text(snippet("python", "class OrthogonalProbes"))
    (tmp_path / "test_orthogonal.py").write_text(snippet("python", "class TestOrthogonalProbes"))
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1].startswith(f"{len(checks(TraceTests()))} passed in"), done.stdout


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("solver/rk5", "unknown solver 'rk5' (did you mean 'rk4'?)"),
        ("solvers/rk4", "'solvers/rk4' is no KIND/NAME (did you mean 'solver'?)"),
        ("rk4", "'rk4' is no KIND/NAME"),
    ],
)
def test_a_name_that_is_none(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "check", word]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert out == ""


def test_without_pytest_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "pytest" else find(name, *a))
    assert main(["plugins", "check", "solver/rk4"]) == 2
    assert "pip install 'driftspec[test]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "err", "reason"),
    [
        ("E   KeyError: 1\na.py:3: in f\nE   PluginError: it failed\n1 error in 3 s\n", "", "PluginError: it failed"),
        ("", "no module named pytest\n", "no module named pytest"),
        ("", "", "it printed nothing"),
    ],
)
def test_where_pytest_cannot_check_the_last_error_is_told(out: str, err: str, reason: str) -> None:
    assert conformance._reason(out, err) == reason
