"""Whatever the text and the settings, `validate` answers: an exit code of its own, every problem with a place.

Three kinds of input: shipped specs with values, keys and whole parts changed, or with words and characters changed,
each a function of its number; and text from nothing. The default run takes 2,000; `-m slow` takes a hundred thousand.
"""

from __future__ import annotations

import copy
import io
import json
import math
import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from driftspec import source
from driftspec.cli import main
from driftspec.cli.validate import options
from driftspec.registry import installed

SPECS = {path.name: path.read_text() for path in sorted((Path(__file__).parents[2] / "specs").glob("*.yaml"))}
WORDS = sorted({word for text in SPECS.values() for word in re.findall(r"[\w.+-]+|[^\w\s]", text.partition("\n")[2])})
ODD = [
    *["", "null", "~", "true", "no", ".nan", "-.inf", "1e400", "-1", "0", "010", "0x1F", "1_0", "12:30", "1e-3", "2.5"],
    *["'", '"', "[", "]", "{", "}", ",", ":", ": ", "- ", "#", "&a ", "*a", "<<: ", "!!str ", "|", ">", "%", "@", "`"],
    *["\t", "\r", "\n", "\n  ", "\n\n", "---\n", "...\n", "? ", "\x00", "\x85", "\xa0", "\u2028", "\ufeff", "\ud800"],
    *["[[[[", "{a: {b: {c: ", "9" * 400, "x" * 2000, "{type: ", "extends: ", "extends: cnf_moons.yaml\n", "../"],
]
PATHS = [
    *["seed", "train.steps", "train.optimizer", "evaluate", "evaluate.0", "data.type", "dynamics.network.hidden.0"],
    *["sampler", "sample.count", "solver", "version", "estimator.trace", "runtime.device", "evaluate.99", "a..b", ""],
]

VALUES: list[Any] = [
    *[
        None,
        True,
        -1,
        0,
        1,
        2,
        7,
        0.5,
        -0.0,
        1e-30,
        1e30,
        10**25,
        math.inf,
        math.nan,
        "",
        "a b",
        "none",
        "data",
        "prior",
    ],
    *[[], {}, [[]], [1, 2, 3], [0.0, 1.0], {"type": "x"}, {"zzz": 1}, [None], "1e-3", "é", "nll", "moons/moons"],
]


def parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of everything inside a value."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from parts(value[key])


TREES = [source.parse(text, name).data for name, text in SPECS.items()]
SUBTREES = [holder[key] for tree in TREES for holder, key in parts(tree)]
KEYS = sorted({key for tree in TREES for _, key in parts(tree) if isinstance(key, str)})


def moved(chance: Random) -> str:
    """A shipped spec with values, keys and whole parts changed, and still YAML."""
    tree = copy.deepcopy(chance.choice(TREES))
    for _ in range(chance.randint(1, 4)):
        holder, key = chance.choice([*parts(tree)] or [({"a": 0}, "a")])
        match chance.randint(0, 4):
            case 0:
                holder[key] = copy.deepcopy(chance.choice(SUBTREES))
            case 1:
                holder[key] = copy.deepcopy(chance.choice(VALUES))
            case 2:
                del holder[key]
            case 3 if isinstance(holder, dict):
                holder[chance.choice(KEYS)] = holder.pop(key) if chance.random() < 0.5 else chance.choice(SUBTREES)
            case 3:
                holder.append(copy.deepcopy(chance.choice(SUBTREES)))
            case _ if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
                holder[key] *= chance.choice([-1, 0, 0.1, 10, 1000, 1e6])
            case _:
                holder[key] = [holder[key]]
    return source.dump(tree)


def scrambled(chance: Random) -> str:
    """A shipped spec with words, lines and characters changed."""
    texts = [*SPECS.values()]
    text = chance.choice(texts)
    for _ in range(chance.randint(1, 4)):
        words = [found.span() for found in re.finditer(r"[\w.+-]+|[^\w\s]|\n *", text)] or [(0, 0)]
        start, end = chance.choice(words)
        piece = chance.choice(chance.choice([ODD, WORDS, WORDS]))
        match chance.randint(0, 4):
            case 0:
                text = text[:start] + piece + text[end:]
            case 1:
                text = text[:end] + chance.choice(["", " ", ": ", ", "]) + piece + text[end:]
            case 2:
                text = text[:start] + text[end + chance.randint(0, 20) :]
            case 3:
                other = chance.randint(0, len(text))
                text = text[:other] + text[start : end + chance.randint(0, 40)] + text[other:]
            case _:
                text = text[:end] + chance.choice(texts)[chance.randint(0, 800) :]
    return text


