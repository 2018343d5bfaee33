"""Check the arguments of calls from Python: plugins, specs, overrides, paths, whole numbers, points."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftspec.components import KINDS
from driftspec.components.component import Component
from driftspec.errors import PluginError, Problem, RunFailed, SpecError, UsageError, shown
from driftspec.registry import Registry, discover

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.floating[Any]] | Tensor

Plugin = str | Path | type[Component]
"""A one-file plugin, given by its path, or a component class, such as a network defined in a notebook."""


def registry_with(plugins: Iterable[Plugin]) -> Registry:
    """Return the registry of installed plugins with those of a call added. PluginError lists each that is wrong."""
    if isinstance(plugins, (str, Path, type, Mapping)) or not isinstance(plugins, Iterable):
        text = f"'plugins' is {_what(plugins)}: it takes a list of component classes and of .py files"
        raise PluginError(Problem("P204", text))
    registry = discover()
    for problem in [*registry.broken, *registry.held_back]:
        warnings.warn(str(problem), RuntimeWarning, stacklevel=4)
    found: list[Problem] = []
    for index, plugin in enumerate(plugins):
        try:
            _take_in(registry, f"plugins[{index}]", plugin)
        except PluginError as error:
            found += error.problems
    if found:
        raise PluginError(found)
    return registry


def _take_in(registry: Registry, name: str, plugin: object) -> None:
    """Add one plugin to the registry. PluginError states which argument it was, such as plugins[0]."""
    if isinstance(plugin, (str, Path)):
        try:
            registry.add_file(plugin, name)
        except UsageError as error:
            raise PluginError(Problem("P201", str(error))) from error
    elif isinstance(plugin, type) and issubclass(plugin, Component) and plugin.kind and plugin.type:
        registry.add_component(plugin)
    else:
        raise PluginError(Problem("P204", f"{name} is {_what(plugin)}: {_remedy(plugin)}"))


def _what(given: object) -> str:
    """Return a few words that describe a wrong argument."""
    if isinstance(given, type):
        return f"the class {given.__qualname__}"
    if hasattr(given, "dtype"):
        return f"an array of {given.dtype}"
    if given is None or isinstance(given, (bool, int, float, str, Mapping, list, tuple)):
        return shown(given)
    return f"an object of class {type(given).__qualname__}"


def _remedy(given: object) -> str:
    """Return what to pass instead of a wrong plugin."""
    if isinstance(given, Component):
        return f"pass its class, {type(given).__qualname__}"
    if isinstance(given, type) and issubclass(given, Component):
        return "it has no 'type', so no spec can name it: give it a 'type', and the base class of its kind"
    bases = ", ".join(kind.__name__ for kind in KINDS.values())
    return f"a plugin is a .py file, or a class derived from one of driftspec.components: {bases}"


def options(overrides: Mapping[str, Any] | None) -> tuple[tuple[str, str, Any], ...]:
    """Return overrides as changes of a spec: (name, dotted key, value). SpecError S112 for a value that YAML lacks."""
    if not isinstance(overrides, Mapping | None):
        raise UsageError(f"'overrides' is {_what(overrides)}: it takes a mapping of dotted keys to values")
    return tuple(
        (name, key, plain(value, name)) for key, value in (overrides or {}).items() for name in [f"overrides[{key}]"]
    )


def plain(tree: Any, name: str) -> Any:
    """Return spec data as plain Python values; numbers of other libraries are converted. SpecError S112 for others."""
    if isinstance(tree, Mapping):
        return {key: plain(value, f"{name}.{key}") for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [plain(value, f"{name}.{index}") for index, value in enumerate(tree)]
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    if isinstance(tree, (Integral, Real)):
        return int(tree) if isinstance(tree, Integral) else float(tree)
    text = f"{name} is {_what(tree)}: it takes a number, a text, true, false, null, a list or a mapping"
    raise SpecError(Problem("S112", text))


def path(name: str, value: object) -> Path:
    """Return the value as a Path. UsageError if it is no path."""
    if isinstance(value, (str, Path)):
        return Path(value)
    raise UsageError(f"'{name}' is {_what(value)}: it takes a path")


def whole(name: str, value: Any) -> int:
    """Return the value as a whole number from 0 to 2^63 - 1. UsageError for anything else."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < 2**63:
        raise UsageError(f"'{name}' is {_what(value)}: it takes a whole number from 0 to 2^63 - 1")
    return number


def in_order(x: Any, columns: Sequence[str] | None) -> Any:
    """Return these columns, in this order, of a table with named columns; all columns if `columns` is None.

    An array without column names is returned as it is.
    """
    import numpy as np

    names = getattr(x, "columns", getattr(getattr(x, "dtype", None), "names", None))
    if names is None:
        return x
    if columns is None or not all(isinstance(name, str) for name in names):  # a data frame may number its columns
        return np.asarray(x)
    if missing := [name for name in columns if name not in names]:
        there = ", ".join(map(str, names))
        raise RunFailed(f"no column {', '.join(map(shown, missing))}: the points have {there}")
    return np.stack([np.asarray(x[name], dtype=np.float64) for name in columns], axis=-1)


def points(x: Array, d: int) -> Tensor:
    """Return x as points (B, d) in float64 on the CPU, without a graph. RunFailed for a wrong shape or dtype."""
    import torch

    try:
        rows = torch.as_tensor(x).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise RunFailed(f"points are an array of numbers, not {_what(x)}") from error
    if rows.dtype.is_complex or rows.dtype is torch.bool:
        raise RunFailed(f"points are real numbers, not {str(rows.dtype).removeprefix('torch.')}")
    if rows.dim() != 2 or rows.shape[1] != d:
        raise RunFailed(f"points have the shape (B, {d}), not {tuple(rows.shape)}")
    return rows.double()


def asking_for_gradient(x: Array) -> Tensor | None:
    """Return x (B, d) if it is a tensor that requires grad, so that results need a graph to it; otherwise None."""
    import torch

    return x if isinstance(x, torch.Tensor) and x.requires_grad and torch.is_grad_enabled() else None


def like(x: Array) -> Callable[[Tensor], Any]:
    """Return the function that converts results to the type of x (B, d): numpy, or torch on the device of x."""
    import torch

    return (lambda value: value.to(x.device)) if isinstance(x, torch.Tensor) else (lambda value: value.numpy())


__all__ = [
    "Array",
    "Plugin",
    "asking_for_gradient",
    "in_order",
    "like",
    "options",
    "path",
    "plain",
    "points",
    "registry_with",
    "whole",
]
