"""What a sampler is held to."""

from __future__ import annotations

from driftspec.testing.component import ComponentTests


class SamplerTests(ComponentTests):
    """Checks of a sampler."""

    kind = "sampler"
