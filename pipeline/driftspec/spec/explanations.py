"""The explanation of each code, with a wrong and a right example. The tests execute every example.

An example is a part of a spec, a command line, a one-file plugin or a package's pyproject.toml; `form` names which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from driftspec.errors import CODES


@dataclass(frozen=True)
class Explanation:
    """Why a code is reported, with a wrong example and the same example without the mistake (`mended`)."""

    why: str
    wrong: str
    mended: str
    form: Literal["spec", "command", "plugin", "observer", "pyproject"] = "spec"

    def text(self, code: str) -> str:
        """Return the explanation as `run-spec explain` prints it."""
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
RIGHT_PLUGIN = PLUGIN.format(type="loud", hook="driftspec_components", name="loud")

EXPLANATIONS = {
    "Y001": Explanation(
        "The spec's file does not exist, is a folder or a pipe, or you have no permission to read it. It may also be a "
        "link to a file outside its folder and the current directory; --allow-outside allows that.",
        "run-spec validate b.yaml", "run-spec validate a.yaml", "command",
    ),
    "Y002": Explanation(
        "A spec is UTF-8 text. An editor probably saved it in another encoding: save it as UTF-8.",
        "name: café  # saved as Latin-1", "name: cafe",
    ),
    "Y003": Explanation("The file has no content except white space and comments.", "# to do", "name: a"),
    "Y004": Explanation(
        "The text is not valid YAML. The message states what was expected, and where. If a quote or bracket is not "
        "closed, the parser often notices it only some lines later.",
        "evaluate: [nll", "evaluate: [nll]",
    ),
    "Y005": Explanation(
        "A mapping has the same key twice. Many YAML readers silently use the last one. Keep the one that you mean.",
        "seed: 1\nseed: 2", "seed: 2",
    ),
    "Y006": Explanation(
        "A tag such as !!python/object makes some YAML readers create objects. A spec is plain data: numbers, text, "
        "lists and mappings. To write a number as text, put it in quotes.",
        "name: !!str 5", "name: '5'",
    ),
    "Y007": Explanation(
        "A spec has at most 32 levels of nesting, 10,000 values and 256 KiB of text. Each alias counts as a copy of "
        "its value, because a few lines of aliases could otherwise fill the memory. A number has at most 3,500 digits.",
        f"seed: {'[' * 33}{']' * 33}", "seed: 1",
    ),
    "Y008": Explanation(
        "The alias *name repeats the value that the anchor &name marks. The anchor must be earlier in the same file, "
        "and the alias must not be inside the value that it repeats.",
        "evaluate: [*likelihood]", "evaluate: [&likelihood nll]",
    ),
    "Y009": Explanation(
        "YAML 1.1 reads 010 as eight, YAML 1.2 reads it as ten. The two versions also differ in 1_000, 0x1F and 12:30. "
        "The message states a form that every YAML reader reads alike.",
        "train: {steps: 1_000, batch_size: 64}", "train: {steps: 1000, batch_size: 64}",
    ),
    "Y010": Explanation(
        "A number, true, false or null cannot be a key. If you mean text, put it in quotes.", "1: nll", "seed: 1"
    ),
    "Y011": Explanation(
        "A file holds one spec, and a spec is a mapping of keys to values. It is not a list, and no second document "
        "follows after '---'.",
        "- name: a", "name: a",
    ),
    "Y012": Explanation(
        "A spec has no control characters, no halves of surrogate pairs, and none of the line breaks that exist only "
        "in YAML 1.1, not even as escapes. Such characters are invisible and could hide a part of the spec.",
        'name: "a\\u0007"', "name: a",
    ),
    "Y013": Explanation(
        "'extends' names another spec, by a path relative to this spec. That file must exist, be a spec, and be in "
        "this spec's folder, in the current directory, or below one of them; --allow-outside allows other places. It "
        "must not have an 'extends' of its own.",
        "extends: no_such_base.yaml", "name: a",
    ),
    "Y014": Explanation(
        "--set and --unset take a path with dots: keys by name, items of a list by number, counted from 0. --unset "
        "needs a path that exists. --set adds missing keys along the path, but a number or a text has no keys, unless "
        "the text is the name of a component.",
        "run-spec validate a.yaml --set train.steps.more=1", "run-spec validate a.yaml --set train.steps=50",
        "command",
    ),
    "S110": Explanation(
        "A key without a default is missing. The place in the message is that of the section that lacks it.",
        "train: {batch_size: 64}", "train: {steps: 100, batch_size: 64}",
    ),
    "S111": Explanation(
        "No section and no component reads this key. Most often it is a misspelling, so it is an error and is not "
        "ignored. `run-spec plugins show KIND/NAME` lists the keys of a component.",
        "train: {steps: 100, batch_size: 64, clipnorm: 5.0}", "train: {steps: 100, batch_size: 64, clip_norm: 5.0}",
    ),
    "S112": Explanation(
        "A value has the wrong type, for example text instead of a number, or a number instead of a list. Values are "
        "never converted: '5' is text, and so are yes and on.",
        "train: {steps: '100', batch_size: 64}", "train: {steps: 100, batch_size: 64}",
    ),
    "S113": Explanation(
        "A number is outside its bounds, or a list or a text is too long or too short.",
        "sample: {count: 0}", "sample: {count: 100}",
    ),
    "S114": Explanation(
        "The key takes one of a few words, or text of a certain form. The message lists what is allowed.",
        "runtime: {device: gpu}", "runtime: {device: cpu}",
    ),
    "S115": Explanation(
        "The component does not accept this value, or not together with its other values. The message states why.",
        "data: {type: gaussian, mean: [0, 0], std: 1.0, covariance: [[1, 0], [0, 1]]}",
        "data: {type: gaussian, mean: [0, 0], std: 1.0}",
    ),
    "S120": Explanation(
        "No installed plugin provides a component of this kind with this name, or the component is not allowed in this "
        "place. `run-spec plugins list` lists every component.",
        "data: {type: moon}", "data: {type: moons}",
    ),
    "S121": Explanation(
        "This section is a component: write its name, or a mapping of its keys with the name as 'type'.",
        "sampler: 3", "sampler: ode",
    ),
    "S130": Explanation(
        "Each point of a sweep is a run of its own. Two equal points would do the same work twice, a key that another "
        "key replaces would have no effect, and a sweep has at most 1,000 points.",
        "sweep: {grid: {seed: [1, 2, 1]}}", "sweep: {grid: {seed: [1, 2, 3]}}",
    ),
    "P201": Explanation(
        "Python could not import a plugin; the message states the reason. For an installed plugin this is a warning, "
        "but an error if the spec names a component that this plugin might provide, or with --strict-plugins.",
        "import no_such_module", RIGHT_PLUGIN, "plugin",
    ),
    "P202": Explanation(
        "Two plugins provide a component of the same kind and name. Write `type: DISTRIBUTION/NAME` to choose one, or "
        "rename or remove the other.",
        PLUGIN.format(type="nll", hook="driftspec_components", name="nll"), RIGHT_PLUGIN, "plugin",
    ),
    "P203": Explanation(
        "The group of a plugin's entry point ends with the version of the plugin API, here v1. A plugin for another "
        "version is not imported: install a release of the plugin for this version.",
        '[project.entry-points."driftspec.v2"]\nloud = "loud"', '[project.entry-points."driftspec.v1"]\nloud = "loud"',
        "pyproject",
    ),
    "P204": Explanation(
        "A plugin implements only hooks that exist. Its hook driftspec_components returns {kind: {name: "
        "'module:Class'}}. Each class is a subclass of the kind's class, its 'type' is the name, and it has every "
        "method that the kind requires.",
        PLUGIN.format(type="loud", hook="driftspec_component", name="loud"), RIGHT_PLUGIN, "plugin",
    ),
    "P205": Explanation(
        "The environment variable DRIFTSPEC_BLOCK_PLUGINS lists, separated by commas, plugins or distributions that "
        "are not imported. A blocked plugin is a warning, and so is a name that no installed plugin has. It is an "
        "error if the spec names a component that a blocked plugin might provide.",
        "DRIFTSPEC_BLOCK_PLUGINS=builtin run-spec validate a.yaml", "run-spec validate a.yaml", "command",
    ),
    "P206": Explanation(
        "A component needs a library that is not installed. The message states how to install it. This is checked "
        "before a run starts; for `validate` without --deep it is a warning.",
        LIBRARY.format(module="no_such_library"), LIBRARY.format(module="json"), "plugin",
    ),
    "P207": Explanation(
        "A plugin or tracker that receives the events of a run raised an error. The error is recorded in run.json, and "
        "the run continues without further events to that plugin or tracker. The results of the run are not affected.",
        OBSERVER.format(attribute="los"), OBSERVER.format(attribute="loss"), "observer",
    ),
    "X301": Explanation(
        "A component needs something, for example a score, samples or a noise kernel, that another component does not "
        "offer. The message states what is needed and what is offered. `run-spec plugins show KIND/NAME` prints what a "
        "component offers and needs.",
        "dynamics: neural_ode\nestimator: denoising", "dynamics: neural_ode\nestimator: exact_trace",
    ),
    "X302": Explanation(
        "A section is missing that another part of the spec needs: 'estimator' and 'train' need each other, and a "
        "metric that reads samples needs 'sample'. Other causes are two metrics with the same name, a metric that "
        "cannot monitor training and, as a warning, a dynamics that is used without training.",
        "evaluate: [{type: energy_distance, samples: 50}]\nsample: null",
        "evaluate: [{type: energy_distance, samples: 50}]\nsample: {count: 50}",
    ),
    "X303": Explanation(
        "A value is allowed by itself, but conflicts with another part of the spec. The message states which.",
        "data: {type: moons, samples: 50}\ntrain: {steps: 100, batch_size: 64}",
        "data: {type: moons, samples: 500}\ntrain: {steps: 100, batch_size: 64}",
    ),
    "X304": Explanation(
        "A data file is missing, is outside the current directory, or is not a table of numbers. Its path is relative "
        "to the spec's file. It is also an error if the run needs a density and the rows have none, because a column "
        "is constant, repeats another column or follows from other columns. `validate` only checks that the file "
        "exists, and warns. A run, `plan` and `validate --deep` read it. They warn about columns whose scale is far "
        "from the model's, columns with few different values, and test rows that are training rows too.",
        "data: {type: table, path: no_such_file.csv}", "data: {type: moons, samples: 500}",
    ),
    "X305": Explanation(
        "The spec is valid, but its run would fail at once: the loss is not a number, a solve does not end, or samples "
        "are not finite. `validate --deep` finds this by one training step and a few draws.",
        "data: {type: gaussian, mean: [0, 0], std: 1e+30}", "data: {type: gaussian, mean: [0, 0], std: 1.0}",
    ),
}  # fmt: skip
"""The explanation of each code."""

__all__ = ["EXPLANATIONS", "Explanation"]
