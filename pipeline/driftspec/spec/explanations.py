"""What each code means: an example that is wrong, and the right one. Every example is executed by the tests.

An example is a part of a spec, a command line, a one-file plugin or a package's pyproject.toml, as `form` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from driftspec.errors import CODES


@dataclass(frozen=True)
class Explanation:
    """Why a code exists, and how to mend what it is about."""

    why: str
    wrong: str
    mended: str
    form: Literal["spec", "command", "plugin", "observer", "pyproject"] = "spec"

    def text(self, code: str) -> str:
        """The explanation as `run-spec explain` prints it."""
        wrong, mended = (_indented(part) for part in (self.wrong, self.mended))
        return f"{code}: {CODES[code]}\n\n{self.why}\n\nWrong:\n\n{wrong}\n\nRight:\n\n{mended}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.strip("\n").splitlines())


PLUGIN = """
from driftspec.components import Measured, Metric
from driftspec.registry import hookimpl

class Loud(Metric):
    "A number that is always one."
    type = "{type}"

    def measure(self, evaluation):
        return Measured(1.0, 0.5, "nats", 1)

@hookimpl
def {hook}():
    return {{"metric": {{"{name}": Loud}}}}
"""
LIBRARY = """
from driftspec.components import Measured, Metric
from driftspec.registry import hookimpl

class Loud(Metric):
    "A number that is always one."
    type = "loud"
    libraries = {{"{module}": "loud-library"}}

    def measure(self, evaluation):
        return Measured(1.0, 0.5, "nats", 1)

@hookimpl
def driftspec_components():
    return {{"metric": {{"loud": Loud}}}}
"""
OBSERVER = """
from driftspec.registry import hookimpl

@hookimpl
def driftspec_step(run, record):
    with open(run.path / "losses.txt", "a") as file:
        print(record.{attribute}, file=file)
