"""The command: which verb, what goes to stdout and stderr, exit codes, and what `validate` and `plan` answer."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_spec import TEXT, edited

from driftspec import cli
from driftspec.cli import VERBS, caret, main
from driftspec.errors import Place, Problem
from driftspec.registry import Registry, discover

Write = Callable[..., str]

LOUD = """
from driftspec.components import Measured, Metric
from driftspec.registry import hookimpl

class Loud(Metric):
    "A metric."
    type = "loud"

    def measure(self, evaluation):
        return Measured(1.0, 0.5, "nats", 1)

@hookimpl
def driftspec_components():
    return {"metric": {"loud": Loud}}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file into the working directory."""
    monkeypatch.chdir(tmp_path)

    def make(text: str = TEXT, name: str = "a.yaml") -> str:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
        return name

    return make


def listing() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


def python(code: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )


# --- validate ---


def test_valid_specs(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", write(), write(name="b.yaml")]) == 0
    assert capsys.readouterr() == ("a.yaml: valid\nb.yaml: valid\n", "")


def test_invalid_specs_are_all_told_and_nothing_is_written(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["validate", write(edited(("steps: 100", "steps: 0"))), write("", "b.yaml"), "c.yaml", write(name="d.yaml")]
    assert main(words) == 3
    out, err = capsys.readouterr()
    assert out == "d.yaml: valid\n"
    assert err.splitlines() == [
        "a.yaml:9:10: error[S113] 'steps' in train is 0: it must be at least 1",
        "b.yaml:1:1: error[Y003] the file is empty",
        "c.yaml: error[Y001] cannot be read: no such file (did you mean 'd.yaml'?)",
    ]
    assert listing() == ["a.yaml", "b.yaml", "d.yaml"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT + "name: b\n", "15:1: error[Y005] the key 'name' is repeated: it is on line 2"),
        (edited(("name: a", "name: !!str a")), "2:7: error[Y006] the tag '!!str' is refused"),
        (edited(("steps: 100", "steps: 010")), "9:10: error[Y009] '010' is 8 in YAML 1.1 and 10 in 1.2: write 10"),
        ("- a\n", "1:1: error[Y011] a spec is one mapping of keys to values, not a list"),
        ("name\n", "1:1: error[Y011] a spec is one mapping of keys to values, not 'name'"),
        ("a: [1\n", "1:4: error[Y004]"),
        ("\x00", "1:1: error[Y012]"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_spec(write: Write, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    for words in (["validate", write(text)], [write(text)], ["plan", write(text)]):
        assert main(words) == 3
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"a.yaml:{message}")
        assert err.count("\n") == 1
    assert listing() == ["a.yaml"]


def test_settings_apply_to_every_file(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", write(), write(name="b.yaml"), "--set", "seed=1", "--set", "seed=-1"]) == 3
    assert capsys.readouterr().err == "--set[2]: error[S113] 'seed' is -1: it must be at least 0\n" * 2


def test_validate_is_quick_and_imports_no_torch(write: Write) -> None:
    specs = [write()]
    code = (
        "import sys; from driftspec.cli import main; main(sys.argv[1:]); "
        "print([m for m in ('torch', 'numpy', 'matplotlib', 'subprocess', 'driftspec.runs') if m in sys.modules])"
    )
    used = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = python(code, "validate", *specs)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.stdout == "a.yaml: valid\n[]\n", done.stderr
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(used) < 0.5


# --- which verb ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: SPEC"),
        (["plan"], "the following arguments are required: SPEC"),
        (["validate"], "the following arguments are required: SPEC"),
        (["validat"], "'validat' is neither a spec's file nor a verb (did you mean 'validate'?); verbs: "),
        (["mons"], "'mons' is neither a spec's file nor a verb (did you mean 'specs/moons.yaml'?); verbs: "),
        (["plon"], "'plon' is neither a spec's file nor a verb (did you mean 'plan' or 'plow.yaml'?); verbs: "),
        (["zzz"], "'zzz' is neither a spec's file nor a verb; verbs: "),
        (["a.yaml", "--sed", "3"], "unrecognized arguments: --sed 3"),
        (["a.yaml", "--seed", "-1"], "argument --seed: '-1' is not a whole number from 0 to 2^63 - 1"),
        (["a.yaml", "--seed", "9223372036854775808"], "argument --seed: '9223372036854775808' is not a whole number"),
        (["a.yaml", "--seed", "x"], "argument --seed: 'x' is not a whole number"),
        (["a.yaml", "--stage", "tran"], "argument --stage: unknown stage 'tran' (did you mean 'train'?)"),
        (["a.yaml", "--format", "xml"], "argument --format: invalid choice: 'xml'"),
        (["a.yaml", "--set", "seed"], "argument --set: 'seed' is not KEY=VALUE"),
        (["a.yaml", "--set", "=3"], "argument --set: '=3' is not KEY=VALUE"),
        (["a.yaml", "--set", "+=3"], "argument --set: '+=3' is not KEY=VALUE"),
        (["validate", "a.yaml", "--plugin", "no.py"], "--plugin no.py: no such file"),
        (["a.yaml", "b.yaml"], "unrecognized arguments: b.yaml"),
    ],
)  # fmt: skip
def test_a_wrong_command_line(write: Write, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    write()
    write(name="plow.yaml")
    write(name="specs/moons.yaml")
    before = listing()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert listing() == before


def test_a_spec_may_be_called_like_a_verb(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write(edited(("version: 1", "version: 2")), "plan")
    assert main(["./plan"]) == 3
    assert capsys.readouterr().err == "plan:1:10: error[S114] 'version' is 2; allowed: 1\n"
    assert main(["plan", "./plan"]) == 3
    assert main(["plan"]) == 2
    write(edited(("version: 1", "version: 3")), "other")
    assert main(["other"]) == 3
    assert main(["nowhere/a"]) == main(["a.yml"]) == 3  # spelt like a file: then it is one that is missing


def test_help_and_version_load_no_plugin(write: Write) -> None:
    code = """
