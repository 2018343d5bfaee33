"""What specs/UNTRUSTED.md claims of `validate` on a stranger's spec, and its workflow, whose steps are run here."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pages import ROOT
from small_spec import TEXT

from driftspec.cli import main

WORKFLOW = ROOT / ".github" / "workflows" / "validate-pull-request.yml"
PAGE = (ROOT / "specs" / "UNTRUSTED.md").read_text()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stranger's checkout, which is the current directory, with a folder of specs."""
    (tmp_path / "proposed" / "specs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "proposed")
    return tmp_path / "proposed"


# --- nothing of the stranger's tree is run, and little is read ---

AUDITED = """
import sys

EVENTS = "open os.system subprocess.Popen os.exec os.posix_spawn os.fork socket.connect os.remove os.rename os.mkdir"
seen = []
sys.addaudithook(lambda event, given: seen.append(f"{event} {given[:1]}") if event in EVENTS.split() else None)
from driftspec.cli import main

code = main(["validate", "--no-plugins", *sys.argv[1:], "--format", "github"])
print(code, *seen, sep="\\n", file=sys.stderr)
"""


def audited(tree: Path, *specs: str) -> tuple[int, str, list[str]]:
    """Exit code, stdout, and what `validate` did in a process of its own: files opened, programs, connections."""
    script = tree.parent / "bin" / "audited.py"  # as the command is: its folder is on sys.path, the current one is not
    script.parent.mkdir()
    script.write_text(AUDITED)
    done = subprocess.run([sys.executable, script, *specs], cwd=tree, capture_output=True, text=True, check=True)
    first, *events = done.stderr.splitlines()
    return int(first), done.stdout, events


def test_only_specs_are_opened_and_no_code_of_the_tree_is_run(tree: Path) -> None:
    """Modules in the current directory that have the names of libraries, a plugin, a table, a base elsewhere."""
    for name in ("yaml", "pluggy", "pydantic", "driftspec_plugins", "sitecustomize", "plugin"):
        (tree / f"{name}.py").write_text("raise SystemExit('the tree is run')\n")
    (tree / "secret.csv").write_text("a,b\n1,2\n")
    (tree / "specs" / "base.yaml").write_text(TEXT)
    texts = {
        "a": "extends: base.yaml\nname: b\n",
        "b": TEXT.replace("{type: moons, samples: 500, noise: 0.05}", "{type: table, path: ../secret.csv}"),
        "c": TEXT.replace("{type: moons, samples: 500, noise: 0.05}", "{type: table, path: /etc/passwd}"),
        "d": "extends: /etc/passwd\nname: b\n",
        "e": "extends: ../../../../../../../../etc/passwd\nname: b\n",
    }
    for name, text in texts.items():
        (tree / "specs" / f"{name}.yaml").write_text(text)
    code, out, events = audited(tree, *(f"specs/{name}.yaml" for name in texts))
    assert code == 3
    assert "root:" not in out
    assert {event.partition(" ")[0] for event in events} == {"open"}
    files = {file for event in events if isinstance(file := ast.literal_eval(event[5:])[0], str)}
    assert {file for file in files if not Path(file).is_absolute()} == {
        "specs/base.yaml", *(f"specs/{name}.yaml" for name in texts)
    }  # fmt: skip
    assert not [file for file in files if file.startswith(str(tree)) or file == "/etc/passwd"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("data: {type: 'os:system'}", "S120"),
        ("data: {type: ../plugin.py}", "S120"),
        ("data: {type: plugin}", "S120"),
        ("plugins: [plugin.py]", "S111"),
        ("data: !!python/object/apply:os.system [id]", "Y006"),
        ("data: !!python/name:os.system", "Y006"),
    ],
)
def test_a_spec_names_no_code(text: str, code: str, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "plugin.py").write_text("raise SystemExit('the tree is run')\n")
    (tree / "a.yaml").write_text(f"version: 1\nname: a\n{text}\n")
    assert main(["validate", "--no-plugins", "a.yaml", "--format", "json"]) == 3
    assert code in {one["code"] for one in json.loads(capsys.readouterr().out)["problems"]}


