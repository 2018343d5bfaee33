"""Do the tests notice a wrong formula? One-line mutations of the mathematics, each tried in a copy of the tree.

    python tests/mutations.py                             every mutation; hours
    python tests/mutations.py --sample 25 --seed 0        25 of them, drawn at random
    python tests/mutations.py --only flow rk4 --jobs 2    those of two modules
    pytest tests/mutations.py -m mutation -n 2            the same as tests

mutations.txt names a line by its text, not by its number: `- text` as it is and `+ text` mutated, under the name of a
module, which MODULES below leads to a file and to the tests that should notice. A mutation that no test can notice, for
the law of every result stays the same, has a third line, `= reason`; it is not tried, and counted apart. Where a file
moves, its path in MODULES follows; where a line changes, its text does: what is not found is reported as `not found`.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_name("mutations.txt")
LIMIT = 900
"""Seconds that the tests of one mutation may take; a mutation that hangs is noticed too."""
COPIED = ("pipeline", "plugins", "specs", "tests", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")

MODULES = {
    "flow": (
        "pipeline/driftspec/numerics/likelihood.py",
        "plugins/test_stated_errors core/test_flow plugins/test_metrics plugins/test_trajectory "
        "plugins/test_regularisers core/test_density core/test_other_rows plugins/test_traces "
        "plugins/test_probability_flow test_distinct_sets",
    ),
    "refinement": (
        "pipeline/driftspec/accuracy/refinement.py",
        "plugins/test_stated_errors core/test_flow plugins/test_metrics plugins/test_trajectory "
        "plugins/test_regularisers core/test_density core/test_other_rows plugins/test_traces "
        "plugins/test_probability_flow test_distinct_sets",
    ),
    "transport": (
        "pipeline/driftspec/numerics/transport.py",
        "plugins/test_stated_errors core/test_flow plugins/test_metrics plugins/test_trajectory "
        "plugins/test_regularisers core/test_density core/test_other_rows plugins/test_traces "
        "plugins/test_probability_flow test_distinct_sets plugins/test_flow_metrics",
    ),
    "autodiff": (
        "pipeline/driftspec/autodiff.py",
        "core/test_flow plugins/test_probability_flow plugins/test_sde plugins/test_one_rule "
        "plugins/test_chains core/test_density plugins/test_neural_ode plugins/test_traces "
        "plugins/test_score_matching core/test_run test_distinct_sets",
    ),
    "model_base": (
        "pipeline/driftspec/components/model.py",
        "core/test_flow plugins/test_probability_flow plugins/test_sde plugins/test_one_rule "
        "plugins/test_chains core/test_density plugins/test_neural_ode plugins/test_traces "
        "plugins/test_score_matching core/test_run test_distinct_sets",
    ),
    "transform": (
        "pipeline/driftspec/components/dataset.py",
        "core/test_dataset test_distinct_sets plugins/test_table core/test_other_rows "
        "plugins/test_metrics plugins/test_score_metrics test_api",
    ),
    "evaluation": ("pipeline/driftspec/components/evaluation.py", "test_distinct_sets plugins/test_metrics"),
    "model": (
        "pipeline/driftspec/numerics/model.py",
        "core/test_flow plugins/test_probability_flow plugins/test_sde plugins/test_one_rule "
        "plugins/test_chains core/test_density plugins/test_neural_ode plugins/test_traces "
        "plugins/test_score_matching core/test_run test_distinct_sets",
    ),
    "chains": (
        "pipeline/driftspec/numerics/chains.py",
        "plugins/test_chains plugins/test_one_rule core/test_verdicts plugins/test_contrastive_divergence "
        "plugins/test_fokker_planck core/test_chain_verdict plugins/test_chain_metrics test_distinct_sets",
    ),
    "convergence": (
        "pipeline/driftspec/accuracy/convergence.py",
        "plugins/test_chain_metrics core/test_chain_verdict plugins/test_chains",
    ),
    "chain_verdict": ("pipeline/driftspec/accuracy/chain_verdict.py", "core/test_chain_verdict plugins/test_chains"),
    "paths": (
        "pipeline/driftspec/numerics/sde.py",
        "plugins/test_general_sde plugins/test_score_matching plugins/test_sde plugins/test_fokker_planck",
    ),
    "dataset": (
        "pipeline/driftspec/experiment/dataset.py",
        "core/test_dataset test_distinct_sets plugins/test_table core/test_other_rows plugins/test_metrics "
        "plugins/test_score_metrics test_api",
    ),
    "streams": ("pipeline/driftspec/streams.py", "core/test_streams test_distinct_sets"),
    "train": ("pipeline/driftspec/experiment/train.py", "core/test_train test_distinct_sets"),
    "lobatto": ("plugins/driftspec_plugins/solvers/lobatto.py", "plugins/test_solvers core/test_flow"),
    "rk4": ("plugins/driftspec_plugins/solvers/rk4.py", "plugins/test_solvers core/test_flow"),
    "adjoint": (
        "plugins/driftspec_plugins/solvers/_adjoint.py",
        "plugins/test_adjoint plugins/test_trajectory core/test_gradients",
    ),
    "torchdiffeq": (
        "plugins/driftspec_plugins/solvers/_torchdiffeq.py",
        "plugins/test_solvers plugins/test_adjoint plugins/test_trajectory plugins/test_regularisers "
        "core/test_gradients plugins/test_solver_keys",
    ),
    "adaptive": (
        "plugins/driftspec_plugins/solvers/torchdiffeq_adaptive.py",
        "plugins/test_solvers plugins/test_solver_keys plugins/test_adjoint plugins/test_stated_errors "
        "core/test_gradients",
    ),
    "fixed": (
        "plugins/driftspec_plugins/solvers/torchdiffeq_fixed.py",
        "plugins/test_solvers plugins/test_solver_keys plugins/test_adjoint core/test_gradients",
    ),
    "metropolis": (
        "plugins/driftspec_plugins/samplers/_metropolis.py",
        "plugins/test_chains core/test_verdicts core/test_testing_samplers",
    ),
    "mala": ("plugins/driftspec_plugins/samplers/mala.py", "plugins/test_chains"),
    "hmc": ("plugins/driftspec_plugins/samplers/hmc.py", "plugins/test_chains"),
    "langevin_sampler": (
        "plugins/driftspec_plugins/samplers/langevin.py",
        "plugins/test_chains plugins/test_fokker_planck plugins/test_chain_metrics plugins/test_one_rule",
    ),
    "annealed": ("plugins/driftspec_plugins/samplers/annealed_langevin.py", "plugins/test_sde plugins/test_chains"),
    "euler_maruyama": (
        "plugins/driftspec_plugins/samplers/euler_maruyama.py",
        "plugins/test_sde plugins/test_fokker_planck plugins/test_one_rule plugins/test_general_sde",
    ),
    "predictor_corrector": ("plugins/driftspec_plugins/samplers/predictor_corrector.py", "plugins/test_sde"),
    "heun": ("plugins/driftspec_plugins/samplers/heun.py", "plugins/test_sde"),
    "time_steps": (
        "plugins/driftspec_plugins/samplers/_time_steps.py",
        "plugins/test_sde plugins/test_fokker_planck plugins/test_one_rule",
    ),
    "denoising": ("plugins/driftspec_plugins/estimators/denoising.py", "plugins/test_denoising"),
    "score_matching": (
        "plugins/driftspec_plugins/estimators/score_matching.py",
        "plugins/test_score_matching plugins/test_general_sde test_distinct_sets",
    ),
    "contrastive": (
        "plugins/driftspec_plugins/estimators/contrastive_divergence.py",
        "plugins/test_contrastive_divergence test_distinct_sets",
    ),
    "hutchinson": (
        "plugins/driftspec_plugins/estimators/hutchinson.py",
        "plugins/test_traces plugins/test_score_matching core/test_flow",
    ),
    "exact_trace": ("plugins/driftspec_plugins/estimators/exact_trace.py", "plugins/test_traces"),
    "trajectory": ("plugins/driftspec_plugins/estimators/trajectory.py", "plugins/test_trajectory"),
    "vp_sde": ("plugins/driftspec_plugins/dynamics/vp_sde.py", "plugins/test_sde plugins/test_probability_flow"),
    "sub_vp_sde": (
        "plugins/driftspec_plugins/dynamics/sub_vp_sde.py",
        "plugins/test_sde plugins/test_probability_flow",
    ),
    "ve_sde": ("plugins/driftspec_plugins/dynamics/ve_sde.py", "plugins/test_sde plugins/test_denoising"),
    "ornstein": (
        "plugins/driftspec_plugins/dynamics/ornstein_uhlenbeck.py",
        "plugins/test_sde plugins/test_fokker_planck",
    ),
    "noising": ("plugins/driftspec_plugins/dynamics/_noising.py", "plugins/test_sde plugins/test_probability_flow"),
    "sde": (
        "plugins/driftspec_plugins/dynamics/sde.py",
        "plugins/test_general_sde plugins/test_sde plugins/test_one_rule",
    ),
    "langevin_dynamics": (
        "plugins/driftspec_plugins/dynamics/langevin.py",
        "plugins/test_chains plugins/test_score_matching plugins/test_score_metrics plugins/test_targets "
        "plugins/test_fokker_planck",
    ),
    "smooth": ("plugins/driftspec_plugins/dynamics/_smooth.py", "plugins/test_one_rule"),
    "activations": (
        "plugins/driftspec_plugins/networks/_activations.py",
        "plugins/test_networks plugins/test_one_rule",
    ),
    "u_statistics": (
        "plugins/driftspec_plugins/metrics/_u_statistics.py",
        "plugins/test_error_bars plugins/test_two_sample_metrics plugins/test_metrics plugins/test_dependent_draws",
    ),
    "two_samples": (
        "plugins/driftspec_plugins/metrics/_two_samples.py",
        "plugins/test_error_bars plugins/test_two_sample_metrics plugins/test_dependent_draws",
    ),
    "energy_distance": (
        "plugins/driftspec_plugins/metrics/energy_distance.py",
        "plugins/test_metrics plugins/test_dependent_draws test_distinct_sets",
    ),
    "mmd": ("plugins/driftspec_plugins/metrics/mmd.py", "plugins/test_two_sample_metrics plugins/test_dependent_draws"),
    "ksd": (
        "plugins/driftspec_plugins/metrics/ksd.py",
        "plugins/test_error_bars plugins/test_score_metrics plugins/test_dependent_draws",
    ),
    "c2st": (
        "plugins/driftspec_plugins/metrics/c2st.py",
        "plugins/test_error_bars plugins/test_dependent_draws plugins/test_score_metrics",
    ),
    "wasserstein": (
        "plugins/driftspec_plugins/metrics/wasserstein.py",
        "plugins/test_two_sample_metrics plugins/test_dependent_draws",
    ),
    "sliced": (
        "plugins/driftspec_plugins/metrics/sliced_wasserstein.py",
        "plugins/test_two_sample_metrics plugins/test_dependent_draws",
    ),
    "fisher": ("plugins/driftspec_plugins/metrics/fisher_divergence.py", "plugins/test_score_metrics"),
    "log_z": (
        "plugins/driftspec_plugins/metrics/_log_z.py",
        "plugins/test_error_bars plugins/test_stated_errors plugins/test_score_metrics test_distinct_sets",
    ),
    "fokker_planck": (
        "plugins/driftspec_plugins/metrics/fokker_planck.py",
        "plugins/test_stated_errors plugins/test_fokker_planck test_distinct_sets",
    ),
    "fp_of_run": (
        "plugins/driftspec_plugins/metrics/_fokker_planck_of_run.py",
        "plugins/test_stated_errors plugins/test_fokker_planck",
    ),
    "fp_particles": (
        "plugins/driftspec_plugins/metrics/_fokker_planck_particles.py",
        "plugins/test_stated_errors plugins/test_fokker_planck",
    ),
    "fp_grid": (
        "plugins/driftspec_plugins/metrics/_fokker_planck.py",
        "plugins/test_fokker_planck plugins/test_stated_errors",
    ),
    "score_fp": (
        "plugins/driftspec_plugins/metrics/score_fokker_planck.py",
        "plugins/test_one_rule plugins/test_fokker_planck",
    ),
    "score_theorem": (
        "plugins/driftspec_plugins/metrics/score_matching_theorem.py",
        "plugins/test_score_theorem",
    ),
    "score_scale": (
        "plugins/driftspec_plugins/metrics/score_scale.py",
        "plugins/test_score_theorem",
    ),
    "ascent": (
        "plugins/driftspec_plugins/metrics/ascent.py",
        "plugins/test_score_theorem",
    ),
    "score_and_trace": (
        "plugins/driftspec_plugins/metrics/_scores.py",
        "plugins/test_score_theorem",
    ),
    "noise_plots": ("pipeline/driftspec/report/noise_plots.py", "core/test_plots"),
    "moments": (
        "plugins/driftspec_plugins/metrics/moments.py",
        "plugins/test_two_sample_metrics plugins/test_chain_metrics",
    ),
    "scores": ("plugins/driftspec_plugins/metrics/_scores.py", "plugins/test_error_bars"),
    "likelihood": (
        "plugins/driftspec_plugins/metrics/_likelihood.py",
        "plugins/test_metrics plugins/test_score_metrics plugins/test_general_sde "
        "plugins/test_likelihood_verdicts plugins/test_probability_flow",
    ),
    "nll": ("plugins/driftspec_plugins/metrics/nll.py", "plugins/test_metrics plugins/test_score_metrics"),
    "mode_coverage": (
        "plugins/driftspec_plugins/metrics/mode_coverage.py",
        "plugins/test_dependent_draws plugins/test_score_metrics",
    ),
    "evaluate": ("pipeline/driftspec/experiment/evaluate.py", "test_distinct_sets plugins/test_metrics"),
    "power": ("plugins/driftspec_plugins/dynamics/power.py", "plugins/test_power"),
    "adjoint_path": ("plugins/driftspec_plugins/metrics/adjoint_path.py", "plugins/test_flow_metrics"),
    "gradients": (
        "plugins/driftspec_plugins/metrics/_gradients.py",
        "plugins/test_flow_metrics plugins/test_trajectory",
    ),
    "slopes": ("plugins/driftspec_plugins/metrics/_slopes.py", "plugins/test_flow_metrics"),
    "gradient_order": ("plugins/driftspec_plugins/metrics/gradient_order.py", "plugins/test_flow_metrics"),
    "determinant_limit": ("plugins/driftspec_plugins/metrics/determinant_limit.py", "plugins/test_flow_metrics"),
    "round_trip": ("plugins/driftspec_plugins/metrics/round_trip.py", "plugins/test_flow_metrics"),
    "trace_cost": ("plugins/driftspec_plugins/metrics/trace_cost.py", "plugins/test_flow_metrics"),
    "trace_spread": ("plugins/driftspec_plugins/metrics/trace_spread.py", "plugins/test_flow_metrics"),
}
"""Each module's file, and the test files that should notice, those that notice most of it first."""


