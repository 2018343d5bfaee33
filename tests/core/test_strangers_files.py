"""A stranger's spec in CI: no message quotes a file but specs and tables of its own tree, and nothing makes it wait."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_spec import TEXT

from driftspec import spec
from driftspec.cli import main
from driftspec.errors import RunFailed, SpecError
from driftspec.registry import Registry
from driftspec.runs.run_dir import RunDir
from driftspec.source.files import Files

SECRET = "hunter2"
SECRETS = {
    "a line of text": f"root {SECRET}\n",
    "several lines": f"root:x:0:0:{SECRET}\nother: {SECRET}: x\n",
    "a mapping": f"password: {SECRET}\ntoken: {SECRET}\nname: {SECRET}\n",
    "a key without its value": f"token:{SECRET}\nname: 1\n",
    "what YAML refuses": f"- [{SECRET}\n- %{SECRET}\n",
    "a wrong number": f"{SECRET}: 0x1F\nb: 12:30\n",
}
FORMS = ("text", "github", "json", "sarif")


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """To wait for a pipe is a failure."""

    def stop(*_: Any) -> None:
        raise TimeoutError("waits for a pipe")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a folder of specs in it."""
    (tmp_path / "project" / "specs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def validated(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["validate", *words])
    return code, "".join(capsys.readouterr())


# --- what is no spec is not quoted ---


@pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("file", ["specs/base.yaml", "secret.txt", "../secret.txt"])
def test_a_base_that_is_no_spec_is_not_quoted(
    file: str, text: str, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / file).write_text(text)
    (tree / "specs" / "a.yaml").write_text(f"extends: {os.path.relpath(file, 'specs')}\nname: a\n")
    for form in FORMS:
        code, said = validated(capsys, "specs/a.yaml", "--format", form)
        assert code == 3
        assert SECRET not in said
    code, said = validated(capsys, "specs/a.yaml", "--allow-outside")
    assert (code, SECRET in said) == (3, False)


@pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS)
def test_a_spec_that_is_a_link_to_a_file_elsewhere_is_not_quoted(
    text: str, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree.parent / "secret").write_text(text)
    (tree / "specs" / "a.yaml").symlink_to(tree.parent / "secret")
    code, said = validated(capsys, "specs/a.yaml")
    assert code == 3
    assert said.startswith("specs/a.yaml: error[Y001] is a link that leads out of the spec's folder and of the current")
    code, said = validated(capsys, "specs/a.yaml", "--allow-outside")
    assert (code, SECRET in said) == (3, False)


def test_a_table_that_is_a_link_to_a_file_of_another_kind_is_not_quoted(tree: Path) -> None:
    (tree / "config").write_text(f"token, {SECRET}\n")
    (tree / "rows.csv").symlink_to("config")
    with pytest.raises(SpecError, match=r"'rows\.csv' is a link to 'config', a file of another kind") as caught:
        Files(tree).find("rows.csv")
    assert SECRET not in str(caught.value)
    assert Files(tree, allow_outside=True).find("rows.csv") == tree / "config"


def test_a_mistake_in_a_base_that_is_a_spec_is_quoted(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "base.yaml").write_text(TEXT.replace("steps: 100", "steps: ten"))
    (tree / "specs" / "a.yaml").write_text("extends: ../base.yaml\nname: b\n")
    said = validated(capsys, "specs/a.yaml")[1]
    assert said == "specs/../base.yaml:9:10: error[S112] 'steps' in train should be a whole number, not 'ten'\n"
    (tree / "base.yaml").write_text(TEXT.replace("lr: 1e-2,", "lr: 12:30,"))
    said = validated(capsys, "specs/a.yaml")[1]
    assert said.startswith("specs/../base.yaml:11:31: error[Y009] '12:30' is a number in base 60")


# --- where a base may lie ---


def test_a_base_lies_in_the_specs_tree_or_below_the_current_directory(tree: Path, registry: Registry) -> None:
    top = tree / "specs" / "a.yaml"
    for base, where in (("base.yaml", tree / "specs"), ("../base.yaml", tree), ("../../base.yaml", tree.parent)):
        (where / "base.yaml").write_text(TEXT)
        top.write_text(f"extends: {base}\nname: b\n")
        if where == tree.parent:
            with pytest.raises(SpecError, match=r"a\.yaml:1:10: error\[Y013\] the base .* leads out of the spec's"):
                spec.read(top, registry)
        assert spec.read(top, registry, allow_outside=where == tree.parent).spec.name == "b"
        (where / "base.yaml").unlink()


