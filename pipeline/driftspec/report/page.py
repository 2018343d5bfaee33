"""report.html: one page that needs no other file; its pictures are inside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driftspec.components.verdict import Judged, Severity, of_severity
from driftspec.report import drawing
from driftspec.report.facts import in_words
from driftspec.source import dump
from driftspec.source.scalars import with_error

if TYPE_CHECKING:
    from driftspec.components import Measured
    from driftspec.spec import Spec

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { padding: .2em .8em; text-align: left; border-bottom: 1px solid #ddd }
td, th { vertical-align: top } small { color: #666; white-space: normal; display: block; max-width: 24em }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap }
pre { background: #f6f6f4; padding: 1em; overflow-x: auto; font-size: 13px }
figure { margin: 1.5em 0 } figcaption { color: #555; font-size: 13px }
img { max-width: 100% } .line { font-size: 1.1em }
section { border-left: 5px solid; padding: .1em 1em; margin: 1em 0 } section h2 { font-size: 1em; margin: .5em 0 }
section ul { margin: .5em 0; padding-left: 1.2em } section small { display: inline }
.bad { border-color: #b3261e; background: #fdecea } .warning { border-color: #b26a00; background: #fff4e0 }
.unknown { border-color: #888; background: #f3f3f3 } .good { border-color: #2e7d32; background: #edf7ed }
"""
HEADINGS: dict[Severity, str] = {
    "bad": "Do not trust this run's numbers", "warning": "Warnings",
    "unknown": "Could not be judged", "good": "Checked",
}  # fmt: skip
"""The heading above the verdicts of each severity, from the worst to the best."""
FACTS = {
    "seed": "seed", "parameters": "parameters", "evaluated": "weights evaluated", "seconds": "seconds",
    "device": "device", "torch": "torch", "plugins": "plugins", "git": "git", "parent": "made from",
}  # fmt: skip
"""The entries of run.json that the page shows, and their names on the page."""


@dataclass(frozen=True)
class Shown:
    """What the page of a run shows."""

    spec: Spec
    info: Mapping[str, Any]  # run.json
    verdicts: Sequence[Judged]
    measured: Mapping[str, Measured]
    pictures: Mapping[str, bytes]  # PNG by name


def page(run: Shown) -> str:
    """Return the run as HTML: its verdicts, its metrics, its pictures, and the spec that repeats it."""
    title = html.escape(run.spec.name)
    verdicts = "".join(_verdicts(of_severity(run.verdicts, how), how) for how in HEADINGS)
    lines = "".join(f"<p class=line>{html.escape(m.line)}</p>" for m in run.measured.values() if m.line)
    facts = {name: fact for key, name in FACTS.items() if (fact := in_words(run.info, key)) is not None}
    about = "".join(f"<tr><th>{name}<td>{html.escape(fact)}" for name, fact in facts.items())
    pictures = "".join(picture(name, png) for name, png in sorted(run.pictures.items()))
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
        f"<h1>{title}</h1>{verdicts}{lines}{_metrics(run)}{pictures}<h2>Run</h2><table>{about}</table>"
        f"<h2>Spec</h2><p>Every default filled in: running this text repeats the run.</p>"
        f"<pre>{html.escape(dump(run.spec.resolved()))}</pre></html>\n"
    )


def _verdicts(judged: Sequence[Judged], severity: Severity) -> str:
    """Return a box with the verdicts of one severity under a heading, each with its sources; "" if there are none."""
    if not judged:
        return ""
    reasons: dict[str, list[str]] = {}
    for one in judged:
        reasons.setdefault(str(one.verdict), []).append(one.source)
    items = "".join(
        f"<li>{html.escape(text)} <small>({html.escape(', '.join(sources))})</small>"
        for text, sources in reasons.items()
    )
    return f"<section class={severity}><h2>{HEADINGS[severity]}</h2><ul>{items}</ul></section>"


def picture(name: str, png: bytes) -> str:
    """Return a picture and its caption as HTML that contains both."""
    data, caption = base64.b64encode(png).decode(), html.escape(drawing.caption(png))
    image = f"<img alt='{html.escape(name)}' src='data:image/png;base64,{data}'>"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _metrics(run: Shown) -> str:
    """Return the table of the metrics; "" if there are none."""
    if not run.measured:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(name)}{_notes(name, run)}<td class=number>{_value(m)}"
        f"<td>{html.escape(m.unit)}<td class=number>{m.n}<td class=number>{_floor(m.details.get('floor'))}"
        for name, m in run.measured.items()
    )
    head = "<tr><th>metric<th>value ± standard error<th>unit<th>n<th>floor"
    return f"<table>{head}{rows}</table>"


def _notes(name: str, run: Shown) -> str:
    """Return the verdicts on one metric that are not good: its own, and those on the draws that it reads."""
    metric = next((one for one in run.spec.evaluate or () if one.key() == name), None)
    sources = {name, "sample"} if metric is not None and (metric.wanted() or metric.reads_chains) else {name}
    doubts = [one.verdict.heading for one in run.verdicts if one.source in sources and one.verdict.severity != "good"]
    return "".join(f"<small>{html.escape(text)}</small>" for text in dict.fromkeys(doubts))


def _value(measured: Measured) -> str:
    """Return the value, rounded by its standard error, or the reason why there is no value or no error."""
    why = f"<small>{html.escape(measured.stderr_reason or 'no reason is given')}</small>"
    if measured.value is None:
        return f"none {why}"
    number = with_error(measured.value, measured.stderr)
    return number if measured.stderr is not None else f"{number} <small>no standard error:</small>{why}"


def _floor(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, float) else ""
