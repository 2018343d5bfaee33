"""Who is told how a run goes: in what order, of what, and that no observer changes, stops or outlives a run."""

from __future__ import annotations

import dataclasses
import json
import operator
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny

from driftspec.cli import main
from driftspec.components.observer import Observer, Record, RunInfo
from driftspec.errors import Interrupted, RunFailed
from driftspec.registry import HOOKS, Plugin, Registry, hookimpl, installed
from driftspec.runs.lifecycle import again, resume, start
from driftspec.runs.session import RunUnderWay
from driftspec.spec import Changes

EVENTS = [name for name in HOOKS if name != "driftspec_components"]
FEW = ("train.steps=6", "train.checkpoint_every=3", "train.log_every=2", "evaluate=[{type: nll, points: 20}]")
BARE = ("train.steps=6", "train.checkpoint_every=3", "evaluate=[]", "sample=null")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftspec.report.plots.draw", lambda *_: iter(()))


def registry_with(*plugins: tuple[str, dict[str, Callable[..., Any]]]) -> Registry:
    """The installed plugins, and others that implement hooks by these functions."""
    registry = Registry(dict(installed().providers), plugins=list(installed().plugins))
    for name, functions in plugins:
        module = ModuleType(name)
        for hook, function in functions.items():
            setattr(module, hook, hookimpl(specname=hook)(function))
        registry.add(module, name, f"{name.title()}_Dist", "1.2")
    return registry


class Note(Observer):
    """Keeps the trouble that others have."""

    def __init__(self) -> None:
        self.troubles: list[str] = []

    def trouble(self, problem: Any, error: BaseException) -> None:
        self.troubles.append(str(problem))


def listener(told: list[Any]) -> dict[str, Callable[..., Any]]:
    """Hooks that keep everything they are told."""

    def started(run: RunInfo) -> None:
        told.append(("started", run))

    def step(run: RunInfo, record: Record) -> None:
        told.append(("step", record))

    def checkpoint(run: RunInfo, step: int, path: Path) -> None:
        told.append(("checkpoint", step, path.exists() and path.with_suffix(".json").exists()))

    def metric(run: RunInfo, name: str, measured: Any) -> None:
        told.append(("metric", name, measured))

    def finished(run: RunInfo, status: str, error: str | None) -> None:
        told.append(("finished", status, error, json.loads((run.path / "run.json").read_bytes())["status"]))

    return dict(zip(EVENTS, (started, step, checkpoint, metric, finished)))


def made(folder: Path, registry: Registry, *sets: str, observer: Observer | None = None) -> RunUnderWay:
    return start(tiny.loaded(*sets, registry=registry), registry, out=folder / "run", observer=observer)


