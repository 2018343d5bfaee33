"""Tables from a user's file: what is read is what stands there, and what is wrong is told by row and column."""

from __future__ import annotations

import hashlib
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from driftspec.cli import main
from driftspec.components import Data, Table
from driftspec.errors import SpecError
from driftspec.source.files import Files

PENGUINS = Path(__file__).parents[2] / "specs" / "penguins.csv"
GOOD = "a,b,c\n1,2,3\n4.5,-6e-1,+7\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(path: str = "t.csv", root: Path | str = "", allow_outside: bool = False, **keys: Any) -> Table:
    return Data.make({"type": "table", "path": path, **keys}).read(Files(Path(root), allow_outside), torch.Generator())


def csv(text: str | bytes, **keys: Any) -> Table:
    Path("t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(**keys)


def npy(values: Any, **keys: Any) -> Table:
    np.save("t.npy", values)
    return read("t.npy", **keys)


def refused(call: Callable[..., Table], *args: Any, **keys: Any) -> list[str]:
    """What is wrong, each an X304."""
    with pytest.raises(SpecError) as caught:
        call(*args, **keys)
    assert {problem.code for problem in caught.value.problems} == {"X304"}
    return [problem.message for problem in caught.value.problems]


def the_one(call: Callable[..., Table], *args: Any, **keys: Any) -> str:
    (message,) = refused(call, *args, **keys)
    return message


# --- what is read ---


def test_a_csv_gives_its_numbers_its_columns_and_its_digest() -> None:
    table = csv(GOOD)
    assert table.columns == ("a", "b", "c")
    assert table.values.dtype == torch.float64
    assert table.values.tolist() == [[1, 2, 3], [4.5, -0.6, 7]]
    assert table.digest == hashlib.sha256(GOOD.encode()).hexdigest()
    assert table.times is None


def test_columns_select_and_order_and_leave_other_cells_unread() -> None:
    table = csv("species,a,b\nAdelie,1,2\n,3,4\n", columns=["b", "a"])
    assert table.columns == ("b", "a")
    assert table.values.tolist() == [[2, 1], [4, 3]]


def test_csv_reads_quotes_spaces_a_byte_order_mark_and_other_line_ends() -> None:
    text = '\ufeff"a, in mm", b\r\n "1", 2 \r\n3,"4"\r\n\r\n\r\n'
    table = csv(text)
    assert table.columns == ("a, in mm", "b")
    assert table.values.tolist() == [[1, 2], [3, 4]]


def test_the_end_of_the_name_may_be_in_capitals() -> None:
    Path("T.CSV").write_text(GOOD)
    assert len(read("T.CSV").values) == 2


def test_integers_too_large_for_a_float_are_rounded() -> None:
    assert csv(f"a\n{2**64 + 1}\n{10**30}\n").values.tolist() == [[2.0**64], [1e30]]


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2", ">u4", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npy_gives_its_numbers_whatever_their_dtype_and_order(dtype: str, order: Any) -> None:
    values = np.arange(12).reshape(4, 3)
    table = npy(np.asarray(values, dtype=dtype, order=order))
    assert table.columns == ("x1", "x2", "x3")
    assert table.values.dtype == torch.float64
    assert table.values.tolist() == values.tolist()
    assert table.digest == hashlib.sha256(Path("t.npy").read_bytes()).hexdigest()
    assert npy(values, columns=["x3", "x1"]).values.tolist() == values[:, [2, 0]].tolist()


def test_the_penguins_are_the_342_complete_rows() -> None:
    table = read(str(PENGUINS), allow_outside=True)
    assert table.columns == ("bill_length", "bill_depth", "flipper", "mass")
    assert tuple(table.values.shape) == (342, 4)
    assert table.values[0].tolist() == [39.1, 18.7, 181, 3750]
    assert table.values.mean(0).tolist() == pytest.approx([43.92193, 17.15117, 200.91520, 4201.75439], abs=1e-5)


def test_the_dimension_is_known_from_the_columns_alone() -> None:
    assert Data.make({"type": "table", "path": "t.csv"}).dim() is None
    table = Data.make({"type": "table", "path": "t.csv", "columns": ["a", "b"]})
    assert table.dim() == 2
    assert table.offers() == {"samples"}
    assert table.hard_edges is False


# --- what is wrong with the cells ---


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        ("NA", "'NA' is no number"),
        ("", "it is empty"),
        ("  ", "it is empty"),
        ("nan", "'nan' is no number"),
        ("-inf", "'-inf' is not finite"),
        ("1e999", "'1e999' is not finite"),
        ("1_000", "'1_000' is no number"),
        ('"1,5"', "'1,5' is no number"),
        ("0x1F", "'0x1F' is no number"),
    ],
)
def test_a_bad_cell_is_named_by_row_and_column(cell: str, fault: str) -> None:
    message = the_one(csv, f"id,mass\n1,2\n2,{cell}\n3,4\n")
    assert message == f"t.csv: row 3, column 'mass': {fault}; leave the row out or fill it in"


