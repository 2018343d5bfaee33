"""Fixtures that several tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported: small matrices, and a worker a core

import pytest
import tiny

from driftspec.registry import Registry, installed
from driftspec.report import drawing, plots

PICTURES = {"test_plots", "test_report", "test_fokker_planck"}
"""The files that test pictures; in the others a figure is made, but no PNG of it."""
RENDERED = drawing.png, plots.GRID


def render(patch: pytest.MonkeyPatch, png: Callable[..., bytes], side: int) -> None:
    patch.setattr(drawing, "png", png)
    patch.setattr(plots, "GRID", side)


@pytest.fixture(scope="module", autouse=True)
def cheap_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave out what pictures cost: a figure is not rendered, and a map has few points (each solves an ODE)."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ not in PICTURES:
            render(patch, tiny.not_rendered, 8)
        yield


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of a run as users get them."""
    render(monkeypatch, *RENDERED)


@pytest.fixture(scope="session")
def registry() -> Registry:
    """The installed plugins."""
    return installed()


@pytest.fixture
def tiny_spec(tmp_path: Path) -> Callable[..., Path]:
    """A small spec's file: `tiny_spec()`, or with another text."""
    return lambda text=tiny.TEXT: tiny.write(tmp_path, text)
