"""Pictures follow what a run has, and the report stands alone."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import tiny
import torch
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from problems import Linear, points, tensor

from driftspec.components import (
    Arrows,
    Bars,
    Dynamics,
    Line,
    Map,
    Measured,
    Model,
    Panel,
    Picture,
    Points,
    Solver,
    Verdict,
)
from driftspec.errors import SolveFailed
from driftspec.experiment.build import Experiment
from driftspec.numerics.model import BoundModel
from driftspec.registry import Registry
from driftspec.report import chain_plots as plots_chains
from driftspec.report import drawing, flow_plots, noise_plots, plots
from driftspec.report import page as report
from driftspec.runs.lifecycle import start
from driftspec.runs.stages import shown
from driftspec.source.scalars import with_error

ALL = ("train", "evaluate", "sample")
RECORDS = [{"step": step, "loss": 1 / step, "validation": 2 / step} for step in range(10, 60, 10)]
GAUSSIAN = "data={{type: gaussian, mean: {mean}, samples: 400}}"


def drawn(
    made: Experiment,
    model: Model | None = None,
    stages: Sequence[str] = ALL,
    records: Sequence[dict[str, Any]] = (),
    samples: bool = True,
    lost: Callable[[str, Exception], None] | None = None,
) -> dict[str, bytes]:
    rows = points(50, made.model.dim).numpy() if samples else None
    return dict(plots.draw(made, model or made.model, stages, records, rows, lost=lost))


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test of which pictures there are, or of the page."""
    monkeypatch.setattr(drawing, "png", tiny.not_rendered)
    monkeypatch.setattr(plots, "GRID", 8)


def pixels(png: bytes) -> Any:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return matplotlib.image.imread(io.BytesIO(png))


def test_each_picture_is_a_picture_and_the_same_twice() -> None:
    made = tiny.experiment()
    first, second = drawn(made, records=RECORDS), drawn(made, records=RECORDS)
    assert list(first) == ["loss", "samples", "log_density", "trajectories", "grid"]
    assert first == second
    for png in first.values():
        image = pixels(png)
        assert image.shape[0] > 200 and image.shape[1] > 200 and image[..., :3].std() > 0.01


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize(
    "stages, samples, names",
    [
        (("train",), False, ["loss"]),
        (("evaluate",), False, ["loss", "log_density"]),
        (("sample",), True, ["loss", "samples", "trajectories", "grid"]),
    ],
)
def test_pictures_belong_to_the_stages_that_ran(stages: Sequence[str], samples: bool, names: list[str]) -> None:
    assert list(drawn(tiny.experiment(), None, stages, RECORDS, samples)) == names


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("mean, names", [("[0.0]", ["density", "paths"]), ("[0.0, 1.0, 2.0]", [])], ids=["1-D", "3-D"])
def test_other_dimensions(mean: str, names: list[str]) -> None:
    made = tiny.experiment(GAUSSIAN.format(mean=mean))
    assert list(drawn(made)) == names
    assert list(drawn(made, samples=False)) == names


def test_a_grid_is_carried_by_the_flow() -> None:
    """The lines of the first panel are straight, and those of the last are e^{0.5 A} of them."""
    made, a = tiny.experiment("dynamics.time=[0.5, 0.0]"), tensor([0.4, 1.3], [-0.6, 0.2])
    figure = flow_plots.grid(made, tiny.known(Linear(a), (0.5, 0.0)), Solver.make("lobatto"))
    first, last = (np.stack([line.get_xydata() for line in panel.lines]) for panel in (figure.axes[0], figure.axes[4]))
    assert first.shape == (26, 161, 2) and [panel.get_title() for panel in figure.axes[::4]] == ["t = 0.5", "t = 0"]
    across, up = first[:13], first[13:]
    assert np.ptp(across[..., 1], axis=1).max() == 0 == np.ptp(up[..., 0], axis=1).max()
    assert np.ptp(across[0, :, 0]) > 3 and np.allclose(np.diff(up[:, 0, 0]), np.ptp(up[:, 0, 0]) / 12)
    np.testing.assert_allclose(last, first @ torch.linalg.matrix_exp(-0.5 * a).numpy().T, atol=1e-5)


