"""report.html: one page that stands alone, its pictures inside it."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING

from driftspec.source import dump

if TYPE_CHECKING:
    from driftspec.components import Measured
    from driftspec.session import Run

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { padding: .2em .8em; text-align: left; border-bottom: 1px solid #ddd }
small { color: #666; white-space: normal; text-align: left; display: block; max-width: 22em }
td.number { font-variant-numeric: tabular-nums; text-align: right }
pre { background: #f6f6f4; padding: 1em; overflow-x: auto; font-size: 13px }
figure { margin: 1.5em 0 } img { max-width: 100% } .line { font-size: 1.1em }
"""


def page(run: Run) -> str:
    """The run as HTML: what it found, its pictures, the spec that repeats it."""
    title = html.escape(run.spec.name)
    lines = "".join(f"<p class=line>{html.escape(line)}</p>" for line in run.lines())
    facts = {
        "seed": run.spec.seed, "parameters": run.info["parameters"], "weights evaluated": run.info["evaluated"],
        "seconds": run.info["seconds"], "torch": run.info["torch"], "plugins": run.info["plugins"],
        "git": run.info["git"],
    }  # fmt: skip
    about = "".join(f"<tr><th>{name}<td>{html.escape(_plain(value))}" for name, value in facts.items())
    pictures = "".join(_picture(file) for file in sorted((run.path / "plots").glob("*.png")))
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
        f"<h1>{title}</h1>{lines}{_metrics(run)}{pictures}<h2>Run</h2><table>{about}</table>"
        f"<h2>Spec</h2><p>Every default filled in: running this text repeats the run.</p>"
        f"<pre>{html.escape(dump(run.spec.resolved()))}</pre></html>\n"
    )


def _picture(file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    return f"<figure><img alt='{html.escape(file.stem)}' src='data:image/png;base64,{data}'></figure>"


def _metrics(run: Run) -> str:
    if not run.measured:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(name)}<td class=number>{'–' if m.value is None else f'{m.value:.6g}'}<td class=number>"
        f"{_error(m)}<td>{html.escape(m.unit)}<td class=number>{m.n}"
        f"<td class=number>{_floor(m.details.get('floor'))}"
        for name, m in run.measured.items()
    )
    head = "<tr><th>metric<th>value<th>standard error<th>unit<th>n<th>floor"
    return f"<table>{head}{rows}</table>"


def _error(measured: Measured) -> str:
    """The standard error, or the reason why none."""
    if measured.stderr is not None:
        return f"± {measured.stderr:.2g}"
    return f"<small>none: {html.escape(measured.stderr_reason or 'not stated')}</small>"


def _plain(value: object) -> str:
    """A fact in words: a mapping as its entries, nothing as such."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return "none" if value is None else str(value)


def _floor(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, float) else ""
