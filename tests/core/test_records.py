"""Records: run.json and a checkpoint go through one without a loss, and a damaged one is refused with its name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny

from driftspec.cli import main
from driftspec.errors import RunFailed
from driftspec.experiment.records import CheckpointRecord
from driftspec.experiment.train import Training
from driftspec.registry import Registry
from driftspec.runs.checkpoint import encode
from driftspec.runs.lifecycle import opened, start
from driftspec.runs.records import RunRecord
from driftspec.runs.run_dir import RunDir
from driftspec.runs.stages import load_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("driftspec.report.plots.draw", lambda *_: iter(()))
        loaded = tiny.loaded("train.steps=1", "evaluate=[]", "sample=null")
        return start(loaded, registry, out=tmp_path_factory.mktemp("records") / "run").path


@pytest.fixture
def found(run: Path) -> dict[str, Any]:
    entries: dict[str, Any] = json.loads((run / "run.json").read_bytes())
    return entries


def test_a_record_keeps_every_key_its_order_and_what_a_newer_version_wrote(found: dict[str, Any]) -> None:
    entries = {"newer": {"a": [1]}, "keys": 2, "others": None, **dict(reversed(found.items()))}
    record = RunRecord.opened(entries, Path("run.json"))
    assert json.dumps(record.entries()) == json.dumps(entries)
    assert record.columns == ["x1", "x2"] and record.parent is None and record.resumed == ()


def test_a_changed_record_is_the_mapping_with_the_changes_made(found: dict[str, Any]) -> None:
    found |= {"error": {"message": "why"}, "newer": 1}
    record = RunRecord.opened(found, Path("run.json"))
    changes = {"seed": 9, "failed_observers": [], "status": "failed"}
    assert json.dumps(record.changed(**changes).entries()) == json.dumps(found | changes)
    assert json.dumps(record.entries()) == json.dumps(found)
    del found["error"]
    assert json.dumps(record.without("error").entries()) == json.dumps(found)
    with pytest.raises(TypeError, match="statsu"):
        record.changed(statsu="failed")


@pytest.mark.parametrize("key", ["root", "stages", "columns", "data_digest", "data_seed"])
def test_a_file_without_a_key_that_is_needed_is_damaged(key: str, found: dict[str, Any]) -> None:
    del found[key]
    with pytest.raises(RunFailed, match=rf"^run\.json is damaged \(it has no '{key}'\); restore it from a copy"):
        RunRecord.opened(found, Path("run.json"))
    assert RunRecord.listed(found, Path("run.json")).status == "finished"


@pytest.mark.parametrize(
    "bad", [{"root": 3}, {"stages": "train"}, {"columns": None}, {"data_seed": "1"}, {"argv": "a"}]
)
def test_a_file_with_a_value_of_the_wrong_type_is_damaged(bad: dict[str, Any], found: dict[str, Any]) -> None:
    (key,) = bad
    why = rf"the value of '{key}' has the wrong type"
    with pytest.raises(RunFailed, match=rf"^run\.json is damaged \({why}\); restore it from a copy, or run the spec"):
        RunRecord.opened(found | bad, Path("run.json"))


@pytest.mark.parametrize("text", ["[]", "{}", '{"status": "failed"}', '"a"', "null"])
def test_a_damaged_file_is_one_message(
    text: str, run: Path, tmp_path: Path, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text(text)
    (tmp_path / "resolved.yaml").write_bytes((run / "resolved.yaml").read_bytes())
    with pytest.raises(RunFailed, match=re.escape(f"{tmp_path}/run.json is damaged (")):
        opened(tmp_path, registry)
    for verb in ("resume", "evaluate", "sample"):
        assert main([verb, str(tmp_path)]) == 1
        assert capsys.readouterr().err.startswith(f"error: {tmp_path}/run.json is damaged (")


@pytest.mark.parametrize(
    "bad",
    [{"verdicts": 7}, {"git": 7}, {"evaluated": 7}, {"seconds": 7}, {"samples": 7}, {"every_row": "x"}, {"error": 7}],
)
def test_a_wrong_type_damages_one_run_and_the_others_are_listed(
    bad: dict[str, Any], run: Path, found: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "whole")
    shutil.copytree(run, tmp_path / "spoilt")
    (tmp_path / "spoilt/run.json").write_text(json.dumps(found | bad))
    assert main(["runs", "list", "--root", str(tmp_path), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert {Path(row["run"]).name: row["status"] for row in json.loads(out)["runs"]} == {
        "whole": "finished", "spoilt": "damaged",
    }  # fmt: skip
    assert err.startswith(f"warning: {tmp_path}/spoilt/run.json is damaged (")
    assert main(["runs", "show", str(tmp_path / "spoilt")]) == 0
    assert "run.json is damaged (" in capsys.readouterr().out
    assert main(["sample", str(tmp_path / "spoilt"), "-n", "5"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/spoilt/run.json is damaged (")


# Checkpoints -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_goes_through_its_record_to_the_same_bytes(run: Path) -> None:
    """Also what a newer version wrote, beside the fields and beside those of the best check."""
    tree = RunDir(run).load_checkpoint()[1]
    tree = {"newer": (1, 2), **tree, "best": {"newer": 3, **tree["best"]}}
    record = CheckpointRecord.read(tree)
    assert encode(record.entries()) == encode(tree)
    assert (record.step, record.dim, record.best.step) == (1, 2, None)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda tree: tree.pop("module"), "it has no 'module'"),
        (lambda tree: tree.pop("dim"), "it has no 'dim'"),
        (lambda tree: tree.update(best=3), "it is no mapping"),
    ],
)
def test_a_checkpoint_that_lacks_something_is_one_message(
    change: Any, why: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    directory = RunDir(tmp_path / "run")
    step, tree = directory.load_checkpoint()
    change(tree)
    directory.save_checkpoint(step, tree)
    assert main(["sample", str(directory.path), "-n", "5"]) == 1
    assert capsys.readouterr().err == f"error: {directory.path}: the checkpoint of step 1 is damaged ({why})\n"


@pytest.mark.parametrize("words", [["resume"], ["sample", "-n", "5"], ["evaluate"]])
def test_a_finished_run_without_checkpoints_names_the_way_out(
    words: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints")
    assert main([words[0], str(tmp_path / "run"), *words[1:]]) == 1
    assert capsys.readouterr().err == (
        f"error: '{tmp_path}/run': its checkpoints are missing: restore them from a copy, or run the spec again\n"
    )


def test_a_checkpoint_without_a_training_is_not_gone_on_from(run: Path) -> None:
    saved = load_checkpoint(RunDir(run))
    training = Training(tiny.experiment("train.steps=1"))
    training.restore(saved)
    with pytest.raises(RunFailed, match="the checkpoint of step 1 holds no training to go on with"):
        training.restore(saved.without("optimizer"))


# Sweeps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "why"), [("{}", "it has no 'status'"), ("[]", "it is no mapping")])
def test_a_damaged_sweep_is_one_message(
    text: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.json").write_text(text)
    assert main(["resume", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/sweep.json is damaged ({why}); restore it from a copy, or run the spec again\n"
    )