import contextlib, io, sys
from driftspec.cli import main
for words in ([], *([verb] for verb in sys.argv[1:])):
    for option in ("--help", "--version"):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                main([*words, option])
            except SystemExit as done:
                assert not done.code
        assert ("usage: run-spec" in out.getvalue()) == (option == "--help"), out.getvalue()
        assert out.getvalue().startswith("driftspec ") == (option == "--version")
print([m for m in ("torch", "numpy", "driftspec_plugins") if m in sys.modules])
"""
    done = python(code, *VERBS)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("verb", "text"),
    [
        ("sweep", "by default runs/NAME/sweep-TIME-DIGEST"),
        ("plan", "by default runs/NAME/TIME-DIGEST"),
        *((verb, "a run directory, or runs/NAME for the newest run of a spec") for verb in
          ("resume", "runs", "sample", "evaluate")),
    ],
)  # fmt: skip
def test_the_help_names_the_directories(
    verb: str, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # a line is broken also after a hyphen
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert text in " ".join(capsys.readouterr().out.split())


def test_the_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(f"  {name} " in out and what in out for name, what in VERBS.items())


# --- how errors are told ---


def test_no_traceback_unless_asked_for(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = write("a: [1\n")
    main(["validate", bad])
    main([bad])
    assert "Traceback" not in capsys.readouterr().err
    main([bad, "-v"])
    assert "Traceback" in capsys.readouterr().err

    def broken(words: list[str]) -> int:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(cli, "_dispatch", broken)
    assert main([bad]) == 1
    assert capsys.readouterr().err == "internal error: ZeroDivisionError: surprise (-v shows where)\n"
    main([bad, "-v"])
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    assert main(["a.yaml"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_closed_stdout_is_no_traceback(write: Write) -> None:
    name = write()
    code = "import sys; from driftspec.cli import main; sys.exit(main(sys.argv[1:]))"
    running = subprocess.Popen(
        [sys.executable, "-c", code, "validate", *[name] * 50],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # what is printed waits in a buffer, as it does for a user
    )
    assert running.stdout is not None
    running.stdout.close()
    _, err = running.communicate()
    assert (running.returncode, err) == (1, "")


def test_on_a_terminal_the_line_and_a_caret_follow(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = write(edited(("noise: rad", "nosie: rad")))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    main(["validate", bad, "--set", "sample.count=0"])
    assert capsys.readouterr().err.splitlines() == [
        "--set[1]: error[S113] 'count' in sample is 0: it must be at least 1",
        "a.yaml:7:31: error[S111] unknown key 'nosie' in estimator (did you mean 'noise'?)",
        "    estimator: {type: hutchinson, nosie: rademacher}",
        "                                  ^",
    ]


def test_a_caret_below_a_tab_an_escape_and_a_long_line() -> None:
    problem = Problem("S111", "", Place("a", 1, 3), source="\t\x1bx: 1\n")
    assert caret(problem) == "      x: 1\n      ^\n"
    far = Problem("S111", "", Place("a", 1, 1001), source="a" * 1000 + "b" + "a" * 1000)
    line, mark = caret(far).splitlines()
    assert (len(line), line[mark.index("^")]) == (124, "b")
    assert caret(Problem("S111", "", Place("--set[1]"), source="x")) == caret(Problem("S111", "")) == ""


# --- plugins ---


@pytest.fixture
def broken_plugin(monkeypatch: pytest.MonkeyPatch) -> str:
    warning = Problem("P201", "plugin 'x' (dist 1.0) failed to import: ImportError: no y", severity="warning")

    def found(*args: object, **options: object) -> Registry:
        return Registry(discover().providers, [warning])

    monkeypatch.setattr("driftspec.registry.discover", found)
    return warning.message


def test_a_broken_plugin_is_a_warning(write: Write, capsys: pytest.CaptureFixture[str], broken_plugin: str) -> None:
    assert main(["validate", write()]) == 0
    assert capsys.readouterr() == ("a.yaml: valid\n", f"warning[P201] {broken_plugin}\n")


def test_it_is_an_error_where_it_might_provide_what_is_named(
    write: Write, capsys: pytest.CaptureFixture[str], broken_plugin: str
) -> None:
    assert main(["validate", write(edited(("[nll]", "[loud]")))]) == 4
    assert "a.yaml:13:12: error[P201] unknown metric 'loud'; allowed: " in capsys.readouterr().err
    assert main(["validate", write(edited(("[nll]", "[loud]"), ("steps: 100", "steps: 0")), "b.yaml")]) == 3
    assert main(["validate", "a.yaml", "b.yaml"]) == main(["validate", "b.yaml", "a.yaml"]) == 4


def test_it_is_an_error_where_plugins_are_strict(
    write: Write, capsys: pytest.CaptureFixture[str], broken_plugin: str
) -> None:
    assert main(["validate", write(), "--strict-plugins"]) == 4
    assert capsys.readouterr() == ("", f"error[P201] {broken_plugin}\n")


WORDS = {
    "run": ["a.yaml"], "validate": ["a.yaml"], "plan": ["a.yaml"], "sweep": ["a.yaml"], "resume": ["there"],
    "sample": ["there"], "evaluate": ["there"], "schema": [], "explain": [], "init": ["new"], "runs": ["list"],
    "plugins": ["list"], "report": ["a.yaml"],
}  # fmt: skip
"""A command for each verb, as far as its options are read."""


def command(verb: str, *options: str) -> list[str]:
    return [*([] if verb == "run" else [verb]), *WORDS[verb], *options]


def test_there_is_a_command_for_each_verb() -> None:
    assert WORDS.keys() == {"run", *VERBS}


@pytest.mark.parametrize("verb", WORDS)
def test_no_verb_loses_a_plugin(verb: str, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write()
    assert main(command(verb, "--plugin=nowhere.py")) == 2
    assert capsys.readouterr().err == "error: --plugin nowhere.py: no such file\n"


@pytest.mark.parametrize("verb", WORDS)
def test_a_verb_takes_an_option_that_it_uses_and_refuses_another(
    verb: str, write: Write, broken_plugin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plugin that cannot be loaded is an error where that is asked for, and a device that is not there."""
    write()

    def told(option: str, code: int) -> str:
        answered = main(command(verb, option))
        err = capsys.readouterr().err
        refused = f"unrecognized arguments: {option}" in err
        assert answered == (2 if refused else code)
        return "" if refused else err

    strict, device = told("--strict-plugins", 4), told("--device=tpu", 3)
    assert strict == (
        "" if verb in ("schema", "explain", "init", "runs", "plugins") else f"error[P201] {broken_plugin}\n"
    )
    assert ("'device' in runtime is 'tpu'" in device) == (verb in ("run", "plan", "sweep"))


