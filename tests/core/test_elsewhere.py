"""What other libraries call a thing leads to our word for it, of several to the one that fits the place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from small_spec import TEXT, edited, said

from driftspec.cli import VERBS, main
from driftspec.registry import Registry, discover, installed
from driftspec.registry.elsewhere import WORDS, Words, word_of
from driftspec.spec import Spec
from driftspec_plugins import _elsewhere

LANGEVIN = edited(
    ("type: neural_ode\n  network: {type: mlp, hidden: [8, 8], activation: tanh}", "type: langevin\n  network: mlp"),
    ("{type: hutchinson, noise: rademacher}", "score_matching"),
    ("[nll]", "[ess]"),
)


def texts(annotation: Any) -> Iterator[str]:
    """The text values of a key's type, and the keys of a model in it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield from (name, *texts(field.annotation))
    for inner in get_args(annotation):
        yield from [inner] if isinstance(inner, str) else texts(inner)


@pytest.mark.parametrize("table", [WORDS, _elsewhere.WORDS], ids=["core", "built-in"])
def test_a_table_leads_to_words_that_are_there(table: dict[str, str]) -> None:
    registry = installed()
    there = {"", "type", "extends", *VERBS, *(name for _, name in registry.providers), *texts(Spec)}
    for kind, name in registry.providers:
        found, _ = registry.look_up(kind, name)
        there |= {*texts(found)}
    assert {word_of(entry) for entry in table} - there == set()
    for entry, theirs in table.items():
        words = [word.lower().replace("_", "") for word in theirs.split()]
        assert len(words) == len(set(words)), entry
        assert word_of(entry).replace("_", "") not in words, entry