def setting(chance: Random) -> list[str]:
    """--set or --unset of a path, likely one that is there."""
    path = chance.choice(PATHS) if chance.random() < 0.5 else ".".join(chance.choices(KEYS, k=chance.randint(1, 3)))
    value = chance.choice(ODD) if chance.random() < 0.3 else json.dumps(chance.choice(SUBTREES))
    return ["--unset", path] if chance.random() < 0.2 else ["--set", path + chance.choice(["=", "=", "+=", ""]) + value]


def made(number: int) -> tuple[bytes, list[list[str]]]:
    """Input `number`: a file's bytes, and what the command line changes."""
    chance = Random(number)
    text = chance.choice([moved, moved, scrambled])(chance)
    return text.encode(errors="surrogatepass"), [setting(chance) for _ in range(chance.choice([0, 0, 0, 1, 2]))]


pieces = st.sampled_from(ODD) | st.sampled_from(WORDS) | st.text(max_size=8)
texts = st.lists(pieces, max_size=30).map("".join)
contents = texts.map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=60)
sets = st.tuples(st.sampled_from(PATHS) | pieces, st.sampled_from(["=", "+=", ""]), pieces).map("".join)
changes = st.lists(sets.map(lambda text: ["--set", text]) | pieces.map(lambda key: ["--unset", key]), max_size=2)

PLACE = re.compile(
    r"(?P<file>.*?\.yaml|--(un)?set\[\d+\])(:(?P<line>\d+):(?P<column>\d+))?: (error|warning)\[[YSPX]\d{3}\] "
)


def answered(folder: Path, content: bytes, changes: list[list[str]]) -> int:
    """The command's exit code, and its answer one of those it may give."""
    file = folder / "a.yaml"
    file.write_bytes(content)
    out, err = io.StringIO(), io.StringIO()
    signal.alarm(20)  # ends a process that hangs
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["validate", str(file), *(word for change in changes for word in change)])
    signal.alarm(0)
    told = err.getvalue()
    assert code in (0, 2, 3, 4), told
    assert (code == 0) == (out.getvalue() == f"{file}: valid\n"), told
    assert "Traceback" not in told and "internal error" not in told
    if code == 2:
        assert told.startswith("error: "), told
        return code
    assert (code == 0) or told
    for line in told.removesuffix("\n").split("\n") if told else ():
        found = PLACE.match(line)
        assert found, line
        if found["line"]:
            lines = re.split(
                "\r\n|\r|\n", Path(found["file"]).read_bytes().decode(errors="replace").removeprefix("\ufeff")
            )
            assert 1 <= int(found["line"]) <= len(lines), line
            assert 1 <= int(found["column"]) <= len(lines[int(found["line"]) - 1]) + 1, line
    return code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the fuzzed spec stands, with the shipped ones as bases beside it."""
    made = tmp_path_factory.mktemp("fuzz")
    for name, text in SPECS.items():
        (made / name).write_text(text)
    return made


@pytest.fixture(autouse=True)
def found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed plugins do not change from one input to the next."""
    monkeypatch.setattr(options, "registry", lambda args: installed())


@settings(
    deadline=5_000, database=None, max_examples=700, phases=(Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(contents, changes)
def test_any_text_is_answered(folder: Path, content: bytes, changes: list[list[str]]) -> None:
    answered(folder, content, changes)


def test_changed_specs_are_answered(folder: Path) -> None:
    codes = Counter(answered(folder, *made(number)) for number in range(1_300))
    assert codes[0] > 50  # near enough to a spec to reach every check
    assert codes[3] > 500


@pytest.mark.slow
@pytest.mark.parametrize("piece", range(10))
def test_a_hundred_thousand_changed_specs_are_answered(folder: Path, piece: int) -> None:
    for number in range(piece * 10_000, (piece + 1) * 10_000):
        answered(folder, *made(number))
