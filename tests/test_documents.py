"""The documents are executed: snippets of the pages, and every shipped spec for a few steps."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from pages import README, ROOT, blocks, rows, snippet
from pages import SPECS as CATALOGUE

from driftspec import source
from driftspec.cli import VERBS, main
from driftspec.registry import installed
from driftspec.spec import read

SPECS = sorted((ROOT / "specs").glob("*.yaml"))
SHORT = [
    *("--set", "train.steps=3", "--set", "train.schedule=constant", "--set", "train.batch_size=64"),
    *("--set", "data.samples=400", "--set", "dynamics.network.hidden=[8]", "--set", "sample.count=2000", "--quiet"),
]


def test_the_readme_starts_with_a_sentence_and_two_commands() -> None:
    first, second = blocks("sh", README)[:2]
    assert first.endswith("run-spec specs/cnf_moons.yaml\n")
    assert second.endswith("pytest\n")
    assert README.index(second) < 1200


def test_ci_runs_the_readmes_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    install, test = blocks("sh", README)[1].split(" && ")[1:]
    assert install.removeprefix(".venv/bin/pip install ") in script
    assert test.strip().removeprefix(".venv/bin/") in script.splitlines()[-1]


def test_ci_follows_the_recipe_without_torch() -> None:
    recipe = snippet("sh", "--no-deps")
    script = [line.strip() for line in (ROOT / ".ci" / "run").read_text().replace(" --quiet", "").splitlines()]
    assert [line for line in recipe.splitlines() if line not in script] == []


def test_the_recipe_imports_what_it_installs_and_nothing_else(tmp_path: Path) -> None:
    code = """
import sys
from driftspec.cli import main

pydantic = {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}
known = {"driftspec", "driftspec_plugins", "yaml", "pluggy"} | pydantic | sys.stdlib_module_names

class Others:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in known and not name.startswith("_"):
            raise ModuleNotFoundError(f"No module named {name!r} in this environment", name=name)

sys.meta_path.insert(0, Others())
for words in sys.argv[1].split(";"):
    code = main(words.split())
    if code:
        sys.exit(f"{words}: {code}")
"""
    specs = " ".join(str(spec.relative_to(ROOT)) for spec in SPECS)
    commands = [
        f"validate {specs} --format github", f"validate {specs} --format sarif", f"validate {specs} --format json",
        f"schema -o {tmp_path}/s.json", f"schema --check {tmp_path}/s.json", "explain", "explain X304", "plugins list",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, ";".join(commands)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_pre_commit_hook_finds_specs_and_validates_them() -> None:
    (hook,) = source.parse("hooks:\n" + (ROOT / ".pre-commit-hooks.yaml").read_text(), "hooks.yaml").data["hooks"]
    named = [str(path.relative_to(ROOT)) for path in SPECS]
    assert [name for name in named if not re.search(hook["files"], name)] == []
    assert re.search(hook["files"], "project/specs/a.yml")
    assert not re.search(hook["files"], "specs/penguins.csv")
    command, *words = hook["entry"].split()
    assert command == "run-spec"
    assert main([*words, *(str(path) for path in SPECS[:3])]) == 0
    assert f"`{hook['id']}`" in CATALOGUE


def test_the_readmes_table_of_commands_is_the_verbs() -> None:
    listed = set(re.findall(r"^\| `run-spec ([a-z]+) ", README, re.MULTILINE))
    assert listed == set(VERBS)


@pytest.fixture(scope="module")
def readme_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the README's spec, the pages' plugin, and in `run` the run of that spec."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "my.yaml").write_text(snippet("yaml", "dynamics:"))
    (folder / "orthogonal.py").write_text(snippet("python", "class OrthogonalProbes"))
    assert main([str(folder / "my.yaml"), *SHORT, "--out", str(folder / "run")]) == 0
    assert (folder / "run" / "report.html").exists()
    return folder


def test_the_pages_plugin_runs(readme_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(readme_run)
    plugin = ["--plugin", "orthogonal.py", "--set", "estimator={type: orthogonal_probes, probes: 2}"]
    assert main(["my.yaml", *SHORT, "--set", "evaluate=[nll]", *plugin, "--out", "with_plugin"]) == 0


def test_the_pages_hook_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.write(tmp_path)
    (tmp_path / "observer.py").write_text(snippet("python", "def driftspec_metric"))
    assert main(["tiny.yaml", "--plugin", "observer.py", "--set", "train.steps=2", "--quiet"]) == 0
    assert re.fullmatch(r"tiny nll \d\.\d+\n", (tmp_path / "results.txt").read_text())


def test_the_readmes_script_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = snippet("python", "driftspec.run(")
    assert '"train.steps": 100' in script
    monkeypatch.chdir(tmp_path)
    (tmp_path / "specs").symlink_to(ROOT / "specs")
    few = '"train.steps": 3, "train.schedule": "constant", "data.samples": 3000, "dynamics.network.hidden": [8]'
    exec(script.replace('"train.steps": 100', few))


COMMANDS = [tuple(shlex.split(row[0].strip("`"))) for row in rows(CATALOGUE, "spec")]
"""Every row of the catalogue: each shipped spec as it is, and those with words behind."""


DRAWN = {"cnf_moons", "neural_ode_spiral", "mala_gaussian", "fokker_planck_ou", "ebm_score_matching", "vp_moons_pc"}
"""A spec of each kind: these have their pictures as PNG, for the others only the figures are made."""


def small(path: Path) -> list[str]:
    """Return the `--set` words that make the run of a shipped spec short, and leave every part of it in."""
    data = read(path, installed()).document.data
    sampler, few = data.get("sampler", {}), {"sample.count": 2000}
    if "samples" in data.get("data", {}):
        few["data.samples"] = min(400, data["data"]["samples"])
    if "network" in data["dynamics"]:
        few["dynamics.network.hidden"] = [8]
    if "train" in data:
        few |= {"train.steps": 3, "train.schedule": "constant", "train.batch_size": 16}
    if "chains" in sampler:
        few |= {"sampler.chains": 20, "sampler.burn_in": 20, "sampler.thin": 2}
    moves = "steps_per_level" if "steps_per_level" in sampler else "steps"
    if moves in sampler and "fokker_planck" not in path.stem:  # whose times are those of the steps
        few[f"sampler.{moves}"] = 10
    return ["--quiet", *(word for key, value in few.items() for word in ("--set", f"{key}={value}"))]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_spec_says_what_it_shows_and_runs(
    words: tuple[str, ...], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = ROOT / "specs" / f"{words[0]}.yaml"
    header = re.match(r"(#[^\n]*\n)+", path.read_text())
    assert header, "a spec opens with what it shows"
    assert re.search(r"\d+ s|\d+ min", header.group()), "how long it takes"
    assert "xpect" in header.group() or "±" in header.group(), "and the number to expect"
    if path.stem in DRAWN:
        request.getfixturevalue("pictures")
    assert main([str(path), *words[1:], "--out", str(tmp_path / "run"), *small(path)]) == 0
    verdicts = json.loads((tmp_path / "run" / "run.json").read_text())["verdicts"]
    assert [one["reason"] for one in verdicts if one["subject"] == "pictures"] == []