SAID: list[tuple[str, str, str]] = [
    # (what stands in the small spec, what is written in its place, what the answer says)
    ("name: a", "name: a\nepochs: 5", "it is 'steps' in train, which counts optimiser steps"),
    ("  steps: 100", "  epochs: 5", "(did you mean 'steps', which counts optimiser steps?)"),
    ("  steps", "  epochs: 5\n  steps", "'steps' is there already, which counts optimiser steps"),
    ("  steps: 100", "  iterations: 100", "(did you mean 'steps'?)"),
    ("  steps", "  learning_rate: 1e-3\n  steps", "it is 'lr' in train.optimizer"),
    ("name: a", "name: a\nlearning_rate: 1e-3", "it is 'lr' in train.optimizer"),
    ("lr: 1e-2", "learning_rate: 1e-2", "(did you mean 'lr'?)"),
    ("  steps", "  grad_clip: 1\n  steps", "(did you mean 'clip_norm'?)"),
    ("  steps", "  gradient_clip_val: 1\n  steps", "(did you mean 'clip_norm'?)"),
    ("  steps", "  ema_decay: 0.9\n  steps", "(did you mean 'ema'?)"),
    ("  steps", "  early_stopping: 10\n  steps", "should be a mapping, not 10: write {patience: 10}"),
    ("  steps", "  early_stopping: true\n  steps", "should be a mapping, not true: write {}"),
    ("train:", "training:", "(did you mean 'train'?)"),
    ("dynamics:", "model:", "(did you mean 'dynamics'?)"),
    ("estimator:", "loss:", "(did you mean 'estimator'?)"),
    ("evaluate:", "metrics:", "(did you mean 'evaluate'?)"),
    ("data:", "dataset:", "(did you mean 'data'?)"),
    ("name: a", "name: a\nn: 3", "it is 'samples' in data or 'count' in sample"),
    ("name: a", "name: a\nlogger: x", "(did you mean 'trackers'?)"),
    ("name: a", "name: a\nruntime: {dtype: float16}", "is 'float16'; allowed: 'float32' or 'float64'"),
    ("name: a", "name: a\nruntime: {dtype: double}", "(did you mean 'float64'?)"),
    ("name: a", "name: a\nruntime: {dtype: 64}", "(did you mean 'float64'?)"),
    ("name: a", "name: a\nruntime: {precision: float64}", "(did you mean 'dtype'?)"),
    ("{count: 100}", "100", "should be a mapping, not 100: write {count: 100}"),
    ("{count: 100}", "{n: 100}", "(did you mean 'count'?)"),
    ("{count: 100}", "{num_samples: 100}", "(did you mean 'count'?)"),
    ("samples: 500", "n_samples: 500", "(did you mean 'samples'?)"),
    ("noise: 0.05", "std: 0.05", "(did you mean 'noise'?)"),
    ("noise: 0.05", "standardize: z-score", "(did you mean 'scale'?)"),
    ("{type: moons, samples: 500, noise: 0.05}", "my.csv", "(did you mean 'table' with path: my.csv?)"),
    ("{type: moons, samples: 500, noise: 0.05}", "data/my.csv", "(did you mean 'table' with path: data/my.csv?)"),
    ("{type: moons, samples: 500, noise: 0.05}", "{type: csv, path: a.csv}", "(did you mean 'table'?)"),
    ("{type: moons, samples: 500, noise: 0.05}", "{_target_: moons}", "(did you mean 'type'?)"),
    ("{type: moons, samples: 500, noise: 0.05}", "two_moons", "(did you mean 'moons'?)"),
    ("hidden: [8, 8]", "layers: [8, 8]", "(did you mean 'hidden'?)"),
    ("hidden: [8, 8]", "width: 64", "(did you mean 'hidden', a list of widths?)"),
    ("activation: tanh", "act: tanh", "(did you mean 'activation'?)"),
    ("activation: tanh", "activation: swish", "(did you mean 'silu'?)"),
    ("activation: tanh", "activation: LeakyReLU", "(did you mean 'leaky_relu'?)"),
    ("activation: tanh", "activation: celu", "is 'celu'; allowed: "),
    ("type: neural_ode", "type: ffjord", "unknown dynamics 'ffjord' (did you mean 'neural_ode'?)"),
    ("type: neural_ode", "type: cnf", "(did you mean 'neural_ode'?)"),
    ("type: neural_ode", "type: ebm", "(did you mean 'langevin' with predicts: energy?)"),
    ("type: neural_ode", "type: VPSDE", "(did you mean 'vp_sde'?)"),
    ("type: hutchinson", "type: ffjord", "unknown estimator 'ffjord' (did you mean 'hutchinson'?)"),
    ("{type: hutchinson, noise: rademacher}", "dsm", "(did you mean 'denoising'?)"),
    ("{type: hutchinson, noise: rademacher}", "ssm", "(did you mean 'score_matching' with trace: hutchinson?)"),
    ("{type: hutchinson, noise: rademacher}", "flow_matching", "unknown estimator 'flow_matching'; allowed: "),
    ("noise: rademacher", "noise: normal", "(did you mean 'gaussian'?)"),
    ("name: a", "name: a\nsampler: ula", "(did you mean 'langevin'?)"),
    ("name: a", "name: a\nsampler: nuts", "(did you mean 'hmc' with adapt: true?)"),
    ("name: a", "name: a\nsolver: rk45", "(did you mean 'dopri5'?)"),
    ("name: a", "name: a\nsolver: implicit_adams", "unknown solver 'implicit_adams'; allowed: "),
    ("name: a", "name: a\nsolver: {type: dopri5, rel_tol: 1e-5}", "(did you mean 'rtol'?)"),
    ("name: a", "name: a\nsolver: {type: rk4, step_size: 0.1}", "(did you mean 'steps', the number of steps?)"),
    ("{type: cosine, warmup: 5}", "CosineAnnealingLR", "(did you mean 'cosine'?)"),
    ("{type: adam, lr: 1e-2, betas: [0.9, 0.99]}", "nesterov", "(did you mean 'sgd' with momentum: 0.9 and nesterov"),
    ("type: adam,", "type: lbfgs,", "(did you mean 'adam', which evaluates the loss once a step as training does?)"),
    ("type: adam,", "type: Muon,", "(did you mean 'adamw', as biases are no matrices?)"),
    ("type: adam,", "type: SparseAdam,", "(did you mean 'adam', as gradients are dense?)"),
    ("[nll]", "[log_likelihood]", "(did you mean 'nll'?)"),
    ("[nll]", "[gelman_rubin]", "(did you mean 'r_hat'?)"),
    ("[nll]", "[fid]", "unknown metric 'fid'; allowed: "),
    ("[nll]", "[type:nll]", "unknown metric 'type:nll' (a colon needs a space after it); allowed: "),
    ("[nll]", "[{type: sliced_wasserstein, n_projections: 5}]", "(did you mean 'directions'?)"),
]


