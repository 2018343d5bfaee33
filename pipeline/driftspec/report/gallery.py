"""One page of many runs: each statement with its equation, its number beside the expected value, and its picture.

The page needs no other file and no network. The texts of the specs and the code of the equations are at its end, so a
link leads from a statement to its spec, and another to the line of code.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from driftspec.report import drawing, page
from driftspec.report.equations import Listing, opening_with
from driftspec.report.facts import in_words
from driftspec.source.scalars import with_error
from driftspec.spec.statements import Number, Statement

GENERATOR = "driftspec report"
"""The page's mark: a file with it may be replaced by a new page."""
STYLE = """
:root { color-scheme: light }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0 auto; padding: 1.5em 1.2em 4em; max-width: 1060px; color: #222 }
h1 { font-size: 1.7em; margin: .2em 0 } h2 { font-size: 1.25em; margin: 2.2em 0 .4em } h3 { margin: 1.8em 0 .3em }
a { color: #1f4e79 } .about { color: #555; font-size: 14px } .wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 14px; width: 100% }
td, th { padding: .35em .7em .35em 0; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap }
.equation { font-family: Cambria, Georgia, "DejaVu Serif", serif; font-size: 1.15em; margin: .6em 0;
  padding: .5em 1em; background: #f6f6f4; border-left: 4px solid #1f4e79; overflow-x: auto }
.found { font-variant-numeric: tabular-nums; margin: .6em 0 } .agrees { color: #1b5e20 } .differs { color: #a3160d }
.differs, .agrees { font-weight: 600; white-space: nowrap }
figure { margin: 1em 0 } figcaption { color: #555; font-size: 14px }
img { max-width: 100%; height: auto } pre { background: #f6f6f4; padding: .8em; overflow-x: auto; font-size: 13px }
pre b { font-weight: normal; color: #999; user-select: none } pre span { display: block; white-space: pre }
pre span:target { background: #ffe9a8 } .failed { color: #a3160d }
article { border-bottom: 1px solid #ddd; padding-bottom: 1.2em }
@media (max-width: 640px) {
  table, tbody, tr, td { display: block } thead { display: none } tr { border-bottom: 1px solid #ddd; padding: .4em 0 }
  td.number { white-space: normal }
  td { border: 0; padding: .05em 0 } td[data-head]:not(:empty)::before { content: attr(data-head) ": "; color: #666 }
}
@media print { a { color: inherit; text-decoration: none } article { break-inside: avoid } }
"""


@dataclass(frozen=True)
class Exhibit:
    """What the page shows of one run."""

    name: str
    spec: str  # the text of its spec
    statements: Sequence[Statement] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)  # metrics.json
    pictures: Mapping[str, bytes] = field(default_factory=dict)  # PNG by name
    info: Mapping[str, Any] = field(default_factory=dict)  # run.json
    failure: str | None = None  # why there is no result


@dataclass(frozen=True)
class Row:
    """One statement on the page, and whether its number agrees with what is expected (None: nothing is)."""

    run: Exhibit
    statement: Statement
    number: Number | str | None
    agrees: bool | None

    @property
    def shown(self) -> str:
        """The number with its error and unit; otherwise why there is none."""
        if self.run.failure and self.statement.metric:
            return "no result"
        return "test only" if self.number is None else str(self.number)


def rows(runs: Iterable[Exhibit]) -> list[Row]:
    """Return the statements of the runs, in order."""
    found = []
    for run in runs:
        for one in run.statements:
            number = None if one.metric is None else one.number(run.metrics)
            agrees = one.agrees(number) if isinstance(number, Number) else None
            if number is not None and not isinstance(number, Number) and one.expectation is not None:
                agrees = False
            if run.failure is not None:  # its numbers are of no finished run
                agrees = None
            found.append(Row(run, one, number, agrees))
    return found


def gallery(title: str, runs: Sequence[Exhibit], packages: tuple[str, ...], quick: bool = False) -> str:
    """Return the page. `packages` are the installed packages whose files may open with the equations."""
    shown, code = rows(runs), _Code(packages)
    parts = [f"<h1>{html.escape(title)}</h1>", _about(runs, shown, quick), _contents(shown)]
    number = 0
    for run in runs:
        if run.failure is not None:
            parts.append(f"<p class=failed>{html.escape(run.name)}: {html.escape(run.failure)}</p>")
        if not run.statements:
            parts.append(_plain(run, _spec(runs, run)))
        for row in (row for row in shown if row.run is run):
            number += 1
            parts.append(_section(number, row, code, _spec(runs, run)))
    specs = "".join(f"<h3 id={_spec(runs, run)}>{html.escape(run.name)}</h3>{_text(run.spec)}" for run in runs)
    parts.append(f"<h2>The specs</h2>{specs}{code.appendix()}")
    head = (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=generator content='{GENERATOR}'>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
    )
    return head + "\n".join(parts) + "</html>\n"


def _about(runs: Sequence[Exhibit], shown: Sequence[Row], quick: bool) -> str:
    """Return the lines about the whole page: how many numbers agree, and what made them."""
    judged = [row for row in shown if row.agrees is not None]
    good = sum(bool(row.agrees) for row in judged)
    lines = [f"{good} of {len(judged)} numbers are as expected"] if judged else []
    if without := [run.name for run in runs if run.failure is not None]:
        lines.append(f"without a result: {', '.join(without)}")
    if quick:
        lines.append("a quick run: few steps and few samples, so trained models fall short of the full run")
    known = {
        key: list(dict.fromkeys(fact for run in runs if (fact := in_words(run.info, key)) is not None))
        for key in ("driftspec", "git", "machine", "python", "torch")
    }
    names = {"driftspec": "driftspec ", "git": "", "machine": "", "python": "Python ", "torch": "PyTorch "}
    made = "; ".join(f"{names[key]}{' and '.join(facts)}" for key, facts in known.items() if facts)
    seconds = [run.info["cpu_seconds"] for run in runs if isinstance(run.info.get("cpu_seconds"), int | float)]
    time = f"{sum(seconds):.0f} s of CPU for {len(seconds)} run{'s'[: len(seconds) > 1]}" if seconds else ""
    facts = "<br>".join(html.escape(text) for text in (made, time) if text)
    return f"<p>{html.escape('; '.join(lines))}{'.' if lines else ''}</p><p class=about>{facts}</p>"


