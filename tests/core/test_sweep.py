"""A sweep: its points, what is wrong with them, and what the verbs say of it. Its runs are in test_sweeps.py."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import small_spec

import driftspec
from driftspec import source, spec
from driftspec.cli import main
from driftspec.errors import PluginError, SpecError, UsageError
from driftspec.registry import Registry
from driftspec.spec import fits
from driftspec.spec.points import POINTS

SIX = "{grid: {train.optimizer.lr: [1e-3, 1e-2], seed: [0, 1, 2]}}"
PROCESS = "import sys; from driftspec.cli import main; sys.exit(main())"


def swept(sweep: str, text: str = small_spec.TEXT) -> str:
    """A text with a sweep on its first line after the version: every other line moves down by one."""
    return text.replace("version: 1\n", f"version: 1\nsweep: {sweep}\n")


def load(sweep: str, registry: Registry, text: str = small_spec.TEXT, sets: Sequence[str] = ()) -> spec.Loaded:
    document = spec.Changes(sets).apply(source.parse(swept(sweep, text), "a.yaml"))
    return spec.loaded(document, registry, b"", Path())


# The points ---------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_the_last_key_first(registry: Registry) -> None:
    points = load(SIX, registry).points
    pairs = list(itertools.product([1e-3, 1e-2], [0, 1, 2]))
    assert [tuple(point.values.values()) for point in points] == pairs
    assert [(point.spec.train.optimizer.lr, point.spec.seed) for point in points] == pairs  # type: ignore[union-attr,attr-defined]
    assert list(points[0].values) == ["train.optimizer.lr", "seed"]


def test_a_list_is_its_points_and_with_a_grid_each_with_each(registry: Registry) -> None:
    listed = "[{train.steps: 10, seed: 1}, {train.steps: 20}, {}]"
    points = load(f"{{list: {listed}}}", registry).points
    assert [dict(point.values) for point in points] == [{"train.steps": 10, "seed": 1}, {"train.steps": 20}, {}]
    assert [(point.spec.train.steps, point.spec.seed) for point in points] == [(10, 1), (20, 0), (100, 0)]  # type: ignore[union-attr]
    both = load(f"{{grid: {{train.batch_size: [8, 16]}}, list: {listed}}}", registry).points
    assert [(p.spec.train.steps, p.spec.train.batch_size) for p in both] == [  # type: ignore[union-attr]
        (10, 8), (10, 16), (20, 8), (20, 16), (100, 8), (100, 16),
    ]  # fmt: skip


def test_a_point_is_the_spec_that_set_makes_and_has_no_sweep(registry: Registry) -> None:
    sets = ["estimator=exact_trace", "evaluate=[{type: nll, points: 7}]", "train.schedule.warmup=3", "data.noise=1e-1"]
    (point,) = load(f"{{list: [{{{', '.join(sets).replace('=', ': ')}}}]}}", registry).points
    assert point.spec.resolved() == small_spec.loaded(small_spec.TEXT, *sets).spec.resolved()
    assert "sweep" not in point.spec.resolved() and "sweep" not in point.document.data
    assert spec.validate(point.document, registry) == point.spec


def test_a_sweep_may_give_what_the_spec_lacks(registry: Registry) -> None:
    text = small_spec.edited(("  steps: 100\n", ""))
    assert len(load("{grid: {train.steps: [10, 20]}}", registry, text).points) == 2
    assert small_spec.said(swept("{grid: {seed: [0, 1]}}", text)) == [
        "a.yaml:9:1: error[S110] missing key 'steps' in train"
    ]


def test_what_a_spec_lacks_is_not_said_of_a_sweep_that_is_wrong_itself() -> None:
    text = small_spec.edited(("  steps: 100\n", ""))
    assert small_spec.said(swept("{grid: {train.steps: []}}", text)) == [
        "a.yaml:2:29: error[S113] 'train.steps' in sweep.grid is a list of 0: it takes 1 or more"
    ]


def test_whole_sections_then_keys_inside_them(registry: Registry) -> None:
    sweep = "{grid: {train.optimizer: [sgd, {type: adam, eps: 1e-7}], train.optimizer.lr: [1e-3, 1e-2]}}"
    optimizers = [point.spec.train.optimizer.body() for point in load(sweep, registry).points]  # type: ignore[union-attr]
    assert [(body["type"], body["lr"]) for body in optimizers] == [
        ("sgd", 1e-3), ("sgd", 1e-2), ("adam", 1e-3), ("adam", 1e-2),
    ]  # fmt: skip


def test_without_a_sweep_there_are_no_points(registry: Registry) -> None:
    assert load("null", registry).points == ()
    assert load(SIX, registry, sets=["sweep=null"]).points == ()


def test_the_command_line_changes_a_sweep(registry: Registry) -> None:
    assert len(load(SIX, registry, sets=["sweep.grid.seed=[5]", "train.steps=7"]).points) == 2


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("3", {"3": "error[S112] 'sweep' should be a mapping, not 3"}),
        ("{}", {"{}": "error[S115] 'sweep': it takes a 'grid', a 'list' or both"}),
        ("{gird: {seed: [1]}}", {"gird": "error[S111] unknown key 'gird' in sweep (did you mean 'grid'?)"}),
        ("{grid: 3}", {"3": "error[S112] 'grid' in sweep should be a mapping, not 3"}),
        ("{grid: {seed: 3}}", {"3": "error[S112] 'seed' in sweep.grid should be a list, not 3: write [3]"}),
        ("{grid: {seed: []}}", {"[]": "error[S113] 'seed' in sweep.grid is a list of 0: it takes 1 or more"}),
        ("{list: []}", {"[]": "error[S113] 'list' in sweep is a list of 0: it takes 1 or more"}),
        ("{list: [3]}", {"3": "error[S112] 'list.0' in sweep should be a mapping, not 3"}),
        # at a point: at the value in the sweep, or at its key there
        ("{grid: {train.steps: [1, 0, x]}}", {
            "0, x": "error[S113] 'steps' in train is 0: it must be at least 1",
            "x]": "error[S112] 'steps' in train should be a whole number, not 'x'",
        }),
        ("{list: [{train.stpes: 3}, {seed: -1}]}", {
            "train.stpes": "error[S111] unknown key 'stpes' in train (did you mean 'steps'?)",
            "-1": "error[S113] 'seed' is -1: it must be at least 0",
        }),
        ("{grid: {train.steps.x: [1], a..b: [1]}}", {
            "train.steps.x": "error[Y014] 'train.steps' is 100: there is no 'x' in it",
            "a..b": "error[Y014] 'a..b' has an empty part: write a.b or a.1.b",
        }),
        ("{grid: {estimator: [hutchinsn]}}", {
            "hutchinsn": "error[S120] unknown estimator 'hutchinsn' (did you mean 'hutchinson'?)",
        }),
        ("{grid: {train.batch_size: [64, 4000]}}", {
            "4000": "error[X303] 'batch_size' in train is 4000: it must be at most the number of training rows, 400",
        }),
        # of the sweep as a whole
        ("{grid: {seed: [1, 2, 1, +1]}}", {
            "1, +1": "error[S130] points 1 and 3 of the sweep are the same run: leave one out",
            "+1": "error[S130] points 1 and 4 of the sweep are the same run: leave one out",
        }),
        ("{grid: {seed: [1, +1], train.steps: [5, 6]}}", {"+1": "error[S130] points 1 and 3 of the sweep"}),
        ("{grid: {train.steps: [5, 6], seed: [1, +1]}}", {"+1": "error[S130] points 1 and 2 of the sweep"}),
        ("{list: [{seed: 0}, {train.steps: 100}]}", {"100": "error[S130] points 1 and 2 of the sweep"}),
        ("{list: [{}, {}]}", {"{list": "error[S130] points 1 and 2 of the sweep are the same run"}),
        ("{list: [{seed: 1}], grid: {seed: [2]}}", {
            "seed: [2]": "error[S130] 'seed' replaces 'seed', given before it (a.yaml:2:17): leave one out",
        }),
        ("{grid: {train.steps: [1], train: [{steps: 2}]}}", {"train: [": "error[S130] 'train' replaces 'train.steps'"}),
        ("{grid: {version: [1], sweep.grid: [1], extends: [a]}}", {
            "version": "error[S130] 'version' cannot be swept: it is the same at every point",
            "sweep.grid": "error[S130] 'sweep.grid' cannot be swept",
            "extends": "error[S130] 'extends' cannot be swept",
        }),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_sweep(sweep: str, said: dict[str, str], registry: Registry) -> None:
    """Each mistake once, at the text that is wrong."""
    with pytest.raises((SpecError, PluginError)) as raised:
        loaded = load(sweep, registry)
        if found := fits.check(loaded):
            raise SpecError(found)
    line = f"sweep: {sweep}"
    assert len(raised.value.problems) == len(said)
    for problem, (at, message) in zip(raised.value.problems, said.items(), strict=True):
        assert problem.place is not None and problem.source == line and problem.place.line == 2
        assert line[problem.place.column - 1 :].startswith(at)
        assert str(problem).partition(": ")[2].startswith(message)


def test_a_mistake_of_the_spec_is_said_once_and_beside_those_of_the_sweep(registry: Registry) -> None:
    text = small_spec.edited(("noise: 0.05", "nois: 0.05"))
    for sweep, more in ((SIX, 0), ("{grid: {seed: [-1, -2]}}", 2), ("{gird: 3}", 1), ("{grid: {version: [1]}}", 1)):
        with pytest.raises(SpecError) as raised:
            load(sweep, registry, text)
        assert len(raised.value.problems) == 1 + more
        assert str(raised.value.problems[-1]).startswith("a.yaml:4:35: error[S111] unknown key 'nois'")


@pytest.mark.parametrize("change", ["seed=3", "train.optimizer.lr=1e-3"])
def test_what_is_swept_cannot_be_set(change: str, registry: Registry) -> None:
    with pytest.raises(SpecError) as raised:
        load(SIX, registry, sets=["data.noise=0.1", change])
    key = change.partition("=")[0]
    assert str(raised.value).startswith(f"--set[2]: error[S130] '{key}' is swept (a.yaml:2:")
    assert str(raised.value).endswith(f"): set sweep.grid.{key} instead")


def test_a_sweep_has_a_thousand_points_at_most(registry: Registry) -> None:
    half = f"[{', '.join(map(str, range(POINTS // 2)))}]"
    assert POINTS == 1000
    with pytest.raises(SpecError, match=r"a.yaml:2:1: error\[S130\] the sweep has 1,500 points: at most 1,000"):
        load(f"{{grid: {{seed: {half}, train.steps: [1, 2, 3]}}}}", registry)
    many = ", ".join(f"k{i}: {half}" for i in range(9))  # far too many to be counted one by one
    with pytest.raises(SpecError, match=r"at most 1,000"):
        load(f"{{grid: {{{many}}}}}", registry)


@pytest.mark.slow
def test_a_thousand_points_are_checked_in_seconds(registry: Registry) -> None:
    started = time.process_time()
    seeds = ", ".join(map(str, range(POINTS)))
    loaded = load(f"{{grid: {{seed: [{seeds}]}}}}", registry)
    assert fits.check(loaded) == [] and len(loaded.points) == POINTS
    assert time.process_time() - started < 10


def test_a_plugins_mistake_at_every_point_is_a_plugin_problem(registry: Registry) -> None:
    broken = Registry(registry.providers, [driftspec.errors.Problem("P201", "plugin 'x' failed", severity="warning")])
    with pytest.raises(PluginError):
        load("{grid: {estimator: [nobodys]}}", broken)
    with pytest.raises(SpecError):
        load("{grid: {estimator: [nobodys], seed: [-1]}}", broken)


# What the other verbs say of it -------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    monkeypatch.chdir(tmp_path)

    def make(sweep: str, text: str = small_spec.TEXT) -> str:
        Path("a.yaml").write_text(swept(sweep, text) if sweep else text)
        return "a.yaml"

    return make


Write = Callable[..., str]


def test_validate_checks_every_point_without_torch(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", write(SIX)]) == 0
    code = f"{PROCESS.replace('sys.exit(main())', 'main()')}; print('torch' in sys.modules)"
    for words in (["validate", "a.yaml"], ["plan", "a.yaml"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("\nFalse\n") and done.stderr == ""
    capsys.readouterr()
    assert main(["validate", write("{grid: {train.batch_size: [64, 4000]}}")]) == 3
    assert capsys.readouterr().err.startswith("a.yaml:2:39: error[X303]")


def test_plan_shows_the_points(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", write("{list: [{seed: 1}, {estimator: {type: hutchinson, probes: 2}}]}")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a: a sweep of 2 points" and re.fullmatch(
        r"  into  runs/a/sweep-<UTC time>-[0-9a-f]{8}", lines[1]
    )
    assert [line.split(None, 1) for line in lines[2:]] == [
        ["point", "seed  estimator"],
        ["001", "1"],
        ["002", '{"type": "hutchinson", "probes": 2}'],
    ]
    assert main(["plan", "a.yaml", "--format", "json", "--out", "there"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["directory"] == "there"
    assert plan["points"] == [{"seed": 1}, {"estimator": {"type": "hutchinson", "probes": 2}}]
    assert main(["plan", "a.yaml", "--unset", "sweep"]) == 0
    assert capsys.readouterr().out.startswith("a: train -> evaluate -> sample\n")


def test_a_sweep_is_not_a_run_and_a_run_is_no_sweep(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([write(SIX)]) == 2
    assert capsys.readouterr() == ("", "error: 'a.yaml' is a sweep of 6 points: run-spec sweep a.yaml\n")
    with pytest.raises(UsageError, match="run-spec sweep"):
        driftspec.run("a.yaml")
    with pytest.raises(UsageError, match="is a sweep"):
        driftspec.run({"version": 1, **source.parse(swept(SIX), "a").data})
    assert main(["sweep", write("")]) == 2
    assert capsys.readouterr().err == "error: 'a.yaml' has no section 'sweep': run it with run-spec a.yaml\n"
    assert [path.name for path in Path().iterdir()] == ["a.yaml"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["sweep"], 2, "error: the following arguments are required: SPEC"),
        (["sweep", "a.yaml", "--jobs", "0"], 2, "error: argument --jobs: '0' is not a whole number from 1 to 999"),
        (["sweep", "a.yaml", "--jobs", "x"], 2, "error: argument --jobs: 'x' is not a whole number"),
        (["sweep", "a.yaml", "--stage", "sample"], 2, "error: a new run of this spec begins with train"),
        (["sweep", "a.yaml", "--out", "."], 2, "error: '.' is not empty"),
        (["sweep", "a.yaml", "--seed", "1"], 3, "--seed: error[S130] 'seed' is swept"),
        (["sweep", "a.yaml", "--set", "train.steps=0"], 3, "--set[1]: error[S113] 'steps' in train is 0"),
        (["sweep", "b.yaml"], 3, "b.yaml: error[Y001] cannot be read: no such file (did you mean 'a.yaml'?)"),
        (["resume", "nowhere"], 2, "error: 'nowhere' is not a run: there is no such directory"),
        (["resume", "nowhere", "--jobs", "2"], 2, "error: 'nowhere' is not a sweep: --jobs is only for sweeps"),
    ],
)
def test_a_wrong_command_writes_nothing(
    words: list[str], code: int, message: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write(SIX)
    assert main(words) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(message) and err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["a.yaml"]
