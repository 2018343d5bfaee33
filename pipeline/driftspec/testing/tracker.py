"""Checks of a tracker: it writes only in its own folder, changes no result, and can continue a resumed run."""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from driftspec.components import Measured, Tracker
from driftspec.components.observer import Record, RunInfo
from driftspec.spec import Spec
from driftspec.testing.checks import expect, no_global_draws, unfit
from driftspec.testing.component import ComponentTests
from driftspec.testing.worlds import DATA, Flow

STEPS = 6
MEASURED = {
    "sharp": Measured(1.5, 0.25, "nats", 100, {"floor": 0.1, "parts": [1, 2]}),
    "blunt": Measured(2.0, None, "", 100, {}, "one number"),
    "none": Measured(None, None, "", 0, {}, "nothing was measured"),
}


def records(first: int, last: int) -> list[Record]:
    """Return the records of training steps that an observer gets; every second one is logged."""
    return [
        Record(
            step, 1 / step, {"steps": 8.0}, 0.5, 1e-3, 40, 0.01, validation=0.3 if step == 4 else None,
            validation_terms={"left": 0.4, "right": 0.1} if step == 4 else {},
            best=step == 4, last=step == STEPS, logged=step % 2 == 0,
        )
        for step in range(first, last + 1)
    ]  # fmt: skip


class TrackerTests(ComponentTests):
    """Checks of a tracker, with the events of a short run."""

    kind = "tracker"

    @contextlib.contextmanager
    def place(self) -> Iterator[Path]:
        """Make a temporary run directory inside the current directory; yield its path."""
        made: Tracker = self.made()
        missing = [module for module in made.libraries if find_spec(module) is None]
        if missing:
            unfit(f"{made.label} needs {', '.join(missing)}, which is not installed")
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            run = Path("run").absolute()
            run.mkdir()
            yield run

    def report(self, run: Path, first: int, last: int, status: str | None) -> None:
        """Send the events of steps first to last. A status ends the run; None means that the process was killed."""
        made: Tracker = self.made()
        spec = Spec.model_validate({"version": 1, "name": "kit", "dynamics": Flow(), "data": DATA, "trackers": (made,)})
        before: Sequence[Mapping[str, Any]] = [one.line() for one in records(1, first - 1) if one.logged]
        info = RunInfo(
            "kit-run",
            "kit",
            run,
            spec.resolved(),
            ("train", "evaluate"),
            STEPS,
            first - 1,
            first > 1,
            None,
            lambda: before,
        )
        observer = made.observer(run / "trackers" / made.type)
        measured = copy.deepcopy(MEASURED)
        with no_global_draws(made.label):
            observer.started(info)
            observer.stage("train")
            for record in records(first, last):
                observer.step(record, STEPS)
            observer.checkpoint(last, run / "checkpoints" / f"step-{last:08d}.safetensors")
            for name, one in measured.items() if status == "finished" else ():
                observer.metric(name, one)
            if status is not None:
                observer.finished(status, None if status == "finished" else "step 4: loss nan")
        expect(measured == MEASURED, "it changes the results that it gets")

    def test_it_is_told_of_a_whole_run(self) -> None:
        with self.place() as run:
            self.report(run, 1, STEPS, "finished")

    def test_it_is_told_of_a_run_that_fails_or_is_stopped(self) -> None:
        for status in ("failed", "interrupted"):
            with self.place() as run:
                self.report(run, 1, 4, status)

    def test_it_goes_on_with_a_run_that_is_resumed(self) -> None:
        """After an interruption, and after a kill, when some steps are reported a second time."""
        for status, again in (("interrupted", 5), (None, 3)):
            with self.place() as run:
                self.report(run, 1, 4, status)
                self.report(run, again, STEPS, "finished")

    def test_it_writes_in_its_own_folder(self) -> None:
        """With its default keys, it writes nowhere else."""
        with self.place() as run:
            self.report(run, 1, STEPS, "finished")
            own = run / "trackers" / self.made().type
            others = [one for one in Path.cwd().rglob("*") if one.is_file() and not one.is_relative_to(own)]
            expect(not others, f"it writes {', '.join(map(str, others))}, outside the folder it was given")


__all__ = ["TrackerTests"]
