"""What the pages say is so: the README's commands and installations, and the table of verdicts."""

from __future__ import annotations

import ast
import itertools
import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import pytest

from driftspec import source
from driftspec.cli import VERBS, main
from driftspec.report import plots

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *ROOT.glob("pipeline/*.md"), *ROOT.glob("plugins/*.md")]

# --- commands ---

TINY = {
    "samples: 20000": "samples: 200", "hidden: [64, 64, 64]": "hidden: [4]", "steps: 1000": "steps: 2",
    "batch_size: 256": "batch_size: 16", "warmup: 50": "warmup: 1", "count: 10000": "count: 2000",
}  # fmt: skip
"""What makes the README's spec small."""

PLACES = {
    "SPEC": "my.yaml", "SPEC...": "my.yaml", "RUN": "run", "A": "run", "B": "run", "FILE": "schema.json",
    "FILE.py": "orthogonal.py", "NAME": "mine", "KIND/NAME": "metric/nll", "[KIND/NAME": "schedule/constant",
    "...]": "",
}  # fmt: skip
"""What stands for the words in capitals."""

SLOW = ("run-spec sweep", "run-spec plugins check")
"""What starts processes of its own."""


def commands() -> Iterator[str]:
    """Every command of the README: in text, in blocks, and of the table's rows with each option that the row names."""
    verbs = "|".join(VERBS)
    for line in README.splitlines():
        whole = re.findall(r"(?:^|`|\./|/bin/)(run-spec [^`&|]+)", line)
        parts = [f"run-spec {one}" for one in re.findall(rf"`((?:{verbs}) [^`]+)`", line)]
        parts = [f"{one} SPEC" if one == "run-spec validate --deep" else one for one in parts]
        options = re.findall(r"`(--[^`]+)`", line) if line.startswith("| ") else []
        if "--check FILE" in options:  # in place of -o
            options, parts = [], [*parts, f"run-spec schema {options[0]}"]
        yield from (*whole, *parts, *(f"{whole[0]} {option}" for option in options))


def words_of(command: str, number: int) -> list[str]:
    """The command's words, with names of what is there in place of those in capitals."""
    command = command.replace("--data FILE", "--data points.csv")
    named = [PLACES.get(word, word) for word in shlex.split(command)[1:]]
    found = [f"new-{number}" if word == "DIR" else word for word in named if word]
    return [one for word in found for one in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the README's spec, small, its plugin, a sweep of it and its run."""
    folder = tmp_path_factory.mktemp("readme")
    text = next(block for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "dynamics:" in block)
    for old, new in TINY.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "specs").mkdir()
    for name in ("my.yaml", "specs/cnf_moons.yaml"):
        (folder / name).write_text(text)
    (folder / "sweep.yaml").write_text(f"{text}sweep: {{grid: {{train.optimizer.lr: [1e-3, 1e-2]}}}}\n")
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "OrthogonalProbes" in block)
    (folder / "orthogonal.py").write_text(code)
    (folder / "points.csv").write_text("x1,x2\n1.5,0\n0,1.4\n-1,1\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", lambda *given: ())
        assert main([str(folder / "my.yaml"), "--out", str(folder / "run"), "--quiet"]) == 0
    return folder


def interrupted(run: Path) -> Path:
    """A copy of a run that was stopped after training."""
    copy = shutil.copytree(run, run.with_name("stopped"))
    info = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**info, "status": "interrupted", "digests": {}}))
    return copy


def test_the_readmes_commands_are_found() -> None:
    found = set(commands())
    assert {one.split()[1] for one in found} >= set(VERBS)
    assert {"run-spec sample RUN -n 500 -o x.csv", "run-spec SPEC --seed 3", "run-spec runs diff A B",
            "run-spec my.yaml --plugin orthogonal.py", "run-spec schema --check FILE"} <= found  # fmt: skip


def test_the_readmes_commands_work_on_the_readmes_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(plots, "draw", lambda *given: ())
    interrupted(place / "run")
    failed = {}
    for number, command in enumerate(dict.fromkeys(commands())):
        if command.startswith(SLOW) or command == "run-spec resume":
            continue
        words = words_of(command.replace("resume RUN", "resume stopped"), number)
        capsys.readouterr()
        if code := main(words):
            failed[command] = f"{code}: {capsys.readouterr().err[-300:]}"
    assert failed == {}
    assert len((place / "x.csv").read_text().splitlines()) == 501


@pytest.mark.slow
def test_the_readmes_commands_that_start_processes_work_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setitem(PLACES, "SPEC", "sweep.yaml")
    for number, command in enumerate(dict.fromkeys(commands())):
        if command.startswith(SLOW):
            assert main(words_of(command, number)) == 0, command


