"""`run-spec sweep SPEC`: run every point of a spec's section `sweep`; each point is a run of its own."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftspec.cli import options
from driftspec.cli.tables import aligned, measured, standing, value
from driftspec.errors import RunFailed, shown

if TYPE_CHECKING:
    from driftspec.registry import Registry
    from driftspec.runs.sweeps import Settings, SweepUnderWay, Watcher


def main(words: list[str]) -> int:
    parser = options.parser(
        "sweep", "Run every point of a spec's section 'sweep', one after another or several at once.",
        "continue a sweep that was interrupted, or in which a run failed, with: run-spec resume DIR",
    )  # fmt: skip
    options.choosing(parser, options.SWEEP_PLACE)
    options.judging(parser)
    parallel(parser)
    options.showing(parser)
    args = parser.parse_args(words)
    registry = options.registry(args)
    loaded = options.checked(args.spec, registry, args)

    from driftspec.runs import sweeps

    done = sweeps.start(
        loaded, settings(args, registry), out=Path(args.out) if args.out else None, stages=args.stages,
        watcher=watcher(args.quiet), argv=["run-spec", "sweep", *words], allow_outside=args.allow_outside,
    )  # fmt: skip
    return finished(done, args)


def parallel(made: options.Parser) -> None:
    """Add --jobs."""
    made.add_argument(
        "--jobs", type=_jobs, metavar="N", help="runs at once, each a process; by default 1, or as before"
    )


def _jobs(text: str) -> int:
    """Return the number of --jobs."""
    if not (text.isdecimal() and len(text) < 4 and int(text)):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number from 1 to 999")
    return int(text)


def settings(args: argparse.Namespace, registry: Registry) -> Settings:
    """Return the options that hold for every process of a sweep."""
    from driftspec.runs.sweeps import Settings

    return Settings(args.jobs, list(registry.files), args.no_plugins, args.quiet, args.verbose)


def watcher(quiet: bool) -> Watcher:
    """Return an observer that prints the progress of a sweep to stderr; failures also if quiet."""
    from driftspec.runs.sweeps import SweepRun, Watcher

    def show(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)

    class Printing(Watcher):
        def started(self, sweep: SweepUnderWay) -> None:
            self.last = sweep.points[-1].number
            show(f"sweep of {len(sweep.points)} points: {sweep.directory.path}")

        def began(self, point: SweepRun) -> None:
            show(f"point {point.number} of {self.last}: {_assigned(point.loaded.values)}")

        def ended(self, point: SweepRun) -> None:
            if point.error is not None:
                print(f"point {point.number} failed: {point.error}", file=sys.stderr, flush=True)
            else:
                show(f"point {point.number} {point.status}")

    return Printing()


def finished(sweep: SweepUnderWay, args: argparse.Namespace) -> int:
    """Print the result of a sweep and return the exit code. RunFailed if a point has failed."""
    result = _result(sweep)
    print(json.dumps(result, allow_nan=False) if args.format == "json" else "\n".join(_text(result)), flush=True)
    if sweep.failed:
        count = f"{sweep.failed} of {len(sweep.points)} points"
        raise RunFailed(f"{count} failed; try them again with: {sweep.resume_command()}")
    return options.exit_code(args, [verdict for point in sweep.points for verdict in sweep.verdicts(point)])


def _result(sweep: SweepUnderWay) -> dict[str, Any]:
    """Return the result of a sweep as JSON data: its points with their metrics and verdicts."""
    from driftspec.runs.history import look

    def metrics(status: str, path: Path) -> dict[str, Any]:
        return dict(look(path).metrics) if status == "finished" else {}

    path = sweep.directory.path
    points = [
        {
            **p.entry(), "run": str(path / p.number), "metrics": metrics(p.status, path / p.number),
            "verdicts": [one.entry() for one in sweep.verdicts(p)] if p.status == "finished" else [],
        }
        for p in sweep.points
    ]  # fmt: skip
    return {"sweep": str(path), "status": sweep.record.status, "points": points}


def _text(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the result: a table of the points, and the directory."""
    points = result["points"]
    keys = list(dict.fromkeys(key for point in points for key in point["values"]))
    names = list(dict.fromkeys(name for point in points for name in point["metrics"]))
    yield from aligned([
        ["point", *keys, "status", *names],
        *(
            [
                Path(point["run"]).name,
                *(value(point["values"][key]) if key in point["values"] else "" for key in keys),
                standing(point["status"], point["verdicts"]),
                *(measured(point["metrics"].get(name)) for name in names),
            ]
            for point in points
        ),
    ])  # fmt: skip
    yield result["sweep"]


def _assigned(values: Any) -> str:
    """Return the values of a point as "train.steps=10, seed=1"."""
    return ", ".join(f"{key}={value(one)}" for key, one in values.items()) or "the spec unchanged"
