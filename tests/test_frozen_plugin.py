"""A plugin package as an author wrote it against driftspec 0.1: it loads, runs and passes the kit, and stays as it is.

`frozen_plugin` holds the package. Its modules end in .txt, so that no formatter, linter or search and replace over *.py
touches them; a test writes them out under their own names and installs the package by its entry point.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import PLUGINS, rows
from strangers import install

from driftspec.cli import main
from driftspec.registry import HOOKS
from driftspec.report import plots

PACKAGE = Path(__file__).parent / "frozen_plugin"

DIGESTS = {
    "pyproject.toml": "4889c8c5842ded818a54dc5aa57d8c09005262b8c6d8a2c16f7b3eba5816b200",
    "specs/chain.yaml": "52a33f70e0454ddee7716de1634275b30f4730800e8938555a3ca3b179864d5b",
    "specs/column.txt": "93f6e5def74d7e939b6daa541a8a7ce2ec2a628107ea47bad4c740b1739a17ab",
    "specs/flow.yaml": "73d7ef2a45eee28bde3b258ddba8f25ce617b772e600edfc04c1350768e8e1e8",
    "specs/lines.yaml": "b096d7819873404d552c48079f34804c746a0b0358bcee6d72a10b153808abca",
    "src/driftspec_frozen/__init__.py.txt": "82a69556be4d380b96cd17031a60364e6b88c87eee87663da9779e356466a57c",
    "src/driftspec_frozen/chain.py.txt": "e732375f8c16f42c19ab131830dbf1a316d6aa816cc5c2663b8be92f17073daf",
    "src/driftspec_frozen/data.py.txt": "ccf97954b893df074a9591c9b602de8021849ac014b5ef069fe101e7c01e9107",
    "src/driftspec_frozen/flow.py.txt": "1aa62788ea2eb2127953a788d9d81266a06ab8d9d9673e05c0deeade23571430",
    "src/driftspec_frozen/losses.py.txt": "9d1496515d4127cfb01d7eda48214855f9de9bfe9b15cb54ee24e788a29b6d58",
    "src/driftspec_frozen/observed.py.txt": "27c42f15fc5cc30432498cfaa5966c5d4a495feaf3b3b76a98962e6e0be9d31c",
    "tests/test_frozen.py.txt": "1dd644c22aeddc49a3e26bb2c843b0d4ed66bddd67ae9f01801b8a10b3635502",
}
"""The sha256 of every file. Who has to edit a file to make these tests pass has broken the plugins of others: restore
the interface, or follow the rule of plugins/STABILITY.md. A new file may be added, with its digest."""


def test_nobody_edits_the_package() -> None:
    files = [path for path in PACKAGE.rglob("*") if path.is_file()]
    found = {str(path.relative_to(PACKAGE)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert found == DIGESTS


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package under its own names, installed, in a directory where its specs are run."""
    for source in PACKAGE.rglob("*"):
        if source.is_file():
            target = tmp_path / "package" / str(source.relative_to(PACKAGE)).replace(".py.txt", ".py")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    install(tmp_path / "package", tmp_path / "site")
    for folder in (tmp_path / "site", tmp_path / "package" / "src"):
        monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "package"
    for name in [name for name in sys.modules if name.startswith("driftspec_frozen")]:
        del sys.modules[name]


def test_it_imports_from_the_modules_of_the_page_alone(package: Path) -> None:
    promised = {row[0].strip("`") for row in rows(PLUGINS, "import from")}
    text = "".join(path.read_text() for path in package.rglob("*.py"))
    used = set(re.findall(r"from (driftspec(?:\.\w+)*) import", text))
    assert used <= promised
    assert len(used) > 7
    assert [hook for hook in HOOKS if f"def {hook}(" not in text] == []


def test_its_specs_run_and_its_hooks_are_called(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every warning is an error here, as in the package's own settings."""
    monkeypatch.setattr(plots, "draw", lambda *given: ())
    for name in ("flow", "chain", "lines"):
        assert main([f"package/specs/{name}.yaml", "--strict-plugins", "--out", name, "--quiet"]) == 0, name
    assert "warning: " not in capsys.readouterr().err
    assert Path("flow/observed.txt").read_text().splitlines() == [
        "started frozen_flow 0 train,evaluate,sample 4",
        "step 4 True",
        "checkpoint 4 .safetensors",
        "metric frozen_beyond - 50",
        "metric frozen_returns model units 20",
        "finished finished None",
    ]
    events = Path("flow/trackers/frozen_lines_of_text/events.txt").read_text().splitlines()
    assert "step 2 of 4: evaluations" in events and events[-1] == "finished finished None"
    lengths = [json.loads(line)["length"] for line in Path("lines/train.jsonl").read_text().splitlines()]
    assert all(length > 0 for length in lengths)
    chains = json.loads(Path("chain/run.json").read_text())
    assert {one["subject"] for one in chains["verdicts"]} >= {"chains"}


def test_it_passes_the_kit(package: Path) -> None:
    """Without the checks of the time that an import takes."""
    words = ["-q", "-n", "0", "-p", "no:cacheprovider", "-W", "error", "-c", "pyproject.toml", "-k", "not quickly"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "tests"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, cwd=package, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 45