@dataclass(frozen=True)
class Mutation:
    """A line of a module, by its text without indentation, and what it becomes; `equal` says why nothing can see it."""

    module: str
    before: str
    after: str
    equal: str | None = None

    @property
    def path(self) -> str:
        return MODULES[self.module][0]

    @property
    def tests(self) -> list[str]:
        return [f"tests/{name}.py" for name in MODULES[self.module][1].split()]

    def __str__(self) -> str:
        return f"{self.module}: {self.before}  ->  {self.after}"


def mutations() -> list[Mutation]:
    """Everything in mutations.txt, in its order."""
    return list(_read(LIST.read_text().splitlines()))


def _read(lines: Sequence[str]) -> Iterator[Mutation]:
    module, held = "", []
    for line in [*(line for line in lines if line.strip()), "[]"]:
        mark, text = line[0], line[2:]
        if mark in "[-" and held:
            yield Mutation(module, *held)
            held = []
        if mark == "[":
            module = line.strip("[]")
        else:
            held.append(text)


def mutated(source: str, mutation: Mutation) -> str | None:
    """The source with the first line of that text changed, its indentation kept; None where there is none."""
    lines = source.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.strip() == mutation.before:
            lines[number] = line.replace(mutation.before, mutation.after)
            return "".join(lines)
    return None