# --- installing ---


def installed_by(text: str) -> Iterator[str]:
    """What each `pip install` of a text installs, without options."""
    for line in re.findall(r"pip install ([^`&\n#]*)", text):
        yield from (word for word in shlex.split(line) if not word.startswith("-"))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_no_page_installs_driftspec_by_a_name_that_no_index_has(page: Path) -> None:
    """From a checkout or a wheel: nothing called driftspec is on a package index."""
    text = page.read_text()
    assert [word for word in installed_by(text) if re.match(r"driftspec(\[|$)", word)] == []


def test_pre_commit_gets_what_checking_specs_needs_and_no_more() -> None:
    (block,) = re.findall(r"```yaml\n(repos:.*?)```", README, re.DOTALL)
    (repo,) = source.parse(block, "pre-commit").data["repos"]
    (hook,) = repo["hooks"]
    (shipped,) = source.parse("hooks:\n" + (ROOT / ".pre-commit-hooks.yaml").read_text(), "hooks").data["hooks"]
    assert hook["id"] == shipped["id"] and hook["language"] == "python"
    first, *named = hook["additional_dependencies"]
    assert first == "--no-deps", "torch would come with driftspec"
    assert set(named) == required("pydantic", "pyyaml", "pluggy")


def required(*names: str) -> set[str]:
    """These distributions and all that they require."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        found.add(name)
        needs = [one for one in metadata.requires(name) or () if "extra ==" not in one]
        waiting += {re.split(r"[^\w-]", one)[0].replace("_", "-").lower() for one in needs} - found
    return found


# --- times ---


@pytest.mark.parametrize("spec", sorted(ROOT.glob("specs/*.yaml")), ids=lambda path: path.stem)
def test_a_specs_header_gives_its_cpu_seconds(spec: Path) -> None:
    header = re.sub(r"\n# ?", " ", "".join(re.findall(r"(?m)^#.*\n", spec.read_text())))
    assert re.search(r"\b\d+ s of CPU\b", header), "what a whole run takes, on the machine that the README names"
    assert "CPU seconds of the whole run on one core of " in README


# --- verdicts ---

PAIR = re.compile(r"`(\w+): (\w+)`")


Names = Mapping[str, list[str]]
"""The texts that each name of a module stands for."""


def texts(node: ast.expr | None, names: Names) -> list[str]:
    """The texts that an argument may be: a literal, a choice of two, a name for one, or an f-string of these."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp(body=first, orelse=second):
            return texts(first, names) + texts(second, names)
        case ast.Name(id=name):
            return names.get(name, [])
        case ast.FormattedValue(value=value):
            return texts(value, names)
        case ast.JoinedStr(values=parts):
            return ["".join(one) for one in itertools.product(*(texts(part, names) for part in parts))]
    return []


def outcomes_in(code: str) -> Iterator[tuple[str, str]]:
    """(subject, outcome) of every verdict that a module makes."""
    nodes, names = list(ast.walk(ast.parse(code))), {}
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names.setdefault(node.targets[0].id, []).extend(texts(node.value, {}))
    for call in nodes:
        if isinstance(call, ast.Call) and getattr(call.func, "id", getattr(call.func, "attr", "")) == "Verdict":
            given = dict(zip(("subject", "outcome"), call.args, strict=False))
            given |= {str(one.arg): one.value for one in call.keywords}
            named = getattr(given.get("subject"), "id", "")
            for subject in texts(given.get("subject"), names):
                yield from ((subject, one) for one in texts(given.get("outcome"), {**names, named: [subject]}))


def test_the_scanner_finds_verdicts_however_they_are_written() -> None:
    code = "Verdict('a', 'b' if x else 'c', reason, 'bad'); v.Verdict(subject='d', outcome='e', reason='', severity='')"
    assert list(outcomes_in(code)) == [("a", "b"), ("a", "c"), ("d", "e")]
    assert list(outcomes_in("Verdict(path, found, code)")) == []
    named = "who = 'p' if x else 'q'\nVerdict(who, f'{who}_suspect', reason, 'bad')"
    assert list(outcomes_in(named)) == [("p", "p_suspect"), ("q", "q_suspect")]


def test_the_table_of_verdicts_has_every_outcome_of_the_code_and_no_other() -> None:
    table = (ROOT / "pipeline" / "VERDICTS.md").read_text()
    files = [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("plugins/**/*.py")]
    codes = [code for file in files if "Verdict(" in (code := file.read_text())]
    made = {pair for code in codes for pair in outcomes_in(code)}
    assert set(PAIR.findall(table)) == made
    assert "(pipeline/VERDICTS.md)" in README
