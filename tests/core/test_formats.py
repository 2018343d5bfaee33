"""What `validate` says to machines: JSON, SARIF and GitHub's annotations, with places, warnings and nothing raw."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_sarif.model import StaticAnalysisResultsFormatSarifVersion210JsonSchema as Sarif
from small_spec import TEXT, edited

from driftspec.cli import main
from driftspec.errors import CODES, Place, Problem
from driftspec.spec import fits

Write = Callable[..., str]
FORMATS = ("text", "json", "sarif", "github")

TWO = edited(("noise: 0.05", "nosie: 0.05"), ("steps: 100", "steps: 0"))
"""Two mistakes, on lines 3 and 9."""
TABLE = edited(("data: {type: moons, samples: 500, noise: 0.05}", "data: {type: table, path: no.csv}"))
"""Valid, and its data file is not there."""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file into the working directory."""
    monkeypatch.chdir(tmp_path)

    def make(text: str = TEXT, name: str = "a.yaml") -> str:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
        return name

    return make


def run(*words: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["validate", *words])
    return code, out.getvalue(), err.getvalue()


def as_json(*words: str) -> dict[str, Any]:
    code, out, err = run(*words, "--format", "json")
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    assert found["valid"] == (code == 0)
    return found


def as_sarif(*words: str) -> dict[str, Any]:
    """The one run of a log that keeps the standard's schema."""
    code, out, err = run(*words, "--format", "sarif")
    assert err == ""
    Sarif.model_validate_json(out, strict=False)
    log: dict[str, Any] = json.loads(out)
    assert log["$schema"].endswith("/sarif-schema-2.1.0.json")
    assert log["version"] == "2.1.0"
    (one,) = log["runs"]
    assert one["invocations"] == [{"executionSuccessful": True, "exitCode": code}]
    rules = one["tool"]["driver"]["rules"]
    for result in one["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    found: dict[str, Any] = one
    return found


def as_github(*words: str) -> list[str]:
    _, out, err = run(*words, "--format", "github")
    assert err == ""
    return out.splitlines()


# --- what each says ---


def test_json_holds_every_file_and_every_problem(write: Write) -> None:
    found = as_json(write(TWO), write(name="b.yaml"), "c.yaml")
    assert found["files"] == [
        {"file": "a.yaml", "valid": False},
        {"file": "b.yaml", "valid": True},
        {"file": "c.yaml", "valid": False},
    ]
    first, second, third = found["problems"]
    assert first == {
        "spec": "a.yaml", "code": "S111", "severity": "error",
        "message": "unknown key 'nosie' in data (did you mean 'noise'?)",
        "file": "a.yaml", "line": 3, "column": 35,
    }  # fmt: skip
    assert (second["code"], second["line"], second["column"]) == ("S113", 9, 10)
    assert (third["code"], third["file"], third["line"], third["column"]) == ("Y001", "c.yaml", None, None)


def test_sarif_has_a_rule_for_every_code_and_a_region_for_every_place(write: Write) -> None:
    found = as_sarif(write(TWO), "c.yaml")
    rules = found["tool"]["driver"]["rules"]
    assert [(rule["id"], rule["shortDescription"]["text"]) for rule in rules] == list(CODES.items())
    assert all(rule["help"]["text"].startswith(f"{rule['id']}: ") for rule in rules)
    assert found["columnKind"] == "unicodeCodePoints"
    first, second, third = found["results"]
    assert first == {
        "ruleId": "S111", "ruleIndex": list(CODES).index("S111"), "level": "error",
        "message": {"text": "unknown key 'nosie' in data (did you mean 'noise'?)"},
        "locations": [{"physicalLocation": {
            "artifactLocation": {"uri": "a.yaml"}, "region": {"startLine": 3, "startColumn": 35},
        }}],
    }  # fmt: skip
    assert second["locations"][0]["physicalLocation"]["region"] == {"startLine": 9, "startColumn": 10}
    assert third["locations"] == [{"physicalLocation": {"artifactLocation": {"uri": "c.yaml"}}}]


def test_github_has_a_line_for_every_problem(write: Write) -> None:
    assert as_github(write(TWO), "c.yaml") == [
        "::error file=a.yaml,line=3,col=35,title=S111 an unknown key::"
        "unknown key 'nosie' in data (did you mean 'noise'?)",
        "::error file=a.yaml,line=9,col=10,title=S113 a value out of range::"
        "'steps' in train is 0: it must be at least 1",
        "::error file=c.yaml,title=Y001 the file cannot be read or is outside the allowed folders::"
        "cannot be read: no such file (did you mean 'a.yaml'?)",
    ]  # fmt: skip


def test_a_valid_spec_gives_an_empty_list_in_every_format(write: Write) -> None:
    assert as_json(write()) == {"valid": True, "files": [{"file": "a.yaml", "valid": True}], "problems": []}
    assert as_sarif("a.yaml")["results"] == []
    assert as_github("a.yaml") == []
    assert run("a.yaml") == (0, "a.yaml: valid\n", "")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("words", "code"),
    [(["a.yaml"], 0), (["a.yaml", "two.yaml"], 3), (["no.yaml"], 3), (["a.yaml", "--plugin", "bad.py"], 4),
     (["table.yaml"], 0), (["a.yaml", "--nonsense"], 2), (["a.yaml", "--set", "x"], 2)],
)  # fmt: skip
def test_exit_codes_are_those_of_every_format(write: Write, form: str, words: list[str], code: int) -> None:
    write()
    write(TWO, "two.yaml")
    write(TABLE, "table.yaml")
    write("import no_such_module\n", "bad.py")
    got, out, _ = run(*words, "--format", form)
    assert got == code
    assert form == "text" or code != 4 or "P201" in out
    assert code != 2 or out == ""


