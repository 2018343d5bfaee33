"""Fixtures that several tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported: small matrices, and a worker a core

import pytest
import tiny

from driftspec.registry import Registry, installed


@pytest.fixture(scope="session")
def registry() -> Registry:
    """The installed plugins."""
    return installed()


@pytest.fixture
def tiny_spec(tmp_path: Path) -> Callable[..., Path]:
    """A small spec's file: `tiny_spec()`, or with another text."""
    return lambda text=tiny.TEXT: tiny.write(tmp_path, text)
