"""Values that are each valid and give nonsense together: said before a tensor exists, at the place of the value."""

from __future__ import annotations

import pytest
from small_spec import edited, said

from driftspec.components import Dynamics

CHAINS = """\
version: 1
name: a
data: {type: moons, samples: 500}
dynamics: {type: langevin, predicts: energy, network: {type: mlp, hidden: [8]}, confine: 3.0}
estimator: {type: score_matching}
sampler: {type: langevin, step: 0.01, steps: 5}
train: {steps: 100, batch_size: 8}
evaluate: [nll]
"""
LADDER = CHAINS.replace(
    "{type: langevin, predicts: energy, network: {type: mlp, hidden: [8]}, confine: 3.0}",
    "{type: ve_sde, sigma_min: 0.1, sigma_max: 5.0, levels: 5, network: {type: mlp, hidden: [8]}}",
).replace("{type: langevin, step: 0.01, steps: 5}", "{type: annealed_langevin, step: 0.01}")


def warned(place: str, text: str) -> list[str]:
    return [f"a.yaml:{place}: warning[{text}"]


def wrong(place: str, text: str) -> list[str]:
    return [f"a.yaml:{place}: error[{text}"]


# --- tolerances ---


@pytest.mark.parametrize(
    ("solver", "column", "value"),
    [
        ("{type: dopri5, rtol: 1e-7, atol: 1e-9}", "30", "'rtol' is 1e-07"),
        ("{type: lobatto, tolerance: 1e-7}", "36", "'tolerance' is 1e-07"),
    ],
)
def test_a_tolerance_below_the_dtypes_epsilon(solver: str, column: str, value: str) -> None:
    text = edited(("name: a", f"name: a\nsolver: {solver}"))
    name = solver.partition(",")[0].removeprefix("{type: ")
    told = f"{value}, below 1.2e-07, the epsilon of float32: it costs steps and gives no digits"
    assert said(text) == warned(
        f"3:{column}", f"X303] solver '{name}': {told}; raise it, or take runtime.dtype: float64"
    )
    assert said(text.replace("1e-7", "1.3e-7")) == []
    assert said(text, "runtime.dtype=float64") == []


def test_a_solver_that_computes_in_float64_may_ask_for_its_digits() -> None:
    confirming = "[{type: nll, confirm: {type: dopri5, rtol: 1e-10}}]"
    assert said(edited(("[nll]", confirming))) == []
    (found,) = said(edited(("[nll]", confirming.replace("1e-10", "1e-17"))))
    assert found.startswith("a.yaml:13:54: warning[X303] solver 'dopri5': 'rtol' is 1e-17, below 2.2e-16")
    (found,) = said(edited(("[nll]", confirming.replace("confirm", "solver"))))
    assert "below 1.2e-07" in found


def test_a_first_number_of_steps_beyond_the_last() -> None:
    text = edited(("name: a", "name: a\nsolver: {type: rk4, steps: 50, max_steps: 40}"))
    assert said(text) == wrong("3:28", "X303] solver 'rk4': 'steps' is 50, more than 'max_steps', which is 40")


# --- likelihoods ---


def test_a_likelihood_by_one_probe_has_no_error_bar() -> None:
    text = edited(("[nll]", "[{type: nll, trace: {type: hutchinson, probes: 1}}]"))
    message = (
        "X303] metric 'nll': with one probe of estimator 'hutchinson' log p of a point is random and has no standard "
        "error: take 2 or more, or an exact trace"
    )
    assert said(text) == wrong("13:58", message)
    assert said(edited(("[nll]", "[{type: nll, trace: hutchinson}]"))) == wrong("13:24", message)
    assert said(text.replace("probes: 1", "probes: 2")) == []
    assert said(CHAINS.replace("[nll]", "[{type: nll, trace: hutchinson}]")) == []  # -E - log Z asks for no trace


def test_no_test_rows_to_score() -> None:
    text = edited(("noise: 0.05", "split: [0.9, 0.1, 0.0]"), ("[nll]", "[nll, round_trip]"))
    told = "metric 'nll' reads test rows, at least 2: 'split' in data leaves 0; the same for metric 'round_trip'"
    assert said(text) == wrong("3:42", f"X303] {told}")
    assert said(text.replace("[nll, round_trip]", "[]")) == []
    (one_row,) = said(text.replace("[0.9, 0.1, 0.0]", "[0.9, 0.098, 0.002]"))
    assert "leaves 1;" in one_row
    assert said(text.replace("[0.9, 0.1, 0.0]", "[0.9, 0.096, 0.004]")) == []


# --- steps ---


def test_annealed_steps_past_stability() -> None:
    assert said(LADDER) == []
    assert said(LADDER.replace("step: 0.01", "step: 0.0399")) == []
    told = "sampler 'annealed_langevin': 'step' is 0.05, past stability, 4 σ_L² = 0.04: take a smaller one"
    assert said(LADDER.replace("step: 0.01", "step: 0.05")) == wrong("6:42", f"X303] {told}")


