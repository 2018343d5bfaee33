"""`run-spec plan SPEC`: show what would run, and where every value comes from. Nothing is written."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from driftspec.cli import options, print_problems, tables
from driftspec.components.observer import STAGES

if TYPE_CHECKING:
    from driftspec.experiment.build import Experiment
    from driftspec.registry import Registry
    from driftspec.source import KeyPath
    from driftspec.spec import Loaded, Spec


def main(words: list[str]) -> int:
    parser = options.parser("plan", "Show what a run would do: stages, components, and where every value comes from.")
    options.choosing(parser)
    options.shaping(parser)
    args = parser.parse_args(words)
    registry = options.registry(args)
    loaded = options.checked(args.spec, registry, args)

    from driftspec.experiment import build
    from driftspec.runs import lifecycle as runs
    from driftspec.source.files import Files

    for point in loaded.points or (loaded,):
        runs.carried_out(point.spec, args.stages)
    if loaded.points:
        return _plan_sweep(loaded, args)

    files = Files(loaded.root, args.allow_outside)
    experiment = build.build(loaded.spec, files, document=loaded.document, stages=args.stages)
    runs.check_rows(loaded, experiment, args.stages)
    print_problems(build.warnings_of(experiment, loaded.document))
    plan = _plan(loaded, registry, experiment, args)
    print(json.dumps(plan, allow_nan=False) if args.format == "json" else "\n".join(_text(plan)))
    return 0


def _plan(loaded: Loaded, registry: Registry, experiment: Experiment, args: argparse.Namespace) -> dict[str, Any]:
    """Return the plan of a run as JSON data."""
    from driftspec.runs.provenance import identity
    from driftspec.source.document import dotted, leaves

    given, written = experiment.spec, dict(leaves(loaded.spec.resolved()))
    parts = ("train", "validation", "test") if given.data is not None else ()
    data_digest = experiment.dataset.digest if given.data is not None else None
    return {
        "name": given.name,
        "stages": _stages(given, args.stages),
        "directory": args.out or f"runs/{given.name}/<UTC time>-{identity(given, data_digest)[:8]}",
        "parameters": sum(p.numel() for p in experiment.model.parameters()),
        "dimensions": experiment.model.dim,
        "rows": {part: len(getattr(experiment.dataset, part)) for part in parts},
        "components": {
            dotted(path): {
                "kind": one.kind,
                "type": one.spelling,
                "from": str(registry.provider(one.kind, one.spelling)),
            }
            for path, one in given.components().items()
        },
        "values": [
            {"key": dotted(path), "value": value, "from": _origin(path, loaded, value, written[path])}
            for path, value in leaves(given.resolved())
        ],
    }


def _stages(given: Spec, asked: Sequence[str]) -> list[str]:
    """Return those of the given stages that this spec has."""
    there = {"train": given.train is not None, "evaluate": bool(given.evaluate), "sample": given.sample is not None}
    return [stage for stage in asked if there[stage]]


def _plan_sweep(loaded: Loaded, args: argparse.Namespace) -> int:
    """Print the points of a spec with a sweep. One point alone is planned with --unset sweep --set ..."""
    from driftspec.runs.sweeps import digest_of

    name = loaded.spec.name
    doing = {stage for point in loaded.points for stage in _stages(point.spec, args.stages)}
    plan: dict[str, Any] = {
        "name": name,
        "stages": [stage for stage in args.stages if stage in doing],
        "directory": args.out or f"runs/{name}/sweep-<UTC time>-{digest_of(loaded)[:8]}",
        "points": [dict(point.values) for point in loaded.points],
    }
    if args.format == "json":
        print(json.dumps(plan, allow_nan=False))
        return 0
    keys = list(dict.fromkeys(key for point in plan["points"] for key in point))
    rows = [[tables.value(point[key]) if key in point else "" for key in keys] for point in plan["points"]]
    width = max(3, len(str(len(rows))))
    some = f" ({', '.join(plan['stages']) or 'nothing to do'} alone)" if len(args.stages) < len(STAGES) else ""
    print(f"{name}: a sweep of {len(rows)} points{some}\n  into  {plan['directory']}")
    numbered = [[f"{number:0{width}}", *row] for number, row in enumerate(rows, 1)]
    print("\n".join(tables.aligned([["point", *keys], *numbered], "  ")))
    return 0


def _origin(path: KeyPath, loaded: Loaded, value: object, written: object) -> str:
    """Return where a value comes from; if the data have few rows, the default that was lowered."""
    return _source(path, loaded) if value == written else f"default {written}, lowered to fit the data"


def _source(path: KeyPath, loaded: Loaded) -> str:
    """Return file:line, --set[1] or default. The `type` of a component given only by name is at that name."""
    marks = loaded.document.marks
    below = [one.value for at, one in marks.items() if at[: len(path)] == path]
    if changed := dict.fromkeys(place.file for place in below if not place.line):  # changed by an option
        return ", ".join(changed)
    for candidate in (path, path[:-1] if path[-1] == "type" else path):
        if candidate in marks:
            place = marks[candidate].value
            return f"{place.file}:{place.line}" if place.line else place.file
    if "solver" in path and ("solver",) in marks:
        inner = ("solver", *path[path.index("solver") + 1 :])
        found = _source(inner, loaded) if inner != path else "default"
        return found if found == "default" else f"{found} (solver)"
    return "default"


def _text(plan: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a plan."""
    yield f"{plan['name']}: {' -> '.join(plan['stages']) or 'nothing to do'}"
    yield f"  into        {plan['directory']}"
    yield f"  parameters  {plan['parameters']:,} in {plan['dimensions']} dimensions"
    if plan["rows"]:
        yield f"  rows        {', '.join(f'{count:,} {part}' for part, count in plan['rows'].items())}"
    yield "components"
    yield from _columns([(key, one["type"], one["from"]) for key, one in plan["components"].items()])
    yield "values"
    yield from _columns([(one["key"], json.dumps(one["value"]), one["from"]) for one in plan["values"]])


def _columns(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    """Yield rows as lines with aligned columns of at most 40 letters."""
    first, second = (min(40, max(len(row[i]) for row in rows)) for i in (0, 1))
    for name, text, origin in rows:
        yield f"  {name:<{first}}  {text:<{second}}  {origin}"
