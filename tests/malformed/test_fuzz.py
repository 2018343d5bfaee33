"""Whatever the text and the settings, `validate` answers: an exit code of its own, every problem with a place.

Two kinds of input: shipped specs with words, lines and characters moved about, and text from nothing. The default run
takes a sample; `-m slow` takes a hundred thousand.
"""

from __future__ import annotations

import io
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

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

pieces = st.sampled_from(ODD) | st.sampled_from(WORDS) | st.text(max_size=8)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A shipped spec with up to six edits."""
    text = draw(st.sampled_from(sorted(SPECS.values())))
    for _ in range(draw(st.integers(1, 6))):
        words = [found.span() for found in re.finditer(r"[\w.+-]+|[^\w\s]|\n *", text)]
        start, end = words[draw(st.integers(0, len(words) - 1))] if words else (0, 0)
        match draw(st.integers(0, 4)):
            case 0:  # another word
                text = text[:start] + draw(pieces) + text[end:]
            case 1:  # one more
                text = text[:end] + draw(st.sampled_from(["", " ", ": ", ", "])) + draw(pieces) + text[end:]
            case 2:  # some less
                text = text[:start] + text[end + draw(st.integers(0, 20)) :]
            case 3:  # a part elsewhere
                other = draw(st.integers(0, len(text)))
                text = text[:other] + text[start : end + draw(st.integers(0, 40))] + text[other:]
            case _:  # another spec's end
                text = text[:end] + draw(st.sampled_from(sorted(SPECS.values())))[draw(st.integers(0, 800)) :]
    return text


texts = mutated() | st.lists(pieces, max_size=30).map("".join)
contents = texts.map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=60)
values = pieces | st.sampled_from(["[nll]", "{type: adam, lr: x}", "ode", "{}", "[1, [2]]"])
keys = st.sampled_from(PATHS) | st.lists(st.sampled_from(WORDS), max_size=3).map(".".join)
sets = st.tuples(keys, st.sampled_from(["=", "+=", ""]), values).map("".join)
changes = st.lists(sets.map(lambda text: ["--set", text]) | keys.map(lambda key: ["--unset", key]), max_size=3)

PLACE = re.compile(
    r"(?P<file>.*?\.yaml|--(un)?set\[\d+\])(:(?P<line>\d+):(?P<column>\d+))?: (error|warning)\[[YSPX]\d{3}\] "
)


def answered(folder: Path, content: bytes, changes: list[list[str]]) -> None:
    """The command's answer is one of those it may give."""
    file = folder / "a.yaml"
    file.write_bytes(content)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["validate", str(file), *(word for change in changes for word in change)])
    told = err.getvalue()
    assert code in (0, 2, 3, 4), told
    assert (code == 0) == (out.getvalue() == f"{file}: valid\n"), told
    assert "Traceback" not in told and "internal error" not in told
    if code == 2:
        assert told.startswith("usage: "), told
        return
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


quick = settings(
    deadline=5_000, database=None, phases=(Phase.generate, Phase.shrink), max_examples=2_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@quick
@given(contents, changes)
def test_every_input_is_answered(folder: Path, content: bytes, changes: list[list[str]]) -> None:
    answered(folder, content, changes)


@pytest.mark.slow
@settings(quick, max_examples=100_000)
@given(contents, changes)
def test_a_hundred_thousand_inputs_are_answered(folder: Path, content: bytes, changes: list[list[str]]) -> None:
    answered(folder, content, changes)
