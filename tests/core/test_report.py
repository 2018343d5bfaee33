"""`run-spec report`: one page of runs, from which every statement leads to its number, its spec and its code."""

from __future__ import annotations

import html
import json
import re
import shutil
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from driftspec.cli import main
from driftspec.report.equations import Listing, opening_with
from driftspec.report.gallery import GENERATOR, Exhibit, gallery, rows
from driftspec.runs.exhibits import exhibit
from driftspec.source.scalars import with_error
from driftspec.spec.statements import Statement

SPEC = """\
version: 1
name: {name}
dynamics: {{type: langevin, target: {{type: gaussian, mean: [0], std: [1.0]}}}}
sampler: {{type: langevin, step: 0.5, steps: 40, start: {{type: gaussian, mean: [0], std: 1.0}}}}
evaluate: [{{type: moments, predicted: true}}]
sample: {{count: 400}}
shows:
  - statement: It settles beside <1>
    equation: Σ (I - (η/4) Σ⁻¹)⁻¹
    metric: moments
    detail: [moments, variance x1]
    expect: {expected}
    picture: density
    text: The step's bias & its size.
  - {{statement: Shown by a test}}
quick: {{sample.count: 60}}
"""


class Page(HTMLParser):
    """The links, anchors, texts and sources of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: list[str] = []
        self.sources: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        self.links += [given["href"]] if tag == "a" else []
        self.anchors += [given["id"]] if "id" in given else []
        self.sources += [given["src"]] if "src" in given else []

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two specs, run once into a page; one expects what is not so."""
    at = tmp_path_factory.mktemp("report")
    (at / "specs").mkdir()
    (at / "specs" / "1_good.yaml").write_text(SPEC.format(name="good", expected=1.142857))
    (at / "specs" / "2_bad.yaml").write_text(SPEC.format(name="bad", expected=9))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(at)
        assert main(["report", "specs", "-o", "page.html", "--quick", "--quiet"]) == 0
    return at


def test_a_page_shows_every_statement_of_a_folder_and_needs_no_network(folder: Path) -> None:
    text = (folder / "page.html").read_text()
    found = Page(text)
    assert GENERATOR in text[:300] and "<h1>Specs</h1>" in text and "a quick run" in text
    assert "http" not in text and all(one.startswith("data:image/png") for one in found.sources)
    assert len(found.sources) == 2 and len(set(found.anchors)) == len(found.anchors)
    assert {link.removeprefix("#") for link in found.links} <= set(found.anchors)
    run = next((folder / "runs" / "good").iterdir())
    moment = json.loads((run / "metrics.json").read_text())["moments"]["details"]["moments"]
    value = moment["variance x1"]["value"]
    assert (
        f"moments.moments.variance x1 = {with_error(value, moment['variance x1']['stderr'])}, expected" in found.words
    )
    assert "It settles beside <1>" in found.words and "The step's bias & its size." in found.words
    assert found.words.count("✓ agrees") == 2 and found.words.count("✗ differs") == 2
    assert found.words.count("test only") == 2 and "1 of 2 numbers are as expected" in found.words
    info = json.loads((run / "run.json").read_text())
    assert info["machine"] in found.words and info["samples"]["count"] == 60


def test_two_hops_lead_from_a_statement_to_the_line_of_code(folder: Path) -> None:
    text = (folder / "page.html").read_text()
    (hop,) = set(re.findall(r"<a href='#(code-[\w-]+)'>code driftspec_plugins/samplers/langevin.py, line \d+", text))
    line = html.unescape(re.search(f"<span id={hop}>(.*?)</span>", text)[1])  # type: ignore[index]
    assert "Σ (I - (η/4) Σ⁻¹)⁻¹" in line
    assert "return Moved(x + self.step / 2 * slope" in html.unescape(text.partition(f"id={hop}>")[2]), (
        "the code follows in the same listing"
    )


