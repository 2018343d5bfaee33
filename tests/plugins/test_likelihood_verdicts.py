"""What a likelihood says of itself: each way its number can be bad, with the cure, and nothing where it is good."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import tiny
import torch
from problems import points
from torch import Tensor

from driftspec.components import Measured, Model
from driftspec.experiment.build import Experiment
from driftspec_plugins.dynamics.neural_ode import NeuralODE
from driftspec_plugins.metrics import _likelihood_verdicts as verdicts
from driftspec_plugins.solvers.torchdiffeq_adaptive import Dopri5

FLOAT64 = "runtime.dtype=float64"


def measured(made: Experiment, model: Model) -> Measured:
    """The one metric of the experiment's spec."""
    assert made.spec.evaluate is not None
    return made.spec.evaluate[0].measure(tiny.evaluation(made, model))


def judged(result: Measured) -> dict[str, tuple[str, str, str]]:
    """Outcome, severity and reason by subject."""
    return {one.subject: (one.outcome, one.severity, one.reason) for one in result.verdicts}


def normal(mean: float, std: float, *sets: str, metric: str = "nll", n: int = 1000) -> Experiment:
    data = f"data={{type: gaussian, mean: [{mean!r}], std: {std!r}, samples: {n}, standardize: none}}"
    return tiny.experiment(data, f"evaluate=[{metric}]", *sets)


def test_a_likelihood_that_is_right_has_no_verdict() -> None:
    assert measured(tiny.experiment("evaluate=[nll]"), tiny.random_flow([16], 2)).verdicts == ()


def test_rounding_that_hides_the_number_is_said_with_its_cure() -> None:
    """Data at 1e6 with a spread of 1e-3: float32 sees one point, the NLL has no digit, and its solver no error."""
    result = measured(normal(1e6, 1e-3), tiny.random_flow([16], 1))
    outcome, severity, reason = judged(result)["rounding"]
    assert (outcome, severity) == ("rounding_dominates", "bad")
    assert "float32 rounds log p by up to" in reason and "1e+09 deviations from 0: set standardize: scale" in reason
    assert result.details["rounding"]["mean"] > result.details["confirmed"]["difference"] > 1e3
    assert "solver" not in judged(result) and "; rounding " in str(result.line)
    scaled = measured(normal(1e6, 1e-3, "data.standardize=scale"), tiny.random_flow([16], 1))
    assert scaled.verdicts == () and "rounding" not in str(scaled.line)
    assert scaled.details["rounding"]["max"] < 1e-4


def test_rounding_is_compared_with_the_standard_error() -> None:
    """The same rounding is bad beside a small standard error, a warning beside a larger one, nothing beside a large."""
    u, details = points(50, 2), {"solver_error": {"mean": 1e-5}, "rounding": {"mean": 5e-3, "max": 1e-2}}
    found = [list(verdicts._rounding(details, stderr, u, "float32")) for stderr in (1e-3, 1e-2, 1.0)]
    assert [[one.severity for one in some] for some in found] == [["bad"], ["warning"], []]
    assert "set runtime.dtype: float64" in found[0][0].reason
    for small in ({"mean": 9e-4, "max": 1.0}, {"mean": 5e-3, "max": 1e-2, "solver": 6e-3}):
        lower = {"solver_error": {"mean": small.get("solver", 1e-5)}, "rounding": small}
        assert not list(verdicts._rounding(lower, 1e-3, u, "float32"))
    beyond = {"solver_error": {"mean": None}, "rounding": {"mean": None, "max": None}}
    assert "up to inf nats" in next(verdicts._rounding(beyond, 1.0, u, "float64")).reason


def test_data_below_a_solvers_tolerance_are_said_with_their_cure() -> None:
    """Data of size e^-20, the exact model, dopri5: it misses z, its finer self misses it too, and nll says so."""
    confirm = "{type: dopri5, rtol: 1e-4, atol: 1e-4}"
    made = normal(0.0, math.exp(-20), FLOAT64, metric=f"{{type: nll, solver: dopri5, points: 50, confirm: {confirm}}}")
    result = measured(made, tiny.flow_of(lambda t, x: -20 * x, 1))
    outcome, severity, reason = judged(result)["solver"]
    assert (outcome, severity) == ("above_tolerance", "bad") and result.details["not_converged"] == 50
    assert "50 of 50 points did not converge" in reason and "set standardize: scale in data" in reason
    assert "dopri5 in float64 differs by" in reason and result.details["solver_error"]["mean"] > 0.01
    # The confirming solver sees the same as the finer one, in units of the state too.
    difference, largest = result.details["confirmed"]["difference"], result.details["solver_error"]["max"]
    assert difference == pytest.approx(largest, rel=0.2)