def info(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run" / "run.json").read_bytes())
    return found


def outcome(path: Path) -> dict[str, bytes]:
    """Every byte that is a result."""
    files = [*sorted((path / "checkpoints").glob("*")), path / "metrics.json", path / "samples.npy"]
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The results of a run that nobody watches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("driftspec.report.plots.draw", lambda *_: iter(()))
        return outcome(made(tmp_path_factory.mktemp("alone"), installed(), *FEW).path)


# What they are told ---------------------------------------------------------------------------------------------------


def test_a_plugin_of_hooks_alone_is_told_everything_in_order(tmp_path: Path, alone: dict[str, bytes]) -> None:
    told: list[Any] = []
    registry = registry_with(("ears", listener(told)))
    run = made(tmp_path, registry, *FEW)
    steps = [("step", n) for n in range(1, 7)]
    order = [(one[0], one[1].step if one[0] == "step" else one[1]) for one in told[1:]]
    expected = [
        *steps[:3],
        ("checkpoint", 3),
        *steps[3:],
        ("checkpoint", 6),
        ("metric", "nll"),
        ("finished", "finished"),
    ]
    assert told[0][0] == "started" and order == expected

    begun = told[0][1]
    assert (begun.name, begun.path, begun.steps, begun.step) == ("tiny", run.path, 6, 0)
    assert (begun.resumed, begun.parent, begun.stages) == (False, None, ("train", "evaluate", "sample"))
    assert begun.id == info(tmp_path)["id"] and begun.spec == run.spec.resolved()
    records = [one[1] for one in told if one[0] == "step"]
    logged = [json.loads(line) for line in (run.path / "train.jsonl").read_text().splitlines()]
    assert [record.line() for record in records if record.logged] == logged == begun.records()
    assert [record.step for record in records if record.logged] == [2, 4, 6] and records[-1].last
    assert all(one[2] for one in told if one[0] == "checkpoint")
    written = json.loads((run.path / "metrics.json").read_bytes())["nll"]
    (measured,) = (one[2] for one in told if one[0] == "metric")
    assert (measured.value, measured.stderr) == (written["value"], written["stderr"])
    assert told[-1] == ("finished", "finished", None, "finished")
    assert outcome(run.path) == alone
    assert info(tmp_path)["plugins"]["Ears_Dist"] == "1.2" and "failed_observers" not in info(tmp_path)


def test_a_hook_takes_the_arguments_it_names(tmp_path: Path) -> None:
    seen: list[Any] = []

    def step(record: Record) -> None:
        seen.append(record.step)

    def finished() -> None:
        seen.append("over")

    made(tmp_path, registry_with(("ears", {"driftspec_step": step, "driftspec_run_finished": finished})), *BARE)
    assert seen == [1, 2, 3, 4, 5, 6, "over"]


def test_nobody_is_called_who_does_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    call = Plugin.call

    def counted(self: Plugin, hook: str, **arguments: Any) -> list[Any]:
        calls.append(hook)
        return call(self, hook, **arguments)

    monkeypatch.setattr(Plugin, "call", counted)
    registry = registry_with(("ears", {"driftspec_checkpoint": lambda step: None}))
    calls.clear()
    made(tmp_path, registry, *BARE)
    assert calls == ["driftspec_run_started", "driftspec_checkpoint", "driftspec_checkpoint"]


def test_what_they_are_told_is_frozen_or_their_own(tmp_path: Path, alone: dict[str, bytes]) -> None:
    refused: list[str] = []

    def started(run: RunInfo) -> None:
        for change in (lambda: setattr(run, "name", "x"), lambda: operator.setitem(run.spec, "seed", 4)):
            with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
                change()
            refused.append("run")

    def step(record: Record) -> None:
        with pytest.raises(TypeError):
            record.terms["steps"] = 0  # type: ignore[index]
        with pytest.raises(dataclasses.FrozenInstanceError):
            record.loss = 0.0  # type: ignore[misc]
        refused.append("record")

    def metric(measured: Any) -> None:
        import torch

        measured.details.clear()
        torch.manual_seed(measured.n)
        refused.append("metric")

    hooks = {"driftspec_run_started": started, "driftspec_step": step, "driftspec_metric": metric}
    note = Note()
    run = made(tmp_path, registry_with(("ears", hooks)), *FEW, observer=note)
    assert note.troubles == [] and refused == ["run", "run", *["record"] * 6, "metric"]
    assert outcome(run.path) == alone


def test_how_a_run_ended_is_told(tmp_path: Path) -> None:
    told: list[Any] = []
    registry = registry_with(("ears", listener(told)))
    with pytest.raises(RunFailed):
        made(tmp_path / "a", registry, *BARE, "train.optimizer.lr=1e30")
    assert told[-1][:2] == ("finished", "failed") and told[-1][3] == "failed"
    assert told[-1][2] == info(tmp_path / "a")["error"]["message"]
    with pytest.raises(Interrupted):
        made(tmp_path / "b", registry, *BARE, observer=Signal(step=2))
    assert told[-1][:2] == ("finished", "interrupted") and "after step 2" in told[-1][2]


class Signal(Observer):
    """Sends a signal after a step."""

    def __init__(self, step: int):
        self.when = step

    def step(self, record: Record, steps: int) -> None:
        if record.step == self.when:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_resumed_run_and_one_measured_again_are_told_as_such(tmp_path: Path) -> None:
    told: list[Any] = []
    registry = registry_with(("ears", listener(told)))
    with pytest.raises(Interrupted):
        made(tmp_path, registry, *BARE, observer=Signal(step=4))
    first = told[0][1]
    told.clear()
    resume(tmp_path / "run", registry)
    second = told[0][1]
    assert (second.resumed, second.step, second.id) == (True, 4, first.id)
    assert [one[1].step for one in told if one[0] == "step"] == [5, 6]
    told.clear()
    again(tmp_path / "run", registry, Changes(["evaluate=[{type: nll, points: 20}]"]), ["evaluate"], out=tmp_path / "b")
    third = told[0][1]
    assert (third.resumed, third.step, third.parent) == (False, 6, str(tmp_path / "run")) and third.id != first.id
    assert [one[0] for one in told] == ["started", "metric", "finished"]


# Those that fail ------------------------------------------------------------------------------------------------------


class Weird(BaseException):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize("hook", EVENTS)
@pytest.mark.parametrize(
    ("error", "cause"),
    [(ValueError("boom\nat length"), "ValueError: boom"), (SystemExit(3), "SystemExit: 3"), (Weird(), "Weird")],
    ids=["plain", "exit", "weird"],
)
def test_an_observer_that_raises_is_told_no_more_and_the_run_goes_on(
    hook: str, error: BaseException, cause: str, tmp_path: Path, alone: dict[str, bytes]
) -> None:
    calls: list[str] = []

    def hooks(name: str) -> Callable[..., Any]:
        def run() -> None:
            calls.append(name)
            if name == hook:
                raise error

        return run

    others: list[Any] = []
    broken = {name: hooks(name) for name in EVENTS}
    note = Note()
    done = made(tmp_path, registry_with(("loud", broken), ("ears", listener(others))), *FEW, observer=note)
    assert calls.count(hook) == 1 and calls[-1] == hook
    places = {"step": " at step 1", "checkpoint": " at step 3", "metric": " at metric 'nll'"}
    what = hook + places.get(hook.removeprefix("driftspec_"), "")
    assert note.troubles == [
        f"warning[P207] plugin 'loud' (Loud_Dist 1.2): {what} failed: {cause}; the run continues without it"
    ]
    assert info(tmp_path)["status"] == "finished" and info(tmp_path)["failed_observers"] == [
        {"plugin": "loud", "distribution": "Loud_Dist", "version": "1.2", "hook": what, "error": cause}
    ]  # fmt: skip
    assert [one[0] for one in others].count("step") == 6 and others[-1][:2] == ("finished", "finished")
    assert outcome(done.path) == alone


def test_the_next_run_tells_it_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def step(record: Record) -> None:
        calls.append(record.step)
        raise ValueError

    registry, note = registry_with(("loud", {"driftspec_step": step})), Note()
    made(tmp_path / "a", registry, *BARE, observer=note)
    made(tmp_path / "b", registry, *BARE, observer=note)
    assert calls == [1, 1] and len(note.troubles) == 2


def test_without_a_command_trouble_is_a_warning(tmp_path: Path) -> None:
    def step() -> None:
        raise ValueError("boom")

    with pytest.warns(
        RuntimeWarning, match=r"plugin 'loud' \(Loud_Dist 1.2\): driftspec_step at step 1 failed"
    ) as caught:
        made(tmp_path, registry_with(("loud", {"driftspec_step": step})), *BARE)
    assert len(caught) == 1


# Interrupts -----------------------------------------------------------------------------------------------------------


def test_an_observer_can_be_interrupted(tmp_path: Path) -> None:
    def step() -> None:
        raise KeyboardInterrupt

    note = Note()
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, registry_with(("ears", {"driftspec_step": step})), *BARE, observer=note)
    assert info(tmp_path)["status"] == "interrupted" and note.troubles == []


