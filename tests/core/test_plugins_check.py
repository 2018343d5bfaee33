"""`run-spec plugins check`: the conformance kit over what is installed and what is loaded."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from driftspec.cli import main

README = (Path(__file__).parents[2] / "README.md").read_text()
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


def test_what_keeps_its_word_is_a_row_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "check", "schedule/cosine", "optimizer/muon"]) == 0
    out, err = capsys.readouterr()
    first, second, third = out.splitlines()
    assert first.split() == ["component", "passed", "failed", "skipped"]
    assert re.fullmatch(r"schedule/cosine +9 +0 +0", second)
    assert third.startswith("optimizer/muon   not checked: muon takes weight matrices only")
    assert err == ""


def test_what_breaks_it_is_said_and_ends_with_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    words = ["plugins", "check", "schedule/bad", "schedule/needy", "--plugin", str(tmp_path / "bad.py")]
    assert main(words) == 4
    out = capsys.readouterr().out
    assert "schedule/bad: rates are finite and not negative: the rate of step 0 is -0.1" in out
    assert re.search(r"schedule/needy +not checked: needs keys: factor", out)
    assert main([*words, "--format", "json"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert told["schedule/needy"] == {"checked": False, "reason": "needs keys: factor"}
    assert "rates are finite and not negative" in told["schedule/bad"]["failed"]
    assert told["schedule/bad"]["checked"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["bad.py"], "nothing is left behind"


def test_the_readmes_plugin_keeps_its_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "orthogonal.py").write_text(next(block for block in blocks if "hookimpl" in block))
    file = str(tmp_path / "orthogonal.py")
    assert main(["plugins", "check", "estimator/orthogonal_probes", "--plugin", file]) == 0, capsys.readouterr()


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
