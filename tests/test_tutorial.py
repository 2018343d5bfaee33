"""The tutorial of plugins is followed to its end, and what it says is held against the code."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from inspect import get_annotations
from pathlib import Path

import pytest
import torch
from problems import points
from small_spec import edited, said
from strangers import install
from tiny import flow_of, random_flow, z_score

from driftspec import components
from driftspec.cli import main
from driftspec.components import Data, Solver, Trace
from driftspec.components.capabilities import FOLLOWS
from driftspec.numerics.chains import ChainSampler
from driftspec.numerics.likelihood import log_prob
from driftspec.registry import Registry, discover
from driftspec.streams import Streams

ROOT = Path(__file__).parent.parent
TUTORIAL = (ROOT / "plugins" / "TUTORIAL.md").read_text()
SHORT = [
    *("--set", "train.steps=4", "--set", "data.samples=3000", "--set", "sample.count=300"),
    *("--set", "dynamics.network.hidden=[8]", "--quiet"),
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TUTORIAL, re.DOTALL)


COMPONENT, TEST = blocks("python")
CHAINS = """\
version: 1
name: a
data: moons
dynamics: {type: langevin, network: mlp}
estimator: straight_lines
sampler: {type: langevin, step: 0.01}
train: {steps: 5, batch_size: 8}
evaluate: []
"""
COMMANDS = "".join(blocks("sh")).splitlines()


@pytest.fixture(scope="module")
def hutchpp(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """What is installed, and the page's component."""
    file = tmp_path_factory.mktemp("tutorial") / "hutchpp.py"
    file.write_text(COMPONENT)
    return discover([file])


# --- the page is followed ---


def test_the_estimator_takes_less_than_forty_lines() -> None:
    assert len([line for line in COMPONENT.splitlines() if line.strip()]) < 40
    assert "`hutchpp.py`" in TUTORIAL
    assert "`my.yaml`" in TUTORIAL


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's files, in a directory where its commands are given."""
    (tmp_path / "hutchpp.py").write_text(COMPONENT)
    (tmp_path / "my.yaml").write_text(blocks("yaml")[0])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("driftspec_hutchpp")]:
        del sys.modules[name]


def test_every_command_of_the_page_does_what_it_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the page's order. pip is stood in for by what it leaves behind; the wheels' own test runs it."""
    site, package = folder / "site", folder / "driftspec-hutchpp"
    for command in COMMANDS:
        program, *words = shlex.split(command)
        if program == "run-spec":
            runs = words[0].endswith(".yaml")
            assert main([*words, *(SHORT if runs else [])]) == 0, command
        elif program == "cp":
            shutil.copy(*words)
            (package / "tests" / "test_hutchpp.py").write_text(TEST)
        elif program == "pip":
            assert words[-1] == "./driftspec-hutchpp"
            install(package, site)
            monkeypatch.syspath_prepend(str(site))
            monkeypatch.syspath_prepend(str(package / "src"))
        else:
            path = os.pathsep.join([str(site), str(package / "src")])
            done = subprocess.run(
                [sys.executable, "-m", program, *words, "-q", "-p", "no:cacheprovider"],
                env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            assert re.search(r"\d+ passed", done.stdout)
    said = capfd.readouterr().out
    assert re.search(r"^  sketch +a whole number, at least 1 \(default \d+\)\n +s, columns of S", said, re.MULTILINE)
    assert re.search(r"^  hutchpp +\w.*  \(driftspec-hutchpp 0\.1\.0\)$", said, re.MULTILINE)
    assert len(list(folder.glob("runs/*/*/report.html"))) == 2


# --- the loss of its second example ---


def test_the_loss_of_a_field_that_stands_still_is_the_lines_mean_square(tmp_path: Path) -> None:
    """With v = 0 it is E‖x - z‖²/T² = (E‖x‖² + d)/T², z ~ N(0, I), x the same row in each batch."""
    (code,) = re.findall(r'```python title="straight_lines.py"\n(.*?)```', TUTORIAL, re.DOTALL)
    (tmp_path / "straight_lines.py").write_text(code)
    registry = discover([tmp_path / "straight_lines.py"])
    assert said(edited(("{type: hutchinson, noise: rademacher}", "straight_lines")), registry=registry) == []
    (misfit,) = said(CHAINS, registry=registry)
    assert "needs a prior (where the lines begin)" in misfit
    estimator = components.Estimator.make("straight_lines", registry)
    model, rows = flow_of(lambda t, x: 0 * x, 3, (2.0, -1.0)), torch.tensor([[1.0, -2.0, 0.5]]).double().expand(64, 3)
    losses = [estimator.loss(model, rows, {}, Streams(0).at(step)).value.detach() for step in range(300)]
    assert abs(z_score(torch.stack(losses), (5.25 + 3) / 9)) < 4

    def line(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The velocity when every line ends in one row: from x straight to it in the time that is left."""
        return (rows[: len(x)] - x) / (-1.0 - t)[:, None]

    exact = estimator.loss(flow_of(line, 3, (2.0, -1.0)), rows, {}, Streams(0)).value
    assert abs(float(exact.detach())) < 1e-20


# --- the mathematics of its example ---


def made(registry: Registry, **keys: int) -> Trace:
    return Trace.make({"type": "hutchpp", **keys}, registry)


def matrix(d: int, power: float = 2.0) -> torch.Tensor:
    """A matrix that is not normal, with singular values 1, 1/2^power, 1/3^power, ..."""
    generator = torch.Generator().manual_seed(d)
    u, v = (torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q for _ in range(2))
    return u / torch.arange(1, d + 1) ** power @ v.T


