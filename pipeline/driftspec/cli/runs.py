"""`run-spec runs list | show RUN | diff A B`: list runs, show one, or compare two."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftspec.cli import options
from driftspec.cli.tables import aligned, measured, standing, value, verdicts_of
from driftspec.errors import UsageError, nearest, shown
from driftspec.report.facts import in_words

if TYPE_CHECKING:
    from driftspec.runs.history import FoundRun
    from driftspec.runs.records import RunRecord

TAKES = {"list": (0, 1, "at most one NAME"), "show": (1, 1, "one RUN"), "diff": (2, 2, "two runs, A and B")}
"""The least and the greatest number of words after each action, and what they are."""


def main(words: list[str]) -> int:
    parser = options.parser("runs", "List runs, show the record of one, or compare two.")
    parser.add_argument("action", metavar="list | show | diff", help="list [NAME], show RUN, or diff A B")
    parser.add_argument("names", nargs="*", metavar="RUN", help=f"{options.A_RUN}; for list the NAME of a spec")
    parser.add_argument("--root", metavar="DIR", help="for list: the folder to search; by default runs")
    options.shaping(parser)
    args = parser.parse_args(words)
    options.no_registry(args)
    if args.action not in TAKES:
        allowed = f"allowed: {', '.join(TAKES)}"
        raise UsageError(f"unknown action {shown(args.action)}{nearest(args.action, TAKES)}; {allowed}")
    least, most, what = TAKES[args.action]
    if not least <= len(args.names) <= most:
        raise UsageError(f"runs {args.action} takes {what}, not {len(args.names)}")
    if args.root is not None and args.action != "list":
        raise UsageError(f"--root is only for runs list: runs {args.action} takes directories")

    from driftspec.runs import history

    data: dict[str, Any]
    if args.action == "list":
        data = {"runs": [_row(entry) for entry in _listed(args.root, *args.names)]}
        lines = _list(data["runs"])
    elif args.action == "show":
        entry = history.look(options.run(args.names[0]))
        data = {**history.described(entry), "resume": _resume(entry)}
        lines = _show(data, entry.record)
    else:
        data = history.difference(*(history.look(options.run(name)) for name in args.names))
        lines = _diff(data)
    for line in [json.dumps(data)] if args.format == "json" else lines:
        print(line)
    return 0


def _listed(root: str | None, name: str | None = None) -> list[FoundRun]:
    """Return the runs below a folder, or those of one spec; print a warning for each damaged one."""
    from driftspec.runs.history import listed

    folder = Path(root or "runs")
    if root is not None and not folder.is_dir():
        raise UsageError(f"--root {root}: {'not a folder' if folder.exists() else 'no such folder'}")
    entries = listed(folder)
    if not entries:
        print(f"no runs below '{folder}'", file=sys.stderr)
    names = dict.fromkeys(entry.name for entry in entries)
    if name is not None and entries and name not in names:
        raise UsageError(f"no run of '{name}' below '{folder}'{nearest(name, names)}; there are: {', '.join(names)}")
    chosen = [entry for entry in entries if name in (None, entry.name)]
    for entry in chosen:
        if entry.problem is not None:
            print(f"warning: {entry.problem}", file=sys.stderr)
    return chosen


def _row(entry: FoundRun) -> dict[str, Any]:
    """Return a run as an entry of the list."""
    metric = next(iter(entry.metrics), None)
    return {
        "name": entry.name, "started": entry.record.started, "status": entry.status,
        "seed": entry.record.seed, "metric": metric, "measured": entry.metrics[metric] if metric else None,
        "run": str(entry.path), "verdicts": [one.entry() for one in verdicts_of(entry.record)],
    }  # fmt: skip


def _list(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the list of runs."""
    for_people = [
        [
            row["name"], _when(row["started"]), standing(row["status"], row["verdicts"]), value(row["seed"]),
            f"{row['metric']} {measured(row['measured'])}" if row["metric"] else "-", row["run"],
        ]
        for row in rows
    ]  # fmt: skip
    yield from aligned([["name", "started", "status", "seed", "metric", "run"], *for_people]) if rows else ()


def _when(moment: str | None) -> str:
    """Return a time in UTC without its time zone."""
    return (moment or "-").replace("T", " ").removesuffix("+00:00")


def _resume(entry: FoundRun) -> str | None:
    """Return the shell command that resumes a run; None if it cannot be resumed."""
    plugins = [word for file in entry.plugins for word in ("--plugin", file)]
    return shlex.join(["run-spec", "resume", str(entry.path), *plugins]) if entry.resumable else None


FACTS = ("started", "finished", "seconds", "stages", "seed", "device", "threads", "host", "pid", "parent", "parameters",
         "evaluated", "driftspec", "python", "torch", "plugins", "git", "error")  # fmt: skip
"""The entries of run.json that are shown, in this order."""


def _show(data: dict[str, Any], record: RunRecord) -> Iterator[str]:
    """Yield the lines that describe one run."""
    facts = {key: fact for key in FACTS if (fact := in_words(data["info"], key)) is not None}
    yield f"{data['run']}: {data['status']}"
    if data["problem"]:
        yield f"  {data['problem']}"
    if data["resume"]:
        yield f"  go on with: {data['resume']}"
    if record.argv:
        yield f"  made by: {shlex.join(map(str, record.argv))}"
    if facts:
        yield from aligned(list(facts.items()), "  ")
    if verdicts := verdicts_of(record):
        yield "verdicts"
        yield from (f"  {one.verdict.severity}: {one.source}: {one.verdict}" for one in verdicts)
    if data["metrics"]:
        yield "metrics"
        entries = data["metrics"].items()
        rows = [[name, measured(one), str(one.get("unit", "")), f"n {one.get('n')}"] for name, one in entries]
        yield from aligned(rows, "  ")
    yield "files"
    marks = {name: f"{one['now']}, sha256 {one['sha256']}" for name, one in data["digests"].items()}
    sizes = {**dict.fromkeys(marks, ""), **{name: f"{size:,}" for name, size in data["files"].items()}}
    yield from aligned([[name, size, marks.get(name, "")] for name, size in sizes.items()], "  ")
    if data["spec"] is not None:
        yield "spec"
        yield from (f"  {line}" for line in data["spec"].splitlines())


def _diff(data: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the differences between two runs."""
    for side, path, status, problem in zip("AB", data["runs"], data["status"], data["problem"], strict=True):
        yield f"{side}  {path}: {status}"
        if problem:
            yield f"   {problem}"
    for part in ("spec", "versions"):
        rows = [[key, value(a), value(b)] for key, (a, b) in data[part].items()]
        yield part if rows else f"{part}: the same"
        yield from aligned([["", "A", "B"], *rows], "  ") if rows else ()
    if data["metrics"]:
        yield "metrics"
        yield from aligned([["", "A", "B", "B - A", "z"], *_gaps(data["metrics"])], "  ")
    if data["digests"]:
        yield "digests"
        yield from aligned(list(data["digests"].items()), "  ")


def _gaps(metrics: dict[str, Any]) -> Iterator[list[str]]:
    """Yield a row per metric: its values, their difference, and the difference over its standard error."""
    for name, one in metrics.items():
        sides = [measured({"value": a, "stderr": e}) for a, e in zip(one["values"], one["stderrs"], strict=True)]
        gap = measured({"value": one["difference"], "stderr": one["stderr"]})
        yield [name, *sides, gap, "-" if one["z"] is None else f"{one['z']:+.2f}"]
