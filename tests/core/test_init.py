"""`init`: what it writes is valid and says what else there is; nothing is replaced; a wheel has the same specs."""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from driftspec import source, spec
from driftspec.cli import main
from driftspec.cli.init import EDITORS
from driftspec.registry import Registry
from driftspec.spec import fits
from driftspec.spec.shipped import HEADER, begin, shipped

SPECS = Path(__file__).parents[2] / "specs"
NAMES = sorted(path.stem for path in SPECS.rglob("*.yaml"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*words: str) -> int:
    return main(["init", *words])


def files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path().iterdir()}


def test_alone_it_writes_the_starter_and_the_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert init() == 0
    assert capsys.readouterr() == (f"starter.yaml: written\nnext: run-spec starter.yaml\n{EDITORS}\n", "")
    assert (Path("starter.yaml")).read_text() == HEADER + (SPECS / "starter.yaml").read_text()


@pytest.mark.parametrize("file", sorted(SPECS.rglob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_spec_is_valid_under_another_name(file: Path, registry: Registry) -> None:
    assert init("mine", "--like", file.stem) == 0
    text = Path("mine.yaml").read_text()
    first, rest = text.split("\n", 1)
    assert first == "# yaml-language-server: $schema=./driftspec.schema.json"
    name = file.stem if file.parent == SPECS else file.stem.partition("_")[2]  # without the number of its place
    assert rest.replace("name: mine", f"name: {name}", 1) == file.read_text()
    loaded = spec.read("mine.yaml", registry)
    assert loaded.spec.name == "mine"
    assert fits.errors(fits.check(loaded)) == []


def test_what_a_spec_reads_comes_along(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert init("birds", "--like", "ffjord_penguins", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "spec": "birds.yaml",
        "like": "ffjord_penguins",
        "files": ["birds.yaml", "penguins.csv"],
        "next": "run-spec birds.yaml",
    }
    assert files()["penguins.csv"] == (SPECS / "penguins.csv").read_bytes()
    assert init("likelihood", "--like", "vp_moons_likelihood") == 0
    assert files()["vp_moons_pc.yaml"] == (SPECS / "vp_moons_pc.yaml").read_bytes()
    assert main(["plan", "birds.yaml"]) == 0  # which reads the data


def test_the_starter_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert init("first") == 0
    few = ["--set", "train.steps=2", "--set", "train.schedule=constant", "--set", "evaluate=[]", "--quiet"]
    assert main(["first.yaml", *few, "--set", "sample.count=20", "--set", "data.samples=400"]) == 0
    assert len(list(Path("runs/first").iterdir())) == 1


def test_the_starter_names_every_alternative(registry: Registry) -> None:
    """Each component of a kind that is picked in it, and nothing that is none."""
    text = (SPECS / "starter.yaml").read_text()
    comments = re.sub(r"\n *# ", " ", text)
    listed = dict(re.findall(r"In place of (\w+): ([\w, ]+)\.", comments))
    used = {
        "moons": "data", "neural_ode": "dynamics", "mlp": "network", "exact_trace": "estimator", "adam": "optimizer",
        "cosine": "schedule", "ode": "sampler",
    }  # fmt: skip
    assert listed.keys() == used.keys()
    for first, kind in used.items():
        assert listed[first].split(", ") == [name for name in registry.names(kind) if name != first]
    (more,) = re.findall(r"More: ([\w, ]+)\.", comments)
    assert {"nll", "round_trip", *more.split(", ")} == set(registry.names("metric"))
    swept = source.parse(text.replace("# sweep:\n#", "sweep:\n "), "starter.yaml")
    assert len(spec.loaded(swept, registry, b"", Path()).points) == 6


# What it refuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "--like", "cnf_mons"], "--like cnf_mons: no shipped spec has that name (did you mean 'cnf_moons'?); "),
        (["a", "--like", "../a"], "--like ../a: no shipped spec has that name"),
        (["a/b"], "'a/b' is a path: give only a name"),
        ([".."], "'..' cannot name a spec"),
        ([".a"], "'.a' cannot name a spec: up to 100 letters, digits"),
        (["a b"], "'a b' cannot name a spec"),
        ([""], "'' cannot name a spec"),
        (["a\nb"], "'a\\nb' cannot name a spec"),
        (["a" * 101], "'aaa"),
        (["vp_moons_pc", "--like", "vp_moons_likelihood"], "'vp_moons_pc' is a spec that 'vp_moons_likelihood' reads"),
        (["a", "b"], "unrecognized arguments: b"),
    ],
)
def test_a_wrong_command(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert init(*words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {message}") and err.count("\n") == 1
    assert files() == {}


def test_an_unknown_name_lists_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert init("--like", "zzz") == 2
    assert capsys.readouterr().err.endswith(f"; there are: {', '.join(NAMES)}\n")


@pytest.mark.parametrize("taken", ["birds.yaml", "penguins.csv"])
def test_nothing_is_replaced(taken: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(taken).write_text("mine")
    assert init("birds", "--like", "ffjord_penguins") == 2
    assert capsys.readouterr().err.startswith(f"error: '{taken}' exists already and is left alone")
    assert files() == {taken: b"mine"}


def test_a_file_that_is_there_already_is_shared() -> None:
    assert init("a", "--like", "ffjord_penguins") == init("b", "--like", "ffjord_penguins") == 0
    assert init("b", "--like", "ffjord_penguins") == 2
    assert init("c.yaml", "--like", "ffjord_penguins") == 0
    assert sorted(files()) == ["a.yaml", "b.yaml", "c.yaml", "penguins.csv"]


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Path.open

    def full(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if mode == "xb":
            whole(self, mode).close()
            raise OSError(28, "No space left on device")
        return whole(self, mode, *args, **options)

    monkeypatch.setattr(Path, "open", full)
    assert init("a") == 1
    assert capsys.readouterr().err == "error: a.yaml cannot be written: No space left on device\n"
    assert files() == {}


@pytest.mark.parametrize("name", ["010", "1e3", "true", "no", "null", "x.y-z_1"])
def test_a_name_that_looks_like_something_else(name: str, registry: Registry) -> None:
    assert init(name) == 0
    assert spec.read(f"{name}.yaml", registry).spec.name == name


# Where specs come from ----------------------------------------------------------------------------------------------


def test_another_distribution_ships_specs_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = here / "site"
    for folder in (site / "other-1.0.dist-info", site / "other_plugin" / "specs"):
        folder.mkdir(parents=True)
    (site / "other-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (site / "other-1.0.dist-info" / "entry_points.txt").write_text("[driftspec.v1]\nother = other_plugin.hooks\n")
    (site / "other_plugin" / "__init__.py").write_text("raise RuntimeError('imported')")
    for name in ("theirs", "starter"):
        (site / "other_plugin" / "specs" / f"{name}.yaml").write_text("version: 1\nname: old # a note\nseed: 1\n")
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    found = shipped()
    assert found.keys() == {*NAMES, "theirs", "other/starter"}
    assert found["starter"].read_bytes() == (SPECS / "starter.yaml").read_bytes()
    assert shipped(only_builtin=True).keys() == set(NAMES)
    assert init("mine", "--like", "theirs") == init("--like", "other/starter") == 0
    assert Path("mine.yaml").read_text() == f"{HEADER}version: 1\nname: mine # a note\nseed: 1\n"
    assert Path("starter.yaml").read_text().endswith("name: starter # a note\nseed: 1\n")


def test_the_data_of_a_base_come_along_too(here: Path) -> None:
    folder = here / "shipped"
    folder.mkdir()
    (folder / "top.yaml").write_text("version: 1\nname: top\nextends: base.yaml\nseed: 1\n")
    (folder / "base.yaml").write_text(
        "name: base\ndata: {type: table, path: rows.csv, columns: [a.csv]}\nextends: top.yaml\n"
    )
    (folder / "rows.csv").write_text("1\n")
    (folder / "a.csv").write_text("2\n")  # a column's name, by chance
    written = begin(folder / "top.yaml", "mine", Path())
    assert [path.name for path in written] == ["mine.yaml", "base.yaml", "rows.csv", "top.yaml"]
    assert Path("rows.csv").read_text() == "1\n"


def test_the_built_in_specs_lie_in_the_package_that_a_wheel_takes() -> None:
    """The folder is a link to specs/, which the build follows: a wheel has the files themselves."""
    (point,) = (p for p in metadata.entry_points(group="driftspec.v1") if p.dist and p.dist.name == "driftspec")
    folder = SPECS.parent / "plugins" / point.module / "specs"
    names, found = (
        {path.relative_to(top) for path in top.rglob("*") if path.is_file()} for top in (SPECS, folder.resolve())
    )
    assert found == names >= {Path("penguins.csv"), Path("starter.yaml")}
    assert all((folder / name).read_bytes() == (SPECS / name).read_bytes() for name in names)