def test_of_many_bad_cells_the_first_are_told_and_how_many_there_are() -> None:
    rows = "".join(f"{i},x{i},{'NA' if i % 2 else i}\n" for i in range(10))
    messages = refused(csv, f"a,name,b\n{rows}")
    assert len(messages) == 6
    places = ["row 2, column 'name'", "row 3, column 'name'", "row 3, column 'b'"]
    assert [message.split(": ")[1] for message in messages[:3]] == places
    assert messages[-1] == "t.csv: 15 mistakes in all, the first 5 are shown: 10 of column 'name', 5 of column 'b'"


def test_ragged_and_blank_rows_are_named() -> None:
    messages = refused(csv, "a,b\n1,2\n3\n\n4,5,6\n7,8\n")
    assert messages == [
        "t.csv: row 3 has 1 cell, the header 2: give every row a cell for each column",
        "t.csv: row 4 is blank, the header 2: give every row a cell for each column",
        "t.csv: row 5 has 3 cells, the header 2: give every row a cell for each column",
    ]


def test_rows_and_cells_are_told_together() -> None:
    assert len(refused(csv, "a,b\n1,x\n3\n4,5\n")) == 2


# --- what is wrong with a CSV as a whole ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv: the file is empty"),
        ("\n\n", "t.csv: no header: the first row is 'blank', and it must name the columns"),
        ("1,2\n3,4\n", "t.csv: no header: the first row is '1, 2', and it must name the columns"),
        ("a,b\n", "t.csv: 0 rows of numbers: a model learns from 2 at least"),
        ("a,b\n1,2\n", "t.csv: 1 row of numbers: a model learns from 2 at least"),
        ("a,b,a,b\n1,2,3,4\n", "t.csv: the header has 'a', 'b' more than once: give each column a name of its own"),
        (",a\n0,1\n1,2\n", "t.csv: column 1 has no name: give it one, or choose others by 'columns'"),
        ("a;b\n1;2\n3;4\n", "t.csv: its cells are separated by ';': separate them by commas"),
        ('a,b\n1,"2\n', "t.csv: line 2 is no CSV: unexpected end of data"),
        (b"a,b\n1,2\n3,\xff\n", "t.csv: line 3 is not UTF-8 text: save the file with that encoding"),
    ],
)
def test_a_bad_csv_is_refused(text: str | bytes, message: str) -> None:
    assert the_one(csv, text) == message


def test_an_index_column_without_a_name_may_stand_beside_those_chosen() -> None:
    assert csv(",a\n0,1\n1,2\n", columns=["a"]).values.tolist() == [[1], [2]]
    assert the_one(csv, ",a\n0,1\n1,2\n", columns=["b"]) == "t.csv: no column 'b': it has a"


def test_every_unknown_column_is_told_with_the_nearest() -> None:
    assert refused(csv, GOOD.replace("a,b", "mass,flipper"), columns=["mas", "c", "tail"]) == [
        "t.csv: no column 'mas' (did you mean 'mass'?): it has mass, flipper, c",
        "t.csv: no column 'tail': it has mass, flipper, c",
    ]


# --- what is wrong with an NPY ---