@pytest.mark.parametrize("hook", EVENTS[:4])
def test_a_signal_while_an_observer_is_told_interrupts_the_run_and_spares_it(hook: str, tmp_path: Path) -> None:
    told: list[str] = []

    def tell() -> None:
        told.append("in")
        if len(told) == 1:
            try:
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(1000):  # where the signal would end it
                    pass
            except BaseException:  # as careless libraries do
                told.append("swallowed")
        told.append("out")

    note = Note()
    with pytest.raises(Interrupted, match="run-spec resume"):
        made(tmp_path, registry_with(("ears", {hook: tell})), *FEW, observer=note)
    assert told[:2] == ["in", "out"] and note.troubles == [] and info(tmp_path)["status"] == "interrupted"


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    told: list[str] = []

    def metric() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass
        told.append("out")

    with pytest.raises(Interrupted) as raised:
        made(tmp_path, registry_with(("ears", {"driftspec_metric": metric})), *FEW)
    assert told == [] and raised.value.exit_code == 143 and "failed_observers" not in info(tmp_path)


# On the command line --------------------------------------------------------------------------------------------------

CHATTY = """
from driftspec.registry import hookimpl

@hookimpl
def driftspec_step(record):
    print("step", record.step)
    if record.step == 3:
        raise ValueError("boom")
"""


@pytest.fixture
def chatty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    monkeypatch.chdir(tmp_path)
    Path("chatty.py").write_text(CHATTY)
    tiny.write(tmp_path)
    sets = [word for one in FEW for word in ("--set", one)]
    before = set(sys.modules)
    yield ["tiny.yaml", "--plugin", "chatty.py", "--quiet", *sets]
    for name in set(sys.modules) - before:
        if name.startswith("driftspec_file_"):
            del sys.modules[name]


def test_stdout_is_the_result_and_stderr_the_trouble(chatty: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*chatty, "--format", "json", "--out", "run"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["status"] == "finished"
    assert err.splitlines() == [
        "step 1", "step 2", "step 3",
        "warning[P207] plugin 'chatty.py': driftspec_step at step 3 failed: ValueError: boom; "
        "the run continues without it",
    ]  # fmt: skip
    assert len(json.loads(Path("run/run.json").read_bytes())["plugins"]["chatty.py"]) == 64


def test_the_traceback_is_there_for_who_asks(chatty: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*chatty, "-v"]) == 0
    err = capsys.readouterr().err
    assert "Traceback" in err and 'raise ValueError("boom")' in err and err.count("warning[P207]") == 1
