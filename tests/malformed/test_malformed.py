"""Every wrong spec gets the answer that was written down for it, soon, in little memory, and writes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from malformed.cases import FILES, Case
from small_spec import TEXT

from driftspec.cli import main


def laid(case: Case, folder: Path) -> list[str]:
    """The case's files in a folder, and the command that reads them there."""
    for name, text in case.files.items():
        (folder / name).write_text(text)
    (folder / "a.yaml").write_bytes(case.content)
    return ["validate", "a.yaml", *case.words]


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.name)
def test_the_answer(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(laid(case, tmp_path))
    out, err = capsys.readouterr()
    assert (code, out) == (case.code, "")
    lines = err.splitlines()
    cut = [line[: len(said) - 1] + "…" if said.endswith("…") else line for line, said in zip(lines, case.said)]
    assert cut + lines[len(cut) :] == list(case.said)
    assert {path.name for path in tmp_path.iterdir()} == {"a.yaml", *case.files}


SECONDS, KILOBYTES = 0.7, 100_000
"""A second less what a process needs to start, and all of its memory."""

MEASURE = """
import io, os, sys
from contextlib import redirect_stderr, redirect_stdout
from driftspec.cli import main

with redirect_stdout(io.StringIO()):
    main(["validate", "a.yaml"])
for folder, *words in (line.split("\\t") for line in sys.stdin.read().splitlines()):
    if not (child := os.fork()):
        os.chdir(folder)
        with redirect_stderr(io.StringIO()):
            os._exit(main(words))
    _, status, used = os.wait4(child, 0)
    print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss)
"""

HUGE = [
    Case("50,000 brackets", "a: " + "[" * 50_000, ()),
    Case("256 KiB of one key", "a" * 262_100 + ": 1\n", ()),
    Case("256 KiB of unknown keys", "".join(f"k{i}: 1\n" for i in range(9_990)), ()),
    Case("9,900 wrong metrics", TEXT.replace("[nll]", f"[{', '.join(['nil'] * 9_900)}]"), ()),
    Case("more than is read", "#" * 3_000_000, ()),
    Case("a number without end", f"{TEXT}seed: {'9' * 200_000}\n", ()),
    Case("one key on every line", TEXT + "name: a\n" * 9_000, ()),
]
"""Answered by the limits of what is read."""


def test_no_answer_takes_long_or_much(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(TEXT)  # whose modules every child has
    lines = []
    for index, case in enumerate([*FILES, *HUGE]):
        folder = tmp_path / str(index)
        folder.mkdir()
        lines.append("\t".join([str(folder), *laid(case, folder)]))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], input="\n".join(lines), cwd=tmp_path, capture_output=True, text=True
    )
    told = dict(zip([case.name for case in [*FILES, *HUGE]], map(str.split, done.stdout.splitlines()), strict=True))
    assert {name for name, (code, _, _) in told.items() if code not in ("2", "3")} == set(), done.stderr
    assert {name: used for name, (_, *used) in told.items() if float(used[0]) > SECONDS} == {}
    assert {name: used for name, (_, *used) in told.items() if int(used[1]) > KILOBYTES} == {}