def test_the_kit_leaves_alone_what_no_plugins_leaves_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[bool] = []

    def found(files: tuple[str, ...] = (), only_builtin: bool = False) -> Registry:
        loaded.append(only_builtin)
        return discover(files, only_builtin)

    monkeypatch.setattr("driftspec.testing.component.discover", found)
    written: list[str] = []

    def stop(words: list[str], cwd: str, **_: object) -> None:
        written.append(Path(cwd, words[-1]).read_text())
        raise KeyboardInterrupt

    monkeypatch.setattr("driftspec.cli.conformance.subprocess.run", stop)
    assert main(["plugins", "check", "metric/nll", "--no-plugins"]) == 130
    exec(written[0], {})
    assert loaded == [True]


def test_an_installed_plugin_that_is_broken(write: Write, tmp_path: Path) -> None:
    info = tmp_path / "site" / "loud-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[driftspec.v1]\nloud = loud\n")
    (tmp_path / "site" / "loud.py").write_text("1 / 0")
    code = "import sys; from driftspec.cli import main; sys.exit(main(sys.argv[1:]))"
    warned = python(code, "validate", write(), PYTHONPATH=str(tmp_path / "site"))
    message = "plugin 'loud' (loud 1.0) failed to import: ZeroDivisionError: division by zero\n"
    assert (warned.returncode, warned.stdout, warned.stderr) == (0, "a.yaml: valid\n", f"warning[P201] {message}")
    without = python(code, "validate", "a.yaml", "--no-plugins", PYTHONPATH=str(tmp_path / "site"))
    assert (without.returncode, without.stderr) == (0, "")


