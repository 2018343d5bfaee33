"""Every code is explained by an example that gives it, and by a mended one that gives nothing."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_spec import TEXT

from driftspec.cli import main
from driftspec.errors import CODES
from driftspec.spec.explanations import EXPLANATIONS, Explanation

Said = tuple[int, str]


@pytest.fixture(autouse=True)
def no_plugin_stays() -> Iterator[None]:
    """An example's module goes when its test does: others are called `loud` too."""
    yield
    sys.modules.pop("loud", None)


def whole(part: str) -> str:
    """A part of a spec, with the sections around it that it leaves out. What is no mapping stands alone."""
    keys = set(re.findall(r"^(\w+):", part, re.MULTILINE))
    if not keys:
        return part
    rest = re.findall(r"^\w+:.*\n(?: .*\n)*", TEXT, re.MULTILINE)
    return "".join(one for one in rest if one.split(":")[0] not in keys) + part + "\n"


def validated(text: str | bytes, capsys: pytest.CaptureFixture[str], *words: str) -> Said:
    Path("a.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    code = main(["validate", "a.yaml", *words])
    return code, capsys.readouterr().err


def executed(code: str, form: str, example: str, capsys: pytest.CaptureFixture[str]) -> Said:
    """Exit code and stderr of `validate` with an example."""
    if form == "spec":
        encoding = "latin-1" if code == "Y002" and "Latin-1" in example else "utf-8"
        deep = ["--deep"] if code in ("X304", "X305") else []
        return validated(whole(example).encode(encoding), capsys, *deep)
    Path("a.yaml").write_text(TEXT)
    if form == "command":
        *variables, words = re.split(r"(?<=\S) (?=run-spec)", example)
        name, *words = shlex.split(words)
        assert name == "run-spec"
        with pytest.MonkeyPatch.context() as patch:
            for variable in variables:
                patch.setenv(*variable.split("="))
            return main(words), capsys.readouterr().err
    if form in ("plugin", "observer"):
        Path("mine.py").write_text(example)
        if form == "observer":
            few = ["--set", "train.steps=2", "--set", "train.schedule=constant", "--set", "evaluate=[]", "--quiet"]
            return main(["a.yaml", "--plugin", "mine.py", *few]), capsys.readouterr().err
        named = ["--set", "evaluate=[loud]", "--deep"] if code == "P206" else []
        return validated(TEXT, capsys, "--plugin", "mine.py", *named)
    ((group, points),) = tomllib.loads(example)["project"]["entry-points"].items()
    package = Path("mine-1.0.dist-info")
    package.mkdir(exist_ok=True)
    (package / "METADATA").write_text("Name: mine\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
    Path("loud.py").write_text(EXPLANATIONS["P204"].mended)
    return validated(TEXT, capsys, "--strict-plugins")


@pytest.mark.parametrize("code", CODES)
def test_the_wrong_example_gives_the_code_and_the_mended_one_nothing(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    one = EXPLANATIONS[code]
    exit_code, said = executed(code, one.form, one.wrong, capsys)
    severity, expected = ("warning", 0) if code == "P207" else ("error", {"P": 4}.get(code[0], 3))
    assert exit_code == (1 if code == "X305" else expected), said
    assert set(re.findall(rf"{severity}\[(\w+)\]", said)) == {code}, said
    assert executed(code, one.form, one.mended, capsys) == (0, "")


def test_every_code_is_explained() -> None:
    assert list(EXPLANATIONS) == list(CODES)
    assert all(len(one.why) > 40 and one.wrong != one.mended for one in EXPLANATIONS.values())


def test_a_code_is_explained_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    for spelling in ("S111", "s111", "[S111]"):
        assert main(["explain", spelling]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("S111: an unknown key\n\nNo section and no component reads")
        assert "\nWrong:\n\n    train: {" in out
        assert out.index("Right:") > out.index("clipnorm")
        assert err == ""


def test_without_a_code_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{code}  {what}" for code, what in CODES.items()]
    assert main(["explain", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == CODES
    assert main(["explain", "X304", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["code"], found["title"], found["wrong"]) == ("X304", CODES["X304"], EXPLANATIONS["X304"].wrong)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("S11", "error: unknown code 'S11' (did you mean 'S1"),
        ("X30l", "error: unknown code 'X30l' (did you mean 'X30"),
        ("\x1b[0m", r"error: unknown code '\x1b[0m'; run-spec explain lists all of them"),
    ],
)
def test_an_unknown_code_is_a_usage_error_with_the_nearest(
    code: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", code]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(said)
    assert err.count("\n") == 1


def test_an_explanation_is_indented() -> None:
    text = Explanation("Why.", "\na: 1\n\nb: 2\n", "a: 1").text("S111")
    assert text == "S111: an unknown key\n\nWhy.\n\nWrong:\n\n    a: 1\n\n    b: 2\n\nRight:\n\n    a: 1"
