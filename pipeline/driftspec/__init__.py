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

# This makes MKL round each row of a matrix product alike, wherever the row is in the batch. It costs no time. MKL reads
# it at the first product of the process, so it is set here, when the package is imported.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

_HOMES = {
    "DriftspecError": "errors", "PluginError": "errors", "Run": "api", "RunFailed": "errors", "SolveFailed": "errors",
    "SpecError": "errors", "UsageError": "errors", "load": "api", "run": "api",
}  # fmt: skip

__all__ = ["DriftspecError", "PluginError", "Run", "RunFailed", "SolveFailed", "SpecError", "UsageError", "load", "run"]


def _installed() -> Any:
    """Return the registry of the installed plugins. Its module is imported at the first call."""
    return importlib.import_module("driftspec.registry").installed()


outside.resolve_by(_installed)


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that checking a spec does not import the code of a run."""
    if name not in _HOMES:
        raise AttributeError(f"module 'driftspec' has no attribute '{name}'")
    return getattr(importlib.import_module(f"driftspec.{_HOMES[name]}"), name)
