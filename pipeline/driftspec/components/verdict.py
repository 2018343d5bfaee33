"""Verdicts: how far one aspect of a run can be trusted, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from driftspec.errors import RunFailed

Severity = Literal["good", "unknown", "warning", "bad"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From the best to the worst. A bad verdict comes first in the last line of a run, and `--strict` then exits with 1."""


@dataclass(frozen=True)
class Verdict:
    """A judgement of one aspect of a run: what was judged, the outcome, and the reason with its numbers."""

    subject: str  # one word: chains, solver, rounding, log_det, adjoint, prior, data, ...
    outcome: str  # a short name: converged, not_converged, unknown, ...
    reason: str  # one plain sentence
    severity: Severity

    @property
    def heading(self) -> str:
        """Subject and outcome in words, as in "chains not converged"; the outcome alone if it names the subject."""
        named = self.subject[:5] in self.outcome  # such as rounding: metropolis_ratio_rounded
        return (self.outcome if named else f"{self.subject} {self.outcome}").replace("_", " ")

    def __str__(self) -> str:
        return f"{self.heading}: {self.reason}"


FIELDS = tuple(one.name for one in fields(Verdict))


@dataclass(frozen=True)
class Judged:
    """A verdict and its source: `train`, `data`, `sample`, or a metric's key."""

    source: str
    verdict: Verdict

    def entry(self) -> dict[str, Any]:
        """Return the entry for `verdicts` in run.json."""
        return {"source": self.source, **asdict(self.verdict)}

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Judged:
        """Return the verdict of an entry that `entry` made. RunFailed if it is not a verdict."""
        try:
            return cls(entry["source"], Verdict(**{name: entry[name] for name in FIELDS}))
        except (KeyError, TypeError) as error:
            raise RunFailed("run.json is damaged: 'verdicts' has an entry that is no verdict") from error


def of_severity(judged: Iterable[Judged], severity: Severity) -> list[Judged]:
    """Return the verdicts of one severity."""
    return [one for one in judged if one.verdict.severity == severity]


def with_verdict(judged: Iterable[Judged], new: Judged) -> list[Judged]:
    """Return the verdicts and the new one. For each source and subject only the worst is kept, the first if equal."""
    kept = {(one.source, one.verdict.subject): one for one in judged}
    key = new.source, new.verdict.subject
    before = kept.get(key)
    if before is None or _rank(new) > _rank(before):
        kept[key] = new
    return list(kept.values())


def _rank(one: Judged) -> int:
    return SEVERITIES.index(one.verdict.severity)


__all__ = ["SEVERITIES", "Judged", "Severity", "Verdict", "of_severity", "with_verdict"]