class Tree:
    """A copy of the tree in which one mutation at a time is tried."""

    ticks = itertools.count(1)

    def __init__(self, folder: Path):
        self.folder = folder
        for name in COPIED:
            source, target = ROOT / name, folder / name
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)

    def passes(self, tests: Sequence[str]) -> bool:
        """Whether the tests pass; those that take longer than LIMIT do not."""
        paths = os.pathsep.join(str(self.folder / name) for name in ("pipeline", "plugins"))
        command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def outcome(self, mutation: Mutation) -> str:
        """`caught`, `survived` or `not found`."""
        path = self.folder / mutation.path
        source = path.read_text() if path.exists() else ""
        changed = mutated(source, mutation)
        if changed is None:
            return "not found"
        try:
            self._write(path, changed)
            return "survived" if self.passes(mutation.tests) else "caught"
        finally:
            self._write(path, source)

    def _write(self, path: Path, text: str) -> None:
        """With a time of its own, by which compiled files of another version are told apart."""
        path.write_text(text)
        moment = time.time() + 10 * next(self.ticks)
        os.utime(path, (moment, moment))


def tried(chosen: Sequence[Mutation], jobs: int, folder: Path) -> Iterator[tuple[Mutation, str]]:
    """Each mutation with its outcome, by as many trees as there are jobs."""
    trees: queue.Queue[Tree] = queue.Queue()
    for number in range(jobs):
        trees.put(Tree(folder / str(number)))

    def one(mutation: Mutation) -> str:
        tree = trees.get()
        try:
            return tree.outcome(mutation)
        finally:
            trees.put(tree)

    with ThreadPoolExecutor(jobs) as pool:
        yield from zip(chosen, pool.map(one, chosen))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print each outcome and their counts; 1 where a mutation survived or was not found."""
    parser = argparse.ArgumentParser(description="Try one-line mutations of the mathematics against the tests.")
    parser.add_argument("--only", nargs="+", choices=sorted(MODULES), help="modules whose mutations are tried")
    parser.add_argument("--sample", type=int, help="how many, drawn at random; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the random choice")
    parser.add_argument("--jobs", type=int, default=1, help="mutations tried at a time")
    parser.add_argument("--skip-check", action="store_true", help="do not first run the tests as they are")
    asked = parser.parse_args(arguments)
    known = [one for one in mutations() if asked.only is None or one.module in asked.only]
    chosen = [one for one in known if one.equal is None]
    if asked.sample is not None:
        chosen = random.Random(asked.seed).sample(chosen, min(asked.sample, len(chosen)))
    counts = collections.Counter({"equal in law": len(known) - len([one for one in known if one.equal is None])})
    with tempfile.TemporaryDirectory() as folder:
        if not asked.skip_check:
            tests = sorted({test for one in chosen for test in one.tests})
            if not Tree(Path(folder) / "check").passes(tests):
                print("the tests fail, or take too long, as they are: nothing can be told from them")
                return 1
        for mutation, outcome in tried(chosen, asked.jobs, Path(folder)):
            counts[outcome] += 1
            print(f"{outcome:10} {mutation}", flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count))
    return int(counts["survived"] + counts["not found"] > 0)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return Tree(tmp_path_factory.mktemp("mutated") / "tree")


@pytest.mark.mutation
@pytest.mark.parametrize("mutation", [one for one in mutations() if one.equal is None], ids=str)
def test_a_mutation_is_caught(mutation: Mutation, tree: Tree) -> None:
    assert tree.outcome(mutation) == "caught"


if __name__ == "__main__":
    sys.exit(main())
