"""Plugins by strangers, end to end: wheels are built, installed beside driftspec's own into a new environment, used.

The environment sees the heavy dependencies of the one that tests; driftspec and the plugins are its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import venv
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_tutorial import COMPONENT, TEST

from driftspec import __version__
from driftspec.cli.new import USAGE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SHORT = ["--set", "train.steps=4", "--set", "data.samples=3000", "--quiet"]
SPEC = """\
version: 1
name: small
data: {type: moons, samples: 500, noise: 0.1}
dynamics: {type: neural_ode, network: {type: mlp, hidden: [8]}}
estimator: exact_trace
train: {steps: 2, batch_size: 16}
evaluate: [round_trip]
sample: {count: 50}
"""


def completed(words: Sequence[str | Path], cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """A command's end, as a user sees it: nothing of this process's environment leads to the sources."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path:
        environment["PYTHONPATH"] = path
    return subprocess.run(list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def good(words: Sequence[str | Path], cwd: Path) -> str:
    done = completed(words, cwd)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


def pip(*words: str | Path) -> None:
    good([sys.executable, "-m", "pip", "--disable-pip-version-check", *words], ROOT)


def wheels(folder: Path, *sources: Path) -> list[Path]:
    """A wheel of each source tree, by its own build backend, from what is installed here."""
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, *sources)
    return sorted(folder.glob("*.whl"))


@dataclass(frozen=True)
class Place:
    """A virtual environment with driftspec in it, and a directory to work in."""

    python: Path
    folder: Path

    def install(self, *found: Path) -> None:
        pip("--python", self.python, "install", "--no-deps", "--no-index", "--ignore-installed", *found)

    def command(self, *words: str | Path) -> list[str | Path]:
        return [self.python.with_name("run-spec"), *words]


