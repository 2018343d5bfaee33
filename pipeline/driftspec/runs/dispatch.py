"""Send the events of a run to its observers: the caller's own, plugins that implement hooks, the spec's trackers.

Plugins and trackers are other people's code. If one raises an error, the error is reported once and recorded in
run.json, and that observer gets no more events; the run continues with the same results. A signal that arrives while
an observer works takes effect when the observer returns; a second signal takes effect at once.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from driftspec.components.observer import Observer, Record, RunInfo
from driftspec.errors import Interrupted, Problem, cause

if TYPE_CHECKING:
    from driftspec.components import Measured, Tracker, Verdict
    from driftspec.registry import Plugin, Registry
    from driftspec.spec import Spec

HOOKS = {
    "started": "driftspec_run_started",
    "step": "driftspec_step",
    "checkpoint": "driftspec_checkpoint",
    "metric": "driftspec_metric",
    "finished": "driftspec_run_finished",
}
"""The hook of a plugin that gets the same event as each method of an observer."""


class Hooked(Observer):
    """An observer that calls a plugin's hooks; each hook also gets the run."""

    def __init__(self, plugin: Plugin):
        self.plugin = plugin

    run: RunInfo

    def started(self, run: RunInfo) -> None:
        self.run = run
        self.plugin.call("driftspec_run_started", run=run)

    def step(self, record: Record, steps: int) -> None:
        self.plugin.call("driftspec_step", run=self.run, record=record)

    def checkpoint(self, step: int, path: Path) -> None:
        self.plugin.call("driftspec_checkpoint", run=self.run, step=step, path=path)

    def metric(self, name: str, measured: Measured) -> None:
        self.plugin.call("driftspec_metric", run=self.run, name=name, measured=measured)

    def finished(self, status: str, error: str | None) -> None:
        self.plugin.call("driftspec_run_finished", run=self.run, status=status, error=error)


@dataclass(frozen=True, eq=False)
class Member:
    """A plugin or a tracker that observes a run, and whose code it is."""

    who: str  # its name in messages
    origin: Mapping[str, str]  # plugin, distribution and version, for run.json
    observer: Callable[[], Observer]  # is called when the run starts
    names: Mapping[str, str]  # the names of its methods in messages: for a plugin, those of its hooks


class Audience(Observer):
    """Sends each event to the caller's own observer, then to each member.

    An error of the caller's own observer ends the run. An error of a member does not.
    """

    def __init__(self, own: Observer, members: list[Member], failed: Callable[[dict[str, str]], None]):
        self.own, self.members, self.failed = own, members, failed
        self.hold: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        self.listening: dict[str, list[tuple[Member, Observer]]] = {event: [] for event in HOOKS}

    def started(self, run: RunInfo) -> None:
        self.own.started(run)
        for member in self.members:
            with self._guarded(member, "started"):
                observer = member.observer()
                observer.started(run)
                for event in HOOKS:
                    if _listens(observer, event):
                        self.listening[event].append((member, observer))

    def stage(self, name: str) -> None:
        self.own.stage(name)

    def step(self, record: Record, steps: int) -> None:
        self.own.step(record, steps)
        for member, observer in tuple(self.listening["step"]):
            with self._guarded(member, "step", f" at step {record.step}"):
                observer.step(record, steps)

    def checkpoint(self, step: int, path: Path) -> None:
        self.own.checkpoint(step, path)
        for member, observer in tuple(self.listening["checkpoint"]):
            with self._guarded(member, "checkpoint", f" at step {step}"):
                observer.checkpoint(step, path)

    def metric(self, name: str, measured: Measured) -> None:
        self.own.metric(name, measured)
        for member, observer in tuple(self.listening["metric"]):
            with self._guarded(member, "metric", f" at metric '{name}'"):
                observer.metric(name, copy.deepcopy(measured))  # a change of its details must not reach metrics.json

    def verdict(self, source: str, verdict: Verdict) -> None:
        self.own.verdict(source, verdict)

    def finished(self, status: str, error: str | None) -> None:
        self.own.finished(status, error)
        self.hold = contextlib.nullcontext  # the run no longer handles signals
        for member, observer in tuple(self.listening["finished"]):
            with self._guarded(member, "finished"):
                observer.finished(status, error)

    @contextlib.contextmanager
    def _guarded(self, member: Member, event: str, where: str = "") -> Iterator[None]:
        """Run a member's code: an error removes this member only, and what it prints goes to stderr."""
        try:
            with self.hold(), contextlib.redirect_stdout(sys.stderr):
                yield
        except (KeyboardInterrupt, Interrupted):
            raise
        except BaseException as error:  # also SystemExit
            for listeners in self.listening.values():
                listeners[:] = [one for one in listeners if one[0] is not member]
            what, why = f"{member.names[event]}{where}", cause(error)
            text = f"{member.who}: {what} failed: {why}; the run continues without it"
            self.own.trouble(Problem("P207", text, severity="warning"), error)
            self.failed({**member.origin, "hook": what, "error": why})


def _listens(observer: Observer, event: str) -> bool:
    """Whether the observer does anything at an event. If none does, the event costs no time."""
    if isinstance(observer, Hooked):
        return HOOKS[event] in observer.plugin.hooks
    return getattr(type(observer), event) is not getattr(Observer, event)


def members(spec: Spec, registry: Registry, path: Path) -> list[Member]:
    """Return the plugins with hooks, then the spec's trackers, each with its own folder below the run directory."""
    found = [Member(p.who, p.origin, _hooked(p), HOOKS) for p in registry.observers()]
    folders: list[str] = []
    for tracker in spec.trackers or ():
        provider = registry.provider("tracker", tracker.spelling)
        number = folders.count(tracker.type) + 1
        folders.append(tracker.type)
        folder = path / "trackers" / (tracker.type if number == 1 else f"{tracker.type}-{number}")
        origin = {} if provider is None else provider.origin
        who = tracker.label if provider is None else f"{tracker.label} of {provider.who}"
        found.append(
            Member(who, {"tracker": tracker.spelling, **origin}, _made(tracker, folder), {e: e for e in HOOKS})
        )
    return found


def _hooked(plugin: Plugin) -> Callable[[], Observer]:
    """Return a function that makes the plugin's observer."""
    return lambda: Hooked(plugin)


def _made(tracker: Tracker, folder: Path) -> Callable[[], Observer]:
    """Return a function that makes the tracker's observer."""
    return lambda: tracker.observer(folder)


__all__ = ["Audience", "members"]
