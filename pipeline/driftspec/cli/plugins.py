"""`run-spec plugins list | show KIND/NAME | check | new DIR`: what is installed, and whether it keeps its word."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from driftspec.cli import component_keys, options
from driftspec.components import KINDS
from driftspec.components.capabilities import offered
from driftspec.errors import PluginError, UsageError, nearest, shown
from driftspec.registry.entry_points import OWN

if TYPE_CHECKING:
    from driftspec.components import Component
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

    found = conformance.check(registry, args.components, args.plugin, args.verbose, args.no_plugins)
    told = {one.name: one.told() for one in found}
    print(json.dumps(told) if args.format == "json" else "\n".join(conformance.lines(found, args.verbose)))
    return 4 if any(one.failed for one in found) else 0


def _table(registry: Registry) -> dict[str, Any]:
    """{kind: {name: who provides it}}, "summaries" likewise, and "plugins": state, hooks, time of import of each."""
    who = registry.providers
    table = {kind: {name: ", ".join(map(str, who[kind, name])) for name in registry.names(kind)} for kind in KINDS}
    summaries = {kind: {name: who[kind, name][0].summary() for name in table[kind]} for kind in KINDS}
    plugins = [
        {
            "plugin": one.name, "distribution": one.distribution, "version": one.version, "state": one.state,
            "reason": one.reason, "milliseconds": round(1e3 * one.seconds, 1), "hooks": sorted(one.hooks),
        }
        for one in registry.plugins
    ]  # fmt: skip
    return {**table, "summaries": summaries, "plugins": plugins}


def _listed(table: dict[str, Any]) -> Iterator[str]:
    """A line a component with what it is, and who provides it where that is not driftspec alone."""
    width = max((len(name) for names in table["summaries"].values() for name in names), default=0)
    for kind, summaries in table["summaries"].items():
        yield kind
        for name, summary in summaries.items():
            who = table[kind][name]
            own = who.startswith(f"{OWN} ") and "," not in who
            yield f"  {name:<{width}}  {summary}{'' if own else f'  ({who})'}"
    yield "plugins"
    for one in table["plugins"]:
        who = f"{one['plugin']} ({one['distribution']} {one['version']}".strip() + ")"
        does = ", ".join(hook.removeprefix("driftspec_") for hook in one["hooks"])
        how = (
            f"{one['milliseconds']:.1f} ms: {does}" if one["state"] == "loaded" else f"{one['state']}: {one['reason']}"
        )
        yield f"  {who}  {how}"


def _described(registry: Registry, component: str) -> dict[str, Any]:
    """One component: its definition, who provides it, its keys with defaults and descriptions, what it offers."""
    from driftspec.spec.fits import wanted

    kind, _, name = component.partition("/")
    if kind not in KINDS or not name:
        raise UsageError(f"{shown(component)} is no KIND/NAME{nearest(kind, KINDS)}; kinds: {', '.join(KINDS)}")
    found, problem = registry.look_up(kind, name)
    if problem is not None and problem.code != "S120":
        raise PluginError(problem)
    if found is None:
        raise UsageError(problem.message if problem else f"nobody provides {shown(component)}")
    module, made = inspect.getmodule(found), _made(registry, found, kind, name)
    return {
        "kind": kind,
        "name": name,
        "from": str(registry.provider(kind, name)),
        "summary": inspect.getdoc(found) or "",
        "definition": (inspect.getdoc(module) or "") if module is not None else "",
        "source": f"{found.__module__}:{found.__qualname__}",
        "file": component_keys.place(found),
        "keys": list(component_keys.keys(found)),
        "example": dict(found.example),
        "offers": None if made is None else offered(made),
        "needs": None if made is None else [asdict(need) | {"text": wanted(need)} for need in made.needs()],
    }


def _made(registry: Registry, found: type[Component], kind: str, name: str) -> Component | None:
    """The component with its example's keys; None if it needs more, such as a file."""
    with contextlib.suppress(ValueError):  # pydantic's
        return KINDS[kind].make({"type": name, **found.example}, registry)
    return None


def _shown(told: dict[str, Any]) -> Iterator[str]:
    yield f"{told['kind']} '{told['name']}'  ({told['from']}, {told['source']})"
    yield from [f"  {told['file']}"] if told["file"] else []
    yield ""
    yield from (f"  {line}".rstrip() for line in told["definition"].splitlines())
    yield ""
    yield "keys"
    width = max((len(key["key"]) for key in told["keys"]), default=0)
    for key in told["keys"]:
        default = "required" if key["required"] else f"default {json.dumps(key['default'])}"
        yield f"  {key['key']:<{width}}  {key['takes']} ({default})"
        indent = " " * (width + 6)
        yield from textwrap.wrap(key["description"], 116, initial_indent=indent, subsequent_indent=indent)
    yield ""
    if told["offers"] is None:
        yield "what it offers and needs depends on its keys"
        return
    keys = f", with {json.dumps(told['example'])}" if told["example"] else ""
    yield f"offers{keys}"
    yield f"  {', '.join(told['offers']) or 'nothing to others'}"
    yield f"needs{keys}"
    for need in told["needs"]:
        less = "; without it a warning" if need["severity"] == "warning" else ""
        yield f"  of the {need['kind']}: {need['text']}{less}"
    yield from [] if told["needs"] else ["  nothing of others"]