def estimates(trace: Trace, a: torch.Tensor, count: int) -> torch.Tensor:
    """Of tr(A), each row with probes of its own."""
    x = torch.zeros(count, len(a), dtype=torch.float64)
    value, found = trace.divergence(lambda y: y @ a.T + 1, x, trace.probe(x, torch.Generator().manual_seed(1)))
    torch.testing.assert_close(value, torch.ones_like(x))
    return found


@pytest.mark.parametrize("keys", [{}, {"sketch": 3, "probes": 2}, {"sketch": 7, "probes": 1}], ids=str)
def test_it_is_unbiased(hutchpp: Registry, keys: dict[str, int]) -> None:
    a = matrix(8, 0.5)
    assert abs(z_score(estimates(made(hutchpp, **keys), a, 4000), float(a.trace()))) < 4


def test_its_variance_is_below_hutchinsons_for_as_many_products(hutchpp: Registry) -> None:
    """4 sketch vectors, used twice, and 4 probes cost 12 products. Both variances as measured, errors below a tenth."""
    a = matrix(24)
    plain = Trace.make({"type": "hutchinson", "probes": 12}, hutchpp)
    ratio = estimates(made(hutchpp, sketch=4, probes=4), a, 4000).var() / estimates(plain, a, 4000).var()
    assert float(ratio) < 0.1


@pytest.mark.parametrize("d", [1, 2, 5])
def test_it_is_exact_where_the_sketch_spans_everything(hutchpp: Registry, d: int) -> None:
    a = matrix(d, 0.5)
    found = estimates(made(hutchpp, sketch=5), a, 20)
    torch.testing.assert_close(found, a.trace().expand(20), rtol=1e-12, atol=1e-12)


def test_its_gradient_is_unbiased_with_the_basis_held_fixed(hutchpp: Registry) -> None:
    """∂tr(A)/∂A = I, from each of 3,000 rows that have a copy of A of their own."""
    copies = matrix(4, 0.5).repeat(3000, 1, 1).requires_grad_()
    x = torch.zeros(3000, 4, dtype=torch.float64)
    trace = made(hutchpp, sketch=2)
    probe = trace.probe(x, torch.Generator().manual_seed(2))
    found = trace.divergence(lambda y: torch.einsum("bij,bj->bi", copies, y), x, probe)[1]
    (slopes,) = torch.autograd.grad(found.sum(), copies)
    z = (slopes.mean(0) - torch.eye(4, dtype=torch.float64)) / (slopes.std(0) / 3000**0.5)
    assert float(z.abs().max()) < 4.5  # the largest of 16


def test_a_rank_below_the_sketch_is_no_trouble(hutchpp: Registry) -> None:
    """The basis is then not determined, and the estimate exact whatever it is."""
    a = torch.zeros(6, 6, dtype=torch.float64)
    a[0] = torch.arange(1, 7)
    for target in (a, 0 * a):
        found = estimates(made(hutchpp, sketch=3), target, 50)
        torch.testing.assert_close(found, target.trace().expand(50), rtol=1e-12, atol=1e-12)
    still = torch.zeros(6, 6, dtype=torch.float64, requires_grad=True)
    estimates(made(hutchpp, sketch=3), still, 50).mean().backward()
    assert bool(still.grad.isfinite().all())


def test_its_vectors_stay_together_when_points_are_scored(hutchpp: Registry) -> None:
    """With a sketch that spans everything log p is the exact one, and has no standard error."""
    model, solver = random_flow([8], 2, torch.float64, gain=2.0), Solver.make("rk4")
    x, streams = points(20, 2), Streams(0)
    exact = log_prob(model, x, solver, Trace.make("exact_trace"), streams)
    found = log_prob(model, x, solver, made(hutchpp, sketch=2, probes=3), streams)
    torch.testing.assert_close(found.log_prob, exact.log_prob, rtol=1e-9, atol=1e-9)
    assert found.probe_stderr is None


# --- the page's tables ---


def rows() -> list[list[str]]:
    table = TUTORIAL.split("| kind |")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_every_kind_has_a_row() -> None:
    assert set(components.KINDS) == {row[0] for row in rows()}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[1])
def test_what_a_row_names_is_there(row: list[str]) -> None:
    kind, classes, must, may = row
    bases = [getattr(components, name) for name in re.findall(r"`(\w+)`", classes)]
    assert bases
    assert all(issubclass(base, components.KINDS[kind]) for base in bases)
    known = {name for base in [*bases, ChainSampler, Data] for name in [*dir(base), *get_annotations(base)]}
    named = re.findall(r"`(?:Data\.)?([a-z_]+)(?:\([^)]*\)[^`]*)?`", f"{must} {may}")
    assert named
    known |= {field.name for field in fields(components.Measured)}
    assert [name for name in named if name not in known] == []


def test_the_signatures_are_the_codes() -> None:
    """Each `name(a, b)` of the table takes arguments of these names, in this order."""
    for _, classes, must, may in rows():
        bases = [getattr(components, name) for name in re.findall(r"`(\w+)`", classes)]
        for name, given in re.findall(r"`(\w+)\(([^)]+)\)", f"{must} {may}"):
            code = next(vars(base)[name] for one in bases for base in one.__mro__ if name in vars(base)).__code__
            assert given.split(", ") == list(code.co_varnames[1 : 1 + len(given.split(", "))]), name


def test_the_capabilities_are_the_codes(registry: Registry) -> None:
    named = set(re.search(r"capabilities are `([^`]+)`", TUTORIAL)[1].split())
    source = "".join(path.read_text() for path in ROOT.glob("p*/driftspec*/**/*.py"))
    assert {name for given, _ in FOLLOWS for name in given} <= named
    assert all(f'"{name}"' in source for name in named)
