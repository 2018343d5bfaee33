"""`run-spec plugins list | show KIND/NAME | check | new DIR`: list, describe or check components; start a package."""

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
    if action is not None and words[action] == "new":  # it has options of its own
        from driftspec.cli import new

        return new.main(words[:action] + words[action + 1 :])
    parser = options.parser(
        "plugins", "List all components and plugins, show one component's keys, or check components.",
        "run-spec plugins new DIR writes a package for a component of your own (see plugins new --help)",
    )  # fmt: skip
    parser.add_argument(
        "action", metavar="list | show | check | new",
        help="list everything, show one component, run the conformance kit, or start a package",
    )  # fmt: skip
    parser.add_argument("components", nargs="*", metavar="KIND/NAME", help="e.g. estimator/hutchinson")
    options.shaping(parser)
    args = parser.parse_args(words)
    if args.action not in ACTIONS:
        allowed = ", ".join(ACTIONS)
        raise UsageError(f"unknown action {shown(args.action)}{nearest(args.action, ACTIONS)}; allowed: {allowed}")
    if args.action != "check" and len(args.components) != (args.action == "show"):
        raise UsageError("plugins show takes one KIND/NAME, plugins list takes none")
    registry = options.registry(args)
    if args.action == "check":
        return _check(registry, args)
    data = _table(registry) if args.action == "list" else _described(registry, args.components[0])
    lines = _listed(data) if args.action == "list" else _shown(data)
    print(json.dumps(data) if args.format == "json" else "\n".join(lines))
    return 0


def _check(registry: Registry, args: argparse.Namespace) -> int:
    """Print the results of the conformance kit; return 4 if a component fails, otherwise 0."""
    from driftspec.cli import conformance

    found = conformance.check(registry, args.components, args.plugin, args.verbose, args.no_plugins)
    data = {one.name: one.entry() for one in found}
    print(json.dumps(data) if args.format == "json" else "\n".join(conformance.lines(found, args.verbose)))
    return 4 if any(one.failed for one in found) else 0


def _table(registry: Registry) -> dict[str, Any]:
    """Return {kind: {name: who provides it}}, with "summaries" {kind: {name: summary}} and "plugins", a list."""
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
    """Yield one line per component with its summary, and with who provides it if it is not built in."""
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
    """Return one component as data: definition, who provides it, keys with defaults, what it offers and needs."""
    from driftspec.spec.fits import wanted

    kind, _, name = component.partition("/")
    if kind not in KINDS or not name:
        raise UsageError(f"{shown(component)} is no KIND/NAME{nearest(kind, KINDS)}; kinds: {', '.join(KINDS)}")
    found, problem = registry.look_up(kind, name)
    if problem is not None and problem.code != "S120":
        raise PluginError(problem)
    if found is None:
        raise UsageError(problem.message if problem else f"no plugin provides {shown(component)}")
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
    """Return the component with the keys of its example; None if it needs more, such as a file."""
    with contextlib.suppress(ValueError):  # also pydantic's ValidationError
        return KINDS[kind].make({"type": name, **found.example}, registry)
    return None


def _shown(data: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that describe one component."""
    yield f"{data['kind']} '{data['name']}'  ({data['from']}, {data['source']})"
    yield from [f"  {data['file']}"] if data["file"] else []
    yield ""
    for text in filter(None, (data["summary"], data["definition"])):
        yield from (f"  {line}".rstrip() for line in text.splitlines())
        yield ""
    yield "keys"
    width = max((len(key["key"]) for key in data["keys"]), default=0)
    for key in data["keys"]:
        default = "required" if key["required"] else f"default {json.dumps(key['default'])}"
        yield f"  {key['key']:<{width}}  {key['takes']} ({default})"
        indent = " " * (width + 6)
        yield from textwrap.wrap(key["description"], 116, initial_indent=indent, subsequent_indent=indent)
    yield ""
    if data["offers"] is None:
        yield "what it offers and needs depends on its keys"
        return
    keys = f", with {json.dumps(data['example'])}" if data["example"] else ""
    yield f"offers{keys}"
    yield f"  {', '.join(data['offers']) or 'nothing'}"
    yield f"needs{keys}"
    for need in data["needs"]:
        less = "; a warning without it" if need["severity"] == "warning" else ""
        yield f"  of the {need['kind']}: {need['text']}{less}"
    yield from [] if data["needs"] else ["  nothing"]
