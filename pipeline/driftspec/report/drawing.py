"""Draws a `Picture`: each mark has a line style, a marker and a grey value of its own, so it reads without colours."""

from __future__ import annotations

import contextlib
import io
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from driftspec.components.picture import Arrows, Bars, Line, Map, Panel, Picture, Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 4.4, 3.6  # inches of one panel
COLORS = ("#c44e52", "#1f4e79", "#e39b36", "#111111")
"""Colours of marks, in order: in grey they are 0.45, 0.30, 0.66 and 0.07."""
STYLES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "x")
FAINT = "#777777"
DATA, DRAWN, PATHS = "#1f4e79", "#e0803c", "#777777"  # in grey 0.27, 0.59 and 0.47


def panels(panels: int, box: tuple[float, ...] = (0, 1, 0, 1)) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels of the shape of the box, with a height between 0.5 and 1.5 times the width."""
    ratio = min(1.5, max(0.5, (box[3] - box[2]) / (box[1] - box[0])))
    figure = Figure(figsize=(4.4 * panels, 0.8 + 3.6 * ratio), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    return figure, list(axes)


def figure(picture: Picture) -> Figure:
    """Return the picture as a figure, its panels side by side."""
    drawn = Figure(figsize=(WIDTH * len(picture.panels), HEIGHT), layout="constrained")
    for axes, panel in zip(drawn.subplots(1, len(picture.panels), squeeze=False)[0], picture.panels, strict=True):
        _panel(drawn, axes, panel)
    return drawn


def _panel(within: Figure, axes: Axes, panel: Panel) -> None:
    looks = itertools.cycle(zip(COLORS, STYLES, MARKERS, strict=True))
    for mark in panel.marks:
        _mark(within, axes, mark, looks)
    axes.set(xlabel=panel.x, ylabel=panel.y, title=panel.heading)
    for name in panel.log:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis  # plain numbers: the default labels are formulas
        axis.set_major_formatter(LogFormatter())
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    if panel.equal:
        axes.set_aspect("equal")
    if any(mark.label for mark in panel.marks if not isinstance(mark, Map)):
        axes.legend(frameon=any(isinstance(mark, Map) for mark in panel.marks), fontsize=8)


def _mark(within: Figure, axes: Axes, mark: Any, looks: Iterator[tuple[str, str, str]]) -> None:
    """Draw one mark. A map and faint lines have a fixed look, every other mark takes the next one."""
    if isinstance(mark, Map):
        _map(within, axes, mark)
        return
    if isinstance(mark, Line) and mark.faint:
        axes.plot(mark.x, mark.y, color=FAINT, linewidth=0.6, alpha=0.7, label=mark.label or None)
        return
    color, style, marker = next(looks)
    if isinstance(mark, Line):
        axes.plot(mark.x, mark.y, color=color, linestyle=style, linewidth=1.6, label=mark.label or None)
    elif isinstance(mark, Points):
        size = 5.0 if len(mark.x) <= 60 else 1.5
        look: dict[str, Any] = {"color": color, "marker": marker, "linestyle": "", "markersize": size}
        if mark.errors is None:
            axes.plot(mark.x, mark.y, label=mark.label or None, **look)
        else:
            axes.errorbar(mark.x, mark.y, yerr=mark.errors, capsize=2, label=mark.label or None, **look)
    elif isinstance(mark, Bars):
        axes.stairs(mark.heights, mark.edges, color=color, label=mark.label or None)
    elif isinstance(mark, Arrows):
        axes.quiver(mark.x, mark.y, mark.u, mark.v, color=color, width=0.004, label=mark.label or None)
    else:
        raise TypeError(f"a panel has no mark of type {type(mark).__name__}: Line, Points, Bars, Map or Arrows")


def _map(within: Figure, axes: Axes, mark: Map) -> None:
    """Draw values on a grid. Low is light and high is dark, on the screen as in print."""
    values = np.asarray(mark.values, dtype=float)
    image = axes.pcolormesh(np.asarray(mark.x), np.asarray(mark.y), values, cmap="Greys", shading="nearest")
    within.colorbar(image, ax=axes, label=mark.label)


def png(make: Callable[[], Figure], caption: str) -> bytes:
    """Return the figure as PNG, which holds its caption as well.

    A dollar sign in a label is plain text. Warnings of the libraries are dropped.
    """
    buffer, about = io.BytesIO(), {"Software": None, "Description": caption}
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings(record=True):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the font lacks a letter
        make().savefig(buffer, format="png", dpi=110, metadata=about)
    return buffer.getvalue()


def smaller(png: bytes) -> bytes | None:
    """Return the picture with at most 64 colours and its caption, a third of the size; None if it is no picture."""
    from PIL import Image, PngImagePlugin

    about, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    about.add_text("Description", caption(png))
    with _harmless() as opened, Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        few = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
        opened.append(few)
    if not opened:
        return None
    few.save(buffer, "PNG", optimize=True, pnginfo=about)
    return buffer.getvalue()


def caption(png: bytes) -> str:
    """Return the caption that the PNG holds; "" if it holds none, or is no PNG."""
    from PIL import Image

    with _harmless() as opened, Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        opened.append(str(image.info.get("Description", "")))
    return opened[0] if opened else ""


@contextlib.contextmanager
def _harmless() -> Iterator[list[Any]]:
    """End the block where a file is no PNG, a damaged one, or one that would fill the memory. Yields an empty list."""
    from PIL import Image

    broken = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)
    with warnings.catch_warnings(), contextlib.suppress(*broken):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield []


__all__ = ["DATA", "DRAWN", "PATHS", "caption", "figure", "panels", "png", "smaller"]