class Trap:
    """Unpickling it would leave a trace."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("unpickled"),)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(3), "t.npy: its shape is (3,): save n rows of d columns, (n, d)"),
        (np.zeros((2, 3, 4)), "t.npy: its shape is (2, 3, 4): save n rows of d columns, (n, d)"),
        (np.zeros((3, 0)), "t.npy: its shape is (3, 0): save n rows of d columns, (n, d)"),
        (np.zeros((0, 3)), "t.npy: 0 rows of numbers: a model learns from 2 at least"),
        (np.zeros((2, 1), bool), "t.npy: its values are of dtype bool: save them as floats or integers"),
        (np.zeros((2, 1), complex), "t.npy: its values are of dtype complex128: save them as floats or integers"),
        (np.array([["a"], ["b"]]), "t.npy: its values are of dtype <U1: save them as floats or integers"),
        (np.zeros(2, [("a", "f8")]), "t.npy: its values are of dtype [('a', '<f8')]: save them as floats or integers"),
        (
            np.array([[1.0, 2.0], [3.0, np.nan]]),
            "t.npy: row 2, column 'x2': nan is not finite; leave the row out or fill it in",
        ),
    ],
)
def test_a_bad_npy_is_refused(values: Any, message: str) -> None:
    assert the_one(npy, values) == message


def test_objects_are_never_unpickled() -> None:
    trap = np.empty((2, 1), object)
    trap[:] = Trap()
    assert "Python objects, which are never loaded" in the_one(npy, trap)
    Path("t.npy").write_bytes(pickle.dumps(Trap()))
    assert "it is no NPY file" in the_one(read, "t.npy")
    assert not Path("unpickled").exists()


def test_an_npy_that_is_cut_off_or_claims_too_much_is_refused_without_making_room_for_it() -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros((10, 2)))
    whole = stream.getvalue()
    for content in (whole[:-1], whole + b"\0", whole.replace(b"(10, 2), }", b"(9999999999999, 2), }")[: len(whole)]):
        Path("t.npy").write_bytes(content)
        assert "its length does not fit its shape" in the_one(read, "t.npy")
    for old, new in ((whole, whole[:20]), (b")", b"("), (b"(10", b"(01"), (b"descr", b"d")):
        Path("t.npy").write_bytes(whole.replace(old, new))
        assert "it is no NPY file" in the_one(read, "t.npy")


def test_every_bad_number_of_an_npy_is_counted_where_it_is_chosen() -> None:
    values = np.zeros((10, 3))
    values[2:, 1] = np.inf
    messages = refused(npy, values, columns=["x3", "x2"])
    assert messages[0] == "t.npy: row 3, column 'x2': inf is not finite; leave the row out or fill it in"
    assert messages[-1] == "t.npy: 8 mistakes in all, the first 5 are shown: 8 of column 'x2'"
    assert npy(values, columns=["x1", "x3"]).values.abs().max() == 0


# --- where the file lies ---


def test_a_missing_file_is_told_with_the_nearest(tmp_path: Path) -> None:
    Path("penguins.csv").write_text(GOOD)
    message = "data file 'pengins.csv' does not exist (did you mean 'penguins.csv'?): looked for at "
    assert the_one(read, "pengins.csv") == f"{message}{tmp_path.resolve() / 'pengins.csv'}"
    assert "does not exist: looked for at" in the_one(read, "no/folder/t.csv")
    whole = str(tmp_path.resolve() / "t.csv")
    assert the_one(read, whole) == f"data file {whole!r} does not exist"


def test_a_path_starts_from_the_specs_folder() -> None:
    Path("specs").mkdir()
    Path("specs/t.csv").write_text(GOOD)
    assert len(read("t.csv", root="specs").values) == 2
    refused(read, "t.csv")


def test_a_file_outside_the_current_directory_is_read_only_when_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("t.csv").write_text(GOOD)
    Path("below").mkdir()
    Path("below/link.csv").symlink_to(tmp_path / "t.csv")
    monkeypatch.chdir("below")
    for path in ("../t.csv", str(tmp_path / "t.csv"), "link.csv", "../missing.csv"):
        assert "lies outside the current directory; allow it with --allow-outside" in the_one(read, path)
    for path in ("../t.csv", str(tmp_path / "t.csv"), "link.csv"):
        assert len(read(path, allow_outside=True).values) == 2
    assert "does not exist" in the_one(read, "../missing.csv", allow_outside=True)


def test_a_path_that_is_no_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("folder.csv").mkdir()
    Path("loop.csv").symlink_to("loop.csv")
    assert the_one(read, "folder.csv") == "data file 'folder.csv' is a folder: name a file in it"
    for path in ("loop.csv", "x" * 1000 + ".csv", "a\0b.csv"):
        assert "data file" in the_one(read, path)
    Path("t.csv").write_text(GOOD)
    monkeypatch.setattr(Path, "open", denied)
    assert the_one(read) == "data file 't.csv' cannot be read: Permission denied"


def denied(path: Path, mode: str = "r") -> bytes:
    raise PermissionError(13, "Permission denied")


# --- what a spec may say ---


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"path": ""},
        {"path": "t"},
        {"path": "t.parquet"},
        {"path": "t.csv", "columns": []},
        {"path": "t.csv", "columns": [""]},
        {"path": "t.csv", "columns": "a"},
        {"path": "t.csv", "columns": ["a", "b", "a"]},
    ],
)
def test_keys_are_checked(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Data.make({"type": "table", **keys})


SPEC = """\
version: 1
name: a
data: {type: table, path: missing.csv}
dynamics: {type: neural_ode, network: {type: mlp, hidden: [2]}}
estimator: exact_trace
train: {steps: 1, batch_size: 2}
"""


def test_only_a_run_asks_for_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text(SPEC)
    assert main(["validate", "a.yaml"]) == 0
    capsys.readouterr()
    assert main(["a.yaml", "--out", "out", "--quiet"]) == 3
    assert "error[X304] data file 'missing.csv' does not exist" in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_table_is_checked_without_torch_or_numpy() -> None:
    script = (
        "import sys; from driftspec.components import Data; Data.make({'type': 'table', 'path': 't.csv'});"
        "sys.exit(bool({'torch', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