@pytest.fixture(scope="module")
def driftspec_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (wheel,) = wheels(tmp_path_factory.mktemp("driftspec"), ROOT)
    return wheel


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, driftspec_wheel: Path) -> Place:
    folder = tmp_path_factory.mktemp("place")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    (site,) = good([python, "-c", "import site; print(*site.getsitepackages())"], folder).split()
    (Path(site) / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    made = Place(python, folder)
    made.install(driftspec_wheel)
    (folder / "small.yaml").write_text(SPEC)
    return made


def test_the_wheel_holds_the_two_packages_and_the_skeletons(driftspec_wheel: Path, place: Place) -> None:
    names = zipfile.ZipFile(driftspec_wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "driftspec", "driftspec_plugins", f"driftspec-{__version__}.dist-info"
    }  # fmt: skip
    skeletons = {str(path.relative_to(ROOT / "pipeline")) for path in ROOT.glob("pipeline/driftspec/cli/skeleton/*")}
    assert {*skeletons, "driftspec/py.typed"} <= set(names)
    home = good([place.python, "-c", "import driftspec; print(driftspec.__file__)"], place.folder)
    assert home.startswith(str(place.folder))


# --- a package as `plugins new` writes it ---


@pytest.fixture(scope="module")
def packages(place: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A package of each kind, installed from its wheel; the estimator's has the tutorial's class in its place."""
    made = {}
    for kind in USAGE:
        name = "driftspec-hutchpp" if kind == "estimator" else f"driftspec-own-{kind}"
        good(place.command("plugins", "new", name, "--kind", kind), place.folder)
        made[kind] = place.folder / name
    (made["estimator"] / "src" / "driftspec_hutchpp" / "hutchpp.py").write_text(COMPONENT)
    (made["estimator"] / "tests" / "test_hutchpp.py").write_text(TEST)
    place.install(*wheels(tmp_path_factory.mktemp("wheels"), *made.values()))
    return made


def test_installed_packages_are_found_by_themselves(place: Place, packages: dict[str, Path]) -> None:
    table = json.loads(good(place.command("plugins", "list", "--format", "json"), place.folder))
    for kind in packages:
        name = "hutchpp" if kind == "estimator" else f"own_{kind}"
        assert table[kind][name] == f"driftspec-{name.replace('_', '-')} 0.1.0"
    assert table["metric"]["nll"] == f"driftspec {__version__}"


@pytest.mark.parametrize("kind", ["metric", "estimator"])
def test_an_installed_packages_spec_is_valid_and_runs(place: Place, packages: dict[str, Path], kind: str) -> None:
    (spec,) = packages[kind].glob("specs/*.yaml")
    good(place.command("validate", spec, "--strict-plugins"), place.folder)
    run = Path(good(place.command(spec, *SHORT, "--out", f"run-{kind}"), place.folder).splitlines()[-1])
    versions = (place.folder / run / "run.json").read_text()
    assert packages[kind].name in versions
    assert (place.folder / run / "report.html").is_file()


def test_installed_packages_own_tests_pass(place: Place, packages: dict[str, Path]) -> None:
    """In one process, which imports torch once; by the options that a package has of its own."""
    own = ["-c", packages["metric"] / "pyproject.toml", "-p", "no:cacheprovider", "-q", "-rA"]
    said = good([place.python, "-m", "pytest", *own, *packages.values()], place.folder)
    for kind in packages:
        name = "hutchpp" if kind == "estimator" else f"own_{kind}"
        assert len(re.findall(rf"^PASSED .*/test_{name}\.py", said, re.MULTILINE)) > 6


def test_packages_are_typed_and_clean(place: Place, packages: dict[str, Path]) -> None:
    for words in (["ruff", "check", "."], ["ruff", "format", "--check", "."]):
        for package in packages.values():
            good([place.python, "-m", *words], package)
    sources = [path for package in packages.values() for path in (package / "src").iterdir()]
    options = ["--strict", "--no-warn-return-any", "--config-file", packages["data"] / "pyproject.toml"]
    good([place.python, "-m", "mypy", *options, *sources], place.folder)


# --- plugins that break ---

CLASS = """
from driftspec.components import Measured, Metric
from driftspec.registry import hookimpl

class Loud(Metric):
    "A metric."
    type = "loud"

    def measure(self, evaluation):
        return Measured(1.0, 0.5, "", 2)

@hookimpl
def driftspec_components():
    return {"metric": {"loud": Loud}}
"""
BROKEN = {
    "loud": CLASS,
    "louder": CLASS,
    "own-nll": CLASS.replace('"loud"', '"nll"'),
    "raising": "raise RuntimeError('no device here')",
    "future": "raise SystemExit('imported')",
    "misspelt": CLASS.replace("def driftspec_components", "def driftspec_component"),
    "malformed": CLASS.replace('{"metric": {"loud": Loud}}', "[Loud]"),
}
CAUSES = {
    "raising": "P201] plugin 'raising' (raising 2.0) failed to import: RuntimeError: no device here",
    "future": "P203] plugin 'future' (future 2.0) is made for driftspec.v99, this is driftspec.v1: "
    "install a release of future for driftspec.v1, or a release of driftspec for driftspec.v99",
    "misspelt": "P204] plugin 'misspelt' (misspelt 2.0) implements the unknown hook 'driftspec_component' "
    "(did you mean 'driftspec_components'?); allowed: driftspec_components, driftspec_run_started, driftspec_step, "
    "driftspec_checkpoint, driftspec_metric, driftspec_run_finished",
    "malformed": "P204] plugin 'malformed' (malformed 2.0): driftspec_components returns "
    "{kind: {name: 'module:Class'}}, not [<class 'malformed.Loud'>]",
}

Use = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each plugin a directory that its wheel is installed into."""
    folder = tmp_path_factory.mktemp("zoo")
    for name, code in BROKEN.items():
        module = name.replace("-", "_")
        group = "driftspec.v99" if name == "future" else "driftspec.v1"
        (folder / name).mkdir()
        (folder / name / f"{module}.py").write_text(code)
        (folder / name / "pyproject.toml").write_text(
            textwrap.dedent(f"""
            [build-system]
            requires = ["hatchling"]
            build-backend = "hatchling.build"
            [project]
            name = "{name}"
            version = "2.0"
            [project.entry-points."{group}"]
            {name} = "{module}"
            [tool.hatch.build.targets.wheel]
            include = ["{module}.py"]
            """)
        )
    homes = {}
    for wheel in wheels(folder / "wheels", *(folder / name for name in BROKEN)):
        homes[wheel.name.split("-")[0].replace("_", "-")] = home = folder / "installed" / wheel.stem
        pip("install", "--no-deps", "--no-index", "--no-compile", "--target", home, wheel)
    assert homes.keys() == BROKEN.keys()
    return homes


@pytest.fixture
def use(place: Place, zoo: dict[str, Path]) -> Use:
    """The command, with some of the plugins installed."""

    def call(plugins: Sequence[str], *words: str) -> subprocess.CompletedProcess[str]:
        return completed(place.command(*words), place.folder, os.pathsep.join(str(zoo[name]) for name in plugins))

    return call


@pytest.mark.parametrize("name", CAUSES)
def test_a_broken_plugin_is_one_warning_until_a_spec_may_need_it(use: Use, name: str) -> None:
    cause = CAUSES[name]
    valid = use([name], "validate", "small.yaml")
    assert (valid.returncode, valid.stdout, valid.stderr) == (0, "small.yaml: valid\n", f"warning[{cause}\n")

    strict = use([name], "validate", "small.yaml", "--strict-plugins")
    assert (strict.returncode, strict.stdout, strict.stderr) == (4, "", f"error[{cause}\n")

    unknown = use([name], "validate", "small.yaml", "--set", "evaluate=[loud]")
    warning, error = unknown.stderr.splitlines()
    assert (unknown.returncode, warning) == (4, f"warning[{cause}")
    assert error.startswith("--set[1]: error[P201] unknown metric 'loud'; allowed: ")
    assert error.endswith(f"perhaps from a plugin that was not loaded: {cause.partition('] ')[2]}")

    without = use([name], "validate", "small.yaml", "--no-plugins", "--strict-plugins")
    assert (without.returncode, without.stderr) == (0, "")


def test_among_all_broken_plugins_a_good_one_works(use: Use, place: Place) -> None:
    listed = use([*CAUSES, "loud"], "plugins", "list")
    assert listed.returncode == 0
    assert re.search(r"^  loud +.*  \(loud 2\.0\)$", listed.stdout, re.MULTILINE)
    assert sorted(listed.stderr.splitlines()) == sorted(f"warning[{cause}" for cause in CAUSES.values())
    done = use([*CAUSES, "loud"], "small.yaml", "--out", "zoo", "--set", "evaluate=[loud]", "--quiet")
    assert done.returncode == 0, done.stderr
    assert json.loads((place.folder / "zoo" / "metrics.json").read_text())["loud"]["value"] == 1.0


@pytest.mark.parametrize(
    ("plugins", "name", "by"),
    [
        (["loud", "louder"], "loud", ["loud 2.0", "louder 2.0"]),
        (["own-nll"], "nll", ["own-nll 2.0", f"driftspec {__version__}"]),
    ],
)
def test_two_providers_are_named_and_told_apart(use: Use, plugins: list[str], name: str, by: list[str]) -> None:
    assert use(plugins, "validate", "small.yaml").stderr == ""
    both = use(plugins, "validate", "small.yaml", "--set", f"evaluate=[{name}]")
    ways = [f"{one.split()[0]}/{name}" for one in by]
    assert both.returncode == 4
    assert f"error[P202] metric '{name}' is provided by " in both.stderr
    assert all(one in both.stderr for one in [*by, *(f"'{way}'" for way in ways)])
    for way in ways:
        settled = use(plugins, "validate", "small.yaml", "--set", f"evaluate=[{way}]")
        assert (settled.returncode, settled.stderr) == (0, "")
