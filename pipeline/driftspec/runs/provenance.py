"""Where a run comes from: the entries of run.json about the spec, the program, the machine and the git checkout."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import platform
import socket
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftspec._version import __version__

if TYPE_CHECKING:
    from driftspec.registry import Registry
    from driftspec.spec import Spec


def now() -> str:
    """Return the time in UTC, as ISO text, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def identity(spec: Spec, data_digest: str | None) -> str:
    """Return the sha256 of the resolved spec; a data file counts by its digest, not its path.

    Trackers, and what the spec states about its results, are left out: they do not change the run.
    """
    resolved = copy.deepcopy(spec.resolved())
    for key in ("trackers", "shows", "quick"):
        resolved.pop(key, None)
    if data_digest is not None and spec.data is not None:
        resolved["data"].pop(spec.data.file_key, None)
    return hashlib.sha256(json.dumps([resolved, data_digest], sort_keys=True).encode()).hexdigest()


def origin(spec: Spec, registry: Registry, argv: Sequence[str]) -> dict[str, Any]:
    """Return the entries of run.json that are known before anything is computed."""
    return {
        "name": spec.name, "argv": list(argv), "seed": spec.seed, "started": now(), "finished": None,
        "device": spec.runtime.device, "threads": spec.runtime.threads, "pid": os.getpid(),
        "host": socket.gethostname(), "machine": machine(),
        "python": platform.python_version(), "torch": metadata.version("torch"),
        "driftspec": __version__, "plugins": _plugins(spec, registry), "git": _git(),
    }  # fmt: skip


def machine() -> str:
    """Return processor, cores and system, such as "Intel(R) Xeon(R) Processor, 2 cores, Linux x86_64"."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # where the system has this file, it names the processor
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
        name = names[0] if names else name
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def _plugins(spec: Spec, registry: Registry) -> dict[str, str]:
    """Return the versions of the distributions that the run uses, and the sha256 of each one-file plugin."""
    providers = (registry.provider(c.kind, c.spelling) for c in spec.components().values())
    named = {(p.distribution, p.version) for p in providers if p is not None and not p.digest}
    named |= {(p.distribution, p.version) for p in registry.observers() if not p.digest}
    return {**dict(sorted(named)), **{Path(file).name: digest for file, digest in registry.files.items()}}


def _git() -> dict[str, Any] | None:
    """Return the commit of the current directory, and whether it has changes; None if it is no git checkout."""
    try:
        commit, status = (
            subprocess.run(
                ["git", "--no-optional-locks", *words], capture_output=True, text=True, timeout=5, check=True
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(status)}
