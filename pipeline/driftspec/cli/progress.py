"""The progress of a run on stderr: on a terminal a bar with the loss and the time left, otherwise a few lines."""

from __future__ import annotations

import json
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

from driftspec.components.observer import Observer, Record, RunInfo
from driftspec.runs.session import RunUnderWay
from driftspec.source.scalars import with_error

if TYPE_CHECKING:
    from driftspec.components import Measured, Verdict
    from driftspec.errors import Problem


class Progress(Observer):
    """Prints the events of a run to stderr."""

    def __init__(self, quiet: bool, verbose: bool = False):
        self.quiet, self.verbose, self.bar, self.started_at = quiet, verbose, None, time.monotonic()

    bar: Any

    def _print(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def started(self, run: RunInfo) -> None:
        self._print(f"{run.name}: {run.path}" + (f", from step {run.step}" if run.resumed else ""))

    def stage(self, name: str) -> None:
        self._close()
        self._print(f"{name} ...")

    def step(self, record: Record, steps: int) -> None:
        if self.quiet:
            return
        if sys.stderr.isatty():
            if self.bar is None:
                from tqdm import tqdm

                self.bar = tqdm(total=steps, initial=record.step - 1, unit="step", dynamic_ncols=True)
            self.bar.set_postfix_str(f"loss {record.loss:.4f}", refresh=False)
            self.bar.update()
        elif record.step % max(1, steps // 10) == 0 or record.last:
            self._print(
                f"  step {record.step}/{steps}  loss {record.loss:.4f}  {time.monotonic() - self.started_at:.0f} s"
            )
        if record.last:
            self._close()

    def metric(self, name: str, measured: Measured) -> None:
        self._print(f"  {name}: {number(measured)}")

    def verdict(self, source: str, verdict: Verdict) -> None:
        if verdict.severity in ("warning", "bad"):
            if self.bar is not None:
                self.bar.clear()
            level = "warning" if verdict.severity == "warning" else "bad"
            print(f"{level}: {source}: {verdict}", file=sys.stderr, flush=True)

    def finished(self, status: str, error: str | None) -> None:
        self._close()

    def trouble(self, problem: Problem, error: BaseException) -> None:
        if self.bar is not None:
            self.bar.clear()
        if self.verbose:
            traceback.print_exception(error)
        print(problem, file=sys.stderr, flush=True)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def number(measured: Measured) -> str:
    """Return a metric's value with its unit and its standard error, or the reason why it has none."""
    why = measured.stderr_reason or "no reason is given"
    if measured.value is None:
        return f"no value: {why}"
    text = f"{with_error(measured.value, measured.stderr)} {measured.unit}".rstrip()
    return text if measured.stderr is not None else f"{text} (no standard error: {why})"


def result(run: RunUnderWay, form: str) -> str:
    """Return the result for stdout: the lines of the metrics and the run directory, or one JSON object."""
    if form == "json":
        from driftspec.experiment.evaluate import as_json

        metrics = {name: as_json(measured) for name, measured in run.measured.items()}
        record = run.record
        found = {"run": str(run.path), "status": record.status, "verdicts": record.verdicts, "metrics": metrics}
        return json.dumps(found, allow_nan=False)
    return "\n".join([*run.lines(), str(run.path)])
