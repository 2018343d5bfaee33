"""A run directory survives a kill at any instant, and belongs to one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from driftspec.errors import DriftspecError, RunFailed, UsageError
from driftspec.runs.run_dir import RunDir

NOW = datetime(2026, 11, 22, 9, 52, tzinfo=UTC)
DIGEST = "0123456789abcdef" * 4


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir.create(tmp_path / "run", "moons", DIGEST, NOW)
    made.write_json("run.json", {"status": "running"})
    return made


def files(run: RunDir) -> set[str]:
    return {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}


# The directory ---------------------------------------------------------------------------------------------------


def test_a_run_gets_a_directory_of_its_own(tmp_path: Path) -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=9)))
    paths = [RunDir.create(None, "moons", DIGEST, now, root=tmp_path / "runs").path for now in (NOW, elsewhere, NOW)]
    stem = tmp_path / "runs" / "moons" / "20261122T095200Z-01234567"
    assert paths == [stem, Path(f"{stem}-2"), Path(f"{stem}-3")]
    assert all(path.is_dir() for path in paths)


def test_out_is_taken_exactly_when_new_or_empty(tmp_path: Path) -> None:
    new, empty = tmp_path / "a" / "b", tmp_path / "empty"
    empty.mkdir()
    for out in (new, empty):
        assert RunDir.create(out, "moons", DIGEST, NOW).path == out
        with pytest.raises(UsageError, match="not empty"):  # its first user may not have written a file yet
            RunDir.create(out, "moons", DIGEST, NOW)


def test_out_that_is_taken_is_refused_and_left_alone(tmp_path: Path) -> None:
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "thesis.tex").write_text("x")
    file.write_text("x")
    with pytest.raises(UsageError, match="full' is not empty"):
        RunDir.create(full, "moons", DIGEST, NOW)
    with pytest.raises(UsageError, match="file' is a file"):
        RunDir.create(file, "moons", DIGEST, NOW)
    with pytest.raises(UsageError, match="cannot create"):
        RunDir.create(file / "below", "moons", DIGEST, NOW)
    assert [path.name for path in full.iterdir()] == ["thesis.tex"]
    assert file.read_text() == "x"


def test_two_runs_that_both_found_out_empty_do_not_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunDir.create(tmp_path / "out", "moons", DIGEST, NOW)
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(()))
    with pytest.raises(UsageError, match="used by another run"):
        RunDir.create(tmp_path / "out", "moons", DIGEST, NOW)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp", "../x"])
def test_a_name_is_one_directory(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name"):
        RunDir.create(None, name, DIGEST, NOW, root=tmp_path)


def test_open_finds_a_run_and_helps_when_there_is_none(tmp_path: Path) -> None:
    made = RunDir.create(None, "moons", DIGEST, NOW, root=tmp_path)
    with pytest.raises(UsageError, match=r"has no run\.json"):
        RunDir.open(made.path)
    made.write_json("run.json", {})
    assert RunDir.open(str(made.path)) == made
    with pytest.raises(UsageError, match=r"no such directory.*did you mean 'moons'"):
        RunDir.open(tmp_path / "mons")
    with pytest.raises(UsageError, match=f"newest run below it is '{made.path}'"):
        RunDir.open(tmp_path / "moons")
    for impossible in (made.path / "run.json", tmp_path / ("x" * 300), tmp_path / "nul\0"):
        with pytest.raises(UsageError):
            RunDir.open(impossible)


# Files -----------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(run: RunDir) -> None:
    run.write_text("resolved.yaml", "name: é\n")
    run.write_bytes("plots/loss.png", b"\x89PNG")
    value = {"z": [1, 2.5, None, True], "a": {"text": "± \udcff"}}
    run.write_json("metrics.json", value)
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    run.write_array("samples.npy", array.T)
    assert run.read_bytes("resolved.yaml") == "name: é\n".encode()
    assert run.read_bytes("plots/loss.png") == b"\x89PNG"
    assert run.read_json("metrics.json") == value
    assert list(run.read_json("metrics.json")) == ["z", "a"]
    assert "±".encode() in run.read_bytes("metrics.json")
    assert run.read_array("samples.npy").dtype == np.float32
    np.testing.assert_array_equal(run.read_array("samples.npy"), array.T)
    assert files(run) == {".lock", "run.json", "resolved.yaml", "plots/loss.png", "metrics.json", "samples.npy"}


def test_equal_arrays_are_equal_files_with_the_digest_of_their_bytes(run: RunDir) -> None:
    array = np.arange(6.0).reshape(2, 3)
    run.write_array("a.npy", array)
    run.write_array("b.npy", np.asfortranarray(array))
    run.write_array("scalar.npy", np.float32(3) * np.ones(()))
    run.write_bytes("abc", b"abc")
    assert run.digest("a.npy") == run.digest("b.npy") != run.digest("scalar.npy")
    assert run.read_array("scalar.npy").shape == ()
    assert run.digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"nll": {"value": float("nan")}}, r"nll\.value is nan"),
        ({"nll": {"path": [0.0, float("-inf")]}}, r"nll\.path\[1\] is -inf"),
        ({"nll": np.float64("inf")}, "nll is inf"),
        ({"nll": np.int64(3)}, "nll is a int64"),
        ({"nll": {1: 2}}, "nll has the key 1"),
        ({"nll": Path("x")}, "nll is a .*Path"),
    ],
)
def test_json_is_strict_and_names_the_key(run: RunDir, value: Any, message: str) -> None:
    with pytest.raises(DriftspecError, match=rf"metrics\.json.*{message}"):
        run.write_json("metrics.json", value)
    assert files(run) == {".lock", "run.json"}


def test_objects_are_not_pickled_into_arrays(run: RunDir) -> None:
    with pytest.raises(DriftspecError, match="objects"):
        run.write_array("x.npy", np.array([{}], dtype=object))


@pytest.mark.parametrize("content", [b'{"status": "runn', b"", b"\xff\xfe\x00", b'{"a": NaN}', b"[" * 10_000])
def test_a_damaged_file_is_named(run: RunDir, content: bytes) -> None:
    (run.path / "run.json").write_bytes(content)
    with pytest.raises(RunFailed, match=r"run\.json is damaged .*run the spec again"):
        run.read_json("run.json")


def test_a_damaged_or_missing_array_is_named(run: RunDir) -> None:
    run.write_array("samples.npy", np.zeros(100))
    os.truncate(run.path / "samples.npy", 300)
    with pytest.raises(RunFailed, match=r"samples\.npy is damaged"):
        run.read_array("samples.npy")
    with pytest.raises(RunFailed, match=r"other\.npy cannot be read: No such file"):
        run.read_array("other.npy")


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "plots/../../x", "", "."])
def test_no_name_leads_out_of_the_directory(run: RunDir, name: str) -> None:
    with pytest.raises(DriftspecError, match="not the name of a file"):
        run.write_text(name, "x")


def crash(*_: object) -> None:
    raise KeyboardInterrupt


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("function", ["replace", "fsync"])
@pytest.mark.parametrize(
    ("fails", "error", "message"), [(crash, KeyboardInterrupt, None), (full, RunFailed, "cannot be written: No space")]
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    run: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    fails: Any,
    error: type[BaseException],
    message: str | None,
) -> None:
    run.write_text("report.html", "old")
    monkeypatch.setattr(os, function, fails)
    with pytest.raises(error, match=message):
        run.write_text("report.html", "new")
    assert run.read_bytes("report.html") == b"old"
    assert files(run) == {".lock", "run.json", "report.html"}


def test_a_file_is_flushed_before_it_gets_its_name(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    run.write_text("report.html", "x")
    assert calls[:2] == ["fsync", "replace"]


# Records ---------------------------------------------------------------------------------------------------------


def test_records_are_appended_and_cut_back_to_a_step(run: RunDir) -> None:
    assert run.records() == []
    run.cut_records(5)
    assert "train.jsonl" not in files(run)
    given = [{"step": step, "loss": 0.1 * step, "lr": 1e-3} for step in (0, 5, 10, 15)]
    for record in given:
        run.append_record(record)
    assert run.records() == given
    lines = run.read_bytes("train.jsonl").splitlines(keepends=True)
    run.cut_records(10)
    assert run.read_bytes("train.jsonl") == b"".join(lines[:3])
    run.append_record({"step": 11})
    assert [record["step"] for record in run.records()] == [0, 5, 10, 11]


@pytest.mark.parametrize("torn", [b'{"step": 9, "lo', b'{"step": 9}\xff', b"\0" * 40, b"7"])
def test_a_torn_last_line_is_dropped(run: RunDir, torn: bytes) -> None:
    run.append_record({"step": 1})
    whole = run.read_bytes("train.jsonl")
    (run.path / "train.jsonl").write_bytes(whole + torn)
    assert run.records() == [{"step": 1}]
    run.cut_records(100)
    assert run.read_bytes("train.jsonl") == whole


def test_a_whole_last_line_that_lost_only_its_end_of_line_is_kept(run: RunDir) -> None:
    (run.path / "train.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}')
    run.cut_records(2)
    assert run.read_bytes("train.jsonl") == b'{"step": 1}\n{"step": 2}\n'


def test_a_damaged_line_in_the_middle_is_named(run: RunDir) -> None:
    (run.path / "train.jsonl").write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(RunFailed, match=r"train\.jsonl:2: not a record"):
        run.records()


@pytest.mark.parametrize("record", [{"loss": 1.0}, {"step": 1.0}, {"step": 1, "loss": float("nan")}])
def test_a_record_has_a_step_and_finite_numbers(run: RunDir, record: dict[str, Any]) -> None:
    with pytest.raises(DriftspecError, match=r"train\.jsonl"):
        run.append_record(record)
    assert run.records() == []


# Checkpoints -----------------------------------------------------------------------------------------------------


def tree(step: int) -> dict[str, Any]:
    return {"weights": {"w": torch.full((64,), float(step))}, "step": step, "betas": (0.9, 0.99)}


def test_the_newest_checkpoint_or_the_one_asked_for(run: RunDir) -> None:
    assert run.checkpoints() == []
    for step in (100, 200, 123456789):
        run.save_checkpoint(step, tree(step))
    assert run.checkpoints() == [100, 200, 123456789]
    step, loaded = run.load_checkpoint()
    assert (step, loaded["step"], loaded["betas"]) == (123456789, 123456789, (0.9, 0.99))
    step, loaded = run.load_checkpoint(200)
    assert step == 200
    assert loaded["weights"]["w"].tolist() == [200.0] * 64
    assert run.skipped == []
    assert "checkpoints/step-00000200.safetensors" in files(run)
    with pytest.raises(RunFailed, match=r"no checkpoint of step 150; there are \[100, 200, 123456789\]"):
        run.load_checkpoint(150)


def test_a_run_without_a_checkpoint_says_so(run: RunDir) -> None:
    with pytest.raises(RunFailed, match="none was written"):
        run.load_checkpoint()


@pytest.mark.parametrize("writes", [0, 1])
def test_a_kill_between_the_writes_leaves_the_checkpoint_before(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    run.save_checkpoint(100, tree(100))
    replace, done = os.replace, []

    def dies(a: str, b: str) -> None:
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(replace(a, b))

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        run.save_checkpoint(200, tree(200))
    monkeypatch.undo()
    assert ("checkpoints/step-00000200.safetensors" in files(run)) == (writes == 1)
    assert run.checkpoints() == [100]
    assert run.load_checkpoint()[1]["step"] == 100
    run.save_checkpoint(200, tree(200))
    assert run.load_checkpoint()[0] == 200


def test_a_process_killed_at_its_worst_leaves_the_checkpoint_before(run: RunDir) -> None:
    """A real SIGKILL between the two files: no handler runs, nothing is tidied up."""
    run.save_checkpoint(100, {"step": 100})
    script = """
