"""Wrong specs and the right answers, written down before the program was asked.

Each case is the small spec with a mistake in it (or a text of its own), the command line's changes, the files beside
it, and every line that the command has to say; "…" at a line's end stands for what is installed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from small_spec import TEXT, edited


@dataclass(frozen=True)
class Case:
    name: str
    text: str | bytes
    said: tuple[str, ...]
    words: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    code: int = 3

    @property
    def content(self) -> bytes:
        return self.text if isinstance(self.text, bytes) else self.text.encode()


def wrong(name: str, old: str, new: str, *said: str, code: int = 3) -> Case:
    """The small spec with `new` for `old`."""
    return Case(name, edited((old, new)), said, code=code)


def changed(name: str, words: str, *said: str, code: int = 3) -> Case:
    """The small spec, changed on the command line."""
    return Case(name, TEXT, said, tuple(words.split(" ")), code=code)


def extending(name: str, extends: str, *said: str, **files: str) -> Case:
    return Case(name, f"extends: {extends}\nname: top\n", said, files={f"{stem}.yaml": t for stem, t in files.items()})


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]\n" for below, name in zip("abcdefg", "bcdefgh")
)
GLUED = "a key needs ': ' after it: write"
DEVICES = "allowed: 'cpu', 'cuda', 'cuda:1' or 'mps'"

FILES = [
    # --- bytes and characters ---
    Case("utf-16", TEXT.encode("utf-16"), ("a.yaml:1:1: error[Y002] byte 0xff is not UTF-8: save the file as UTF-8",)),
    Case(
        "latin-1",
        TEXT.replace("name: a", "name: a  # café").encode("latin-1"),
        ("a.yaml:2:15: error[Y002] byte 0xe9 is not UTF-8: save the file as UTF-8",),
    ),
    wrong("a NUL", "0.05", "0\0.05", "a.yaml:3:43: error[Y012] the character U+0000 is not allowed in a spec"),
    wrong("a BOM inside", "0.05", "\ufeff0.05", "a.yaml:3:42: error[Y012] the character U+FEFF is not allowed in a s…"),
    wrong(
        "a no-break space indents",
        "  steps",
        "\xa0\xa0steps",
        "a.yaml:9:1: error[Y004] the character U+00A0 cannot indent: use spaces",
    ),
    wrong("a tab indents", "  steps", "\tsteps", "a.yaml:9:1: error[Y004] a tab cannot indent: use spaces"),
    Case(
        "windows line ends",
        edited(("100\n  batch", "ten\n  batch")).replace("\n", "\r\n").encode(),
        ("a.yaml:9:10: error[S112] 'steps' in train should be a whole number, not 'ten'",),
    ),
    Case(
        "old macintosh line ends",
        edited(("100\n  batch", "ten\n  batch")).replace("\n", "\r").encode(),
        ("a.yaml:9:10: error[S112] 'steps' in train should be a whole number, not 'ten'",),
    ),
    wrong(
        "curly quotes",
        "name: a",
        "name: “a”",
        "a.yaml:2:7: error[S114] 'name' is '“a”'; "
        "allowed: up to 100 letters, digits, '_', '.' and '-', the first a letter or digit",
    ),
    # --- YAML ---
    wrong(
        "no space after a colon",
        "samples: 500",
        "samples:500",
        "a.yaml:3:21: error[Y004] 'samples:500' has no space after its colon: write samples: 500",
    ),
    *(
        wrong(
            f"no space after a colon, {name}",
            old,
            new,
            f"a.yaml:{place}: error[Y004] {GLUED} {glued.replace(':', ': ', 1)}",
        )
        for name, old, new, place, glued in (
            ("above another key", "  steps: 100", "  steps:20", "9:3", "steps:20"),
            ("above a comment", "  steps: 100", "  steps:20  # few\n\n  # a comment: here", "9:3", "steps:20"),
            ("twice", "  steps: 100\n  batch_size: 64", "  steps:20\n  batch_size:64", "9:3", "steps:20"),
            ("below another key", "  batch_size: 64", "  batch_size:64", "10:3", "batch_size:64"),
            ("at the top", "name: a", "name:a", "2:1", "name:a"),
            ("in the first line", "version: 1", "version:1", "1:1", "version:1"),
            ("before a list", "evaluate: [nll]", "evaluate:[nll]", "13:1", "evaluate:[nll]"),
            ("before a list in a mapping", "betas: [", "betas:[", "11:37", "betas:[0.9"),
            ("in a list", "[nll]", "\n  - type:nll\n    points: 3", "14:5", "type:nll"),
        )
    ),
    *(
        wrong(
            f"no space after a colon, {name}",
            old,
            new,
            f"a.yaml:{place}: error[Y004] '{glued}' has no space after its colon: write {glued.replace(':', ': ')}",
        )
        for name, old, new, place, glued in (
            ("before a mapping", "sample: {count", "sample:{count", "14:1", "sample:{count"),
            ("before a mapping of several keys", "data: {type", "data:{type", "3:1", "data:{type"),
        )
    ),
    wrong(
        "an equals sign for a colon",
        "  steps: 100",
        "  steps = 100",
        "a.yaml:9:3: error[Y004] a key needs ': ' after it",
    ),
    wrong(
        "a bracket that is not closed",
        "[8, 8]",
        "[8, 8",
        "a.yaml:6:55: error[Y004] expected ',' or ']' in the list opened at 6:32",
    ),
    wrong(
        "a key repeated in a flow mapping",
        "lr: 1e-2",
        "lr: 1e-2, lr: 1e-3",
        "a.yaml:11:37: error[Y005] the key 'lr' is repeated: it is on line 11",
    ),
    wrong(
        "a python tag",
        "name: a",
        "name: !!python/object/apply:os.system [ls]",
        "a.yaml:2:7: error[Y006] the tag '!!python/object/apply:os.system' is refused: "
        "a spec is plain data, and quotes make text",
    ),
    Case(
        "a key that is a number",
        TEXT + "7: 8\n",
        ("a.yaml:15:1: error[Y010] a key must be text, not 7: put it in quotes",),
    ),
    Case(
        "a merge key",
        TEXT.replace("{count: 100}", "\n  <<: {count: 100}"),
        ("a.yaml:15:3: error[Y009] '<<' merges in YAML 1.1 and is a key in 1.2: use extends, or an alias",),
    ),
    Case("ten to the eighth", LAUGHS, ("a.yaml:1:35: error[Y007] more than 10,000 values, …",)),
    Case("a well of brackets", "a: " + "[" * 900, ("a.yaml:1:35: error[Y007] more than 32 levels of nesting",)),
    Case(
        "two specs in one file",
        f"{TEXT}---\n{TEXT}",
        ("a.yaml:15:1: error[Y011] a second document: a spec is one document",),
    ),
    # --- types ---
    wrong("seed: 1.0", "name: a", "name: a\nseed: 1.0", "a.yaml:3:7: error[S112] 'seed' should be a whole number, "
          "not 1.0: write 1"),
    wrong("a seed too large", "name: a", f"name: a\nseed: {2**63}", "a.yaml:3:7: error[S113] 'seed' is "
          "9223372036854775808: it must be less than 9223372036854775808"),
    wrong("an octal number", "count: 100", "count: 0100", "a.yaml:14:17: error[Y009] '0100' is 64 in YAML 1.1 and "
          "100 in 1.2: write 100, or quote it"),
    wrong("a section that is a list", "{count: 100}", "[count, 100]", "a.yaml:14:9: error[S112] 'sample' should be a "
          "mapping, not a list"),
    wrong("a section that is a number", "{count: 100}", "100", "a.yaml:14:9: error[S112] 'sample' should be a "
          "mapping, not 100: write {count: 100}"),
    wrong("a component that is a list", "{type: adam, lr: 1e-2, betas: [0.9, 0.99]}", "[adam]", "a.yaml:11:14: "
          "error[S121] 'optimizer' in train should name an optimizer component, not a list; allowed: …"),
    wrong("a type that is a list", "type: moons", "type: [moons]", "a.yaml:3:14: error[S121] 'type' in data should "
          "name a data component, not a list; allowed: …"),
    wrong("a number for a list", "[8, 8]", "8", "a.yaml:6:32: error[S112] 'hidden' in dynamics.network should be a "
          "list, not 8: write [8]"),
    wrong("a mapping for a list", "[0.9, 0.99]", "{a: 0.9, b: 0.99}", "a.yaml:11:44: error[S112] 'betas' in "
          "train.optimizer should be a list, not a mapping"),
    wrong("names with commas for a list", "[nll]", "nll, round_trip", "a.yaml:13:11: error[S112] 'evaluate' should be "
          "a list, not 'nll, round_trip': write [nll, round_trip]"),
    wrong("nothing in a list", "[nll]", "[nll, null]", "a.yaml:13:17: error[S121] 'evaluate.1' should name a metric "
          "component, not null; allowed: …"),
    wrong("null for the choice none", "noise: 0.05", "standardize: null", "a.yaml:3:48: error[S114] 'standardize' in "
          "data is null (did you mean 'none'?); allowed: 'none', 'scale' or 'whiten'"),
    wrong("None for the choice none", "noise: 0.05", "standardize: None", "a.yaml:3:48: error[S114] 'standardize' in "
          "data is 'None' (did you mean 'none'?); allowed: 'none', 'scale' or 'whiten'"),
    wrong("true for a choice", "noise: 0.05", "standardize: true", "a.yaml:3:48: error[S114] 'standardize' in data is "
          "true; allowed: 'none', 'scale' or 'whiten'"),
    wrong("on for a number", "  steps", "  ema: on\n  steps", "a.yaml:9:8: error[S112] 'ema' in train should be a "
          "number, not 'on'"),
    wrong("not a number", "  steps", "  ema: .nan\n  steps", "a.yaml:9:8: error[S113] 'ema' in train is nan: it must "
          "be finite"),
    wrong("an infinite time", "  network", "  time: [0, .inf]\n  network", "a.yaml:6:13: error[S113] 'time.1' in "
          "dynamics is inf: it must be finite"),
    wrong("a fraction for a whole number", "[8, 8]", "[8, 8e-1]", "a.yaml:6:36: error[S112] 'hidden.1' in "
          "dynamics.network should be a whole number, not 0.8"),
    wrong("a negative width", "[8, 8]", "[8, -8]", "a.yaml:6:36: error[S113] 'hidden.1' in dynamics.network is -8: it "
          "must be at least 1"),
    wrong("a name that climbs", "name: a", "name: ../../a", "a.yaml:2:7: error[S114] 'name' is '../../a'; allowed: "
          "up to 100 letters, digits, '_', '.' and '-', the first a letter or digit"),
    wrong("a version to come", "version: 1", "version: 1.0", "a.yaml:1:10: error[S114] 'version' is 1.0; allowed: 1"),
    # --- names, and where a key belongs ---
    wrong("a section misspelt", "estimator:", "estimater:", "a.yaml:7:1: error[S111] unknown key 'estimater' (did you "
          "mean 'estimator'?)"),
    wrong("a section misspelt that is needed", "dynamics:", "dynamic:", "a.yaml:4:1: error[S111] unknown key "
          "'dynamic' (did you mean 'dynamics'?)"),
    wrong("train misspelt", "train:", "trian:", "a.yaml:8:1: error[S111] unknown key 'trian' (did you mean 'train'?)"),
    wrong("data misspelt", "data:", "date:", "a.yaml:3:1: error[S111] unknown key 'date' (did you mean 'data'?)"),
    wrong("type misspelt", "{type: cosine", "{tipe: cosine", "a.yaml:12:14: error[S111] unknown key 'tipe' in "
          "train.schedule (did you mean 'type'?)"),
    wrong("a dynamics misspelt", "neural_ode", "neural_ODEs", "a.yaml:5:9: error[S120] unknown dynamics 'neural_ODEs' "
          "(did you mean 'neural_ode'?); allowed: …"),
    wrong("a name of another kind", "type: neural_ode", "type: ode", "a.yaml:5:9: error[S120] unknown dynamics 'ode' "
          "(did you mean 'neural_ode'?); allowed: …"),
    wrong("a nested key misspelt", "[nll]", "[{type: nll, solver: {type: dopri5, rtoll: 1e-5}}]", "a.yaml:13:47: "
          "error[S111] unknown key 'rtoll' in evaluate.0.solver (did you mean 'rtol'?)"),
    wrong("a key of a section below", "  steps", "  lr: 0.1\n  steps", "a.yaml:9:3: error[S111] unknown key 'lr' in "
          "train: it belongs in train.optimizer"),
    wrong("a section inside another", "  steps", "  solver: rk4\n  steps", "a.yaml:9:3: error[S111] unknown key "
          "'solver' in train: it belongs at the top of the spec"),
    wrong("a key of a section at the top", "name: a", "name: a\nbatch_size: 3", "a.yaml:3:1: error[S111] unknown key "
          "'batch_size': it belongs in train"),
    wrong("a key of the network beside it", "  network", "  hidden: [8]\n  network", "a.yaml:6:3: error[S111] unknown "
          "key 'hidden' in dynamics: it belongs in dynamics.network"),
    wrong("a key of another type", "type: hutchinson, noise: rademacher", "type: exact_trace, probes: 2",
          "a.yaml:7:32: error[S111] unknown key 'probes' in estimator; allowed: solver, check_every, kinetic, jacobian "
          "('probes' is a key of estimator 'hutchinson')"),
    wrong("a word for a device", "name: a", "name: a\nruntime: {device: CPU}", "a.yaml:3:19: error[S114] 'device' in "
          f"runtime is 'CPU' (did you mean 'cpu'?); {DEVICES}"),
    # --- words of other libraries; test_elsewhere.py has more ---
    wrong("a step's size", "name: a", "name: a\nsampler: {type: langevin, step_size: 0.1}", "a.yaml:3:27: error[S111] "
          "unknown key 'step_size' in sampler (did you mean 'step'?)"),
    wrong("another name of silu", "activation: tanh", "activation: swish", "a.yaml:6:52: error[S114] 'activation' "
          "in dynamics.network is 'swish' (did you mean 'silu'?); allowed: …"),
    wrong("a method that is not here", "{type: hutchinson, noise: rademacher}", "flow_matching", "a.yaml:7:12: "
          "error[S120] unknown estimator 'flow_matching'; allowed: contrastive_divergence, denoising, …"),
    wrong("a precision that is not here", "name: a", "name: a\nruntime: {dtype: float16}", "a.yaml:3:18: error[S114] "
          "'dtype' in runtime is 'float16'; allowed: 'float32' or 'float64'"),
    wrong("epochs", "  steps: 100", "  epochs: 100", "a.yaml:9:3: error[S111] unknown key 'epochs' in train (did you "
          "mean 'steps', which counts optimiser steps?)"),
    wrong("a rate in the wrong section", "name: a", "name: a\nlearning_rate: 1e-3", "a.yaml:3:1: error[S111] unknown "
          "key 'learning_rate': it is 'lr' in train.optimizer"),
    wrong("a file for a component", "{type: moons, samples: 500, noise: 0.05}", "my.csv", "a.yaml:3:7: error[S120] "
          "unknown data 'my.csv' (did you mean 'table' with path: my.csv?); allowed: …"),
    wrong("a number for a section in train", "  steps", "  early_stopping: 10\n  steps", "a.yaml:9:19: error[S112] "
          "'early_stopping' in train should be a mapping, not 10: write {patience: 10}"),
    # --- two mistakes are two answers ---
    Case("two misspelt", edited(("estimator:", "estimater:"), ("evaluate:", "evalute:")), (
        "a.yaml:7:1: error[S111] unknown key 'estimater' (did you mean 'estimator'?)",
        "a.yaml:13:1: error[S111] unknown key 'evalute' (did you mean 'evaluate'?)",
    )),
    Case("a version and a name", edited(("version: 1", "version: 2"), ("type: adam", "type: adm")), (
        "a.yaml:1:10: error[S114] 'version' is 2; allowed: 1",
        "a.yaml:11:21: error[S120] unknown optimizer 'adm' (did you mean 'adam'?); allowed: …",
    )),
    Case("a misspelt section with a mistake inside", edited(("train:", "trian:"), ("steps: 100", "steps: ten")), (
        "a.yaml:8:1: error[S111] unknown key 'trian' (did you mean 'train'?)",
    )),
    # --- the command line ---
    changed("a misspelt path", "--set train.stesp=5", "--set[1]: error[S111] unknown key 'stesp' in train (did you "
            "mean 'steps'?)"),
    changed("a misspelt section on the way", "--set trian.steps=5", "--set[1]: error[S111] unknown key 'trian' (did "
            "you mean 'train'?)"),
    changed("a wrong type", "--set train.steps=ten", "--set[1]: error[S112] 'steps' in train should be a whole "
            "number, not 'ten'"),
    changed("a switch", "--set train=off", "--set[1]: error[S112] 'train' should be a mapping, not 'off'"),
    changed("beyond a list", "--set evaluate.5.points=9", "--set[1]: error[Y014] 'evaluate' is a list of 1, counted "
            "from 0: there is no '5' in it"),
    changed("below a number", "--set train.steps.more=9", "--set[1]: error[Y014] 'train.steps' is 100: there is no "
            "'more' in it"),
    changed("an octal number on the command line", "--set seed=010", "--set[1]: error[Y009] '010' is 8 in YAML 1.1 "
            "and 10 in 1.2: write 10, or quote it"),
    changed("a key to remove that is not there", "--unset train.step", "--unset[1]: error[Y014] no key 'step' in "
            "'train' (did you mean 'steps'?)"),
    changed("what must be there is removed", "--unset dynamics", "a.yaml:1:1: error[S110] missing section 'dynamics'"),
    changed("two changes, two mistakes", "--set train.steps=0 --set sample.cuont=3", "--set[1]: error[S113] 'steps' "
            "in train is 0: it must be at least 1", "--set[2]: error[S111] unknown key 'cuont' in sample (did you "
            "mean 'count'?)"),
    changed("an option misspelt", "--sett train.steps=5", "error: unrecognized arguments: --sett train.steps=5 "
            "(did you mean '--set'?); see: run-spec validate --help", code=2),
    changed("the nearest of several parts", "--set steps=7", "--set[1]: error[S111] unknown key 'steps': it belongs in "
            "train"),
    Case("no value and no line after it", f"{TEXT}? seed", ("a.yaml:15:7: error[S112] 'seed' should be a whole "
         "number, not null",)),
    Case("a mapping without its end", "{a", ("a.yaml:1:1: error[Y004] expected ',' or '}' in the mapping opened at "
         "1:1",)),
    Case("a question without its answer", "?", ("a.yaml:1:2: error[Y010] a key must be text, not null",)),
    changed("a key of two letters at the top", "--set lr=0.1", "--set[1]: error[S111] unknown key 'lr': it belongs in "
            "train.optimizer"),
    changed("letters of a device in the wrong order", "--set runtime.device=cuad", "--set[1]: error[S114] 'device' in "
            f"runtime is 'cuad' (did you mean 'cuda'?); {DEVICES}"),
    changed("no value", "--set train.steps", "error: argument --set: 'train.steps' is not KEY=VALUE; "
            "see: run-spec validate --help", code=2),
    # --- extends ---
    extending("a base that is not there", "bas.yaml", "a.yaml:1:10: error[Y013] the base 'bas.yaml' cannot be read: "
              "no such file (did you mean 'base.yaml'?)", base=TEXT),
    extending("a spec that extends itself", "a.yaml", "a.yaml:1:1: error[Y013] a base cannot extend another"),
    extending("two bases", "[b.yaml, c.yaml]", "a.yaml:1:10: error[Y013] 'extends' names a file, not a list"),
    extending("a mistake in the base", "b.yaml", "b.yaml:9:10: error[S112] 'steps' in train should be a whole number, "
              "not 'ten'", b=edited(("steps: 100", "steps: ten"))),
    extending("a base elsewhere", "/etc/passwd", "a.yaml:1:10: error[Y013] the base '/etc/passwd' leads out of the "
              "spec's folder and of the current directory; allow it with --allow-outside"),
    extending("a base that is no spec", "b.yaml", "a.yaml:1:10: error[Y013] the base 'b.yaml' is not a spec: most "
              "of its keys are unknown", b="token: abc\n"),
    extending("a base that is a folder", ".", "a.yaml:1:10: error[Y013] the base '.' cannot be read: is a directory"),
    # --- what does not fit together ---
    wrong("train forgotten", TEXT[TEXT.index("train:") : TEXT.index("evaluate:")], "", "a.yaml:7:1: error[X302] "
          "section 'estimator' needs 'train' beside it: the two come together"),
    wrong("an estimator forgotten", "estimator: {type: hutchinson, noise: rademacher}\n", "", "a.yaml:7:1: "
          "error[X302] section 'train' needs an 'estimator' beside it: the two come together"),
]  # fmt: skip
