"""Records: run.json goes through one without a loss, and what is no run's file is refused with its name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny

from driftspec.cli import main
from driftspec.errors import RunFailed
from driftspec.registry import Registry
from driftspec.runs.lifecycle import opened, start
from driftspec.runs.records import RunRecord


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
    with pytest.raises(RunFailed, match=rf"^run\.json is damaged \(it has no '{key}'\)$"):
        RunRecord.opened(found, Path("run.json"))
    assert RunRecord.listed(found, Path("run.json")).status == "finished"


@pytest.mark.parametrize(
    "bad", [{"root": 3}, {"stages": "train"}, {"columns": None}, {"data_seed": "1"}, {"argv": "a"}]
)
def test_a_file_with_a_value_of_the_wrong_type_is_damaged(bad: dict[str, Any], found: dict[str, Any]) -> None:
    with pytest.raises(RunFailed, match=r"^run\.json is damaged \(not what a run leaves there\)$"):
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