def test_a_link_inside_is_followed_and_one_that_leads_outside_is_not(tree: Path, registry: Registry) -> None:
    (tree / "base.yaml").write_text(TEXT)
    (tree / "specs" / "link.yaml").symlink_to("../base.yaml")
    (tree / "specs" / "a.yaml").write_text("extends: link.yaml\nname: b\n")
    assert spec.read(tree / "specs" / "a.yaml", registry).spec.name == "b"
    assert spec.read("specs/link.yaml", registry).spec.name == "a"
    (tree / "base.yaml").rename(tree.parent / "base.yaml")
    (tree / "specs" / "link.yaml").unlink()
    (tree / "specs" / "link.yaml").symlink_to("../../base.yaml")
    with pytest.raises(SpecError, match=r"the base 'link\.yaml' leads out"):
        spec.read(tree / "specs" / "a.yaml", registry)
    assert spec.read("specs/link.yaml", registry, allow_outside=True).spec.name == "a"


def test_a_folder_of_specs_may_itself_be_a_link(tree: Path, registry: Registry) -> None:
    (tree.parent / "elsewhere").mkdir()
    (tree.parent / "elsewhere" / "a.yaml").write_text(TEXT)
    (tree / "linked").symlink_to(tree.parent / "elsewhere")
    assert spec.read("linked/a.yaml", registry).spec.name == "a"


def test_a_spec_made_in_python_extends_a_base_in_the_current_directory(tree: Path, registry: Registry) -> None:
    (tree / "base.yaml").write_text(TEXT)
    made = spec.from_text("extends: base.yaml\nname: b\n", "spec", Path(), registry)
    assert (made.spec.name, made.spec.estimator.type) == ("b", "hutchinson")
    with pytest.raises(SpecError, match=r"spec:1:10: error\[Y013\] the base '\.\./base\.yaml' leads out of the spec's"):
        spec.from_text("extends: ../base.yaml\nname: b\n", "spec", Path(), registry)


# --- pipes and devices ---


@pytest.mark.parametrize("device", ["pipe", "/dev/zero"])
def test_nothing_but_a_regular_file_is_opened(device: str, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tree / "pipe")
    (tree / "a.yaml").symlink_to(device)
    (tree / "b.yaml").write_text("extends: a.yaml\nname: b\n")
    (tree / "c.py").symlink_to(device)
    outside = [] if device == "pipe" else ["--allow-outside"]
    told = "cannot be read: not a regular file"
    assert validated(capsys, "a.yaml", *outside) == (3, f"a.yaml: error[Y001] {told}\n")
    assert validated(capsys, "b.yaml", *outside) == (3, f"b.yaml:1:10: error[Y013] the base 'a.yaml' {told}\n")
    assert validated(capsys, "a.yaml", "--plugin", "c.py") == (2, f"error: --plugin c.py: {told}\n")
    assert main(["schema", "--check", "a.yaml"]) == 1
    assert capsys.readouterr().err.startswith(f"error: 'a.yaml' {told}")


def test_a_table_is_a_regular_file(tree: Path) -> None:
    os.mkfifo(tree / "rows.csv")
    with pytest.raises(SpecError, match=r"data file 'rows\.csv' is not a regular file"):
        Files(tree).find("rows.csv")
    with pytest.raises(SpecError, match=r"data file 'rows\.csv' cannot be read: not a regular file"):
        Files(tree).read(tree / "rows.csv")


def test_a_run_directory_holds_regular_files(tree: Path) -> None:
    os.mkfifo(tree / "resolved.yaml")
    with pytest.raises(RunFailed, match=r"resolved\.yaml cannot be read: not a regular file"):
        RunDir(tree).read_bytes("resolved.yaml")


# --- long texts ---

LONG = {
    "a number that is not one": "seed: " + "1" * 250_000 + ".e\n",
    "a line without a colon": "x:\n  " + "a" * 250_000 + "#\n  c: d\n",
    "keys without a space": "a:" * 125_000,
    "unknown keys": "".join(f"hidden_{number}: 1\n" for number in range(9000)),
    "unknown names": "evaluate: [" + ", ".join(f"nl{number}" for number in range(9000)) + "]\n",
    "a sweep": "sweep: {grid: {seed: &a [" + ", ".join(map(str, range(4000))) + "], train.steps: *a}}\n",
}
"""Texts below 256 KiB for which a search with two nested loops would take minutes."""


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_a_long_text_is_refused_soon(text: str, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(text) < 2**18
    (tree / "a.yaml").write_text(text)
    before = time.process_time()
    assert validated(capsys, "a.yaml", "--format", "github")[0] == 3
    assert time.process_time() - before < 5
