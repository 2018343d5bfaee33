"""driftspec: continuous-time generative models trained, measured and sampled from one YAML file."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from driftspec import outside
from driftspec._version import __version__ as __version__

if TYPE_CHECKING:
    from driftspec.api import Run, load, run
    from driftspec.errors import DriftspecError, PluginError, RunFailed, SolveFailed, SpecError, UsageError

# Without it MKL rounds a row of a matrix product by where in memory the row starts: by its place in the batch. Costs
# nothing. Read at the process's first product, hence here and not beside the products.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

_HOMES = {
    "DriftspecError": "errors", "PluginError": "errors", "Run": "api", "RunFailed": "errors", "SolveFailed": "errors",
    "SpecError": "errors", "UsageError": "errors", "load": "api", "run": "api",
}  # fmt: skip

__all__ = ["DriftspecError", "PluginError", "Run", "RunFailed", "SolveFailed", "SpecError", "UsageError", "load", "run"]


def _installed() -> Any:
    """The registry of the installed plugins, which is imported when it is first needed."""
    return importlib.import_module("driftspec.registry").installed()


outside.resolve_by(_installed)


def __getattr__(name: str) -> Any:
    """Public names are imported when first asked for, so that checking a spec imports no run."""
    if name not in _HOMES:
        raise AttributeError(f"module 'driftspec' has no attribute '{name}'")
    return getattr(importlib.import_module(f"driftspec.{_HOMES[name]}"), name)