def test_paths_in_one_dimension_lead_to_the_prior_and_back() -> None:
    """z' = a z: from each data point at t = 1 to e^{-a} of it at t = 0; back, the points are on the lines."""
    made = tiny.experiment(
        "data={type: gaussian, mean: [1.0], samples: 1000, standardize: none}", "runtime.dtype=float64"
    )
    data = made.dataset.test.numpy()
    figure = flow_plots.there_and_back(made, tiny.known(Linear(tensor([0.7]))), Solver.make("lobatto"), data)
    lines = np.stack([line.get_xydata() for line in figure.axes[0].lines])
    there, back = lines[:21], lines[21:]
    assert there[0, 0, 0] == 1 and there[0, -1, 0] == 0
    np.testing.assert_allclose(there[:, 0, 1], np.quantile(data, np.linspace(0.01, 0.99, 21)))
    np.testing.assert_allclose(there[:, -1, 1], np.exp(-0.7) * there[:, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(back, there, rtol=1e-5, atol=1e-7)


def test_trajectories_show_what_was_observed_and_the_models_path() -> None:
    sets = [
        "data={type: spiral_trajectories, samples: 20, times: 4}",
        "evaluate=[trajectory_error]",
        "dynamics.time=[0, 10]",
    ]
    made = tiny.experiment(*sets, "estimator=trajectory", "train.batch_size=8")
    assert list(drawn(made, records=RECORDS, samples=False)) == ["loss", "paths"]


def test_one_record_is_enough_for_a_picture_of_the_loss() -> None:
    assert pixels(drawn(tiny.experiment(), None, ("train",), RECORDS[:1], False)["loss"]).ndim == 3


@pytest.mark.usefixtures("cheap")
def test_a_run_that_has_not_read_its_data_shows_none() -> None:
    made = tiny.experiment()
    made.data.made = None
    assert list(drawn(made, records=RECORDS)) == ["loss"]


@pytest.mark.usefixtures("cheap")
def test_a_solve_that_fails_costs_its_picture_alone() -> None:
    """A field with a hole where the grid and the paths go and no data are."""
    holed = tiny.flow_of(lambda t, x: torch.where(x.abs() > 1.5, torch.nan, 0 * x), 2, dtype=torch.float32)
    lost: dict[str, Exception] = {}
    assert list(drawn(tiny.experiment(), holed, records=RECORDS, lost=lost.__setitem__)) == ["loss", "samples"]
    assert list(lost) == ["log_density", "trajectories", "grid"]
    assert all(isinstance(error, SolveFailed) for error in lost.values())
    line = tiny.flow_of(lambda t, x: torch.where(x.abs() > 1.5, torch.nan, 0 * x), 1, dtype=torch.float32)
    made = tiny.experiment(GAUSSIAN.format(mean="[0.0]"))
    assert list(drawn(made, line, lost=lost.__setitem__)) == ["density"] and list(lost)[3:] == ["paths"]


LANGEVIN = "dynamics={type: langevin, network: {type: mlp, hidden: [4]}}"
SCORE = LANGEVIN, "estimator=score_matching", "sampler={type: langevin, step: 0.1, steps: 4}"


@pytest.mark.usefixtures("cheap")
def test_a_picture_that_fails_is_a_warning_and_metrics_and_samples_are_there(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = []

    def singular(*given: object) -> Figure:
        there.extend(name for name in ("metrics.json", "samples.npy") if (tmp_path / "run" / name).exists())
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr(plots, "_samples", singular)
    monkeypatch.setattr(plots, "WALKERS", 16)
    run = start(tiny.loaded("train.steps=1", *SCORE, "evaluate=[ess]"), registry, out=tmp_path / "run")
    assert run.record.status == "finished" and there == ["metrics.json", "samples.npy"]
    (found,) = (one.verdict for one in run.verdicts if one.source == "plots")
    assert str(found) == "pictures not drawn: 'samples' (LinAlgError: Singular matrix)"
    assert found.severity == "warning" and "pictures not drawn" in (run.path / "report.html").read_text()
    assert sorted(file.stem for file in (run.path / "plots").iterdir()) == ["loss", "marginals", "score"]


def test_labels_are_plain_text() -> None:
    """A dollar sign starts no formula, and a letter that the font has not costs nothing."""
    names = "cost $_per_$", "$\\frac{1}{$", "温度"
    for columns in (names[:2], names[1:]):
        rows = points(20, 2).numpy()
        png = drawing.png(partial(plots._samples, rows, rows, plots._box(rows), columns), "")
        assert pixels(png).ndim == 3


def test_samples_that_are_all_alike_are_drawn_as_they_are() -> None:
    points_ = points(30, 2).numpy()
    flat = points_ * [1.0, 0.0]
    makers: list[Callable[[], Figure]] = [
        partial(plots._samples, flat, 0 * flat, plots._box(flat), "ab"),
        partial(plots._histogram, 0 * flat + 7, 0 * flat, None, "a"),
        partial(plots_chains.marginals, np.stack([points_, 1e-25 * points_]), ["start", "end"], "ab"),
        partial(plots_chains.marginals, np.stack([flat[:, 1:], flat[:, 1:]]), ["start", "end"], "b"),
        partial(plots_chains.traces, flat.reshape(1, 30, 2), "ab"),
    ]
    for make in makers:
        assert pixels(drawing.png(make, "")).ndim == 3
    figure = plots_chains.marginals(np.stack([points_, 1e-25 * points_]), ["start", "end"], "ab")
    low, high = figure.axes[0].get_xlim()
    assert high - low > np.ptp(points_[:, 0])  # of all states, where the last are one point
    lags, found = plots_chains.autocorrelation(np.ones((3, 30)))
    assert np.isnan(found).all() and len(lags) == len(found)


def test_a_field_without_slope_has_arrows_of_length_0() -> None:
    made = tiny.experiment(*SCORE, "evaluate=[]")
    for weight in made.model.parameters():
        torch.nn.init.zeros_(weight)
    figure = plots_chains.score_field(made, made.model, (-1, 1, -1, 1), points(9, 2).numpy(), ("a", "b"))
    (arrows,) = [c for c in figure.axes[0].collections if hasattr(c, "U")]
    assert not arrows.U.any() and not arrows.V.any()


@pytest.mark.usefixtures("cheap")
def test_the_mapped_density_is_in_the_datas_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """The map of exp(log p) has the mass 1 over its box, whatever the units."""
    made = tiny.experiment("data={type: gaussian, mean: [50.0, 0.0], std: [10.0, 0.5], standardize: scale}")
    seen = []
    density = plots._density

    def spied(experiment: Experiment, log_p: plots.LogDensity, box: tuple[float, float, float, float]) -> Any:
        sides = [torch.linspace(*ends, 81, dtype=torch.float64) for ends in (box[:2], box[2:])]
        values = log_p(torch.cartesian_prod(*sides)).exp().reshape(81, 81)
        seen.append(float(torch.trapezoid(torch.trapezoid(values, sides[1]), sides[0])))
        return density(experiment, log_p, box)

    monkeypatch.setattr(plots, "_density", spied)
    still = tiny.flow_of(lambda t, x: 0 * x, 2, dtype=torch.float32)
    drawn(made, still)
    assert seen[0] == pytest.approx(1, abs=0.01)


def test_a_map_has_no_noise_of_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "GRID", 16)
    model = tiny.random_flow([16], 2, gain=3.0)
    hutchinson, exact = (
        drawn(tiny.experiment(f"estimator={one}"), model, ("evaluate",), samples=False)["log_density"]
        for one in ("hutchinson", "exact_trace")
    )
    assert hutchinson == exact


# The report --------------------------------------------------------------------------------------------------------


def test_the_report_stands_alone(tmp_path: Path, registry: Registry) -> None:
    loaded = tiny.loaded("train.steps=3", "name=a.b-c", "evaluate=[nll, round_trip]")
    run = start(loaded, registry, out=tmp_path / "run")
    page = (run.path / "report.html").read_text()
    assert page.startswith("<!doctype html>") and "http" not in page and "src='data:" in page
    pictures = [base64.b64decode(found) for found in re.findall("base64,([^']*)'", page)]
    assert sorted(pictures) == sorted(path.read_bytes() for path in (run.path / "plots").glob("*.png"))
    assert len(pictures) == 5
    for measured in run.measured.values():
        assert f"<td class=number>{with_error(measured.value, measured.stderr)}<td>" in page
    assert run.measured["nll"].line is not None and run.measured["nll"].line in page
    assert "type: neural_ode" in page and run.record.torch in page


@pytest.mark.usefixtures("cheap")
def test_what_stands_in_a_report_is_text(tmp_path: Path, registry: Registry) -> None:
    loaded = tiny.loaded("train.steps=1", "evaluate=[{type: nll, name: few, points: 9}]", "sample=null")
    run = start(loaded, registry, out=tmp_path / "run")
    run.note(git={"commit": "<script>alert(1)</script>", "dirty": False})
    page = report.page(shown(run))
    assert "<script" not in page and "&lt;script&gt;" in page and "<td>few<" in page


@pytest.mark.usefixtures("cheap")
def test_a_failed_metrics_floor_and_error_may_be_missing(tmp_path: Path, registry: Registry) -> None:
    run = start(tiny.loaded("train.steps=1", "evaluate=[]", "sample=null"), registry, out=tmp_path / "run")
    assert "<h2>Run</h2>" in (run.path / "report.html").read_text()
    assert np.isfinite(run.record.seconds["plots"])
    run.measured |= {"lone": Measured(2.0, None, "", 9, {}, "one chain < two"), "sure": Measured(2.0, 0.25, "", 9)}
    page = report.page(shown(run))
    assert "2 <small>no standard error:</small><small>one chain &lt; two</small>" in page and "2 ± 0.25" in page
    run.measured["nothing"] = Measured(None, None, "", 0, {}, "no chain moves")
    assert "none <small>no chain moves</small>" in report.page(shown(run))


@pytest.mark.usefixtures("cheap")
def test_the_report_begins_with_what_is_bad(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "draw", lambda *given: ())
    metric = "evaluate=[{type: energy_distance, name: kl, samples: 20}]"
    run = start(tiny.loaded("train.steps=1", metric), registry, out=tmp_path / "run")
    assert "<section" not in report.page(shown(run))
    run.measured["kl"] = Measured(1.0, 0.5, "nats", 9, line="KL 1.0")
    run.measured["other"] = Measured(1.0, 0.5, "nats", 9)
    run.judge("sample", Verdict("chains", "not_converged", "why", "bad"))
    for subject, outcome, severity in (
        ("solver", "within_tolerance", "good"), ("prior", "unknown", "unknown"),
        ("rounding", "rounding_dominates", "warning"), ("log_det", "log_det_suspect", "bad"),
    ):  # fmt: skip
        run.judge("kl", Verdict(subject, outcome, f"why <{severity}>", severity))  # type: ignore[arg-type]
    page = report.page(shown(run))
    order = [
        "Do not trust this run's numbers", "chains not converged: why",
        "log det suspect: why &lt;bad&gt; <small>(kl)</small>",
        "Warnings", "rounding dominates: why", "Could not be judged", "prior unknown: why",
        "Checked", "solver within tolerance: why", "KL 1.0",
        "<td>kl<small>chains not converged</small><small>prior unknown</small><small>rounding dominates</small>"
        "<small>log det suspect</small><td", "<td>other<td",
    ]  # fmt: skip
    assert [page.index(part) for part in order] == sorted(page.index(part) for part in order)


@pytest.mark.usefixtures("cheap")
def test_the_report_says_in_words_which_weights_and_which_commit(tmp_path: Path, registry: Registry) -> None:
    run = start(tiny.loaded("train.steps=1", "evaluate=[]", "sample=null"), registry, out=tmp_path / "run")
    run.note(git=None, evaluated={"weights": "ema", "step": 600, "best": False})
    page = report.page(shown(run))
    assert "<th>git" not in page
    assert "<td>moving average (ema) at step 600<" in page
    run.note(git={"commit": "0123456789abcdef", "dirty": True})
    assert "<td>commit 0123456789ab with changes that are not committed<" in report.page(shown(run))


def test_a_loss_that_is_recorded_once_is_drawn_whatever_its_size() -> None:
    for loss in (0.0, 2e7, -3e12):
        low, high = plots._loss([{"step": 10, "loss": loss}]).axes[0].get_ylim()
        assert low < loss < high


def test_a_monitor_has_a_panel_of_its_own() -> None:
    """Both terms against the step; without terms the value."""
    _, plain = plots._loss(RECORDS, "nll").axes
    named = [{**one, "validation_terms": {"left": 3.0, "right": one["step"]}} for one in RECORDS]
    (line,) = plain.lines
    np.testing.assert_allclose(line.get_xydata(), [[one["step"], one["validation"]] for one in RECORDS])
    assert plain.get_ylabel() == "nll" and len(plots._loss(RECORDS).axes) == 1
    left, right = plots._loss(named, "theorem").axes[1].lines
    assert (left.get_label(), list(left.get_ydata())) == ("left", [3.0] * 5)
    assert (right.get_label(), list(right.get_ydata())) == ("right", [10, 20, 30, 40, 50])
    assert left.get_linestyle() != right.get_linestyle()


def noised_by(estimator: str, **keys: object) -> list[tuple[float, float, float]]:
    sets = [f"{key}={value}" for key, value in {**keys, "estimator": estimator}.items()]
    made = tiny.experiment("evaluate=[]", "sample=null", *sets)
    return noise_plots.levels(made)


def test_the_levels_of_noise_are_the_estimators_or_the_kernels() -> None:
    langevin, steps = "{type: langevin, network: mlp}", "{type: langevin, step: 0.1}"
    assert noised_by("{type: denoising, sigma: 0.3}", dynamics=langevin, sampler=steps) == [(0.0, 1.0, 0.3)]
    assert noised_by("exact_trace") == []
    ou = "{type: ornstein_uhlenbeck, theta: 0.5, std: 2.0, duration: 3.0, t_data: 0.0, network: mlp}"
    for (t, alpha, sigma), share in zip(noised_by("denoising", dynamics=ou), (0.1, 0.3, 0.6, 1.0), strict=True):
        assert t == pytest.approx(3 * share) and alpha == pytest.approx(np.exp(-t / 2))
        assert sigma == pytest.approx(2 * np.sqrt(1 - np.exp(-t)))
    ladder = "{type: ve_sde, levels: 7, sigma_min: 1, sigma_max: 64, network: {type: mlp, hidden: [8]}}"
    found = [sigma for *_, sigma in noised_by("denoising", dynamics=ladder)]
    assert found == pytest.approx([1, 4, 16, 64])


def test_noised_rows_have_the_density_and_the_score_of_their_mixture() -> None:
    """By automatic differentiation of the mean of normal densities, and by their own sum."""
    x, means = torch.linspace(-3, 3, 13, dtype=torch.float64).requires_grad_(), points(5, 1)[:, 0]
    each = torch.distributions.Normal(means, 0.7).log_prob(x[:, None]).exp().mean(1)
    density, score = noise_plots.normals(x.detach(), means, 0.7)
    torch.testing.assert_close(density, each.detach())
    torch.testing.assert_close(score, torch.autograd.grad(each.log().sum(), x)[0])


def test_the_learned_score_is_drawn_at_each_level_over_that_of_the_noised_rows() -> None:
    made = tiny.experiment(
        "data={type: gaussian, mean: [2.0], samples: 4000, standardize: scale}", "evaluate=[]", "sample=null",
        "dynamics={type: ornstein_uhlenbeck, predicts: score, network: {type: mlp, hidden: []}}", "estimator=denoising",
    )  # fmt: skip
    shown = noise_plots.levels(made)
    figure = noise_plots.noised(made, _standard(made.model), shown, ["x1"])
    assert len(figure.axes) == 8
    for panel in figure.axes[4:]:  # of N(0, 1) data, each noised density is N(0, 1) again
        learned, exact = (line.get_xydata() for line in panel.lines)
        np.testing.assert_allclose(learned[:, 1], -learned[:, 0], atol=1e-6)
        inside = np.abs(exact[:, 0]) < 2
        np.testing.assert_allclose(exact[inside, 1], -exact[inside, 0], atol=0.4)
    sets = (
        "estimator={type: denoising, sigma: 0.3}",
        "dynamics={type: langevin, network: mlp}",
        "sampler={type: langevin, step: 0.1}",
    )
    flat = tiny.experiment(*sets, "evaluate=[]", "sample=null")
    assert "noised" in drawn(flat, samples=False) and "noised" not in drawn(flat, stages=("train",), samples=False)


def _standard(model: Model) -> Model:
    """The model with the score -x at every time."""
    with torch.no_grad():
        for name, p in model.module.named_parameters():
            p.zero_()
            if "weight" in name:
                p[:, :1] = -torch.eye(1)
    return model


def test_a_score_and_an_energy_have_pictures_and_chains_have_traces() -> None:
    langevin = "{type: langevin, predicts: energy, network: {type: mlp, hidden: [8], activation: silu}}"
    sampler = "{type: mala, step: 0.1, chains: 5, burn_in: 3, start: data}"
    sets = [f"dynamics={langevin}", "estimator={type: denoising, sigma: 0.2}", f"sampler={sampler}", "evaluate=[]"]
    made = tiny.experiment(*sets, "sample.count=100")
    rows = points(100, 2).numpy()
    names = list(dict(plots.draw(made, made.model, ALL, (), rows)))
    assert names == ["chains", "noised", "samples", "score", "energy"]


@pytest.mark.parametrize("sampler", ["{type: langevin, step: 0.1, steps: 6}", "{type: euler_maruyama, steps: 6}"])
def test_chains_are_shown_on_their_way_to_the_runs_own_draws(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the data's units, from the start after 0 steps to the draw after the last."""
    sets = ["dynamics={type: vp_sde, network: {type: mlp, hidden: [8]}}", "estimator=denoising", f"sampler={sampler}"]
    made = tiny.experiment(*sets, "evaluate=[]")
    seen: list[Any] = []
    monkeypatch.setattr(plots, "WALKERS", 40)
    monkeypatch.setattr(plots_chains, "marginals", lambda *given: seen.append(given) or Figure())
    draws: Any = made.spec.sampler.draw(made.model, 40, made.streams.under("sample"))  # type: ignore[union-attr]
    own = made.transform.to_data(draws.flat()).numpy()
    assert "marginals" in dict(plots.draw(made, made.model, ALL, (), own))
    ((states, titles, columns),) = seen
    assert states.shape == (5, 40, 2) and list(columns) == ["x1", "x2"]
    assert titles == [f"after {n} steps" for n in (0, 2, 3, 4, 6)]
    assert np.allclose(states[-1], own) and np.abs(states[0] - own).max() > 0.1


def test_a_panel_of_marginals_holds_the_last_state() -> None:
    for d in (1, 2):
        states = np.stack([5 + points(200, d).numpy(), points(200, d, seed=1).numpy()])
        figure = plots_chains.marginals(states, ["after 0 steps", "after 9 steps"], ("a", "b"))
        assert [axes.get_title() for axes in figure.axes] == ["after 0 steps", "after 9 steps"]
        low, high = figure.axes[0].get_xlim()
        assert low < states[-1][:, 0].min() and high > states[-1][:, 0].max() and figure.axes[0].get_xlabel() == "a"


def test_the_score_field_is_in_the_datas_units_and_points_uphill() -> None:
    """Of N(m, s²) in units scaled by s: the arrows point from every side towards m."""
    sets = [
        "data={type: gaussian, mean: [3, -1], std: 0.5, samples: 400, standardize: scale}",
        "dynamics.network.hidden=[4]",
    ]
    made = tiny.experiment(*sets)
    target = Dynamics.make({"type": "langevin", "target": {"type": "gaussian", "mean": [0.0, 0.0]}})
    model = BoundModel(target, torch.nn.Module(), 2)
    figure = plots_chains.score_field(made, model, (2, 4, -2, 0), points(10, 2).numpy(), ("a", "b"))
    (arrows,) = [c for c in figure.axes[0].collections if hasattr(c, "U")]
    at = plots_chains.grid((2, 4, -2, 0), plots_chains.ARROWS).numpy()
    mean = made.dataset.train.mean(0).numpy()
    assert ((arrows.U * (mean[0] - at[:, 0]) + arrows.V * (mean[1] - at[:, 1])) > 0).all()


def test_autocorrelation_of_an_autoregression_is_its_power() -> None:
    rho, generator = 0.8, np.random.default_rng(0)
    x = np.zeros((200, 2000))
    for n in range(1, 2000):
        x[:, n] = rho * x[:, n - 1] + (1 - rho**2) ** 0.5 * generator.standard_normal(200)
    lags, found = plots_chains.autocorrelation(x[:, 200:])
    assert found[0] == 1 and np.abs(found[:20] - rho ** lags[:20]).max() < 0.02


def test_chains_that_never_move_have_no_autocorrelation() -> None:
    lags, found = plots_chains.autocorrelation(np.ones((3, 8)))
    assert len(lags) == len(found) and np.isnan(found).all()


# --- pictures that a metric returns as data ---

MARKS = (
    Line([0, 1], [0, 1], "line"), Line([0, 1], [1, 0], "one of many", faint=True),
    Points([0.5], [0.5], "points", [0.1]), Bars([0, 1, 2], [0.5, 0.5], "bars"),
    Map([0, 1, 2], [0, 1], [[0, 1, 2], [3, 4, 5]], "p"), Arrows([0, 1], [0, 1], [1, 0], [0, 1], "score"),
)  # fmt: skip


def test_a_metrics_picture_is_drawn_mark_by_mark_with_its_caption() -> None:
    picture = Picture([Panel(MARKS, "x", "$y$", "t = 0"), Panel(MARKS[:1], "x", "y", log="xy", equal=True)], "A ≤ B.")
    known = Measured(0.0, None, "1", 2, pictures={"marks": picture})
    made = tiny.experiment()
    name, png = next(plots.draw(made, made.model, ("evaluate",), (), None, {"own": known}))
    assert name == "own_marks" and drawing.caption(png) == "A ≤ B."
    first, second = drawing.figure(picture).axes[:2]
    assert (first.get_xlabel(), first.get_ylabel(), first.get_title()) == ("x", "$y$", "t = 0")
    assert {text.get_text() for text in first.get_legend().get_texts()} == {m.label for m in MARKS[:4]} | {"score"}
    np.testing.assert_allclose(
        next(c for c in first.collections if isinstance(c, QuadMesh)).get_array(), MARKS[4].values
    )
    assert (second.get_xscale(), second.get_yscale()) == ("log", "log")
    second.figure.draw_without_rendering()
    labels = [label.get_text() for axis in (second.xaxis, second.yaxis) for label in axis.get_ticklabels(which="both")]
    assert any(labels) and not any("$" in label for label in labels), "plain numbers, for formulas are not drawn"
    looks = [(line.get_linestyle(), line.get_marker(), line.get_linewidth()) for line in first.lines]
    looks = [look for look in looks if look[1] not in ("_", "|")]  # the ends of error bars
    assert len(looks) == len(set(looks)) == 3, "without colours, no two marks look alike"


def test_a_picture_without_a_caption_has_none() -> None:
    assert drawing.caption(b"no picture") == "" == drawing.caption(b"\x89PNG\r\n\x1a\n" + bytes(40))
