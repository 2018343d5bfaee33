"""The findings of `validate` as text, JSON, SARIF 2.1.0, or annotations of GitHub Actions."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from driftspec._version import __version__
from driftspec.errors import CODES, Problem, printable

SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


@dataclass(frozen=True)
class Verdict:
    """The result of checking one spec: its errors and its warnings."""

    spec: str
    problems: Sequence[Problem] = ()
    exit_code: int = 0


@dataclass(frozen=True)
class Findings:
    """The verdict on every spec, and the problems of plugins, which belong to no spec."""

    general: Sequence[Problem] = ()
    verdicts: list[Verdict] = field(default_factory=list)
    general_code: int = 0

    @property
    def exit_code(self) -> int:
        """The highest exit code of all specs and of the plugins."""
        return max([self.general_code, *(verdict.exit_code for verdict in self.verdicts)])

    def each(self) -> Iterator[tuple[str | None, Problem]]:
        """Yield every problem with its spec; None for a problem of no spec."""
        yield from ((None, problem) for problem in self.general)
        for verdict in self.verdicts:
            yield from ((verdict.spec, problem) for problem in verdict.problems)


def as_json(findings: Findings) -> str:
    """Return one JSON object: whether everything is valid, whether each file is, and every problem with its place."""
    files = [{"file": printable(one.spec), "valid": one.exit_code == 0} for one in findings.verdicts]
    problems = [_entry(spec, problem) for spec, problem in findings.each()]
    return json.dumps({"valid": findings.exit_code == 0, "files": files, "problems": problems})


def _entry(spec: str | None, problem: Problem) -> dict[str, Any]:
    """Return a problem as JSON. If its value came from an option, `file` is the option, line and column are null."""
    place = problem.place
    return {
        "spec": spec and printable(spec),
        "code": problem.code,
        "severity": problem.severity,
        "message": problem.message,
        "file": printable(place.file) if place else None,
        "line": (place.line or None) if place else None,
        "column": (place.column or None) if place else None,
    }


def as_sarif(findings: Findings) -> str:
    """Return SARIF with one run: a rule per code, a result per problem. Columns count code points, from 1."""
    from driftspec.spec.explanations import EXPLANATIONS

    codes = list(CODES)
    rules = [
        {
            "id": code,
            "shortDescription": {"text": what},
            "fullDescription": {"text": EXPLANATIONS[code].why},
            "help": {"text": EXPLANATIONS[code].text(code)},
        }
        for code, what in CODES.items()
    ]
    results = [
        {
            "ruleId": problem.code,
            "ruleIndex": codes.index(problem.code),
            "level": problem.severity,
            "message": {"text": _message(spec, problem)},
            "locations": _locations(spec, problem),
        }
        for spec, problem in _once(findings)
    ]
    run = {
        "tool": {"driver": {"name": "driftspec", "version": __version__, "rules": rules}},
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": True, "exitCode": findings.exit_code}],
        "results": results,
    }
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]})


def as_github(findings: Findings) -> str:
    """Return one workflow command per problem; GitHub shows each at its line of the file."""
    return "\n".join(_annotation(spec, problem) for spec, problem in _once(findings))


def as_text(findings: Findings) -> str:
    """Return one line per valid spec. The problems of the others are printed to stderr elsewhere."""
    return "\n".join(f"{printable(one.spec)}: valid" for one in findings.verdicts if one.exit_code == 0)


FORMATS = {"text": as_text, "json": as_json, "sarif": as_sarif, "github": as_github}


def show(findings: Findings, form: str) -> None:
    """Print the findings to stdout in the given format."""
    if text := FORMATS[form](findings):
        print(text)
        sys.stdout.flush()


def _once(findings: Findings) -> list[tuple[str | None, Problem]]:
    """Return every problem once: a problem of a base would come again for each spec that extends it."""
    found: dict[tuple[Any, ...], tuple[str | None, Problem]] = {}
    for spec, problem in findings.each():
        in_file = problem.place is not None and problem.place.line
        found.setdefault((problem, None if in_file else spec), (spec, problem))
    return list(found.values())


def _option(spec: str | None, problem: Problem) -> str | None:
    """Return the option of the command line that gave the wrong value, such as --set[2]; None if it was a file."""
    place = problem.place
    return place.file if place is not None and not place.line and place.file != spec else None


def _message(spec: str | None, problem: Problem) -> str:
    """Return the message of a problem, with the option that gave the value before it."""
    option = _option(spec, problem)
    return f"{printable(option)}: {problem.message}" if option else problem.message


def _where(spec: str | None, problem: Problem) -> str | None:
    """Return the file in which a problem is shown: that of its place, or the spec that an option changes."""
    return problem.place.file if problem.place is not None and not _option(spec, problem) else spec


def _locations(spec: str | None, problem: Problem) -> list[dict[str, Any]]:
    """Return the SARIF locations of a problem: one or none."""
    file, place, option = _where(spec, problem), problem.place, _option(spec, problem)
    location: dict[str, Any] = {}
    if file is not None:
        location["physicalLocation"] = {"artifactLocation": {"uri": _uri(file)}}
    if file is not None and place is not None and place.line:
        region = {"startLine": place.line, "startColumn": place.column}
        location["physicalLocation"]["region"] = region
    if option is not None:
        location["logicalLocations"] = [{"fullyQualifiedName": printable(option)}]
    return [location] if location else []


def _uri(file: str) -> str:
    """Return a path as a URI: a relative path as a relative reference, an absolute one as file:///..."""
    from urllib.parse import quote

    path = quote(os.fsencode(file.replace(os.sep, "/")))
    return f"file://{'' if path.startswith('/') else '/'}{path}" if Path(file).is_absolute() else path


def _annotation(spec: str | None, problem: Problem) -> str:
    """Return a problem as a workflow command of GitHub Actions."""
    file, place = _where(spec, problem), problem.place
    values: dict[str, object] = {}
    if file is not None:
        values["file"] = printable(file)
    if file is not None and place is not None and place.line:
        values |= {"line": place.line, "col": place.column}
    values["title"] = f"{problem.code} {CODES[problem.code]}"
    properties = ",".join(f"{name}={_property(str(value))}" for name, value in values.items())
    return f"::{problem.severity} {properties}::{_data(_message(spec, problem))}"


def _data(text: str) -> str:
    """Return text with the escapes of a workflow command's message."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Return text with the escapes of a workflow command's property."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")


__all__ = ["FORMATS", "Findings", "Verdict", "show"]
