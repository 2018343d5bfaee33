"""Plugins written for version 0.1: they load and pass their kit unchanged, with a warning that gives the new paths.

`old_packages` holds what `plugins new` wrote then, of each kind that imports a path that has moved.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from strangers import install

from driftspec import __version__
from driftspec._moved import GONE, MovedWarning
from driftspec.cli import main

PACKAGES = Path(__file__).parent / "old_packages"
KINDS = ("dynamics", "metric", "sampler", "solver", "tracker")


def written(kind: str, folder: Path) -> Path:
    """A package of today with the component and the test that `plugins new` wrote in version 0.1."""
    package = folder / f"driftspec-old{kind}"
    assert main(["plugins", "new", str(package), "--kind", kind]) == 0
    for old, new in (
        (f"{kind}.py.txt", f"src/driftspec_old{kind}/old{kind}.py"),
        (f"test_{kind}.py.txt", f"tests/test_old{kind}.py"),
    ):
        assert (package / new).exists()
        (package / new).write_text((PACKAGES / old).read_text())
    return package


def test_packages_of_version_0_1_load_and_pass_their_kit(tmp_path: Path) -> None:
    """Their own settings make an error of every warning: that of an old path is shown and stops nothing."""
    packages = [written(kind, tmp_path) for kind in KINDS]
    for package in packages:
        install(package, tmp_path / "site")
    paths = [*sys.path, str(tmp_path / "site"), *(str(package / "src") for package in packages)]
    words = ["-q", "-n", "0", "-p", "no:cacheprovider", "-c", str(packages[0] / "pyproject.toml")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *(str(package / "tests") for package in packages)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    for old, new in (
        ("driftspec.chains.ChainSampler", "driftspec.numerics.chains.ChainSampler"),
        ("driftspec.component.Need", "driftspec.components.Need"),
        ("driftspec.components.Path", "driftspec.components.Solution"),
        ("driftspec.model.build_model", "driftspec.numerics.model.build_model"),
        ("driftspec.observers.Observer", "driftspec.components.Observer"),
    ):
        found = re.search(rf"MovedWarning: (.*): {old} is now {new}; the old path will be removed in ", done.stdout)
        assert found is not None
        place = re.fullmatch(r"(?:plugin '(\w+)', )?(.*):(\d+)", found[1])
        assert place is not None
        package, file, line = place.groups()
        assert f"/src/{package}/" in file if package else "/tests/" in file
        assert old.rpartition(".")[2] in Path(file).read_text().splitlines()[int(line) - 1]


def test_a_plugin_of_the_old_tutorial_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("straight_lines.py").write_text((PACKAGES / "straight_lines.py.txt").read_text())
    Path("lines.yaml").write_text(
        "version: 1\nname: lines\ndata: moons\ndynamics: neural_ode\nestimator: straight_lines\n"
        "train: {steps: 3}\nevaluate: []\n"
    )
    assert main(["lines.yaml", "--plugin", "straight_lines.py", "--quiet"]) == 0
    number = Path("straight_lines.py").read_text().splitlines().index("from driftspec.component import Need") + 1
    what = "driftspec.component.Need is now driftspec.components.Need; the old path will be removed in version 0.3"
    assert capsys.readouterr().err.splitlines().count(f"warning: straight_lines.py:{number}: {what}") == 1


def test_a_name_that_was_never_there_is_not_found() -> None:
    with pytest.raises(ImportError, match="cannot import name 'Neeed'"):
        exec("from driftspec.component import Neeed")
    with pytest.raises(AttributeError, match="no attribute 'Pth'"):
        exec("import driftspec.components; driftspec.components.Pth")


def test_what_measured_and_drew_is_found_at_its_old_path() -> None:
    from driftspec.experiment import evaluate as now

    for name in ("evaluate", "sample", "once", "as_json"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert getattr(importlib.import_module("driftspec.evaluate"), name) is getattr(now, name)


def test_a_file_is_warned_once_at_its_own_line() -> None:
    code = compile(
        "import driftspec.components\nfrom driftspec.model import gradient, pullback\n"
        "from driftspec.model import gradient\nfrom driftspec.components import Path",
        "once.py", "exec",
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(code, {"__package__": "mine.inner"})
    found = [(str(one.message).partition(";")[0], one.filename, one.lineno, one.category) for one in caught]
    assert found == [
        (f"plugin 'mine', once.py:{line}: {old} is now {new}", "once.py", line, MovedWarning)
        for line, old, new in (
            (2, "driftspec.model.gradient", "driftspec.autodiff.gradient"),
            (2, "driftspec.model.pullback", "driftspec.autodiff.pullback"),
            (4, "driftspec.components.Path", "driftspec.components.Solution"),
        )
    ]
    assert issubclass(MovedWarning, DeprecationWarning)


@pytest.mark.parametrize(("options", "shown"), [([], True), (["-W", "error"], True), (["-W", "ignore"], False)])
def test_the_command_shows_the_warning_unless_python_is_asked_not_to(
    options: list[str], shown: bool, tmp_path: Path
) -> None:
    (tmp_path / "old.py").write_text(
        "from driftspec.registry import hookimpl\nfrom driftspec.chains import Noise\n\n\n"
        "@hookimpl\ndef driftspec_components():\n    return {}\n"
    )
    words = [sys.executable, *options, "-m", "driftspec", "plugins", "list", "--plugin", "old.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "old.py:2: driftspec.chains.Noise is now " in done.stderr) == (0, shown), done.stderr


def test_old_paths_are_removed_when_their_time_is_over() -> None:
    """The version that `MovedWarning` names has no old path any more: delete them, `_moved` and this file."""
    assert [int(part) for part in __version__.split(".")[:2]] < [int(part) for part in GONE.split(".")]
