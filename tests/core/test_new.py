"""`plugins new`: what it writes is complete and clean, and what it refuses it says, leaving nothing behind."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from strangers import install

from driftspec.cli import main
from driftspec.cli.new import LONGEST, USAGE
from driftspec.components import Trace
from driftspec.registry import discover

LONG = "driftspec-" + "x" * LONGEST


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory; what is imported below it is forgotten."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def ruff(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "ruff", *words, "--no-cache"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_package_is_complete(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "new", "somewhere/tail-mass"]) == 0
    assert files(folder / "somewhere" / "tail-mass") == [
        ".github/workflows/test.yml",
        ".gitignore",
        "README.md",
        "pyproject.toml",
        "specs/tail_mass.yaml",
        "src/tail_mass/__init__.py",
        "src/tail_mass/py.typed",
        "src/tail_mass/tail_mass.py",
        "tests/test_tail_mass.py",
    ]
    assert [path.name for path in folder.iterdir()] == ["somewhere"]
    said, logged = capsys.readouterr()
    assert said.startswith("somewhere/tail-mass: metric 'tail_mass' in 9 files\nnext: cd somewhere/tail-mass && ")
    assert not logged
    assert said.splitlines()[-1] == f"it is a metric, because no --kind was given; kinds: {', '.join(USAGE)}"
    assert main(["plugins", "new", "other", "--kind", "metric"]) == 0
    assert "--kind" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        ("solver\n", 0, "solver 'my_own' in 9 files"),
        ("\n", 0, "metric 'my_own' in 9 files"),
        ("", 0, "metric 'my_own' in 9 files"),
        ("solvr\n", 2, "unknown kind 'solvr' (did you mean 'solver'?)"),
    ],
)
def test_a_terminal_is_asked_for_the_kind(
    answer: str, code: int, told: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    assert main(["plugins", "new", "my-own"]) == code
    out, err = capsys.readouterr()
    assert err.startswith(f"kind ({', '.join(USAGE)}) [metric]: ")
    assert told in out + err
    assert "--kind was" not in out


@pytest.mark.parametrize("kind", USAGE)
def test_a_component_of_each_kind_is_found_and_its_spec_runs(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plugins", "new", "my-own", "--kind", kind, "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["component"] == f"{kind}/my_own"
    assert sorted(told["files"]) == files(folder / "my-own")
    install(folder / "my-own", folder / "site")
    monkeypatch.syspath_prepend(str(folder / "site"))
    monkeypatch.syspath_prepend(str(folder / "my-own" / "src"))
    registry = discover()
    assert not registry.broken
    assert str(registry.provider(kind, "my_own")) == "my-own 0.1.0"
    found, problem = registry.look_up(kind, "my_own")
    assert problem is None
    assert found.kind == kind
    assert kind != "estimator" or issubclass(found, Trace)
    assert main(["validate", "my-own/specs/my_own.yaml", "--strict-plugins"]) == 0
    usage = (folder / "my-own" / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    assert "my_own" in str(yaml.safe_load(usage))
    assert main(["plugins", "show", f"{kind}/my_own"]) == 0
    few = [] if kind == "sampler" else ["--set", "train.steps=4", "--set", "data.samples=2000"]
    assert main(["my-own/specs/my_own.yaml", *few, "--out", "run", "--quiet"]) == 0
    assert '"my-own' in (folder / "run" / "run.json").read_text()


@pytest.mark.parametrize("name", ["driftspec-a", LONG])
def test_whatever_the_name_the_package_is_clean(folder: Path, name: str) -> None:
    for kind in USAGE:
        assert main(["plugins", "new", f"{kind}/{name}", "--kind", kind]) == 0
    ruff("check", ".")
    ruff("format", "--check", ".")


def test_no_placeholder_is_left_and_the_workflow_keeps_its_own(folder: Path) -> None:
    for kind in USAGE:
        assert main(["plugins", "new", f"driftspec-{kind}-x", "--kind", kind]) == 0
        for path in (folder / f"driftspec-{kind}-x").rglob("*"):
            if path.is_file():
                assert "$" not in path.read_text().replace("${{ matrix.python }}", "")
    flow = yaml.safe_load((folder / "driftspec-data-x" / ".github" / "workflows" / "test.yml").read_text())
    assert flow["jobs"]["test"]["steps"][1]["with"]["python-version"] == "${{ matrix.python }}"


@pytest.mark.parametrize(
    ("directory", "package", "component", "cls"),
    [
        ("tail-mass", "tail_mass", "tail_mass", "TailMass"),
        ("driftspec-tail-mass", "driftspec_tail_mass", "tail_mass", "TailMass"),
        ("Driftspec.Tails2", "driftspec_tails2", "tails2", "Tails2"),
        ("driftspec-metric", "driftspec_metric", "metric", "MetricMetric"),
        ("driftspec-tensor", "driftspec_tensor", "tensor", "TensorMetric"),
        (LONG, LONG.replace("-", "_"), "x" * LONGEST, "X" + "x" * (LONGEST - 1)),
    ],
)
def test_names_come_from_the_directory(folder: Path, directory: str, package: str, component: str, cls: str) -> None:
    assert main(["plugins", "-v", "new", directory]) == 0
    code = (folder / directory / "src" / package / f"{component}.py").read_text()
    assert f"class {cls}(Metric):" in code
    assert f'type = "{component}"' in code
    hook = (folder / directory / "src" / package / "__init__.py").read_text()
    assert f'"{component}": "{package}.{component}:{cls}"' in hook


def test_the_directory_may_be_the_present_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "own-metric").mkdir()
    monkeypatch.chdir(folder / "own-metric")
    assert main(["plugins", "new", "."]) == 0
    assert Path("src/own_metric/own_metric.py").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["2fast"], "'2fast' cannot name a Python package: a letter, then letters, digits, '-' and '_'"),
        (["my metric"], "'my metric' cannot name a Python package"),
        (["mätrik"], "'mätrik' cannot name a Python package"),
        (["my-"], "'my-' cannot name a Python package"),
        (["driftspec-1st"], "'driftspec-1st' cannot name a Python package"),
        (["class"], "'class' cannot name a Python package"),
        (["driftspec-import"], "'driftspec-import' cannot name a Python package"),
        ([LONG + "x"], f"'{LONG + 'x'}' names a component of {LONGEST + 1} letters: at most {LONGEST}"),
        (["driftspec"], "'driftspec' is the name of an installed distribution: choose another directory name"),
        (["PyYAML"], "'PyYAML' is the name of an installed distribution"),
        (["yaml"], "'yaml' is the name of an installed module"),
        (["json"], "'json' is the name of an installed module"),
        (["driftspec-nll"], "metric 'nll' is provided by driftspec 0.1.0: choose another directory name"),
        (["driftspec-mlp", "--kind", "network"], "network 'mlp' is provided by driftspec 0.1.0"),
        (["full"], "full is not empty: a package is written into a new or empty directory"),
        (["full/file"], "full/file cannot be written: Not a directory"),
        (["full/file/below"], "full/file/below cannot be written: Not a directory"),
        (["fine", "--kind", "metrics"], "--kind: unknown kind 'metrics' (did you mean 'metric'?); allowed: metric, "),
        ([], "the following arguments are required: DIR; see: run-spec plugins new --help"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_written(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (folder / "full").mkdir()
    (folder / "full" / "file").write_text("mine")
    assert main(["plugins", "new", *words]) == 2
    said, logged = capsys.readouterr()
    assert not said
    assert logged.startswith(f"error: {message}")
    assert logged.count("\n") == 1
    assert files(folder) == ["full/file"]


def test_a_name_that_another_kind_has_is_free(folder: Path) -> None:
    assert main(["plugins", "new", "driftspec-mlp", "--kind", "metric"]) == 0


def test_a_disk_that_is_full_leaves_no_half_of_a_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[str] = []

    def write(self: Path, text: str, encoding: str) -> None:
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        written.append(text)

    monkeypatch.setattr(Path, "write_text", write)
    assert main(["plugins", "new", "tails"]) == 2
    assert capsys.readouterr().err == "error: tails cannot be written: No space left on device\n"
    assert len(written) == 4
    assert list((folder / "tails").iterdir()) == []


def test_a_kind_without_a_skeleton_is_told_from_an_unknown_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(USAGE, "schedule")
    assert main(["plugins", "new", "fine", "--kind", "schedule"]) == 2
    assert capsys.readouterr().err.startswith("error: --kind: no skeleton for the kind 'schedule'; allowed: metric, ")
    assert list(folder.iterdir()) == []


def test_the_verb_is_found_among_the_actions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "knew", "x"]) == 2
    assert "did you mean 'new'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["plugins", "new", "--help"])
    assert f"one of {', '.join(USAGE)}" in " ".join(capsys.readouterr().out.split())


def test_writing_a_package_imports_no_torch(folder: Path) -> None:
    code = "import sys; from driftspec.cli import main; main(['plugins', 'new', 'x1']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nFalse\n")


PLUGIN = """
from driftspec.components import Metric
from driftspec.registry import hookimpl

class Same(Metric):
    type = "same"

    def measure(self, evaluation):
        raise NotImplementedError

@hookimpl
def driftspec_components():
    return {"metric": {"same": Same}}
"""


def test_showing_what_two_plugins_provide_is_their_problem_and_a_name_that_nobody_has_a_wrong_usage(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = []
    for file in ("one.py", "two.py"):
        (folder / file).write_text(f"# {file}\n{PLUGIN}")
        both += ["--plugin", file]
    assert main(["plugins", "show", "metric/same", *both]) == 4
    assert capsys.readouterr().err == (
        "error[P202] metric 'same' is provided by one.py and by two.py: write type: 'one.py/same' or 'two.py/same'\n"
    )
    assert main(["plugins", "show", "metric/two.py/same", *both]) == 0
    assert "(two.py, " in capsys.readouterr().out
    assert main(["plugins", "show", "metric/nobody"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown metric 'nobody'; allowed: ")
