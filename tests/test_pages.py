"""What the pages say is so: their commands, installations, links and names, and the table of verdicts."""

from __future__ import annotations

import ast
import itertools
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import pytest
from pages import FILES, PAGES, PIPELINE, PLUGINS, README, ROOT, SPECS, blocks, resolved, rows, snippet

from driftspec import source, spec
from driftspec.cli import VERBS, main
from driftspec.registry import installed
from driftspec.report import plots

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# --- commands ---

TINY = {
    "samples: 20000": "samples: 200", "hidden: [64, 64, 64]": "hidden: [4]", "steps: 1000": "steps: 2",
    "batch_size: 256": "batch_size: 16", "warmup: 50": "warmup: 1", "count: 10000": "count: 2000",
}  # fmt: skip
"""What makes the README's spec small."""

PLACES = {
    "SPEC": "my.yaml", "SPEC...": "my.yaml", "RUN": "run", "RUN...": "run", "A": "run", "B": "run",
    "FILE": "schema.json", "FILE.py": "orthogonal.py", "NAME": "mine", "KIND/NAME": "metric/nll",
    "[KIND/NAME": "schedule/constant", "...]": "",
}  # fmt: skip
"""What stands for the words in capitals."""

SLOW = ("run-spec sweep", "run-spec plugins check", "run-spec report lecture")
"""What starts processes of its own, or takes minutes."""


def commands() -> Iterator[str]:
    """Every command of the pages: in text, in blocks, and of the table's rows with each option that the row names."""
    verbs = "|".join(VERBS)
    for line in "\n".join(PAGES).splitlines():
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
    """A folder with the README's spec, small, the pages' plugin, a sweep of it and its run."""
    folder = tmp_path_factory.mktemp("readme")
    text = snippet("yaml", "dynamics:")
    for old, new in TINY.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "specs").mkdir()
    for name in ("my.yaml", "specs/cnf_moons.yaml"):
        (folder / name).write_text(text)
    (folder / "sweep.yaml").write_text(f"{text}sweep: {{grid: {{train.optimizer.lr: [1e-3, 1e-2]}}}}\n")
    (folder / "orthogonal.py").write_text(snippet("python", "class OrthogonalProbes"))
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


def test_the_pages_commands_are_found() -> None:
    found = set(commands())
    assert {one.split()[1] for one in found} >= set(VERBS)
    assert {"run-spec sample RUN -n 500 -o x.csv", "run-spec SPEC --seed 3", "run-spec runs diff A B",
            "run-spec my.yaml --plugin orthogonal.py", "run-spec schema --check FILE"} <= found  # fmt: skip


def test_the_pages_commands_work_on_the_readmes_run(
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
def test_the_pages_commands_that_start_processes_work_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setitem(PLACES, "SPEC", "sweep.yaml")
    for number, command in enumerate(dict.fromkeys(commands())):
        if command.startswith(SLOW):
            assert main(words_of(command, number)) == 0, command


# --- snippets ---


def test_every_snippet_is_one_that_a_test_runs() -> None:
    """Each has one of these parts, by which a test takes it."""
    python = ("driftspec.run(", "class OrthogonalProbes", "def driftspec_metric", "class TestOrthogonalProbes")
    for language, parts in {"python": python, "yaml": ("dynamics:", "sweep:", "shows:", "repos:")}.items():
        assert len(blocks(language)) == len(parts)
        assert all(snippet(language, part) for part in parts)
    assert set(re.findall(r"^```(\w+)$", "\n".join(PAGES), re.MULTILINE)) == {"sh", "text", "python", "yaml"}


def test_the_pages_sweep_is_six_points(place: Path) -> None:
    (place / "six.yaml").write_text(f"{(place / 'my.yaml').read_text()}{snippet('yaml', 'sweep:')}")
    assert main(["validate", str(place / "six.yaml")]) == 0
    assert len(spec.read(place / "six.yaml", installed()).points) == 6


def test_the_pages_statement_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "specs" / "langevin_gaussian.yaml").read_text()
    Path("shows.yaml").write_text(f"{text}{snippet('yaml', 'shows:')}")
    assert main(["report", "shows.yaml", "--quick", "--quiet", "--strict"]) == 0
    page = Path("report.html").read_text()
    assert "1 of 1 numbers are as expected" in page and "the run has no picture" not in page