def test_the_same_runs_give_the_same_page_without_their_plugins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name in ("a.html", "b.html"):
        assert main(["report", "runs/good", "runs/bad", "-o", name, "--title", "A & B", "--strict"]) == 1
    assert Path("a.html").read_bytes() == Path("b.html").read_bytes()
    assert "<title>A &amp; B</title>" in Path("a.html").read_text()
    assert main(["report", "runs/good", "-o", "a.html", "--strict", "--format", "json"]) == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["specs", "-o", "specs/1_good.yaml"], 2, "it exists and is no page of run-spec report; it is left alone"),
        (["specs", "-o", "nowhere/a.html"], 2, "there is no folder 'nowhere'"),
        (["runs/goof"], 2, "there is no such directory (did you mean 'good'?)"),
        (["runs/good", "--quick"], 2, "--quick, --set and --unset are for specs, and none is given"),
        (["specs", "--set", "sampler.stpe=1"], 3, "[S111] unknown key 'stpe' in sampler (did you mean 'step'?)"),
        (["nothing.yaml"], 3, "error[Y001]"),
        (["lectrue"], 2, "'lectrue' is no run, no spec and no folder of specs (did you mean 'lecture'?)"),
        (["nothing_like_it"], 2, "'nothing_like_it' is not a run: there is no such directory"),
    ],
)
def test_a_mistake_is_answered_before_anything_runs(
    words: list[str], code: int, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    assert main(["report", *words]) == code
    error = capsys.readouterr().err
    assert message in error
    assert sorted(folder.rglob("*")) == before


def test_the_runs_of_a_sweep_are_one_page(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = sorted((folder / "runs").glob("*/*"))
    for number, run in enumerate(runs, 1):
        shutil.copytree(run, tmp_path / "sweep" / str(number))
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    (tmp_path / "sweep" / "spec.yaml").write_text(SPEC.format(name="a", expected=1))
    monkeypatch.chdir(tmp_path)
    assert main(["report", "sweep", "-o", "page.html", "--quiet"]) == 0
    assert "1 of 2 numbers are as expected" in Path("page.html").read_text()
    assert sorted(tmp_path.glob("runs")) == [], "nothing was run"


def test_a_run_that_fails_is_on_the_page_and_the_others_are_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "specs", tmp_path / "specs")
    (tmp_path / "specs" / "0_fails.yaml").write_text(SPEC.format(name="fails", expected=1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("driftspec.runs.lifecycle.carry_out", _failing("fails"))
    assert main(["report", "specs", "-o", "page.html", "--quick", "--quiet"]) == 1
    assert "error: fails: the machine burns" in capsys.readouterr().err
    words = Page(Path("page.html").read_text()).words
    assert "fails: the machine burns" in words and "no result" in words and "✓ agrees" in words


def _failing(name: str) -> Any:
    from driftspec.errors import RunFailed
    from driftspec.runs.stages import carry_out

    def maybe(run: Any, *others: Any) -> None:
        if run.spec.name == name:
            raise RunFailed("the machine burns")
        carry_out(run, *others)

    return maybe


def test_a_strangers_run_is_text_on_the_page() -> None:
    nasty = "</pre><script>alert(1)</script>'\""
    statement = Statement(statement=nasty, equation=nasty, text=nasty, metric="m", picture=nasty)
    metrics = {"m": {"value": 1.0, "stderr": None, "unit": nasty}}
    info = {"machine": nasty, "git": {"commit": nasty, "dirty": True}, "cpu_seconds": nasty}
    text = gallery(nasty, [Exhibit(nasty, nasty, [statement], metrics, {nasty: b""}, info, nasty)], ("driftspec",))
    plain = gallery(nasty, [Exhibit(nasty, nasty, (), {nasty: metrics["m"]}, {nasty: b""}, info)], ("driftspec",))
    for page in (text, plain):
        assert "<script" not in page and "alert(1)" in page


def copied(folder: Path, to: Path, **changes: Any) -> Path:
    """A copy of the good run, with other entries in run.json."""
    shutil.copytree(next((folder / "runs" / "good").iterdir()), to)
    info = json.loads((to / "run.json").read_text()) | changes
    (to / "run.json").write_text(json.dumps(info))
    return to


@pytest.mark.parametrize("status", ["failed", "running", "interrupted"])
def test_the_numbers_of_a_run_that_is_not_finished_are_not_judged(
    status: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = copied(folder, tmp_path / "run", status=status)
    assert main(["report", str(run), str(next((folder / "runs" / "good").iterdir())), "-o", "page.html"]) == 1
    assert "1 of 1 numbers are as expected" in capsys.readouterr().out
    words = Page(Path("page.html").read_text()).words
    assert "1 of 1 numbers are as expected; without a result: good" in words and words.count("✓ agrees") == 2


def test_two_runs_of_one_name_have_their_own_specs_and_one_given_twice_is_shown_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copied(folder, tmp_path / "a"), copied(folder, tmp_path / "b")
    assert main(["report", "a", "b", "./a", "-o", "page.html"]) == 0
    found = Page(Path("page.html").read_text())
    assert len(found.sources) == 2 and len(set(found.anchors)) == len(found.anchors)
    assert [link for link in found.links if link.startswith("#spec")] == ["#spec-1"] * 2 + ["#spec-2"] * 2


def test_what_a_stranger_put_into_a_run_stays_out_of_the_page(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("name: secret\n")
    run = copied(folder, tmp_path / "run")
    (run / "spec.yaml").unlink()
    (run / "spec.yaml").symlink_to(tmp_path / "secret")
    assert main(["report", "run", "-o", "page.html"]) == 1
    assert "spec.yaml is a link that leads out of the run, and is not followed" in capsys.readouterr().err
    (run / "spec.yaml").unlink()
    parts = (b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0), b"IDAT" + zlib.compress(bytes(9)))
    chunks = (struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in parts)
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    for content in (b"#!/bin/sh", bomb):
        (run / "plots" / "density.png").write_bytes(content)
        assert main(["report", "run", "-o", "page.html"]) == 0
        assert "the picture 'density' is damaged" in Page(Path("page.html").read_text()).words
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["moments"]["details"]["moments"]["variance x1"] |= {"value": 9.0, "unit": "\x1b[31m\nerror: injected"}
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert main(["report", "run", "-o", "page.html"]) == 0
    assert "\x1b" not in (out := capsys.readouterr().out) and "\nerror" not in out and "differs" in out


@pytest.mark.parametrize("git", [{}, {"commit": 5, "dirty": False}, {"commit": "a"}])
def test_a_damaged_record_is_refused_before_a_spec_runs(
    git: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    copied(folder, tmp_path / "run", git=git)
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "a.yml").write_text(SPEC.format(name="a", expected=1))
    (tmp_path / "specs" / ".b.yaml").write_text("hidden")
    code = main(["report", "specs", "run", "--quiet", "--quick"])
    if not git:  # nothing is stated: the spec of the folder, and not the hidden one, has run
        assert code == 0 and len(list(tmp_path.glob("runs/a/*"))) == 1
    else:
        assert code == 1 and "is damaged (the value of 'git." in capsys.readouterr().err
        assert not (tmp_path / "runs").exists()


def test_a_damaged_run_is_refused_by_its_file(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(next((folder / "runs" / "good").iterdir()), run)
    (run / "resolved.yaml").write_text("shows: [{statement: 1}]\n")
    with pytest.raises(Exception, match=r"resolved.yaml is damaged \('shows' is no list of statements\)"):
        exhibit(run)
    (run / "metrics.json").write_text("[]")
    with pytest.raises(Exception, match=r"metrics.json is damaged"):
        exhibit(run)


def test_an_equation_is_found_in_the_docstring_that_opens_a_file() -> None:
    listing = Listing(
        "a.py", '# a\n\n"""Flow.\n\n    dx/dt = f(x)\n      + g(x)\n"""\n\nx = "dy/dt = 0"\n"""a = b"""\n'
    )
    assert listing.line("dx/dt = f(x) + g(x)") == 5
    assert listing.line("f(x) +g(x)") == 5 and listing.line("g(x)") == 6
    assert listing.line("dy/dt = 0") is None and listing.line("a = b") is None
    assert Listing("b.py", "x = 1\n").line("x") is None and listing.line("x/dt") is None, "whole words alone"
    found = opening_with("tr(A) = E[vᵀ A v], E[v vᵀ] = I", ("driftspec_plugins", "driftspec"))
    assert found is not None and found[0].name == "driftspec_plugins/estimators/hutchinson.py"
    assert opening_with("no such equation", ("driftspec", "no_such_package")) is None


def test_a_statement_without_a_number_differs_if_one_is_expected() -> None:
    one, other = (Statement(statement="a", metric="m", **keys) for keys in ({"expect": 1.0}, {}))
    found = rows([Exhibit("a", "", [one, other], {"m": {"value": None, "stderr": None, "unit": ""}})])
    assert [(row.agrees, row.shown) for row in found] == [(False, "'m' is no number"), (None, "'m' is no number")]
