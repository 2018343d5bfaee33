"""`run-spec plugins check`: run the conformance kit on installed components, with pytest in a separate process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from pydantic import ValidationError

from driftspec.components import KINDS
from driftspec.errors import PluginError, Problem, RunFailed, UsageError, nearest, shown

if TYPE_CHECKING:
    from driftspec.registry import Registry

QUIET = ("-q", "-p", "no:cacheprovider", "--tb=short", "-W", "ignore", "--no-header")


@dataclass
class Checked:
    """The kit's results for one component, or why it was not checked."""

    name: str  # KIND/NAME, with the name as a spec would write it
    passed: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unchecked: str | None = None

    def entry(self) -> dict[str, Any]:
        """Return the entry in --format json."""
        if self.unchecked is not None:
            return {"checked": False, "reason": self.unchecked}
        return {"checked": True, "passed": self.passed, "failed": self.failed, "skipped": self.skipped}


def check(
    registry: Registry, named: Sequence[str], files: Sequence[str], verbose: bool, only_builtin: bool = False
) -> list[Checked]:
    """Check the named components, or all; return their results in order. UsageError if pytest is not installed."""
    if importlib.util.find_spec("pytest") is None:
        raise UsageError("plugins check runs the conformance kit with pytest: pip install 'driftspec[test]'")
    found = [_made(registry, one) for one in _chosen(registry, named)]
    asked = [one for one in found if one.unchecked is None]
    if asked:
        _run(asked, [str(Path(one).resolve()) for one in files], verbose, only_builtin)
    return found


def _chosen(registry: Registry, named: Sequence[str]) -> list[str]:
    """Return KIND/NAME of each component to check. A name that several distributions provide comes once for each."""
    known = [f"{kind}/{name}" for kind, name in _spelt(registry)]
    for one in named:
        kind, _, name = one.partition("/")
        if kind not in KINDS or not name:
            raise UsageError(f"{shown(one)} is no KIND/NAME{nearest(kind, KINDS)}; kinds: {', '.join(KINDS)}")
        if registry.provider(kind, name) is None:
            problem = registry.look_up(kind, name)[1] or Problem("S120", f"{shown(one)} is ambiguous")
            raise (UsageError(problem.message) if problem.code == "S120" else PluginError(problem))
    return list(dict.fromkeys(named)) or sorted(known)


def _spelt(registry: Registry) -> Iterator[tuple[str, str]]:
    """Yield kind and name of every component, with the distribution in the name if several provide it."""
    for (kind, name), providers in registry.providers.items():
        if len(providers) == 1:
            yield kind, name
        else:
            yield from ((kind, f"{one.distribution}/{name}") for one in providers)


def _made(registry: Registry, one: str) -> Checked:
    """Return a component without results; if it cannot be made, it is marked as not checked, with the reason."""
    kind, _, name = one.partition("/")
    found, problem = registry.look_up(kind, name)
    if found is None:
        return Checked(one, failed={"it is found": problem.message if problem else "no plugin provides it"})
    try:
        KINDS[kind].make({"type": name, **found.example}, registry)
    except ValueError as error:  # also pydantic's ValidationError
        missing = [".".join(map(str, e["loc"])) for e in _errors(error) if e["type"] == "missing"]
        reasons = [str(e["msg"]).removeprefix("Value error, ") for e in _errors(error)]
        return Checked(one, unchecked=f"needs keys: {', '.join(missing)}" if missing else "; ".join(reasons))
    return Checked(one)


def _errors(error: ValueError) -> Sequence[Mapping[str, Any]]:
    """Return the errors of a ValidationError; none for another ValueError."""
    return error.errors() if isinstance(error, ValidationError) else ()


def _run(asked: Sequence[Checked], files: Sequence[str], verbose: bool, only_builtin: bool) -> None:
    """Run pytest in a new process, with these plugin files, and add its results to each component.

    The class Test0 checks the first component, Test1 the second.
    """
    written = ["from driftspec.testing import checks_for", ""]
    for number, one in enumerate(asked):
        kind, _, name = one.name.partition("/")
        written.append(f"Test{number} = checks_for({kind!r}, {name!r}, {list(files)!r}, only_builtin={only_builtin})")
    with tempfile.TemporaryDirectory(prefix="driftspec-check-") as folder:
        module, report = Path(folder) / "test_components.py", Path(folder) / "report.xml"
        module.write_text("\n".join(written) + "\n", encoding="utf-8")
        (Path(folder) / "pytest.ini").write_text("[pytest]\njunit_family = xunit2\n", encoding="utf-8")
        words = [sys.executable, "-m", "pytest", *QUIET, "-c", "pytest.ini", f"--junitxml={report}", module.name]
        alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        env = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"} | alone
        if sys.stderr.isatty():
            print(f"checking {len(asked)} components, some seconds each", file=sys.stderr)
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
        if verbose:
            print(done.stdout + done.stderr, end="", file=sys.stderr)
        if not report.exists() or done.returncode not in (0, 1):
            ended = f"nothing was checked, pytest ended with code {done.returncode}"
            raise RunFailed(f"{ended}: {_reason(done.stdout, done.stderr)} (-v shows the output of pytest)")
        _read(report, asked)


def _reason(out: str, err: str) -> str:
    """Return the last error that pytest reports, or its last line."""
    lines = [line.strip() for line in (err + out).splitlines() if line.strip()]
    errors = [line.removeprefix("E ").strip() for line in lines if line.startswith("E ")]
    return (errors or lines or ["it printed nothing"])[-1]


def _read(report: Path, asked: Sequence[Checked]) -> None:
    """Add each test of the report to the results of its component."""
    for case in ElementTree.parse(report).iter("testcase"):
        one = asked[int(case.get("classname", "").rpartition(".Test")[2])]
        name = case.get("name", "").removeprefix("test_").replace("_", " ")
        outcome = next(iter(case), None)
        reason = "" if outcome is None else (outcome.get("message") or outcome.text or "").strip()
        if outcome is None or outcome.tag not in ("failure", "error", "skipped"):
            one.passed += 1
        elif outcome.tag == "skipped":
            one.skipped[name] = reason
        else:
            one.failed[name] = reason.removeprefix("Failed: ")


def lines(found: Sequence[Checked], verbose: bool) -> Iterator[str]:
    """Yield one line per component, then one per failed check, and with `verbose` one per skipped check."""
    width = max(len(one.name) for one in found)
    yield f"{'component':<{width}}  passed  failed  skipped"
    for one in found:
        if one.unchecked is not None:
            yield f"{one.name:<{width}}  not checked: {one.unchecked}"
        else:
            yield f"{one.name:<{width}}  {one.passed:>6}  {len(one.failed):>6}  {len(one.skipped):>7}"
    for one in found:
        yield from (f"{one.name}: {check}: {reason}" for check, reason in one.failed.items())
        if verbose:
            yield from (f"{one.name}: {check}: skipped: {reason}" for check, reason in one.skipped.items())


__all__ = ["Checked", "check", "lines"]
