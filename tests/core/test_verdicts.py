"""Verdicts reach every place where a user reads how far a run can be trusted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import driftspec
from driftspec.cli import main
from driftspec.components.verdict import Judged, Verdict, with_verdict

PLUGIN = """
from driftspec.components import Draws, Estimator, Loss, Measured, Metric, Need, Sampler, Table, Data, Verdict
from driftspec.registry import hookimpl


class Doubtful(Estimator):
    "Half the squared weights; the third step is in doubt."
    type = "doubtful"

    def loss(self, model, batch, state, streams):
        bad = (Verdict("adjoint", "adjoint_inaccurate", "it is off by 0.01", "warning"),) if streams.step == 3 else ()
        value = sum(p.square().sum() for p in model.parameters()) / 2
        return Loss(value, {}, state, verdicts=lambda: bad)


class Stuck(Sampler):
    "Zeros."
    type = "stuck"

    def draw_block(self, model, generator):
        import torch

        found = (Verdict("chains", "not_converged", "no chain has moved", "bad"),)
        return Draws(torch.zeros(self.BLOCK, 1, model.dim), verdicts=found)


class Count(Metric):
    "How many draws there are."
    type = "count"
    reads_chains = True

    def measure(self, evaluation):
        found = (Verdict("count", "round_number", "it ends in 0", "unknown"),)
        return Measured(float(len(evaluation.draws(10))), None, "draws", 10, {}, "it is counted", "10 draws", found)


@hookimpl
def driftspec_components():
    return {"estimator": {"doubtful": Doubtful}, "sampler": {"stuck": Stuck}, "metric": {"count": Count}}
"""
SPEC = """\
version: 1
name: judged
data: {type: moons, samples: 100}
dynamics: {type: neural_ode, network: {type: mlp, hidden: [4]}}
estimator: doubtful
sampler: stuck
train: {steps: 4, batch_size: 16}
evaluate: [count]
sample: {count: 20}
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    Path("judged.py").write_text(PLUGIN)
    Path("judged.yaml").write_text(SPEC)
    return ["judged.yaml", "--plugin", "judged.py", "--out", "out"]


BAD = "chains not converged: no chain has moved"
WARNING = "adjoint inaccurate: it is off by 0.01"


def test_the_last_line_begins_with_what_is_bad_and_strict_exits_with_1(
    spec: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*spec, "--strict"]) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0] == f"{BAD}; 10 draws; {WARNING}"
    assert f"warning: train: {WARNING}\n" in shown.err
    assert f"bad: sample: {BAD}\n" in shown.err

    info = json.loads(Path("out/run.json").read_text())
    assert [(one["source"], one["subject"], one["severity"]) for one in info["verdicts"]] == [
        ("train", "adjoint", "warning"), ("sample", "chains", "bad"), ("count", "count", "unknown"),
    ]  # fmt: skip
    details = json.loads(Path("out/metrics.json").read_text())["count"]["details"]
    assert details["convergence"] == {"outcome": "not_converged", "reason": "no chain has moved"}
    assert BAD in Path("out/report.html").read_text()
    assert [one.outcome for one in driftspec.load("out", plugins=["judged.py"]).verdicts] == [
        "adjoint_inaccurate", "not_converged", "round_number",
    ]  # fmt: skip


def test_without_strict_the_exit_code_is_0_and_a_second_measurement_keeps_what_training_said(
    spec: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*spec, "--format", "json"]) == 0
    assert [one["outcome"] for one in json.loads(capsys.readouterr().out)["verdicts"]][1] == "not_converged"
    again = ["sample", "out", "--plugin", "judged.py", "--set", "sampler=ode", "--unset", "evaluate", "--out", "again"]
    assert main([*again, "--strict"]) == 0  # the other sampler's draws have no bad verdict
    assert [one["outcome"] for one in json.loads(Path("again/run.json").read_text())["verdicts"]] == [
        "adjoint_inaccurate"
    ]


def test_of_one_source_and_subject_the_worst_is_kept() -> None:
    good, bad, other = (
        Verdict("solver", name, "why", how) for name, how in (("a", "good"), ("b", "bad"), ("c", "bad"))
    )
    kept: list[Judged] = []
    for verdict in (good, bad, other, good):
        kept = with_verdict(kept, Judged("nll", verdict))
    assert kept == [Judged("nll", bad)]
    assert len(with_verdict(kept, Judged("kl", good))) == 2
