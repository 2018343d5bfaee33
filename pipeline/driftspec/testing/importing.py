"""Measure the import of a component: CPU time and imported modules, in a process that has already imported the core.

Each measurement runs in a fork of that process, so that all begin in the same state. The shortest time counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from driftspec.registry import Provider

TIMES = 5
HEAVY = ("torch", "numpy", "scipy", "sklearn", "matplotlib", "torchdiffeq", "safetensors", "pandas", "jax")
"""Modules whose import takes 0.1 s or more: only the methods that need them may import them."""

CODE = f"""
import importlib, json, os, sys, time
from driftspec import components, registry, streams
from driftspec.numerics import chains

asked = json.loads(sys.argv[1])
heavy = [name for name in {HEAVY!r} if name not in sys.modules]

def once():
    started = time.process_time()
    if asked["file"]:
        registry.Registry().add_file(asked["file"])
    else:
        importlib.import_module(asked["module"])
    seconds = time.process_time() - started
    here = vars(sys.modules.get(asked["module"], sys)).values()
    own = (one for one in here if isinstance(one, type) and issubclass(one, components.Component))
    classes = sum(bool(one.type) and one.__module__ == asked["module"] for one in own)
    imported = [name for name in heavy if name in sys.modules]
    known = registry.discover(asked["files"], asked["only_builtin"])
    components.KINDS[asked["kind"]].make(asked["body"], known)
    made = [name for name in heavy if name in sys.modules and name != "numpy"]
    return {{"seconds": seconds, "classes": classes, "imported": imported, "made": made}}

if not hasattr(os, "fork"):
    print(json.dumps([once()]))
    sys.exit()
found = []
for _ in range({TIMES}):
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, json.dumps(once()).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        found.append(json.loads(answer.read()))
    os.wait()
    if found[-1]["seconds"] > 0.5:
        break
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Cost:
    """The cost of importing a component's module and of making the component."""

    seconds: float  # CPU time of the import
    classes: int  # the number of components in the module
    imported: tuple[str, ...]  # the heavy modules that the import loads
    made: tuple[str, ...]  # the heavy modules that are loaded after the component is made


def cost(provider: Provider, kind: str, body: Any, files: tuple[str, ...], only_builtin: bool = False) -> Cost:
    """Return the cost of importing a provider's module, and of making the component `body`."""
    module = provider.target.partition(":")[0] if isinstance(provider.target, str) else provider.target.__module__
    file = provider.plugin if provider.digest else None
    asked = {"module": module, "file": file, "kind": kind, "body": body, "files": files, "only_builtin": only_builtin}
    words = [sys.executable, "-c", CODE, json.dumps(asked)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"importing {module} in a new process failed:\n{done.stderr}")
    found = json.loads(done.stdout)
    first = found[0]
    return Cost(min(one["seconds"] for one in found), first["classes"], tuple(first["imported"]), tuple(first["made"]))


__all__ = ["Cost", "cost"]