def test_specs_may_stand_between_options(write: Write) -> None:
    found = as_json(write(), "--set", "seed=1", write(name="b.yaml"), "--no-plugins", "c.yaml")
    assert [one["valid"] for one in found["files"]] == [True, True, False]


# --- places ---


def test_a_value_of_set_is_named_after_its_option(write: Write) -> None:
    words = [write(), "--set", "seed=3", "--set", "train.steps=0"]
    (problem,) = as_json(*words)["problems"]
    assert (problem["spec"], problem["file"], problem["line"], problem["column"]) == ("a.yaml", "--set[2]", None, None)
    (result,) = as_sarif(*words)["results"]
    assert result["locations"] == [
        {
            "physicalLocation": {"artifactLocation": {"uri": "a.yaml"}},
            "logicalLocations": [{"fullyQualifiedName": "--set[2]"}],
        }
    ]
    assert result["message"]["text"].startswith("--set[2]: 'steps' in train is 0")
    (line,) = as_github(*words)
    assert line.startswith("::error file=a.yaml,title=S113 a value out of range::--set[2]: 'steps'")


def test_a_value_of_a_base_stands_in_the_base_and_is_told_once(write: Write) -> None:
    write(TWO, "base/b.yaml")
    words = [
        write("version: 1\nname: x\nextends: base/b.yaml\n", "x.yaml"),
        write("version: 1\nname: y\nextends: base/b.yaml\ntrain: {steps: 5}\nevaluate: [nil]\n", "y.yaml"),
    ]
    told = [(one["spec"], one["code"], one["file"], one["line"], one["column"]) for one in as_json(*words)["problems"]]
    assert told == [
        ("x.yaml", "S111", "base/b.yaml", 3, 35),
        ("x.yaml", "S113", "base/b.yaml", 9, 10),
        ("y.yaml", "S111", "base/b.yaml", 3, 35),
        ("y.yaml", "S120", "y.yaml", 5, 12),
    ]
    uris = [one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in as_sarif(*words)["results"]]
    assert uris == ["base/b.yaml", "base/b.yaml", "y.yaml"]
    assert [line.split(",title")[0] for line in as_github(*words)] == [
        "::error file=base/b.yaml,line=3,col=35",
        "::error file=base/b.yaml,line=9,col=10",
        "::error file=y.yaml,line=5,col=12",
    ]


