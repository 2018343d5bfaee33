"""A release: one version everywhere, what its recipe refuses, what the wheel holds, and the files about the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from pages import README, ROOT, blocks

from driftspec import __version__

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
HEADING = re.compile(r"## (\d+\.\d+\.\d+) \((unreleased|\d{4}-\d{2}-\d{2})\)")


def loaded(path: str) -> dict[str, Any]:
    """A YAML file as a mapping of texts."""
    found: dict[str, Any] = yaml.load((ROOT / path).read_text(), Loader=yaml.BaseLoader)
    return found


# --- one version ---


def test_the_version_is_that_of_the_citation_and_of_the_newest_changes() -> None:
    newest = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    heading = HEADING.fullmatch(newest)
    assert heading is not None
    assert heading[1] == loaded("CITATION.cff")["version"] == __version__
    assert (heading[2] == "unreleased") == ("date-released" not in loaded("CITATION.cff"))
    assert PROJECT["dynamic"] == ["version"], "the version has one source"


def recipe(folder: Path, heading: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The recipe's first steps, in a copy with this heading; instead of building it ends with 42."""
    for name in (".ci/release", "pipeline/driftspec/_version.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n\n- A line.\n\n## 0.0.1 (2020-01-01)\n")
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "python3").write_text("#!/bin/sh\nexit 42\n")
    (folder / "bin" / "python3").chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    command = [folder / ".ci" / "release", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("heading", "words", "code", "message"),
    [
        (f"## {__version__} (2030-01-31)", [f"v{__version__}"], 42, ""),
        (f"## {__version__} (unreleased)", [], 42, ""),
        (f"## {__version__} (2030-01-31)", ["v9.9.9"], 1, f"the tag v9.9.9 is not v{__version__}, the version of pipe"),
        (f"## {__version__} (2030-01-31)", [__version__], 1, f"the tag {__version__} is not v{__version__}, the "),
        (
            f"## {__version__} (unreleased)",
            [f"v{__version__}"],
            1,
            f"CHANGELOG.md begins with '## {__version__} (unrel",
        ),
        (
            "## 9.9.9 (2030-01-31)",
            [f"v{__version__}"],
            1,
            "CHANGELOG.md begins with '## 9.9.9 (2030-01-31)': a release",
        ),
    ],
)
def test_the_recipe_refuses_a_tag_that_is_not_the_version(
    heading: str, words: list[str], code: int, message: str, tmp_path: Path
) -> None:
    done = recipe(tmp_path, heading, *words)
    assert (done.returncode, done.stderr[: len(message)]) == (code, message)
    assert bool(done.stderr) == bool(message)


# --- what is built, and with what it is tried ---


def test_the_wheel_holds_the_two_packages_and_no_page() -> None:
    names = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {name.split("/")[0] for name in names} == {"driftspec", "driftspec_plugins"}
    assert [name for name in names if name.endswith((".md", ".png", ".html", ".ipynb", ".yml"))] == []
    assert {"driftspec/py.typed", "driftspec_plugins/specs/cnf_moons.yaml"} <= names


def test_ci_and_the_workflow_run_the_recipe_and_the_recipe_the_readmes_first_command() -> None:
    script = (ROOT / ".ci" / "release").read_text()
    command = blocks("sh", README)[0].strip().rpartition(".venv/bin/")[2]
    assert f'"$venv/bin/{command.replace(" ", chr(34) + " ", 1)}' in script
    assert ".ci/release" in (ROOT / ".ci" / "run").read_text().splitlines()[-3]
    workflow = loaded(".github/workflows/release.yml")
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    assert workflow["permissions"] == {"contents": "read"}
    files, release = workflow["jobs"]["files"], workflow["jobs"]["release"]
    assert '.ci/release "$GITHUB_REF_NAME"' in [step.get("run") for step in files["steps"]]
    assert (release["needs"], release["permissions"]) == ("files", {"contents": "write"})
    assert not [step for step in release["steps"] if "checkout" in step.get("uses", "")], "only files with this token"


def test_the_notes_of_a_release_are_the_newest_changes(tmp_path: Path) -> None:
    (command,) = (step["run"] for step in loaded(".github/workflows/release.yml")["jobs"]["files"]["steps"]
                  if step.get("run", "").startswith("awk"))  # fmt: skip
    (tmp_path / "dist").mkdir()
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## 2.0.0 (x)\n\n- New.\n\n### Where\n\n## 1.0.0 (y)\n\n- Old.\n"
    )
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / "dist" / "NOTES.md").read_text() == "## 2.0.0 (x)\n\n- New.\n\n### Where\n\n"


# --- the files about the project ---

CITATION = {
    "cff-version": r"1\.2\.0", "message": ".+", "title": ".+", "type": "software|dataset", "license": r"[A-Za-z0-9.-]+",
    "version": r"\d+\.\d+\.\d+", "date-released": r"\d{4}-\d{2}-\d{2}", "abstract": ".+",
}  # fmt: skip
"""Of the schema of the Citation File Format 1.2.0 the keys that hold a text, with the texts that each takes."""


def test_the_citation_follows_its_schema() -> None:
    found = loaded("CITATION.cff")
    assert found.keys() - CITATION.keys() == {"authors", "keywords"}
    assert {"cff-version", "message", "title", "authors"} <= found.keys(), "these the schema requires"
    assert [key for key in CITATION.keys() & found.keys() if not re.fullmatch(CITATION[key], found[key])] == []
    assert [set(author) for author in found["authors"]] == [{"name"}], "an author that is no person has a name"
    assert len(found["keywords"]) == len(set(found["keywords"]))
    assert found["license"] == PROJECT["license"]
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_what_contributing_names_is_there() -> None:
    named = re.findall(r"`(\.?[\w./-]+/[\w./-]+|\w+\.\w{2,3})(?: [^`]*)?`", CONTRIBUTING)
    assert {".ci/release", ".ci/run", ".github/workflows/release.yml", "CHANGELOG.md"} <= set(named)
    anywhere = ("_version.py", "run.json")
    assert [name for name in named if name not in anywhere and not (ROOT / name).exists()] == []
    layout = CONTRIBUTING.partition("## The layout\n")[2].partition("\n## ")[0]
    assert layout.count("\n- ") == 5
    folders = {path.parent.name for path in ROOT.glob("[!.]*/README.md")}
    assert [folder for folder in folders if f"`{folder}" not in layout] == []