def _contents(shown: Sequence[Row]) -> str:
    """Return the table of all statements, each with a link to its section; "" without statements."""
    if not shown:
        return ""
    body = "".join(
        f"<tr><td><a href='#s{number}'>{number}. {html.escape(row.statement.statement)}</a>"
        f"<td data-head=number class=number>{html.escape(row.shown)}"
        f"<td data-head=expected class=number>{html.escape(row.statement.expectation or '')}<td>{_mark(row)}"
        for number, row in enumerate(shown, 1)
    )
    head = "<thead><tr><th>statement<th>number ± standard error<th>expected<th></thead>"
    return f"<div class=wide><table>{head}<tbody>{body}</table></div>"


def _mark(row: Row) -> str:
    if row.agrees is None:
        return ""
    return "<span class=agrees>✓ agrees</span>" if row.agrees else "<span class=differs>✗ differs</span>"


def _section(number: int, row: Row, code: _Code, spec: str) -> str:
    """Return the section of one statement; `spec` is the anchor of its spec."""
    one = row.statement
    parts = [f"<article id=s{number}><h2>{number}. {html.escape(one.statement)}</h2>"]
    if one.equation:
        parts.append(f"<div class=equation>{html.escape(one.equation)}</div>")
    if one.text:
        parts.append(f"<p>{html.escape(one.text)}</p>")
    if one.metric:
        expected = f", expected {html.escape(one.expectation)}" if one.expectation else ""
        name = html.escape(".".join((one.metric, *(one.detail or ()))))
        parts.append(f"<p class=found>{name} = {html.escape(row.shown)}{expected} {_mark(row)}</p>")
    if one.picture:
        missing = f"<p class=failed>the run has no picture '{html.escape(one.picture)}'</p>"
        png = row.run.pictures.get(one.picture)
        parts.append(missing if png is None else _picture(one.picture, png))
    links = [f"<a href='#{spec}'>spec {html.escape(row.run.name)}</a>"]
    if one.equation and (link := code.link(one.equation)):
        links.append(link)
    return "".join(parts) + f"<p class=about>{' · '.join(links)}</p></article>"


def _picture(name: str, png: bytes) -> str:
    """Return a picture with its caption; that it cannot be shown if it is damaged, or no picture."""
    few = drawing.smaller(png)
    damaged = f"<p class=failed>the picture '{html.escape(name)}' is damaged</p>"
    return damaged if few is None else page.picture(name, few)


def _plain(run: Exhibit, spec: str) -> str:
    """Return the section of a run that states nothing: its metrics and its pictures."""
    lines = [(name, _entry(one), str(one.get("unit", ""))) for name, one in run.metrics.items()]
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}' for cell in line)}" for line in lines)
    table = (
        f"<table><thead><tr><th>metric<th>value ± standard error<th>unit</thead><tbody>{body}</table>" if body else ""
    )
    pictures = "".join(_picture(name, png) for name, png in sorted(run.pictures.items()))
    link = f"<p class=about><a href='#{spec}'>spec {html.escape(run.name)}</a></p>"
    return f"<article><h2>{html.escape(run.name)}</h2>{table}{pictures}{link}</article>"


def _entry(one: Mapping[str, Any]) -> str:
    value, stderr = one.get("value"), one.get("stderr")
    if not isinstance(value, int | float):
        return "none"
    return with_error(value, stderr if isinstance(stderr, int | float) else None)


def _text(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


def _spec(runs: Sequence[Exhibit], run: Exhibit) -> str:
    """Return the anchor of a run's spec: two runs may have one name."""
    return f"spec-{next(number for number, one in enumerate(runs, 1) if one is run)}"


def _id(kind: str, name: str) -> str:
    """Return the anchor of a part of the page."""
    return f"{kind}-{re.sub(r'[^A-Za-z0-9]+', '-', name)}"


class _Code:
    """The files that open with the equations of the page, each listed once at its end."""

    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages
        self.listed: dict[str, Listing] = {}

    def link(self, equation: str) -> str | None:
        """Return a link to the line where a file opens with the equation; None if no file does."""
        found = opening_with(equation, self.packages)
        if found is None:
            return None
        listing, line = found
        self.listed[listing.name] = listing
        anchor = f"{_id('code', listing.name)}-{line}"
        return f"<a href='#{anchor}'>code {html.escape(listing.name)}, line {line}</a>"

    def appendix(self) -> str:
        """Return the files that were linked, line by line; "" if there are none."""
        if not self.listed:
            return ""
        return "<h2>The code</h2>" + "".join(self._lines(self.listed[name]) for name in sorted(self.listed))

    def _lines(self, listing: Listing) -> str:
        anchor = _id("code", listing.name)
        lines = "".join(
            f"<span id={anchor}-{number}><b>{number:4} </b>{html.escape(line)}</span>"
            for number, line in enumerate(listing.text.splitlines(), 1)
        )
        return f"<h3>{html.escape(listing.name)}</h3><pre>{lines}</pre>"


__all__ = ["GENERATOR", "Exhibit", "Row", "gallery", "rows"]