import os, pathlib, signal, sys
from driftspec.runs import run_dir
replace = os.replace
os.replace = lambda a, b: os.kill(os.getpid(), signal.SIGKILL) if str(b).endswith(".json") else replace(a, b)
run_dir.RunDir.open(sys.argv[1]).save_checkpoint(200, {"step": 200})
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", script, str(run.path)], env=environment)
    assert killed.returncode == -signal.SIGKILL
    left = {name for name in files(run) if "00000200" in name}
    assert len(left) == 2, "the tensors, and the temporary file of the .json"
    assert run.load_checkpoint() == (100, {"step": 100})
    run.prune({100})
    assert files(run) == {
        *(".lock", "run.json"),
        *(f"checkpoints/step-00000100.{end}" for end in ("json", "safetensors")),
    }


def cut(run: RunDir, step: int, end: str) -> None:
    path = run.path / "checkpoints" / f"step-{step:08d}.{end}"
    os.truncate(path, path.stat().st_size - 7)


@pytest.mark.parametrize("end", ["safetensors", "json"])
def test_a_damaged_checkpoint_is_skipped_with_a_note_unless_it_was_asked_for(run: RunDir, end: str) -> None:
    for step in (100, 200, 300):
        run.save_checkpoint(step, tree(step))
    (run.path / "checkpoints" / "step-00000300.safetensors").unlink()
    cut(run, 200, end)
    step, loaded = run.load_checkpoint()
    assert (step, loaded["step"]) == (100, 100)
    assert ["step 300" in run.skipped[0], "step 200" in run.skipped[1]] == [True, True]
    assert len(run.skipped) == 2
    with pytest.raises(RunFailed, match="step 200 cannot be used") as caught:
        run.load_checkpoint(200)
    assert caught.value.step == 200
    assert run.load_checkpoint(100)[0] == 100
    assert run.skipped == []
    cut(run, 100, end)
    with pytest.raises(RunFailed, match=r"no checkpoint to go on from .*step 300.*step 200.*step 100"):
        run.load_checkpoint()


