"""MLflow Tracking: a run with its parameters and metrics, read by `mlflow ui --backend-store-uri sqlite:///FILE`.

https://mlflow.org/docs/latest/ml/tracking. The store is a SQLite file, which MLflow recommends without a server. A name
may have only letters, digits and '_-. :/'. In other names '_' replaces each other character, and a digest of the whole
name is added, so that different names stay different.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from driftspec.components import Tracker
from driftspec_plugins.trackers._store import LOSS, Place, Scalars, outcome, parameters

if TYPE_CHECKING:
    from driftspec.components.observer import RunInfo

LONGEST_NAME, LONGEST_VALUE, MOST_PARAMETERS, MOST_METRICS = 250, 6000, 100, 1000
"""Limits of MLflow: characters in a name and in the value of a parameter; parameters and metrics in one call."""
RUN_TAG = "driftspec.run"
STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class MLflow(Tracker):
    """An MLflow run in a SQLite file, with the spec, each logged step, each metric and its standard error, the outcome.

    The telemetry of MLflow is switched off, unless the environment variable MLFLOW_DISABLE_TELEMETRY is set.
    """

    type = "mlflow"
    libraries = dict.fromkeys(("mlflow", "sqlalchemy", "alembic"), "driftspec[mlflow]")

    path: Place | None = Field(
        None,
        description="SQLite file below the current directory that several runs share; "
        "null: trackers/mlflow/mlflow.db in the run directory",
    )
    experiment: str | None = Field(
        None, min_length=1, max_length=500, description="MLflow's experiment; null: the spec's name"
    )

    def observer(self, folder: Path) -> Scalars:
        return _Run(folder / "mlflow.db" if self.path is None else Path(self.path), self.experiment)


class _Run(Scalars):
    client: Any = None  # mlflow.tracking.MlflowClient

    def __init__(self, file: Path, experiment: str | None):
        self.file, self.experiment = file, experiment
        self.waiting: list[Any] = []

    def open(self, run: RunInfo) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.client = _client(self.file)
        experiment = self._experiment(self.experiment or run.name)
        found = self.client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run.id}'") if run.resumed else []
        if found:
            self.id = found[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
        else:
            tags = {RUN_TAG: run.id, "driftspec.path": str(run.path.resolve())}
            tags |= {} if run.parent is None else {"driftspec.parent": run.parent}
            self.id = self.client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
            self._parameters(run)

    def _experiment(self, name: str) -> str:
        """Return the id of the experiment, made if missing. Its artifact folder, unused, is beside the SQLite file."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                place = (self.file.resolve().parent / "artifacts").as_uri()
                number: str = self.client.create_experiment(name, artifact_location=place)
                return number
            except MlflowException:  # another process has just made it
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        known: str = found.experiment_id
        return known

    def _parameters(self, run: RunInfo) -> None:
        from mlflow.entities import Param

        values = [Param(allowed(key), _cut(value)) for key, value in parameters(run.spec)]
        for first in range(0, len(values), MOST_PARAMETERS):
            self.client.log_batch(self.id, params=values[first : first + MOST_PARAMETERS])

    def stored(self) -> tuple[int, Collection[str]]:
        losses = self.client.get_metric_history(self.id, LOSS)
        return max((one.step for one in losses), default=0), frozenset(self.client.get_run(self.id).data.metrics)

    def spelt(self, name: str) -> str:
        return allowed(name)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.waiting += [Metric(name, value, now, step) for name, value in values.items()]
        if len(self.waiting) >= MOST_METRICS:
            self.flush()

    def flush(self) -> None:
        waiting, self.waiting = self.waiting, []
        for first in range(0, len(waiting), MOST_METRICS):
            self.client.log_batch(self.id, metrics=waiting[first : first + MOST_METRICS])

    def close(self, status: str, error: str | None) -> None:
        self.flush()
        self.client.set_tag(self.id, "driftspec.status", outcome(status, error)[:5000])
        self.client.set_terminated(self.id, STATUS[status])


def _client(file: Path) -> Any:
    """Return a client of the store in a file, which is created if missing."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # modules that mlflow imports give warnings
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it would log a line for each new table
        return MlflowClient(f"sqlite:///{file.resolve()}")


def allowed(name: str) -> str:
    """Return the name if MLflow accepts it, else an accepted name that no other name is changed to."""
    parts = re.sub(r"[^/\w.\- :]", "_", name).split("/")
    spelt = "/".join(part if part.strip(".") else "_" for part in parts)  # no part such as '.' that vanishes in a path
    if spelt == name and len(name) <= LONGEST_NAME:
        return name
    return f"{spelt[: LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _cut(value: object) -> str:
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


__all__ = ["MLflow", "allowed"]
