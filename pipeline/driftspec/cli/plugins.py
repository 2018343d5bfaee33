"""`run-spec plugins list | show KIND/NAME | check | new DIR`: what is installed, and whether it keeps its word."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from driftspec.cli import options
from driftspec.components import KINDS
from driftspec.errors import PluginError, UsageError, nearest, shown

if TYPE_CHECKING:
    from driftspec.component import Component
    from driftspec.registry import Registry

ACTIONS = ("list", "show", "check", "new")


def main(words: list[str]) -> int:
    action = next((number for number, word in enumerate(words) if not word.startswith("-")), None)
    if action is not None and words[action] == "new":  # its options are its own
        from driftspec.cli import new

        return new.main(words[:action] + words[action + 1 :])
    parser = options.parser(
        "plugins", "What is installed: every component by kind, one component's keys, or whether each keeps its word.",
        "run-spec plugins new DIR: a package for a component of your own (plugins new --help)",
    )  # fmt: skip
    parser.add_argument("action", metavar="list | show | check | new", help="list everything, show or check components")
    parser.add_argument("components", nargs="*", metavar="KIND/NAME", help="e.g. estimator/hutchinson")
    options.shaping(parser)
    args = parser.parse_args(words)
    if args.action not in ACTIONS:
        allowed = ", ".join(ACTIONS)
        raise UsageError(f"unknown action {shown(args.action)}{nearest(args.action, ACTIONS)}; allowed: {allowed}")
    if args.action != "check" and len(args.components) != (args.action == "show"):
        raise UsageError("plugins show takes one KIND/NAME, plugins list none")
    registry = options.registry(args)
    if args.action == "check":
        return _check(registry, args)
    told = _table(registry) if args.action == "list" else _described(registry, args.components[0])
    lines = _listed(told) if args.action == "list" else _shown(told)
    print(json.dumps(told) if args.format == "json" else "\n".join(lines))
    return 0


def _check(registry: Registry, args: argparse.Namespace) -> int:
    """The table of the conformance kit; exit code 4 where a component fails."""
    from driftspec.cli import conformance

    found = conformance.check(registry, args.components, args.plugin, args.verbose)
    told = {one.name: one.told() for one in found}
    print(json.dumps(told) if args.format == "json" else "\n".join(conformance.lines(found, args.verbose)))
    return 4 if any(one.failed for one in found) else 0


def _table(registry: Registry) -> dict[str, Any]:
    """{kind: {name: who provides it}}."""
    who = registry.providers
    return {kind: {name: ", ".join(map(str, who[kind, name])) for name in registry.names(kind)} for kind in KINDS}


def _listed(table: dict[str, Any]) -> Iterator[str]:
    width = max(len(name) for names in table.values() for name in names)
    for kind, names in table.items():
        yield kind
        yield from (f"  {name:<{width}}  {who}" for name, who in names.items())


def _described(registry: Registry, component: str) -> dict[str, Any]:
    """One component: its definition, who provides it, its keys with defaults and descriptions, what it offers."""
    kind, _, name = component.partition("/")
    if kind not in KINDS or not name:
        raise UsageError(f"{shown(component)} is no KIND/NAME{nearest(kind, KINDS)}; kinds: {', '.join(KINDS)}")
    found, problem = registry.look_up(kind, name)
    if problem is not None and problem.code != "S120":
        raise PluginError(problem)
    if found is None:
        raise UsageError(getattr(problem, "message", problem))
    module = inspect.getmodule(found)
    return {
        "kind": kind,
        "name": name,
        "from": str(registry.provider(kind, name)),
        "summary": inspect.getdoc(found) or "",
        "definition": (inspect.getdoc(module) or "") if module is not None else "",
        "source": f"{found.__module__}:{found.__qualname__}",
        "keys": list(_keys(found)),
    }


def _keys(found: type[Component]) -> Iterator[dict[str, Any]]:
    schema = found.model_fields
    for name, field in schema.items():
        required = field.is_required()
        default = None if required else field.get_default(call_default_factory=False)
        yield {"key": name, "required": required, "default": default, "description": field.description or ""}


def _shown(told: dict[str, Any]) -> Iterator[str]:
    yield f"{told['kind']} '{told['name']}'  ({told['from']}, {told['source']})"
    yield ""
    yield from (f"  {line}".rstrip() for line in told["definition"].splitlines())
    yield ""
    yield "keys"
    width = max((len(key["key"]) for key in told["keys"]), default=0)
    for key in told["keys"]:
        default = "required" if key["required"] else f"default {json.dumps(key['default'], default=str)}"
        yield f"  {key['key']:<{width}}  {key['description']} ({default})"