@pytest.mark.parametrize(
    ("note", "why"),
    [
        ("[]", "it needs the keys 'format', 'sha256' and 'tree'"),
        ('{"format": 1}', "it needs the keys 'format', 'sha256' and 'tree'"),
        ("{", "it is not JSON"),
        (None, "the value of 'tree' is not what a run writes"),
    ],
)
def test_a_damaged_note_of_a_checkpoint_is_reported_in_plain_words(run: RunDir, note: str | None, why: str) -> None:
    run.save_checkpoint(100, tree(100))
    file = run.path / "checkpoints" / "step-00000100.json"
    file.write_text(note or json.dumps({**json.loads(file.read_bytes()), "tree": {"$tensor": ["no name"]}}))
    with pytest.raises(RunFailed) as caught:
        run.load_checkpoint()
    assert str(caught.value) == (
        f"{run.path}: no checkpoint to go on from "
        f"(the checkpoint of step 100 cannot be used: its JSON file is damaged ({why}))"
    )


def test_prune_deletes_the_json_first(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (100, 200, 300):
        run.save_checkpoint(step, tree(step))
    unlink, deleted = Path.unlink, []
    monkeypatch.setattr(
        Path, "unlink", lambda path, missing_ok=False: (deleted.append(path.name), unlink(path, missing_ok))[1]
    )
    run.prune({100, 300, 999})
    assert deleted == ["step-00000200.json", "step-00000200.safetensors"]
    assert run.checkpoints() == [100, 300]
    assert run.load_checkpoint(100)[0] == 100


def test_a_resumed_run_is_the_run_that_was_never_stopped(tmp_path: Path) -> None:
    def start() -> tuple[torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        adam = torch.optim.Adam(model.parameters(), lr=1e-2)
        parts = [
            torch.optim.lr_scheduler.LinearLR(adam, 0.1, total_iters=12),
            torch.optim.lr_scheduler.CosineAnnealingLR(adam, 8),
        ]
        return model, adam, torch.optim.lr_scheduler.SequentialLR(adam, parts, [12])

    def train(run: RunDir, parts: Any, steps: range) -> None:
        model, adam, schedule = parts
        for step in steps:
            x = torch.randn(16, 2, generator=torch.Generator().manual_seed(step))
            loss = (model(x) - x.prod(1, keepdim=True)).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
            run.append_record({"step": step + 1, "loss": loss.item(), "lr": schedule.get_last_lr()[0]})
            if (step + 1) % 10 == 0:
                run.save_checkpoint(step + 1, [part.state_dict() for part in parts])

    straight, stopped = (RunDir.create(tmp_path / name, name, DIGEST, NOW) for name in ("straight", "stopped"))
    train(straight, start(), range(20))
    train(stopped, start(), range(13))  # killed three steps after its checkpoint
    parts = start()
    step, states = stopped.load_checkpoint()
    for part, state in zip(parts, states, strict=True):
        part.load_state_dict(state)
    stopped.cut_records(step)
    train(stopped, parts, range(step, 20))
    assert files(straight) == files(stopped) != set()
    for name in files(straight) - {".lock"}:
        assert straight.read_bytes(name) == stopped.read_bytes(name), name
    assert straight.digest("checkpoints/step-00000010.safetensors") != straight.digest(
        "checkpoints/step-00000020.safetensors"
    )


# The lock --------------------------------------------------------------------------------------------------------


def test_two_processes_do_not_work_on_one_run_and_a_killed_one_lets_go(run: RunDir) -> None:
    script = """
import sys
from driftspec.runs.run_dir import RunDir
with RunDir.open(sys.argv[1]).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(run.path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(UsageError, match=f"process {holder.pid} is working on this run"), run.lock():
            pass
        holder.kill()
    with run.lock():
        assert run.read_bytes(".lock") == f"{os.getpid()}\n".encode()


def test_the_lock_is_released_when_its_block_ends_however_it_ends(run: RunDir) -> None:
    with pytest.raises(ZeroDivisionError), run.lock():
        with pytest.raises(UsageError, match=f"process {os.getpid()}"), RunDir.open(run.path).lock():
            pass
        raise ZeroDivisionError
    with run.lock():
        pass


def test_a_lock_that_cannot_be_taken_is_a_message(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"\.lock cannot be locked: No such file"), RunDir(tmp_path / "gone").lock():
        pass


def test_importing_the_module_does_not_import_torch() -> None:
    script = "import sys, driftspec.runs.run_dir; print(json.dumps(sorted(sys.modules)))".replace(
        "sys,", "sys, json,", 1
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True).stdout
    assert {"torch", "numpy", "safetensors"}.isdisjoint(json.loads(out))