def test_a_table_elsewhere_is_not_looked_at(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One message for a file that is there and one that is not, by a path and by a link."""
    (tree.parent / "there.csv").write_text("a,b\n1,2\n")
    (tree / "there.csv").symlink_to("../there.csv")
    (tree / "absent.csv").symlink_to("../absent.csv")
    os.mkfifo(tree / "pipe.csv")
    found = []
    for path in ("../there.csv", "../absent.csv", "there.csv", "absent.csv", "pipe.csv"):
        text = TEXT.replace("{type: moons, samples: 500, noise: 0.05}", f"{{type: table, path: {path}}}")
        (tree / "a.yaml").write_text(text)
        main(["validate", "--no-plugins", "a.yaml", "--format", "json"])
        problems = json.loads(capsys.readouterr().out)["problems"]
        found.append(" ".join(one["message"] for one in problems if one["code"] == "X304").replace(path, "PATH"))
    assert found[0] == found[1] and "'PATH' lies outside the current directory" in found[0]
    assert found[2] == found[3] == found[0]
    assert "'PATH' is not a regular file" in found[4]


# --- what a spec says reaches GitHub as text ---

PAYLOADS = (
    "::set-env name=PATH::/tmp",
    "\n::set-env name=PATH::/tmp",
    "\r::add-path::/tmp",
    "\r\n::warning::x",
    "%0A::error::x",
    "%0D%0A::add-mask::x",
    "%25,line=1::x",
    "x,file=/etc/passwd::",
    "##[add-path]/tmp",
    "\x1b[31m\x07",
    "\u2028::stop-commands::x",
    "\x85::stop-commands::x",
    "\u202e\u200b",
)
COMMAND = re.compile(r"::(error|warning) file=([^:,]*)(?:,line=\d+,col=\d+)?,title=[^:]*::([^\r\n]*)")


def planted(payload: str) -> Iterator[str]:
    """The payload as a key, as a value and as a name in many places of a spec, in double quotes."""
    quoted = json.dumps(payload)
    yield f"{TEXT}{quoted}: 1\n"
    yield f"{quoted}: {{{quoted}: [{quoted}]}}\n"
    yield f"extends: {quoted}\nname: a\n"
    yield f"{TEXT}sweep: {{grid: {{{quoted}: [1, 2]}}}}\n"
    yield f"{TEXT}# {payload}\n"
    for old in (
        "moons",
        "500",
        "0.05",
        "neural_ode",
        "mlp",
        "[8, 8]",
        "hutchinson",
        "100\n",
        "adam",
        "1e-2",
        "nll",
        "a\n",
    ):
        yield TEXT.replace(old, quoted + old[len(old.rstrip("\n")) :], 1)
    yield TEXT.replace("{type: moons, samples: 500, noise: 0.05}", f"{{type: table, path: {quoted}}}")
    yield TEXT.replace("noise: 0.05", f"{quoted}: 0.05")


@pytest.mark.parametrize("payload", PAYLOADS, ids=ascii)
def test_a_spec_writes_no_command_of_github(payload: str, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in planted(payload):
        (tree / "a.yaml").write_bytes(text.encode())
        main(["validate", "--no-plugins", "a.yaml", "--format", "json"])
        messages = {one["message"] for one in json.loads(capsys.readouterr().out)["problems"]}
        main(["validate", "--no-plugins", "a.yaml", "--format", "github"])
        out, err = capsys.readouterr()
        assert err == ""
        for line in out.splitlines():
            found = COMMAND.fullmatch(line)
            assert found, line
            assert found[2] == "a.yaml" and line.isprintable()
            assert found[3].replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%") in messages


def test_a_files_name_writes_no_command_of_github(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"specs/{payload.replace('/', '|')}.yaml" for payload in PAYLOADS]
    for name in names:
        Path(name).write_text("nosie: 1\n")
    assert main(["validate", "--no-plugins", *names, "--format", "github"]) == 3
    out, err = capsys.readouterr()
    assert err == ""
    assert len(out.splitlines()) >= len(names)
    assert all(COMMAND.fullmatch(line) and line.isprintable() for line in out.splitlines())


# --- the workflow ---


def workflow() -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(WORKFLOW.read_text(), Loader=yaml.BaseLoader)
    return found


def test_the_workflow_may_read_and_takes_code_from_the_base_alone() -> None:
    found = workflow()
    assert list(found["on"]) == ["pull_request"]
    assert found["permissions"] == {"contents": "read"}
    (job,) = found["jobs"].values()
    assert "permissions" not in job and "env" not in job
    checkouts = {one["with"]["path"]: one["with"] for one in job["steps"] if "checkout" in one.get("uses", "")}
    assert checkouts["base"]["ref"] == "${{ github.event.pull_request.base.sha }}"
    assert all(one["persist-credentials"] == "false" for one in checkouts.values())
    for step in (one for one in job["steps"] if "run" in one):
        assert "${{" not in step["run"], "a value of the pull request would be pasted into the script"
        assert step.get("working-directory") == ("proposed" if "run-spec" in step["run"] else None)
        assert "python -m" not in step["run"]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the environment at hand: `run-spec`, and a `pip` that only writes down what it would install."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {
        "run-spec": f"#!{sys.executable}\nimport sys\nfrom driftspec.cli import main\nsys.exit(main())\n",
        "pip": f'#!/bin/sh\necho "$@" >> {tmp_path}/installed\n',
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def steps(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the `run:` steps in a checkout as GitHub does, up to the first that fails."""
    (job,) = workflow()["jobs"].values()
    for step in (one for one in job["steps"] if "run" in one):
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", step["run"]],
            cwd=folder / step.get("working-directory", ""), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            break
    return done


def test_the_workflow_passes_a_good_spec_and_refuses_a_bad_one(tree: Path, programs: Path) -> None:
    good, bad = tree / "specs" / "good.yaml", tree / "specs" / "deeper" / "b d.yaml"
    good.write_text(TEXT)
    (tree / "yaml.py").write_text("raise SystemExit('the tree is run')\n")
    done = steps(tree.parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tree.parent / "installed").read_text() == "install pydantic pyyaml pluggy\ninstall --no-deps ./base\n"
    bad.parent.mkdir()
    bad.write_text(TEXT.replace("noise: 0.05", "nosie: 0.05"))
    done = steps(tree.parent)
    assert done.returncode == 3
    assert done.stdout.startswith(
        "::error file=specs/deeper/b d.yaml,line=3,col=35,title=S111 an unknown key::unknown key"
    )


def test_the_workflow_follows_no_link_out_of_the_tree(tree: Path, programs: Path) -> None:
    secrets = tree.parent / "secrets"
    secrets.mkdir()
    (secrets / "a.yaml").write_text("password: hunter2\n")
    (tree / "specs" / "link.yaml").symlink_to(secrets / "a.yaml")
    (tree / "specs" / "folder").symlink_to(secrets)
    done = steps(tree.parent)
    assert done.returncode == 3
    assert re.fullmatch(r"::error file=specs/link.yaml,.*::is a link that leads out of .*\n", done.stdout)
    (tree / "specs" / "link.yaml").unlink()
    (tree / "specs" / "folder").unlink()
    (tree / "specs").rmdir()
    (tree / "specs").symlink_to(secrets)
    done = steps(tree.parent)
    assert done.returncode == 2
    assert "hunter2" not in done.stdout + done.stderr and "password" not in done.stdout + done.stderr
