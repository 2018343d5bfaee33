"""The conformance kit's checks, called one by one, on classes made in a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from driftspec.components.component import Component
from driftspec.registry import Registry, discover
from driftspec.testing.component import ComponentTests


def held(base: type[ComponentTests], found: type[Component], **keys: Any) -> ComponentTests:
    """The tests of a class made here, found by its name as a plugin's would be."""
    known = discover()
    known.add_component(found)

    class Held(base):  # type: ignore[misc,valid-type]
        component: ClassVar[Mapping[str, Any]] = {"type": found.type, **keys}

        @classmethod
        def registry(cls) -> Registry:
            return known

    return Held()


def outcome(tests: ComponentTests, check: str) -> str:
    """What one check says: 'passed', or why it fails or is skipped."""
    try:
        getattr(tests, f"test_{check}")()
    except pytest.fail.Exception as failure:
        return f"failed: {failure}"
    except pytest.skip.Exception as skip:
        return f"skipped: {skip}"
    return "passed"


def checks(tests: ComponentTests) -> list[str]:
    """The names of its checks."""
    return sorted(name.removeprefix("test_") for name in dir(tests) if name.startswith("test_"))