def test_what_a_snippet_gives_to_other_programs_is_there() -> None:
    """Files that pytest and Python are called with, and markers; pip and run-spec have tests of their own."""
    markers = [one.partition(":")[0] for one in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    for line in "".join(blocks("sh")).splitlines():
        for program, *words in (shlex.split(command) for command in line.split(" && ")):
            name = Path(program).name
            assert name in ("run-spec", "pip", "pytest", "python", "python3")
            if name in ("pytest", "python"):
                assert [word for word in words if word.endswith(".py") and not (ROOT / word).is_file()] == []
                assert all(words[at + 1] in markers for at, word in enumerate(words) if word == "-m")


# --- links and names ---


def anchors(page: Path) -> set[str]:
    """The places of a page that a link may lead to."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def broken(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere; those to other sites are not followed."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, place = link.partition("#")
        to = (page.parent / file).resolve() if file else page
        if "://" not in link and not (to.exists() and (not place or place in anchors(to))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page, page.read_text()) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = "[a](specs/README.md) [b](specs/READMES.md) ![c](specs/none.png) [d](specs/README.md#the-lectures) [e](https://a.b/c)"
    assert broken(ROOT / "README.md", text) == ["specs/READMES.md", "specs/none.png", "specs/README.md#the-lectures"]


def linked(page: Path) -> set[Path]:
    """The pages that a page leads to."""
    links = re.findall(r"\]\(([^)\s]+\.md)", page.read_text())
    return {(page.parent / link.partition("#")[0]).resolve() for link in links}


def test_every_page_is_reached_from_the_readme_in_two_hops() -> None:
    first = linked(ROOT / "README.md")
    reached = first.union(*map(linked, first), {ROOT / "README.md", ROOT / "CHANGELOG.md"})
    assert [page for page in FILES if page.resolve() not in reached] == []


@pytest.mark.parametrize("page", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_and_names_on_a_page_exist(page: Path) -> None:
    text = page.read_text()
    paths = re.findall(r"`((?:pipeline|plugins|specs|tests)/[\w./-]*)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    if page.name == "CHANGELOG.md":  # what is named there may be gone
        text = ""
    for name in re.findall(r"`(driftspec(?:_plugins)?\.[A-Za-z_][\w.]*\w)(?:\([^`]*\))?`", text):
        assert re.fullmatch(r"driftspec\.v\d", name) or resolved(name) is not None


def test_every_module_that_moved_is_where_the_changelog_says() -> None:
    for was, now in rows((ROOT / "CHANGELOG.md").read_text(), "was"):
        homes = re.findall(r"`(driftspec\.[\w.]+)`(?: \(((?:`\w+`(?:, )?)+))?", now)
        assert homes
        for home, names in homes:
            held = re.findall(r"\w+", names)
            if now.startswith("the same name in"):
                held = [name.rpartition(".")[2] for name in re.findall(r"`([\w.]+)`", was)]
            assert [name for name in held if resolved(f"{home}.{name}") is None] == []
            assert resolved(home) is not None


def test_what_a_plugin_imports_is_where_the_page_says() -> None:
    for module, names in rows(PLUGINS, "import from"):
        home = resolved(module.strip("`"))
        for name in re.findall(r"`(\w+)`", names):
            assert getattr(home, name) is not None


def test_the_rooms_are_those_of_the_contract() -> None:
    (layers,) = (one["layers"] for one in PROJECT["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    rooms = [re.findall(r"`([\w.]+)`", row[1]) for row in rows(PIPELINE, "layer")]
    said = [[name for name in layer.split(" | ") if not name.rpartition(".")[2].startswith("_")] for layer in layers]
    assert rooms == said
    assert [int(row[0]) for row in rows(PIPELINE, "layer")] == list(range(len(layers), 0, -1))


def test_the_readme_is_short_and_its_picture_small() -> None:
    assert len(README.splitlines()) <= 100
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert (ROOT / picture).read_bytes().startswith(b"\x89PNG")
    assert (ROOT / picture).stat().st_size < 100_000


# --- installing ---


def installed_by(text: str) -> Iterator[str]:
    """What each `pip install` of a text installs, without options."""
    for line in re.findall(r"pip install ([^`&\n#]*)", text):
        yield from (word for word in shlex.split(line) if not word.startswith("-"))


@pytest.mark.parametrize("page", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_page_installs_driftspec_by_a_name_that_no_index_has(page: Path) -> None:
    """From a checkout or a wheel: nothing called driftspec is on a package index."""
    text = page.read_text()
    assert [word for word in installed_by(text) if re.match(r"driftspec(\[|$)", word)] == []


def test_pre_commit_gets_what_checking_specs_needs_and_no_more() -> None:
    (repo,) = source.parse(snippet("yaml", "repos:"), "pre-commit").data["repos"]
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
    assert re.search(r"\b\d+ s of CPU\b", header), "what a whole run takes, on the machine that the page names"
    assert "CPU seconds of the whole run on one core of " in SPECS


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