@pytest.mark.parametrize(("old", "new", "told"), SAID, ids=[new.strip()[:40] for _, new, _ in SAID])
def test_a_word_of_other_libraries_is_told_ours(old: str, new: str, told: str) -> None:
    (answer,) = said(edited((old, new)))
    assert told in answer, answer


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("step_size: 0.1", ["(did you mean 'step'?)"]),
        ("step_sise: 0.1", ["(did you mean 'step'?)"]),
        ("step_size: 0.1, n_steps: 5", ["(did you mean 'step'?)", "(did you mean 'steps'?)"]),
        ("eta: 0.1, temp: 1", ["(did you mean 'step'?)", "(did you mean 'temperature'?)"]),
        ("stepss: 500", ["missing key 'step'", "(did you mean 'steps'?)"]),
        ("n_steps: 500", ["missing key 'step'", "(did you mean 'steps'?)"]),
        ("temp: 1, temperature: 1", ["missing key 'step'", "'temperature' is there already"]),
    ],
)
def test_a_missing_key_is_meant_before_an_optional_one_and_is_never_hidden(keys: str, told: list[str]) -> None:
    answers = said(f"{LANGEVIN}sampler: {{type: langevin, {keys}}}\n")
    assert len(answers) == len(told), answers
    assert all(part in answer for part, answer in zip(told, answers)), answers


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("train a.yaml", "'train' is neither a spec's file nor a verb: run-spec SPEC trains, measures and samples a"),
        ("eval x", "(did you mean 'evaluate'?)"),
        ("lint a.yaml", "(did you mean 'validate'?)"),
        ("ls", "(did you mean 'runs'?)"),
        ("a.yaml --stage training,eval", "unknown stage 'training' (did you mean 'train'?)"),
        ("resume x --set a=1", "unrecognized arguments: --set a=1; see: run-spec resume --help"),
        ("resume x --quite", "unrecognized arguments: --quite (did you mean '--quiet'?)"),
    ],
)
def test_a_word_on_the_command_line_likewise(
    words: str, told: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    assert told in capsys.readouterr().err


def test_the_first_of_our_words_that_fits_is_meant() -> None:
    words = Words({"a": "x yy", "b, a note": "X", "": "z", "file at FILE": ".dat"}, {"a": "z", "c": "y_y"})
    assert (words.meant("x", ["b", "c"]), words.meant("x", ["a", "b"])) == ("b, a note", "a")
    assert words.meant("X-", ["a"]) == "a"
    assert (words.meant("Y-y", ["c"]), words.meant("q", ["a"]), words.meant("x", ["d"])) == ("c", None, None)
    assert (words.meant("z", ["a"]), words.meant("z", ["d"])) == ("a", "")
    assert words.hint("x", ["b"]) == " (did you mean 'b', a note?)"
    assert words.hint("in/x.DAT", ["file"]) == " (did you mean 'file' at in/x.DAT?)"
    assert (words.hint("z", ["b"]), words.hint("q", ["b"])) == ("", None)


HEAD = "from driftspec.registry import hookimpl\n@hookimpl\ndef driftspec_elsewhere():\n    return "


def with_plugin(tmp_path: Any, table: str) -> Registry:
    (tmp_path / "words.py").write_text(HEAD + table)
    return discover([tmp_path / "words.py"])


def test_a_plugin_brings_words_and_a_broken_table_costs_no_answer(tmp_path: Any) -> None:
    text = edited(("activation: tanh", "activation: wavy"))
    (answer,) = said(text, registry=with_plugin(tmp_path, "{'gelu': 'wavy'}"))
    assert "(did you mean 'gelu'?)" in answer
    assert not with_plugin(tmp_path, "{'gelu': 'wavy'}").observers()
    for table, cause in (("['gelu']", "P204] --plugin"), ("{'gelu': 3}", "P204]"), ("1 / 0", "P201]")):
        registry = with_plugin(tmp_path, table)
        warning, answer = said(text, registry=registry)
        assert warning.startswith(f"warning[{cause[:4]}]") and "driftspec_elsewhere" in warning
        assert "'wavy'; allowed" in answer
        assert said(TEXT, registry=with_plugin(tmp_path, table)) == []


def test_a_plugin_that_is_added_later_brings_its_words_too(tmp_path: Any) -> None:
    registry = discover()
    assert registry.words.meant("wavy", ["gelu"]) is None
    (tmp_path / "words.py").write_text(HEAD + "{'gelu': 'wavy'}")
    registry.add_file(tmp_path / "words.py")
    assert registry.words.meant("wavy", ["gelu"]) == "gelu"