def test_single_points_above_the_tolerance_are_a_warning() -> None:
    """20 steps leave less than a third digit, though more than a tolerance of 1e-9; 2 steps change the number."""
    few, model = "evaluate=[{type: nll, solver: {type: lobatto, %s}}]", tiny.random_flow([16], 2, gain=4.0)
    slight, severe = (
        judged(measured(tiny.experiment(few % keys, FLOAT64), model.double()))["solver"]
        for keys in ("max_steps: 80, tolerance: 1e-9", "steps: 1, max_steps: 2")
    )
    assert slight[:2] == ("above_tolerance", "warning") and "points did not converge; allow" in slight[2]
    assert severe[:2] == ("above_tolerance", "bad") and "the mean error of log p is" in severe[2]


def test_a_solvers_error_is_bad_where_it_is_not_rounding_and_where_it_is_open() -> None:
    """The mean error or the confirming difference above a third digit and above rounding; or an error of no size."""

    def found(error: float | None, lost: int = 0, difference: float | None = None, rounding: float = 0.0) -> list[str]:
        check = {"difference": difference, "rounding": rounding}
        details = {"solver_error": {"mean": error}, "rounding": {"mean": rounding}, "not_converged": lost}
        return [one.severity for one in verdicts._solver({**details, "confirmed": check}, points(50, 2), "dopri8")]

    assert found(1e-5, difference=1e-5) == found(2e-3, difference=2e-3, rounding=1e-2) == []
    assert found(2e-3) == found(1e-5, difference=2e-3) == found(2e-3, lost=1) == found(None, lost=50) == ["bad"]
    assert found(2e-3, rounding=1e-3) == ["bad"] and found(1e-5, lost=1) == ["warning"] and found(None) == ["unknown"]


def test_a_solver_without_a_finer_one_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dopri5, "finer", lambda self: None)
    result = measured(tiny.experiment("evaluate=[{type: nll, solver: dopri5, points: 20}]"), tiny.random_flow([8], 2))
    assert judged(result)["solver"][:2] == ("unknown", "unknown") and "solver error unknown" in str(result.line)


def test_a_wrong_log_determinant_is_suspect() -> None:
    """A closed divergence that is half a nat too small: log p is too large, and KL below 0."""
    exact = tiny.flow_of(lambda t, x: 0.5 * x, 1)

    def knowing(divergence: float) -> Model:
        class Known(NeuralODE):
            def closed_divergence(self, module: torch.nn.Module) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
                return lambda t, x: (0.5 * x, x.new_full((len(x),), divergence))

        return replace(exact, dynamics=Known())

    made = normal(0.0, math.exp(0.5), FLOAT64)
    result = measured(made, knowing(0.0))
    assert result.details["kl"] == pytest.approx(-0.5, abs=1e-3)
    outcome, severity, reason = judged(result)["log_det"]
    assert (outcome, severity) == ("log_det_suspect", "bad") and "KL is -0.5" in reason
    assert measured(made, knowing(0.5)).verdicts == ()


def test_every_error_widens_the_bar_of_a_kl() -> None:
    plain = {"kl": -0.1, "kl_stderr": 0.01}
    assert verdicts.below_zero(plain)[0].outcome == "log_det_suspect"
    assert verdicts.below_zero({**plain, "log_z": {}})[0].outcome == "log_z_suspect"
    for name, error in (
        ("kl_stderr", 0.04), ("solver_error", {"mean": 0.04}), ("rounding", {"mean": 0.04}),
        ("rounding", {"mean": None}), ("ends_of_time", {"prior_mismatch": 0.04}),
    ):  # fmt: skip
        assert verdicts.below_zero({**plain, name: error}) == ()
    assert verdicts.below_zero({**plain, "solver_error": {"mean": None}})
    assert verdicts.below_zero({"kl": -0.029, "kl_stderr": 0.01}) == ()


def test_off_scale_says_what_to_do() -> None:
    u = points(100, 2)
    assert verdicts.off_scale(u) == verdicts.off_scale(50 + u) == verdicts.off_scale(u * 0) == ""
    assert verdicts.off_scale(torch.stack([u[:, 0], 0 * u[:, 1] + 7], 1)) == ""  # a constant is another's matter
    for rows, text in ((1e4 + u, "1e+04 deviations from 0"), (1e-3 * u, "is 1e-03"), (1e3 * u, "is 1e+03")):
        assert text in verdicts.off_scale(rows) and verdicts.off_scale(rows).endswith("set standardize: scale in data")
    assert "is 1e+03" in verdicts.off_scale(u * torch.tensor([1.0, 1e3])) != verdicts.off_scale(u)


def test_bits_per_dim_says_what_nll_says() -> None:
    made = normal(1e6, 1e-3, metric="{type: bits_per_dim, levels: 256, range: [999999, 1000001]}")
    assert judged(measured(made, tiny.random_flow([16], 1)))["rounding"][0] == "rounding_dominates"
