"""`run-spec plan SPEC`: what would run, and where every value comes from. Nothing is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from driftspec import build, spec
from driftspec.cli import options
from driftspec.errors import SpecError

if TYPE_CHECKING:
    from driftspec.registry import Registry


def main(words: list[str]) -> int:
    parser = options.parser("plan", "Show what a run would do: stages, components, every value with its source.")
    parser.add_argument("spec", metavar="SPEC")
    options.changing(parser)
    parser.add_argument("--seed", type=int, help="in place of the spec's seed")
    parser.add_argument("--format", choices=["text", "json"], default="text", help="form of the result on stdout")
    parser.add_argument("--allow-outside", action="store_true", help="read data files outside the current directory")
    args = parser.parse_args(words)
    registry = options.registry(args)
    loaded = spec.read(args.spec, registry, options.changes(args))
    if problems := build.check(loaded):
        raise SpecError(problems)
    plan = _plan(loaded, registry, args.allow_outside)
    print(json.dumps(plan) if args.format == "json" else "\n".join(_text(plan)))
    return 0


def _plan(loaded: spec.Loaded, registry: Registry, allow_outside: bool) -> dict[str, Any]:
    from driftspec.files import Files

    given = loaded.spec
    experiment = build.build(given, Files(loaded.root, allow_outside))
    stages = [*(["train"] if given.train else []), "evaluate", *(["sample"] if given.sample else [])]
    return {
        "name": given.name,
        "stages": stages,
        "directory": f"runs/{given.name}/<UTC time>-<digest>",
        "parameters": sum(p.numel() for p in experiment.model.parameters()),
        "dimensions": experiment.model.dim,
        "rows": {part: len(getattr(experiment.dataset, part)) for part in ("train", "validation", "test")}
        if given.data
        else None,
        "components": {
            _dotted(path): {"type": component.spelling, "from": str(registry.provider(component.kind, component.spelling))}
            for path, component in given.components().items()
        },
        "values": [{"key": _dotted(path), "value": value, "from": _source(path, loaded)} for path, value in _leaves(given.resolved())],
    }  # fmt: skip


def _leaves(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value with its path; a list of plain values is one."""
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _leaves(value, (*path, key))
    elif isinstance(data, list) and any(isinstance(item, dict) for item in data):
        for index, item in enumerate(data):
            yield from _leaves(item, (*path, index))
    else:
        yield path, data


def _source(path: tuple[str | int, ...], loaded: spec.Loaded) -> str:
    """file:line, --set[1], or default; a component given by name alone stands at that name."""
    marks = loaded.document.marks
    for candidate in (path, path[:-1] if path[-1] == "type" else path):
        if candidate in marks:
            place = marks[candidate].value
            return f"{place.file}:{place.line}" if place.line else place.file
    if "solver" in path and ("solver",) in marks:
        inner = ("solver", *path[path.index("solver") + 1 :])
        return f"{_source(inner, loaded)} (solver)" if inner != path else "default"
    return "default"


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path))


def _text(plan: dict[str, Any]) -> Iterator[str]:
    yield f"{plan['name']}: {' -> '.join(plan['stages'])}"
    yield f"  into        {plan['directory']}"
    yield f"  parameters  {plan['parameters']:,} in {plan['dimensions']} dimensions"
    if plan["rows"]:
        yield f"  rows        {', '.join(f'{count:,} {part}' for part, count in plan['rows'].items())}"
    yield "components"
    width = max(len(name) for name in plan["components"])
    for name, one in plan["components"].items():
        yield f"  {name:<{width}}  {one['type']:<14}  {one['from']}"
    yield "values"
    width = max(len(value["key"]) for value in plan["values"])
    shown = [json.dumps(value["value"]) for value in plan["values"]]
    wide = min(32, max(map(len, shown)))
    for value, text in zip(plan["values"], shown, strict=True):
        yield f"  {value['key']:<{width}}  {text:<{wide}}  {value['from']}"