def test_corrector_steps_past_stability() -> None:
    text = LADDER.replace("{type: annealed_langevin, step: 0.01}", "{type: predictor_corrector, snr: 1.0}")
    assert said(text) == wrong("6:43", "S113] 'snr' in sampler is 1.0: it must be less than 1")


@pytest.mark.parametrize("name", ["ve_sde", "vp_sde", "sub_vp_sde", "ornstein_uhlenbeck"])
def test_the_lowest_noise_is_the_kernels(name: str) -> None:
    torch = pytest.importorskip("torch")
    dynamics = Dynamics.make({"type": name, "t_data": 0.03})
    sigma = dynamics.kernel(torch.tensor(dynamics.times()[1], dtype=torch.float64))[1]
    assert dynamics.lowest_noise() == pytest.approx(float(sigma), rel=1e-12)


def test_a_ladder_ends_at_its_lowest_rung() -> None:
    dynamics = Dynamics.make({"type": "ve_sde", "sigma_min": 0.1, "levels": 4, "t_data": 0.5})
    assert dynamics.lowest_noise() == pytest.approx(0.1)


def test_an_average_that_still_holds_the_first_weights() -> None:
    told = "'ema' in train is 0.99: after 100 steps 37% of the average are still the initial weights"
    assert said(edited(("  steps", "  ema: 0.99\n  steps"))) == warned("9:8", f"X303] {told}")
    assert said(edited(("  steps", "  ema: 0.97\n  steps"))) == []


def test_early_stopping_that_cannot_stop() -> None:
    told = "'early_stopping' in train cannot end 100 steps of training sooner: it waits 10 checks, one every 10 steps"
    text = edited(("  steps", "  early_stopping: {patience: 10, every: 10}\n  steps"))
    assert said(text) == warned("9:19", f"X303] {told}")
    assert said(text.replace("patience: 10", "patience: 9")) == []


def test_a_monitor_that_is_never_asked() -> None:
    told = "'monitor' in train is never measured: checkpoint_every is 200, steps is 100"
    text = edited(("  steps", "  monitor: nll\n  steps"))
    assert said(text) == warned("9:12", f"X303] {told}")
    assert said(text, "train.checkpoint_every=100") == []


def test_a_milestone_beyond_the_end() -> None:
    text = edited(("{type: cosine, warmup: 5}", "{type: multi_step, warmup: 10, milestones: [50, 90, 95]}"))
    told = "schedule 'multi_step': milestone 90 is never reached: 90 steps follow the warm-up"
    assert said(text) == warned("12:56", f"X303] {told}")
    assert said(text.replace("[50, 90, 95]", "[50, 89]")) == []


def test_a_cycle_without_room_or_momentum() -> None:
    cycle = "{type: one_cycle, pct_start: 0.01}"
    text = edited(("{type: cosine, warmup: 5}", cycle))
    told = "schedule 'one_cycle': pct_start 0.01 of 100 steps leaves the rise no step"
    assert said(text) == wrong("12:42", f"X303] {told}")
    assert said(text.replace("0.01", "0.02")) == []
    bare = edited(("{type: cosine, warmup: 5}", "one_cycle"), ("{type: adam, lr: 1e-2, betas: [0.9, 0.99]}", "adagrad"))
    told = "schedule 'one_cycle': optimizer 'adagrad' has no momentum to cycle: write cycle_momentum: false"
    assert said(bare) == wrong("12:3", f"X303] {told}")
    written = bare.replace("schedule: one_cycle", "schedule: {type: one_cycle, cycle_momentum: true}")
    assert said(written) == wrong("12:47", f"X303] {told}")


def test_something_to_train_that_nothing_trains() -> None:
    start, end = "estimator: {type: hutchinson", "evaluate"
    text = edited()
    untrained = text[: text.index(start)] + text[text.index(end) :]
    untrained_model = "dynamics 'neural_ode' has something to train, and the spec trains nothing"
    assert said(untrained) == warned("5:3", f"X302] {untrained_model}: all results come from its initial weights")


def test_a_device_without_the_dtype() -> None:
    text = edited(("name: a", "name: a\nruntime: {device: mps, dtype: float64}"))
    assert said(text) == wrong("3:31", "X303] 'dtype' in runtime is 'float64': 'mps' computes only in float32")
    assert said(text.replace("mps", "cuda:1")) == said(text.replace("float64", "float32")) == []


# --- one section missing, one answer ---


def test_metrics_that_all_lack_samples_are_one_answer() -> None:
    text = edited(
        ("[nll]\nsample: {count: 100}\n", "[nll, energy_distance, {type: sliced_wasserstein, samples: 30}]\n")
    )
    told = "metric 'energy_distance' reads 2000 samples and the spec draws none: add sample: {count: 2000}"
    assert said(text) == wrong("13:17", f"X302] {told}; the same for metric 'sliced_wasserstein'")


def test_what_a_missing_section_leaves_unknown_is_not_told() -> None:
    text = CHAINS.replace("steps: 5}", "steps: 5, start: data}").replace("data: {type: moons, samples: 500}\n", "")
    assert said(text) == wrong("1:1", "S110] missing section 'data'")