def test_the_same_mistake_of_an_option_is_told_for_each_spec(write: Write) -> None:
    words = [write(), write(name="b.yaml"), "--set", "train.steps=0"]
    assert [line.split(",")[0] for line in as_github(*words)] == ["::error file=a.yaml", "::error file=b.yaml"]


def test_uris_are_relative_references_or_absolute(write: Write, tmp_path: Path) -> None:
    names = ["a b%#,ü.yaml", str(tmp_path / "c:d.yaml"), "e:f.yaml", "../no.yaml"]
    found = as_sarif(*(write("", name) if name != "../no.yaml" else name for name in names))["results"]
    uris = [one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in found]
    assert uris == ["a%20b%25%23%2C%C3%BC.yaml", f"file://{tmp_path}/c%3Ad.yaml", "e%3Af.yaml", "../no.yaml"]


def test_columns_count_code_points(write: Write) -> None:
    text = edited(("{type: moons, samples: 500, noise: 0.05}", '{type: moons, "😀": 1, nosie: 0.05}'))
    assert [one["column"] for one in as_json(write(text))["problems"]] == [21, 29]


# --- warnings ---


def test_warnings_come_along_in_every_format(write: Write) -> None:
    (problem,) = as_json(write(TABLE))["problems"]
    assert (problem["code"], problem["severity"], problem["line"], problem["column"]) == ("X304", "warning", 3, 27)
    assert [one["level"] for one in as_sarif("a.yaml")["results"]] == ["warning"]
    assert as_github("a.yaml")[0].startswith(
        "::warning file=a.yaml,line=3,col=27,title=X304 a data file cannot be used or looks wrong::data file"
    )
    code, out, err = run("a.yaml")
    assert (code, out) == (0, "a.yaml: valid\n")
    assert err.startswith("a.yaml:3:27: warning[X304] data file 'no.csv' does not exist")


