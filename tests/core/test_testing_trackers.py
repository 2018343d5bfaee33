"""What a tracker gets wrong, and the check that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kit import checks, held, outcome

from driftspec.components import Measured, Tracker
from driftspec.components.observer import Observer, Record, RunInfo
from driftspec.testing import TrackerTests

WHOLE = "it_is_told_of_a_whole_run"


class Told(Observer):
    """A line for everything, in its own folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lines.txt").open("a") as file:
            print(text, file=file)

    def started(self, run: RunInfo) -> None:
        self.write(f"started {run.name} {len(run.records())}")

    def step(self, record: Record, steps: int) -> None:
        self.write(f"{record.step} of {steps}")

    def metric(self, name: str, measured: Measured) -> None:
        self.write(f"{name} {measured.value}")

    def finished(self, status: str, error: str | None) -> None:
        self.write(f"{status} {error}")


class Lines(Tracker):
    """A text file."""

    type = "lines"

    def observer(self, folder: Path) -> Observer:
        return Told(folder)


def tracker(name: str, methods: dict[str, Any]) -> type[Tracker]:
    """A tracker whose observer does these things in place of writing lines."""
    made = type(name, (Told,), methods)
    body = {"type": name, "__doc__": f"It is {name}.", "observer": lambda self, folder: made(folder)}
    found: type[Tracker] = type(name.title(), (Tracker,), {**body, "__module__": __name__})
    return found


def abroad(self: Told, record: Record, steps: int) -> None:
    Path("elsewhere.txt").write_text("1")


def lucky(self: Told, record: Record, steps: int) -> None:
    torch.rand(())


def changes(self: Told, name: str, measured: Measured) -> None:
    measured.details.pop("floor", None)  # type: ignore[attr-defined]  # a dict, as metrics make it


def needs_a_number(self: Told, name: str, measured: Measured) -> None:
    float(measured.value)  # type: ignore[arg-type]


def only_good_news(self: Told, status: str, error: str | None) -> None:
    {"finished": 1}[status]


def only_new(self: Told, run: RunInfo) -> None:
    self.folder.mkdir(parents=True)


@pytest.mark.parametrize(
    ("found", "check", "said"),
    [
        (tracker("abroad", {"step": abroad}), "it_writes_in_its_own_folder", "failed: it writes"),
        (tracker("lucky", {"step": lucky}), WHOLE, "failed: tracker 'lucky' draws from the global generator of torch"),
        (tracker("changes", {"metric": changes}), WHOLE, "failed: it changes the results that it gets"),
    ],
    ids=lambda one: getattr(one, "type", None),
)
def test_what_a_tracker_gets_wrong(found: type[Tracker], check: str, said: str) -> None:
    assert outcome(held(TrackerTests, found), check).startswith(said)


@pytest.mark.parametrize(
    ("found", "check", "error"),
    [
        (tracker("needy", {"metric": needs_a_number}), WHOLE, TypeError),
        (tracker("cheerful", {"finished": only_good_news}), "it_is_told_of_a_run_that_fails_or_is_stopped", KeyError),
        (tracker("fresh", {"started": only_new}), "it_goes_on_with_a_run_that_is_resumed", FileExistsError),
    ],
    ids=lambda one: getattr(one, "type", None),
)
def test_what_a_tracker_cannot_take(found: type[Tracker], check: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        outcome(held(TrackerTests, found), check)


def test_a_right_one_passes_and_a_missing_library_is_no_failure() -> None:
    right = held(TrackerTests, Lines)
    assert {name: outcome(right, name) for name in checks(right) if "told" in name or "goes" in name} == {
        name: "passed" for name in checks(right) if "told" in name or "goes" in name
    }
    lacking = tracker("lacking", {})
    lacking.libraries = {"no_such_module": "lacking"}
    assert outcome(held(TrackerTests, lacking), WHOLE) == (
        "skipped: tracker 'lacking' needs no_such_module, which is not installed"
    )