"""
MENDED_PLUGIN = PLUGIN.format(type="loud", hook="driftspec_components", name="loud")

EXPLANATIONS = {
    "Y001": Explanation(
        "The spec's file does not exist, is a folder or a pipe, may not be read by you, or is a link that leads out of "
        "its folder and of the current directory.",
        "run-spec validate b.yaml", "run-spec validate a.yaml", "command",
    ),
    "Y002": Explanation(
        "A spec is UTF-8 text. An editor saved it in another encoding: save it again as UTF-8.",
        "name: café  # saved as Latin-1", "name: cafe",
    ),
    "Y003": Explanation("There is nothing in the file but space and comments.", "# to do", "name: a"),
    "Y004": Explanation(
        "The text breaks YAML's grammar; the message says what was expected where. A quote or bracket that is not "
        "closed often shows later than where it stands.",
        "evaluate: [nll", "evaluate: [nll]",
    ),
    "Y005": Explanation(
        "YAML readers keep the last of two equal keys and say nothing. Keep the one you mean.",
        "seed: 1\nseed: 2", "seed: 2",
    ),
    "Y006": Explanation(
        "A tag such as !!python/object makes a reader build things. A spec is plain data: numbers, text, lists, "
        "mappings. Quotes make text of a number.",
        "name: !!str 5", "name: '5'",
    ),
    "Y007": Explanation(
        "A spec has at most 32 levels, 10,000 values and 256 KiB, with each alias counted as a copy: a few lines of "
        "aliases would otherwise fill the memory. Numbers have at most 3,500 digits.",
        f"seed: {'[' * 33}{']' * 33}", "seed: 1",
    ),
    "Y008": Explanation(
        "*name repeats what &name marked earlier in the same file, and cannot stand inside it.",
        "evaluate: [*likelihood]", "evaluate: [&likelihood nll]",
    ),
    "Y009": Explanation(
        "YAML 1.1 reads 010 as eight and 1.2 as ten; 1_000, 0x1F and 12:30 differ likewise. The message says what to "
        "write so that every reader agrees.",
        "train: {steps: 1_000, batch_size: 64}", "train: {steps: 1000, batch_size: 64}",
    ),
    "Y010": Explanation("Numbers, true and null are no keys: put quotes around them.", "1: nll", "seed: 1"),
    "Y011": Explanation(
        "A file holds one spec: a mapping from its first line on, with no list around it and no second document after "
        "'---'.",
        "- name: a", "name: a",
    ),
    "Y012": Explanation(
        "Control characters, halves of surrogate pairs and the line breaks that only YAML 1.1 knows are refused, "
        "written out or as an escape: they hide what a spec says.",
        'name: "a\\u0007"', "name: a",
    ),
    "Y013": Explanation(
        "'extends' names a spec in the same way as a data file: relative to this one. It lies in the spec's folder, in "
        "the current directory, or below one of them; elsewhere only with --allow-outside. A base extends nothing.",
        "extends: no_such_base.yaml", "name: a",
    ),
    "Y014": Explanation(
        "--set and --unset take a dotted path to what the spec has: keys by name, items of a list by number from 0. "
        "--set makes missing keys on the way; it cannot go into a number or text that is no component's name.",
        "run-spec validate a.yaml --set train.steps.more=1", "run-spec validate a.yaml --set train.steps=50",
        "command",
    ),
    "S110": Explanation(
        "A key without a default is not there. The place is the section that lacks it.",
        "train: {batch_size: 64}", "train: {steps: 100, batch_size: 64}",
    ),
    "S111": Explanation(
        "A key that nothing reads is most often a misspelling, and would be ignored in silence elsewhere. "
        "run-spec plugins show KIND/NAME lists a component's keys.",
        "train: {steps: 100, batch_size: 64, clipnorm: 5.0}", "train: {steps: 100, batch_size: 64, clip_norm: 5.0}",
    ),
    "S112": Explanation(
        "A value is of the wrong type: text in the place of a number, a number in the place of a list. Nothing is "
        "converted: '5' is text, and yes and on are text too.",
        "train: {steps: '100', batch_size: 64}", "train: {steps: 100, batch_size: 64}",
    ),
    "S113": Explanation(
        "A number lies outside of its bounds, or a list or text is too long or too short.",
        "sample: {count: 0}", "sample: {count: 100}",
    ),
    "S114": Explanation(
        "A key takes one of a few words, or text of a certain form; the message lists them.",
        "runtime: {device: gpu}", "runtime: {device: cpu}",
    ),
    "S115": Explanation(
        "Each value is fine by itself and the component refuses them together; the message says why.",
        "data: {type: gaussian, mean: [0, 0], std: 1.0, covariance: [[1, 0], [0, 1]]}",
        "data: {type: gaussian, mean: [0, 0], std: 1.0}",
    ),
    "S120": Explanation(
        "No installed plugin provides a component of that kind by that name, or one of that name may not stand here. "
        "run-spec plugins list names them all.",
        "data: {type: moon}", "data: {type: moons}",
    ),
    "S121": Explanation(
        "A section that holds a component says which by its 'type', or is a bare name.",
        "sampler: 3", "sampler: ode",
    ),
    "S130": Explanation(
        "Every point of a sweep is a run of its own: two alike would do the same work twice, and a key that another "
        "one replaces would have no effect.",
        "sweep: {grid: {seed: [1, 2, 1]}}", "sweep: {grid: {seed: [1, 2, 3]}}",
    ),
    "P201": Explanation(
        "Python could not import a plugin; the message carries the reason. An installed one is a warning as long as no "
        "spec names what it might provide, and an error with --strict-plugins.",
        "import no_such_module", MENDED_PLUGIN, "plugin",
    ),
    "P202": Explanation(
        "Two plugins provide one name. Write type: DISTRIBUTION/NAME to say whose is meant, or rename or remove one.",
        PLUGIN.format(type="nll", hook="driftspec_components", name="nll"), MENDED_PLUGIN, "plugin",
    ),
    "P203": Explanation(
        "The number in the entry point's group is the version of the plugin API. A plugin for another version is not "
        "imported: install a release of it for this one.",
        '[project.entry-points."driftspec.v2"]\nloud = "loud"', '[project.entry-points."driftspec.v1"]\nloud = "loud"',
        "pyproject",
    ),
    "P204": Explanation(
        "A plugin returns {kind: {name: 'module:Class'}} from its hook, each class a subclass of its kind with the "
        "same name as its 'type'.",
        PLUGIN.format(type="loud", hook="driftspec_component", name="loud"), MENDED_PLUGIN, "plugin",
    ),
    "P205": Explanation(
        "DRIFTSPEC_BLOCK_PLUGINS holds the names of plugins or distributions that are not to be imported, with commas "
        "between. A blocked one is told once, and is an error where a spec names what it might provide; so is a name "
        "there that nobody has.",
        "DRIFTSPEC_BLOCK_PLUGINS=builtin run-spec validate a.yaml", "run-spec validate a.yaml", "command",
    ),
    "P206": Explanation(
        "A component needs a library that its distribution does not install by itself; the message says how to get it. "
        "It is looked for before anything runs; to validate without --deep its absence is a warning.",
        LIBRARY.format(module="no_such_library"), LIBRARY.format(module="json"), "plugin",
    ),
    "P207": Explanation(
        "A plugin or tracker that is told how a run goes has raised an error. It is recorded in run.json and told no "
        "more of this run, which goes on: its results do not depend on who listens.",
        OBSERVER.format(attribute="los"), OBSERVER.format(attribute="loss"), "observer",
    ),
    "X301": Explanation(
        "A component needs what another offers: a score, samples, a noise kernel. The message says what is needed, "
        "what is offered and where. run-spec plugins show KIND/NAME prints what a component offers and needs.",
        "estimator: denoising", "estimator: exact_trace",
    ),
    "X302": Explanation(
        "Sections that come together: an estimator and train, a metric that reads samples and sample.",
        "evaluate: [{type: energy_distance, samples: 50}]\nsample: null",
        "evaluate: [{type: energy_distance, samples: 50}]\nsample: {count: 50}",
    ),
    "X303": Explanation(
        "A number is fine by itself and cannot work with another one elsewhere in the spec.",
        "data: {type: moons, samples: 50}\ntrain: {steps: 100, batch_size: 64}",
        "data: {type: moons, samples: 500}\ntrain: {steps: 100, batch_size: 64}",
    ),
    "X304": Explanation(
        "A data file is missing, lies outside the current directory, or is no table of numbers; or its rows have no "
        "density (a column is constant, repeats another or follows from others) and the run needs one. Its path is "
        "relative to the spec's file. validate only looks whether it is there, and warns; a run, plan and "
        "validate --deep read it, and warn of columns far off the model's scale, of few different values, and of test "
        "rows that are training rows too.",
        "data: {type: table, path: no_such_file.csv}", "data: {type: moons, samples: 500}",
    ),
    "X305": Explanation(
        "The spec is valid and its run would fail at once: a loss that is not a number, a solve that does not end, "
        "samples that are not finite. validate --deep takes one step and a few draws to find out.",
        "data: {type: gaussian, mean: [0, 0], std: 1e+30}", "data: {type: gaussian, mean: [0, 0], std: 1.0}",
    ),
}  # fmt: skip
"""Code -> what it means."""

__all__ = ["EXPLANATIONS", "Explanation"]