def test_a_one_file_plugin(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    name, file = write(edited(("[nll]", "[loud]"))), write(LOUD, "mine.py")
    assert main(["validate", name]) == 3
    assert main(["validate", name, "--plugin", file]) == 0
    write("def f(:", "worse.py")
    capsys.readouterr()
    assert main(["validate", name, "--plugin", "worse.py"]) == 4
    assert capsys.readouterr().err == (
        "error[P201] --plugin worse.py failed to import: SyntaxError: invalid syntax (line 1)\n"
    )


def test_the_digest_of_a_one_file_plugin_is_in_run_json(write: Write) -> None:
    name, file = write(edited(("[nll]", "[loud]"), ("steps: 100", "steps: 6"))), write(LOUD, "mine.py")
    assert main([name, "--plugin", file, "--out", "run", "--quiet"]) == 0
    info = json.loads(Path("run/run.json").read_text())
    assert info["plugins"]["mine.py"] == hashlib.sha256(LOUD.encode()).hexdigest()
    assert json.loads(Path("run/metrics.json").read_text())["loud"]["value"] == 1.0


# --- plan ---


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main(["plan", *words, "--format", "json"]) == 0
    result: dict[str, object] = json.loads(capsys.readouterr().out)
    return result


def test_a_plan_says_where_every_value_comes_from(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write(edited(("name: a", "name: a\nsolver: {type: rk4, steps: 7}")), "base.yaml")
    top = write("extends: base.yaml\nname: top\ndata: {type: moons, samples: 400}\n", "top.yaml")
    settings = ["--set", "train.steps=50", "--set", "evaluate+=round_trip", "--seed", "5"]
    found = plan(capsys, top, *settings)
    values = {one["key"]: (one["value"], one["from"]) for one in found["values"]}  # type: ignore[attr-defined]
    assert values["name"] == ("top", "top.yaml:2")
    assert values["data.samples"] == (400, "top.yaml:3")
    assert values["data.noise"] == (0.05, "base.yaml:4")
    assert values["data.scaling"] == ("sklearn", "default")
    assert values["train.steps"] == (50, "--set[1]")
    assert values["seed"] == (5, "--seed")
    assert values["evaluate.0.type"] == ("nll", "base.yaml:14")
    assert values["evaluate.1.type"] == ("round_trip", "--set[2]")
    assert values["evaluate.1.solver.steps"] == (7, "base.yaml:3 (solver)")
    assert values["evaluate.1.solver.tolerance"] == (1e-4, "default")
    assert values["solver.steps"] == (7, "base.yaml:3")
    assert values["train.optimizer.betas"] == ([0.9, 0.99], "base.yaml:12")
    assert values["runtime.device"] == ("cpu", "default")
    assert listing() == ["base.yaml", "top.yaml"]


def test_a_plan_says_what_would_run(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, write())
    assert found["stages"] == ["train", "evaluate", "sample"]
    assert found["parameters"] == (3 * 8 + 8) + (8 * 8 + 8) + (8 * 2 + 2)
    assert found["rows"] == {"train": 400, "validation": 50, "test": 50}
    assert found["components"]["dynamics.network"]["type"] == "mlp"  # type: ignore[index]
    assert found["components"]["dynamics.network"]["from"].startswith("driftspec ")  # type: ignore[index]
    assert found["components"]["sampler"] == found["components"]["sampler"] | {"kind": "sampler", "type": "ode"}  # type: ignore[index]
    assert plan(capsys, "a.yaml", "--stage", "evaluate,train")["stages"] == ["evaluate", "train"]
    assert plan(capsys, "a.yaml", "--out", "there")["directory"] == "there"
    assert plan(capsys, "a.yaml", "--unset", "sample")["stages"] == ["train", "evaluate"]


def test_a_list_comes_from_where_its_items_were_changed(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["dynamics.network.hidden.0=32", "train.optimizer.betas.1=0.95", "dynamics.network.hidden.1=16"]
    values = plan(capsys, write(), *(word for one in sets for word in ("--set", one)))["values"]
    found = {one["key"]: (one["value"], one["from"]) for one in values}  # type: ignore[attr-defined]
    assert found["dynamics.network.hidden"] == ([32, 16], "--set[1], --set[3]")
    assert found["train.optimizer.betas"] == ([0.9, 0.95], "--set[2]")
    assert found["dynamics.network.type"] == ("mlp", "a.yaml:6")


def test_a_plan_refuses_the_stages_that_the_run_refuses_and_checks_those_it_would_run(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = "sweep: {grid: {seed: [1, 2]}}\n"
    write(TEXT + grid, "many.yaml")
    for spec in (write(), "many.yaml"):
        assert main(["plan", spec, "--stage", "evaluate"]) == 2
        assert "begins with train" in capsys.readouterr().err
        assert plan(capsys, spec, "--stage", "train,sample")["stages"] == ["train", "sample"]
    write(edited(("[nll]", "[energy_distance]")))  # which reads more samples than are drawn
    assert main(["plan", "a.yaml"]) == 3
    assert plan(capsys, "a.yaml", "--stage", "train,sample")["stages"] == ["train", "sample"]


def test_a_plan_names_the_directory_that_the_run_then_makes(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    words = [write(), "--set", "train.steps=6", "--set", "evaluate=[]", "--set", "sample=null"]
    directory = str(plan(capsys, *words)["directory"])
    assert main([*words, "--quiet"]) == 0
    (made,) = Path("runs/a").iterdir()
    assert directory == f"runs/a/<UTC time>-{made.name.partition('-')[2]}"


def test_a_plan_for_people(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", write(), "--set", "name=b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "b: train -> evaluate -> sample"
    assert [line.split() for line in lines if line.startswith("  train.steps")] == [["train.steps", "100", "a.yaml:9"]]
    assert [line.split()[:2] for line in lines if line.startswith("  evaluate.0 ")] == [["evaluate.0", "nll"]]
    assert max(map(len, lines)) < 120


def test_the_package_is_a_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "driftspec", "explain", "S1"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: unknown code 'S1'")