def test_warnings_of_plugins_belong_to_no_spec(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path("old-1.0.dist-info")
    package.mkdir(parents=True) if write() else None
    (package / "METADATA").write_text("Name: old\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[driftspec.v0]\nold = old\n")
    monkeypatch.syspath_prepend(".")
    for words, valid, severity in ((["a.yaml"], True, "warning"), (["a.yaml", "--strict-plugins"], False, "error")):
        code, out, _ = run(*words, "--format", "json")
        found = json.loads(out)
        assert (code, found["valid"]) == ((0, True) if valid else (4, False))
        (problem,) = found["problems"]
        assert (problem["spec"], problem["code"], problem["severity"]) == (None, "P203", severity)
        (result,) = json.loads(run(*words, "--format", "sarif")[1])["runs"][0]["results"]
        assert result["locations"] == []
        assert run(*words, "--format", "github")[1].startswith(f"::{severity} title=P203 a plugin for another API")


# --- a data file ---


def test_validate_looks_for_data_only_where_it_may(write: Write, tmp_path: Path) -> None:
    (tmp_path.parent / "outside.csv").write_text("a,b\n1,2\n")
    write(TABLE.replace("no.csv", "../outside.csv"))
    (problem,) = as_json("a.yaml")["problems"]
    assert problem["message"].startswith("data file '../outside.csv' lies outside the current directory")
    assert as_json("a.yaml", "--allow-outside")["problems"] == []
    Path("in.csv").write_text("not a table")
    assert as_json("a.yaml", "--set", "data.path=in.csv")["problems"] == [], "it is not read"


def test_a_missing_file_is_an_error_to_plan_and_run(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write(TABLE)
    for words in (["plan", "a.yaml"], ["a.yaml"]):
        assert main(words) == 3
        assert capsys.readouterr().err.startswith("a.yaml:3:27: error[X304] data file 'no.csv' does not exist")
    assert list(map(str, Path().iterdir())) == ["a.yaml"]


# --- nothing raw ---

ESCAPE = "\x1b[31m\x07\u202e\u200b\r\n::error::x\n%0A,:"


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts(one)


def clean(*words: str) -> None:
    """Whatever is said in any format is printable, and in its place."""
    for form in FORMATS:
        code, out, err = run(*words, "--format", form)
        assert code in (0, 3), err
        assert all(line.isprintable() for line in (out + err).split("\n")), (form, out, err)
        if form in ("json", "sarif"):
            assert out.count("\n") == 1
            helpful = ("\n" in one for one in texts(json.loads(out)))  # the rules' help has lines
            assert not any(helpful) or form == "sarif"
            assert all(one.replace("\n", "").isprintable() for one in texts(json.loads(out)))
        if form == "github":
            assert all(line.startswith(("::error ", "::warning ")) for line in out.splitlines())


def test_escapes_are_shown_and_never_sent(write: Write) -> None:
    shown = json.dumps(ESCAPE.replace("\x1b", "").replace("\x07", ""))
    clean(write(TEXT + f"{shown}: {shown}\n"))
    clean(write(edited(("moons", shown))))
    clean(write(edited(("evaluate: [nll]", f"evaluate: [{{type: nll, name: {shown}}}]"))))
    clean(write(f"extends: {shown}\n"))
    clean(write(edited(("{type: moons, samples: 500, noise: 0.05}", f"{{type: table, path: {shown}}}"))))
    clean(write(edited(("name: a", "name: \x1b[31ma"))))
    clean(write(), "--set", f"{ESCAPE}=1")
    clean(write(), "--set", f"name={ESCAPE}")
    clean(write(), "--unset", ESCAPE)
    name = "\x1b[31m\n::error::\u202e,:%.yaml"
    clean(write("", name))
    clean(write(name=name))
    clean(name + "x")


@given(st.text(max_size=30), st.text(max_size=30), st.integers(0, len(TEXT)))
@settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_no_text_reaches_a_terminal_raw(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: str, at: int
) -> None:
    folder = tmp_path_factory.mktemp("raw")
    for number, text in enumerate(
        [f"{TEXT}{json.dumps(key)}: {json.dumps(value)}\n", TEXT[:at] + value + TEXT[at:],
         TEXT.replace("moons", json.dumps(value)), TEXT.replace("nll", json.dumps({key: value}))]
    ):  # fmt: skip
        file = folder / f"{number}.yaml"
        file.write_bytes(text.encode(errors="surrogatepass"))
        clean(str(file))
    clean(str(file), "--set", f"{key}={value}") if "=" not in key and key.strip("+") else None


def test_properties_and_data_are_escaped_as_github_reads_them(monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    odd = Problem("S111", "100%, a:b", Place("a,b:c%.yaml", 1, 2))
    monkeypatch.setattr(fits, "check", lambda loaded: [odd])
    assert as_github(write()) == ["::error file=a%2Cb%3Ac%25.yaml,line=1,col=2,title=S111 an unknown key::100%25, a:b"]


def test_a_problem_is_one_printable_line() -> None:
    problem = Problem("S111", "a\x1b[0m\nb\u202e", Place("c\r.yaml", 1, 1))
    assert str(problem) == r"c\r.yaml:1:1: error[S111] a\x1b[0m\nb\u202e"
    assert not re.search(r"[\x00-\x1f]", str(problem))


def test_a_name_that_is_no_utf8_is_shown(write: Write) -> None:
    write()
    name = os.fsdecode(b"caf\xe9.yaml")
    try:
        Path("a.yaml").rename(name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    clean(name)
    (location,) = as_sarif(name, "--set", "train.steps=0")["results"][0]["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "caf%E9.yaml"
