"""The built-in components keep what a plugin's must: the conformance kit over every one of them.

The checks of code, keys and spec form run for all; the others for a sample of each kind, and for all with `-m slow`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from driftspec.registry import installed
from driftspec.testing import checks_for
from driftspec.testing.component import ComponentTests

ROOT = Path(__file__).parents[1]

GIVEN: dict[str, dict[str, Any]] = {
    "data/table": {"component": {"type": "table", "path": "penguins.csv"}, "root": str(ROOT / "specs")},
    **{
        f"metric/{name}": {
            "component": {"type": name, **keys},
            "around": {
                "data": "spiral_trajectories",
                "dynamics": {"type": "neural_ode", "time": [0.0, 10.0], "network": {"type": "mlp", "hidden": [8]}},
                "estimator": {"type": "trajectory", "solver": {"type": "dopri5", "rtol": 1e-4, "atol": 1e-4}},
            },
        }
        for name, keys in {"gradient_agreement": {}, "gradient_order": {"steps": [2, 4]}}.items()
    },
}
"""What a component's own example does not say."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "energy": ("dynamics", {"type": "langevin", "network": "mlp", "predicts": "energy"}),
    "target": ("dynamics", {"type": "langevin", "target": "moons"}),
    "adjoint": ("solver", {"type": "dopri5", "gradient": "adjoint"}),
    "normal_probes": ("estimator", {"type": "hutchinson", "noise": "gaussian", "probes": 3}),
    "persistent": ("estimator", {"type": "contrastive_divergence", "persistent": {"chains": 64}}),
    "one_level": ("estimator", {"type": "denoising", "sigma": 0.3, "control_variate": True}),
    "sliced": ("estimator", {"type": "score_matching", "trace": "hutchinson", "form": "sliced"}),
    "elu": ("network", {"type": "mlp", "activation": "elu"}),
    "fourier": ("network", {"type": "mlp", "time": "fourier", "frequencies": 2}),
    "full": ("data", {"type": "gaussian", "mean": [1.0, -2.0], "covariance": [[2.0, 0.5], [0.5, 1.0]]}),
    "warmed": ("schedule", {"type": "cosine", "warmup": 5}),
    "chains": ("sampler", {"type": "hmc", "step": 0.2, "chains": 8, "adapt": True}),
}
"""Other keys of the same components."""

SAMPLE = {
    "data/gaussian_mixture", "network/mlp", "dynamics/vp_sde", "solver/rk4", "solver/dopri5", "estimator/hutchinson",
    "estimator/contrastive_divergence", "optimizer/adam", "schedule/one_cycle", "sampler/mala",
    "sampler/euler_maruyama", "metric/energy_distance", "tracker/tensorboard",
}  # fmt: skip
"""Those of which the default run makes every check."""

OWN = {f"{kind}/{name}" for (kind, name), who in installed().providers.items() if who[0].distribution == "driftspec"}
OF_EVERY_KIND = {name for name in vars(ComponentTests) if name.startswith("test_")} - {
    "test_it_is_read_quickly_and_without_torch"  # a process each
}


def slow(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """The same check, for another day."""

    @functools.wraps(check)
    def later(self: Any) -> None:
        check(self)

    return pytest.mark.slow(later)


def collected(tests: type[ComponentTests], whole: bool) -> type[ComponentTests]:
    """The class with its longer checks marked, but for a sample's."""
    for name in dir(tests):
        if name.startswith("test_") and not (whole or name in OF_EVERY_KIND):
            setattr(tests, name, slow(getattr(tests, name)))
    return tests


for one in sorted(OWN):
    kind, _, name = one.partition("/")
    given = dict(GIVEN.get(one, {}))
    globals()[f"Test_{kind}_{name}"] = collected(checks_for(kind, given.pop("component", name), **given), one in SAMPLE)

for word, (kind, body) in VARIANTS.items():
    globals()[f"Test_{kind}_{body['type']}_{word}"] = collected(checks_for(kind, body), False)


def test_the_sample_holds_every_kind() -> None:
    assert SAMPLE <= OWN
    assert {one.partition("/")[0] for one in SAMPLE} == {one.partition("/")[0] for one in OWN}
