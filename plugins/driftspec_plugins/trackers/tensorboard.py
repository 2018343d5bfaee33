"""TensorBoard: the scalars of a run as event files, which `tensorboard --logdir DIR` shows.

https://www.tensorflow.org/tensorboard. The files are written by torch's SummaryWriter. The metrics of a finished run
are also written for the HParams page, which compares runs by their parameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from driftspec.components import Tracker
from driftspec_plugins.trackers._store import LOSS, Place, Scalars, outcome, parameters

if TYPE_CHECKING:
    from driftspec.components import Measured
    from driftspec.components.observer import RunInfo


class TensorBoard(Tracker):
    """Event files with each logged step, each metric and its standard error, the resolved spec and the outcome."""

    type = "tensorboard"
    libraries: ClassVar[Mapping[str, str]] = {"tensorboard": "driftspec[tensorboard]"}

    path: Place | None = Field(
        None,
        description="folder below the current directory that several runs share, each in its own NAME/ID; "
        "null: trackers/tensorboard in the run directory",
    )

    def observer(self, folder: Path) -> Scalars:
        return _Events(folder, None if self.path is None else Path(self.path))


class _Events(Scalars):
    writer: Any  # torch.utils.tensorboard.SummaryWriter

    def __init__(self, folder: Path, shared: Path | None):
        self.folder, self.shared = folder, shared
        self.results: dict[str, float] = {}

    def open(self, run: RunInfo) -> None:
        if self.shared is not None:
            self.folder = self.shared / run.name / run.id
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # modules that tensorboard imports give warnings
            from torch.utils.tensorboard import SummaryWriter
        self.before = self._read() if run.resumed and self.folder.is_dir() else (0, frozenset[str]())
        self.writer = SummaryWriter(str(self.folder), max_queue=1000)
        if self.before == (0, frozenset()):
            text = "\n".join(f"    {key}: {value}" for key, value in parameters(run.spec))
            self.writer.add_text("spec", text, run.step)

    def stored(self) -> tuple[int, Collection[str]]:
        return self.before

    def _read(self) -> tuple[int, frozenset[str]]:
        from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

        events = EventAccumulator(str(self.folder), size_guidance={SCALARS: 0})
        events.Reload()
        names = frozenset(events.Tags()[SCALARS])
        return max((event.step for event in events.Scalars(LOSS)), default=0) if LOSS in names else 0, names

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def metric(self, name: str, measured: Measured) -> None:
        super().metric(name, measured)
        if measured.value is not None:
            self.results[f"metric/{name}"] = measured.value

    def flush(self) -> None:
        self.writer.flush()

    def close(self, status: str, error: str | None) -> None:
        self.writer.add_text("status", outcome(status, error), self.now)
        if status == "finished":
            from torch.utils.tensorboard.summary import hparams

            for summary in hparams(dict(parameters(self.run.spec)), self.results):
                self.writer.file_writer.add_summary(summary)

    def release(self) -> None:
        self.writer.close()


__all__ = ["TensorBoard"]
