"""Changes to a spec by the command line or a Python call: values set, appended and removed."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driftspec import source
from driftspec.components import Dynamics
from driftspec.errors import Place, Problem, SpecError, shown

if TYPE_CHECKING:
    from driftspec.registry import Registry


@dataclass(frozen=True)
class Changes:
    """Changes to a spec, in order: --set, then --unset, then the options that each set one key."""

    sets: Sequence[str] = ()
    unsets: Sequence[str] = ()
    options: tuple[tuple[str, str, Any], ...] = ()  # (flag, path, value), e.g. ("--seed", "seed", 3)

    def apply(self, document: source.Document, registry: Registry | None = None) -> source.Document:
        """Return the document with every change made, in order. SpecError lists each change that cannot be made.

        With a registry, `evaluate+=` appends to the default metrics of the dynamics if the document lists no metrics.
        """
        found: list[Problem] = []
        for change in self._each(registry):
            try:
                document = change(document)
            except SpecError as error:
                found += error.problems
        if found:
            raise SpecError(found)
        return document

    def _each(self, registry: Registry | None) -> Iterator[Callable[[source.Document], source.Document]]:
        for index, text in enumerate(self.sets, 1):
            yield functools.partial(_set, text=text, name=f"--set[{index}]", registry=registry)
        for index, path in enumerate(self.unsets, 1):
            yield functools.partial(source.unset, dotted=path, name=f"--unset[{index}]")
        for flag, path, value in self.options:
            yield functools.partial(_set, text=f"{path}={json.dumps(value)}", name=flag, registry=registry)


def _set(document: source.Document, text: str, name: str, registry: Registry | None) -> source.Document:
    path, equals, value = text.partition("=")
    if not equals:
        raise SpecError(Problem("Y014", f"{shown(text)} is not KEY=VALUE", Place(name)))
    parsed, append = source.parse_value(value, name), path.endswith("+")
    if path == "evaluate+" and registry is not None and document.data.get("evaluate") is None:
        metrics = source.parse_value(json.dumps(_metrics_by_default(document, registry)), name)
        document = source.assign(document, "evaluate", metrics, name)
    return source.assign(document, path.removesuffix("+"), parsed, name, append=append)


def _metrics_by_default(document: source.Document, registry: Registry) -> list[str]:
    """Return the default metrics of the document's dynamics; none if the dynamics is unknown."""
    body = document.data.get("dynamics")
    name = body.get("type") if isinstance(body, dict) else body
    found = registry.look_up(Dynamics.kind, name, Dynamics)[0] if isinstance(name, str) else None
    return list(found.default_metrics) if found is not None and issubclass(found, Dynamics) else []


NONE = Changes()

__all__ = ["NONE", "Changes"]
