"""What source.py promises: the reading rules, the places, the edits and the round trip of dump."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
import time

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from driftspec import source
from driftspec.errors import Place, SpecError
from driftspec.source import assign, dump, merge, parse, parse_value, read, unset


def problems(text, name="f.yaml"):
    with pytest.raises(SpecError) as caught:
        parse(text, name)
    return caught.value.problems


def found(text):
    """What is wrong in a text, as (line, column, code)."""
    return [(p.place.line, p.place.column, p.code) for p in problems(text)]


def value(text):
    return parse(f"a: {text}\n", "f").data["a"]


def refused(call, *args, **kwargs):
    with pytest.raises(SpecError) as caught:
        call(*args, **kwargs)
    (problem,) = caught.value.problems
    return problem


def put(text, *settings_):
    """The data of `text` after each --set, as (dotted, value) or (dotted, value, True) to append."""
    doc = parse(text, "f")
    for number, (dotted, given_, *append) in enumerate(settings_):
        name = f"--set[{number}]"
        doc = assign(doc, dotted, parse_value(given_, name), name, *append)
    return doc


# --- scalars ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None), ("~", None), ("null", None), ("Null", None), ("NULL", None), ("nULL", "nULL"),
        ("true", True), ("True", True), ("TRUE", True), ("false", False), ("False", False), ("FALSE", False),
        ("tRUE", "tRUE"), ("yes", "yes"), ("no", "no"), ("on", "on"), ("Off", "Off"), ("y", "y"), ("n", "n"),
        ("0", 0), ("-0", 0), ("7", 7), ("+7", 7), ("-12", -12),
        ("1e-3", 1e-3), ("1E5", 1e5), ("1e+16", 1e16), (".5", 0.5), ("-.5", -0.5), ("5.", 5.0), ("+1.5", 1.5),
        ("01.5", 1.5),
        (".inf", math.inf), ("-.Inf", -math.inf), ("+.INF", math.inf), ("inf", "inf"), ("nan", "nan"),
        ("1e", "1e"), ("e1", "e1"), ("1.2.3", "1.2.3"), ("0x", "0x"), ("0xZZ", "0xZZ"), ("0b2", "0b2"), ("_1", "_1"),
        ("2020-01-01", "2020-01-01"), ("2001-12-14t21:59:43.1-05:00", "2001-12-14t21:59:43.1-05:00"),
        ("12:99", "12:99"),
        ("'010'", "010"), ('"1_000"', "1_000"), ("'true'", "true"), ("''", ""), ('"12:30"', "12:30"), ("|\n  1", "1\n"),
        ('"\\t\\u00e9\\U0001f600"', "\té\U0001f600"), ("<<", "<<"), ("=", "="), ("http://x/y", "http://x/y"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_the_core_schema(text, expected):
    got = value(text)
    assert got == expected
    assert type(got) is type(expected)


def test_nan_is_a_float():
    assert all(math.isnan(value(text)) for text in (".nan", ".NaN", ".NAN"))


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("010", "'010' is 8 in YAML 1.1 and 10 in 1.2: write 10, or quote it"),
        ("-017", "'-017' is -15 in YAML 1.1 and -17 in 1.2: write -17, or quote it"),
        ("00", "write 0,"), ("08", "write 8,"), ("0x1F", "write 31,"), ("+0xff", "write 255,"), ("-0x_1", None),
        ("0o17", "write 15,"), ("0b11", "write 3,"), ("1_000", "write 1000,"), ("-1_0", "write -10,"),
        ("1_", "write 1,"),
        ("1_000.5", "write 1000.5,"), ("1_0.e+1", "write 100.0,"), ("0_7", "write 7,"),
        ("0x" + "f" * 3400, ", or quote it"),
        ("12:30", "quotes"), ("1:30:00", "quotes"), ("-1:5", "quotes"), ("12:30.5", "quotes"), ("01:30", "quotes"),
    ],
)  # fmt: skip
def test_numbers_that_readers_disagree_on_are_refused_with_advice(text, advice):
    if advice is None:
        assert value(text) == text
    else:
        (problem,) = problems(f"a: {text}\n")
        assert (problem.code, problem.place) == ("Y009", Place("f.yaml", 1, 4))
        assert advice in problem.message
        assert len(problem.message) < 250
        assert value(f"'{text}'") == text


def test_an_endless_number_is_refused_without_a_traceback():
    assert value("9" * 3500) == int("9" * 3500)
    for text in ("9" * 5000, "-" + "9" * 5000, "0" * 5000, "0x" + "f" * 5000, "1" + ":0" * 3000, "1_" + "0" * 5000):
        assert found(f"a: {text}") == [(1, 4, "Y007")]
    assert value("x" * 5000) == "x" * 5000
    assert value("1" * 5000 + ".0") == math.inf


# --- places ---

SPEC = """\
# a comment
name: é
data: {type: moons, über: [1, 'ü', 3]}
train:
  steps: 10

  betas:
    - 0.9
    -   0.99
empty:
"é": x
"""


@pytest.mark.parametrize(
    ("path", "key", "where"),
    [
        ((), None, (1, 1)),
        (("name",), (2, 1), (2, 7)),
        (("data",), (3, 1), (3, 7)),
        (("data", "über"), (3, 21), (3, 27)),
        (("data", "über", 1), None, (3, 31)),
        (("data", "über", 2), None, (3, 36)),
        (("train",), (4, 1), (5, 3)),
        (("train", "steps"), (5, 3), (5, 10)),
        (("train", "betas", 1), None, (9, 9)),
        (("empty",), (10, 1), (10, 7)),
        (("é",), (11, 1), (11, 6)),
    ],
)
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_key_and_value_has_a_place(path, key, where, bom, newline):
    doc = parse((bom + SPEC.replace("\n", newline)).encode(), "f")
    assert doc.place(path) == Place("f", *where)
    assert doc.place(path, key=True) == Place("f", *(key or where))
    assert (doc.marks[path].key is None) == (key is None)
    assert doc.source_line(doc.place(path)) == SPEC.splitlines()[where[0] - 1]


def test_marks_cover_exactly_the_paths_of_the_data():
    def paths(data, path=()):
        yield path
        for part, child in (
            data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
        ):
            yield from paths(child, (*path, part))

    doc = parse("a: &x {b: [1, {c: 2}]}\nd: *x\ne: [[], {}]\n", "f")
    for changed in (doc, merge(doc, parse("a: {b: [3]}", "g")), unset(doc, "a.b.0", "--unset[0]")):
        assert list(changed.marks) == list(paths(changed.data))


def test_an_absent_path_has_the_place_of_the_section_that_lacks_it():
    doc = parse(SPEC, "f")
    assert doc.place(("train", "lr", "x"), key=True) == Place("f", 4, 1)
    assert doc.place(("train", "betas", 7)) == Place("f", 8, 5)
    assert doc.place(("nothing", "here"), key=True) == Place("f", 1, 1)


def test_source_line_of_places_that_are_not_in_a_file():
    doc = put("a: 1\n", ("a", "[1, 2]"))
    assert doc.source_line(Place("--set[0]")) == "[1, 2]"
    assert doc.source_line(Place("f", 1, 4)) == "a: 1"
    assert doc.source_line(Place("f", 99, 1)) == doc.source_line(Place("another")) == ""


# --- mistakes ---


@pytest.mark.parametrize(
    ("text", "line", "column", "code", "words"),
    [
        ("a:\n\tb: 1", 2, 1, "Y004", "a tab cannot indent"),
        ("a: 1\n\tb: 2", 2, 1, "Y004", "a tab cannot indent"),
        ("a:\n  b: x\n  \tc: 2", 3, 3, "Y004", "a tab cannot indent"),
        ("a: 1\nb:2\n\nc: 3", 2, 1, "Y004", "a key needs ': '"),
        ("a: b: c", 1, 5, "Y004", "is not allowed here"),
        ("é: b: c", 1, 5, "Y004", "is not allowed here"),
        ("a: 1\n  b: 2", 2, 4, "Y004", "indentation"),
        ("a:\n  b: 1\n c: 2", 3, 2, "Y004", "indentation"),
        ("a: [1, 2\nb: 3", 2, 2, "Y004", "expected ',' or ']' in the list opened at 1:4"),
        ("x: 1\na: [1,\n2\n", 2, 4, "Y004", "expected ',' or ']' in the list opened at 2:4"),
        ("a: {x: 1\n", 1, 4, "Y004", "expected ',' or '}' in the mapping opened at 1:4"),
        ("a: 'é\nb: 1\n", 1, 4, "Y004", "quote that is not closed"),
        ('a: "x\n---\ny"', 1, 4, "Y004", "quote that is not closed"),
        ('a: "C:\\d"', 1, 7, "Y004", "single quotes"),
        ('a: "\\xg"', 1, 7, "Y004", "hexadecimal"),
        ('a: "b\\', 1, 6, "Y004", "an unknown escape"),
        ('"a": 1\n- b', 2, 1, "Y004", "expected a key"),
        ('a: 1\n"b"\nc: 2', 2, 1, "Y004", "a key needs ': ' after it"),
        ("@x", 1, 1, "Y004", "'@' is not allowed here"),
        ("a: @x", 1, 4, "Y004", "'@' is not allowed here: quote the text"),
        ("a: `x`", 1, 4, "Y004", "'`' is not allowed here: quote the text"),
        ("a: ]", 1, 4, "Y004", "']' is not allowed here: quote the text"),
        ("- a\nb: 1", 2, 1, "Y004", "'- '"),
        ("a: 1\n- b", 2, 1, "Y004", "expected a key"),
        ("a: - b", 1, 4, "Y004", "put it on the next line"),
        ("a: *", 1, 4, "Y004", "'*' is not allowed here: quote the text"),
        ("a: |x\n d", 1, 4, "Y004", "'|' is not allowed here: quote the text"),
        ("a: ? b", 1, 4, "Y004", "'?' is not allowed here"),
        ("a: [b::]", 1, 7, "Y004", "':' is not allowed here"),
        ("%x", 1, 1, "Y004", "'%' is not allowed here"),
        ("{a: 1} b", 1, 8, "Y004", "after the end"),
        ("a: !<x", 1, 4, "Y006", "tags are refused"),
        ("a: &x 1\na: 2", 2, 1, "Y005", "the key 'a' is repeated: it is on line 1"),
        ("a:\n  {b: 1, 'b': 2}", 2, 10, "Y005", "it is on line 2"),
        ("a: !!str 1", 1, 4, "Y006", "'!!str'"),
        ("a: !!python/object:os.system x", 1, 4, "Y006", "'!!python/object:os.system'"),
        ("a: ! 1", 1, 4, "Y006", "'!'"),
        ("a: !foo [1]", 1, 4, "Y006", "'!foo'"),
        ("--- !!map\na: 1", 1, 5, "Y006", "'!!map'"),
        ("!!str a: 1", 1, 1, "Y006", "'!!str'"),
        ("a: !foo!bar x", 1, 4, "Y006", "tags are refused"),
        ("base: 1\na: *bass", 2, 4, "Y008", "no anchor '&bass'"),
        ("a: &x\n  b: [*x]", 2, 7, "Y008", "inside the value"),
        ("a: &x {*x : 1}", 1, 8, "Y008", "inside the value"),
        ("<<: 1", 1, 1, "Y009", "use extends, or an alias"),
        ("a: &x {b: 1}\nc:\n  <<: *x", 3, 3, "Y009", "use extends, or an alias"),
        ("010: 1", 1, 1, "Y009", "write 10"),
        ("a: 1\n1: x", 2, 1, "Y010", "not 1: put it in quotes"),
        ("true: x", 1, 1, "Y010", "not true: put it in quotes"),
        ("~: x", 1, 1, "Y010", "not null"),
        ("a:\n  1.5: x", 2, 3, "Y010", "not 1.5"),
        ("? [a, b]\n: 1", 1, 3, "Y010", "not a list"),
        ("{{a: 1}: 2}", 1, 2, "Y010", "not a mapping"),
        ("a: 1\n---\nb: 2", 2, 1, "Y011", "a second document"),
        ("a: 1\n---\n", 2, 1, "Y011", "a second document"),
        ("# x\n- a", 2, 1, "Y011", "not a list"),
        ("a:1", 1, 1, "Y011", "a colon needs a space"),
        ("12", 1, 1, "Y011", "not 12"),
        ("é: \x07", 1, 4, "Y012", "U+0007"),
        ("a: \0", 1, 4, "Y012", "U+0000"),
        ("a: b\x85c", 1, 5, "Y012", "U+0085"),
        ("# \u2028", 1, 3, "Y012", "U+2028"),
        ("a: 1\nb: \ud800", 2, 4, "Y012", "U+D800"),
        ('a: "\\ud800"', 1, 7, "Y012", "escape"),
        ('a: "\\x1b[2J"', 1, 4, "Y012", "U+001B"),
        ('a: "\\0"', 1, 4, "Y012", "U+0000"),
        ('"\\u2029": 1', 1, 1, "Y012", "U+2029"),
        (b"a: \x80\n", 1, 4, "Y002", "byte 0x80"),
        (b"a: \xff\n", 1, 4, "Y002", "byte 0xff is not UTF-8"),
        (b"\xef\xbb\xbfa: 1\r\n\xc3\xa9: \xc3\n", 2, 4, "Y002", "byte 0xc3 is not UTF-8"),
        ("a: 1".encode("utf-16"), 1, 1, "Y002", "save the file as UTF-8"),
        (b"a: \xed\xa0\x80", 1, 4, "Y002", "byte 0xed"),
        ("", 1, 1, "Y003", "empty"),
        ("# only this\n\n", 1, 1, "Y003", "empty"),
        ("---\n", 1, 1, "Y003", "empty"),
    ],
)  # fmt: skip
def test_one_mistake_has_one_problem_at_its_place(text, line, column, code, words):
    (problem,) = problems(text)
    assert (problem.place, problem.code) == (Place("f.yaml", line, column), code)
    assert words in problem.message
    if isinstance(text, str) and text.replace("\n", "").replace("\t", "").isprintable():
        assert problem.source == text.split("\n")[line - 1]


def test_the_source_line_never_carries_a_control_character():
    assert problems("a: x\x1b[2J\nb: 1")[0].source == "a: x\ufffd[2J"
    assert problems("b: 1\na: \udcff")[0].source == "a: \ufffd"


def test_all_readable_mistakes_are_reported_in_order():
    text = "a: 010\nb: !!str x\nb: [1_0, *none]\n1: x\nc: &c [*c, '\\']\nd: \"\\x07\"\n<<: {}\n? 0x1\n: 012\n"
    assert found(text) == [
        (1, 4, "Y009"), (2, 4, "Y006"), (3, 1, "Y005"), (3, 5, "Y009"), (3, 10, "Y008"), (4, 1, "Y010"),
        (5, 8, "Y008"), (6, 4, "Y012"), (7, 1, "Y009"), (8, 3, "Y009"), (9, 3, "Y009"),
    ]  # fmt: skip


def test_a_syntax_error_comes_with_the_mistakes_before_it():
    assert found("a: 010\nb: [1\nc: 1_0\n") == [(1, 4, "Y009"), (3, 2, "Y004")]


def test_a_hundred_mistakes_are_enough():
    assert found("a: [" + "010," * 60_000 + "]") == [(1, 5 + 4 * index, "Y009") for index in range(100)]


def test_utf8_text_of_every_plane_is_kept():
    assert parse("é: 'ü €\u00a0\U0001f600\ufffd'".encode(), "f").data == {"é": "ü €\u00a0\U0001f600\ufffd"}


def test_the_python_parser_gives_the_same(monkeypatch):
    texts = [SPEC, "a: &x {b: [1, *x]}", "a: 010\na: !t x\n? [1]\n: *u", "a: {x: 1", "a: b: c", "a:\n\tb: 1", "a: @x"]
    texts += ['a: "\\q"', "a: 'b", "a: 1\n- b", "a: - b", "a: *", "a: !foo!bar x", 'a: "\\xg"', "a: [1 2\nb: 3", "%x"]
    texts += ["a: |x", '"\\U00110000"']

    def outcome(text):
        try:
            return parse(text, "f").marks
        except SpecError as error:
            return [(p.code, p.place.line) for p in error.problems]

    expected = [outcome(text) for text in texts]
    monkeypatch.setattr("driftspec.source.text._LOADER", yaml.SafeLoader)
    got = [outcome(text) for text in texts]
    assert got[:-1] == expected[:-1]
    assert got[-1] == [("Y004", 1)]  # an escape beyond Unicode: the Python parser gives no place


# --- limits ---


def quick(call, *args):
    """The only problem of a call that ends at once: in hundredths of a second, where reading all would take forever."""
    start = time.process_time()
    problem = refused(call, *args)
    assert time.process_time() - start < 5.0
    return problem


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "- ? ", "[a, ", "{"])
def test_deep_nesting_is_refused_at_once(opening):
    problem = quick(parse, opening * 60_000, "f")
    assert (problem.code, problem.message) == ("Y007", "more than 32 levels of nesting")


def test_nesting_may_be_32_deep_and_no_deeper():
    parse("a: " + "[" * 31 + "]" * 31, "f")
    problem = refused(parse, "a: " + "[" * 32 + "]" * 32, "f")
    assert (problem.code, problem.place) == ("Y007", Place("f", 1, 35))
    parse("x: &x " + "[" * 30 + "]" * 30 + "\ny: [*x]", "f")
    assert refused(parse, "x: &x " + "[" * 31 + "]" * 31 + "\ny: [*x]", "f").place == Place("f", 1, 37)
    chain = "a0: &a0 []\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 40))
    assert "32 levels" in refused(parse, chain, "f").message


def test_values_may_be_10_000_and_no_more():
    parse("a: [" + "1," * 9_998 + "]", "f")
    parse("".join(f"a{n}: 1\n" for n in range(9_999)), "f")
    assert refused(parse, "a: [" + "1," * 9_999 + "]", "f").code == "Y007"
    assert quick(parse, "a: [" + "1," * 120_000 + "]", "f").code == "Y007"


def test_a_billion_laughs_are_refused_at_once():
    laughs = "a0: &a0 [lol, lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    assert quick(parse, laughs, "f").code == "Y007"
    wide = "[&a [" + "1," * 99 + "1], &b [" + "*a," * 99 + "*a], " + "*b, " * 200 + "]"
    assert quick(parse_value, wide, "--set[0]").code == "Y007"


def test_text_under_aliases_counts_every_time():
    long = "x" * 100_000
    assert parse(f"a: &x {long}\nb: *x", "f").data["b"] == long
    assert refused(parse, f"a: &x {long}\nb: [*x, *x]", "f").code == "Y007"
    assert refused(parse, f"a: &x {{? {long}\n : 1}}\nb: [*x, *x]", "f").code == "Y007"


def test_bytes_may_be_256_kib_and_no_more(tmp_path):
    text = "a: 1\n#" + "é" * ((256 * 1024 - 6) // 2)
    assert len(text.encode()) == 256 * 1024
    assert parse(text, "f").data == parse(text.encode(), "f").data == {"a": 1}
    file = tmp_path / "large.yaml"
    file.write_bytes(text.encode() + b"x")
    for call, *args in ((parse, text + "x", "f"), (read, file), (parse, text.encode() + b"\xff", "f")):
        problem = refused(call, *args)
        assert (problem.code, problem.message) == ("Y007", "more than 256 KiB of text")


# --- aliases ---


def test_an_alias_is_a_copy_with_its_own_place_and_the_anchors_below():
    doc = parse("a: &x {b: [1]}\nc: *x\nd: &y text\n*y : [*y]", "f")
    assert doc.data == {"a": {"b": [1]}, "c": {"b": [1]}, "d": "text", "text": ["text"]}
    assert doc.data["a"] is not doc.data["c"] and doc.data["a"]["b"] is not doc.data["c"]["b"]
    assert doc.place(("c",)) == Place("f", 2, 4)
    assert doc.place(("c",), key=True) == Place("f", 2, 1)
    assert doc.place(("c", "b"), key=True) == Place("f", 1, 8)
    assert doc.place(("c", "b", 0)) == Place("f", 1, 12)
    assert doc.place(("text",), key=True) == Place("f", 4, 1)


def test_an_anchor_may_be_set_again():
    assert parse("a: &x 1\nb: [*x]\nc: &x 2\nd: *x", "f").data == {"a": 1, "b": [1], "c": 2, "d": 2}


# --- files ---


def test_read_shows_the_path_as_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfname: x\n")
    doc = read("./a.yaml")
    assert doc.data == {"name": "x"}
    assert doc.place(("name",)) == Place("./a.yaml", 1, 7)
    assert doc.lines == {"./a.yaml": ["name: x", ""]}
    assert read(tmp_path / "a.yaml").place(()) == Place(str(tmp_path / "a.yaml"), 1, 1)


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "moons.yaml").write_text("a: 1")
    for path, words in (
        (tmp_path / "mons.yaml", "no such file (did you mean 'moons.yaml'?)"),
        (tmp_path / "zzz", "no such file"),
        (tmp_path / "none" / "moons.yaml", "no such file"),
        (tmp_path, "is a directory"),
        (tmp_path / "moons.yaml" / "x", "not a directory"),
        (tmp_path / "a\0b", "null byte"),
        (tmp_path / ("x" * 300), "too long"),
    ):
        problem = refused(read, path)
        assert (problem.code, problem.place) == ("Y001", Place(str(path)))
        assert problem.message.startswith("cannot be read: ")
        assert words in problem.message


def test_a_file_without_permission(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    assert refused(read, tmp_path / "a").message == "cannot be read: permission denied"


# --- values of --set ---


@pytest.mark.parametrize(
    ("text", "data"),
    [("1e-3", 1e-3), ("", None), ("[1, {a: b}]", [1, {"a": "b"}]), ("a: 1", {"a": 1}), ("rk4", "rk4"), ("'1'", "1")],
)
def test_a_value_may_be_anything_and_all_its_places_are_its_name(text, data):
    doc = parse_value(text, "--set[2]")
    assert doc.data == data
    assert {marks.value for marks in doc.marks.values()} == {Place("--set[2]")}
    assert {marks.key for marks in doc.marks.values()} <= {None, Place("--set[2]")}
    assert (doc.marks[()].key, str(doc.place((), key=True))) == (None, "--set[2]")


def test_a_value_is_read_by_the_same_rules():
    with pytest.raises(SpecError) as caught:
        parse_value("[010, !!str x, {1: 2}]", "--set[0]")
    assert [str(problem)[:21] for problem in caught.value.problems] == [
        "--set[0]: error[Y009]",
        "--set[0]: error[Y006]",
        "--set[0]: error[Y010]",
    ]
    assert caught.value.problems[0].source == "[010, !!str x, {1: 2}]"
    assert refused(parse_value, "[1", "--set[0]").code == "Y004"
    assert refused(parse_value, "1\n---\n2", "--set[0]").code == "Y011"
    assert refused(parse_value, "\udcff", "--set[0]").code == "Y012"


# --- merge ---


@pytest.mark.parametrize(
    ("base", "top", "merged"),
    [
        ("a: 1\nb: 2", "b: 3\nc: 4", {"a": 1, "b": 3, "c": 4}),
        ("a: {b: {c: 1, d: 2}}", "a: {b: {c: 3}}", {"a": {"b": {"c": 3, "d": 2}}}),
        ("a: [1, 2, 3]", "a: [4]", {"a": [4]}),
        ("a: {type: x, b: 1}", "a: {type: y, c: 2}", {"a": {"type": "y", "c": 2}}),
        ("a: {type: x, b: 1}", "a: {type: x, c: 2}", {"a": {"type": "x", "b": 1, "c": 2}}),
        ("a: {type: x, b: 1}", "a: {c: 2}", {"a": {"type": "x", "b": 1, "c": 2}}),
        ("a: {b: 1}", "a: {type: x}", {"a": {"b": 1, "type": "x"}}),
        ("a: x", "a: {c: 2}", {"a": {"type": "x", "c": 2}}),
        ("a: x", "a: {type: x, c: 2}", {"a": {"type": "x", "c": 2}}),
        ("a: x", "a: {type: y, c: 2}", {"a": {"type": "y", "c": 2}}),
        ("a: {type: x, b: 1}", "a: x", {"a": {"type": "x", "b": 1}}),
        ("a: {type: x, b: 1}", "a: y", {"a": "y"}),
        ("a: x", "a: x", {"a": "x"}),
        ("a: x", "a: y", {"a": "y"}),
        ("a: {b: 1}", "a: null", {"a": None}),
        ("a: null", "a: {b: 1}", {"a": {"b": 1}}),
        ("a: 1", "a: {b: 1}", {"a": {"b": 1}}),
        ("a: {b: 1}", "a: {}", {"a": {"b": 1}}),
        ("a: {n: {type: x, b: 1}, c: 1}", "a: {n: {type: y}}", {"a": {"n": {"type": "y"}, "c": 1}}),
        ("a: {type: x, n: {b: 1}}", "a: {type: y, n: {c: 1}}", {"a": {"type": "y", "n": {"c": 1}}}),
    ],
)
def test_merge(base, top, merged):
    below, above = parse(base, "base"), parse(top, "top")
    before = copy.deepcopy((below, above))
    assert merge(below, above).data == merged
    assert (below, above) == before


def test_marks_follow_their_values_through_a_merge():
    base = parse("version: 1\nsampler: ode\ntrain:\n  steps: 1\n  lr: 2\nlist: [1, 2]\n", "base")
    top = parse("train: {lr: 3}\nsampler: {solver: rk4}\nlist:\n- 7\n", "top")
    doc = merge(base, top)
    assert list(doc.data) == ["version", "sampler", "train", "list"]
    assert doc.place(()) == Place("top", 1, 1)
    assert doc.place(("train",), key=True) == Place("top", 1, 1)
    assert doc.place(("train", "steps")) == Place("base", 4, 10)
    assert doc.place(("train", "lr"), key=True) == Place("top", 1, 9)
    assert doc.place(("sampler", "type")) == Place("base", 2, 10)
    assert doc.place(("sampler", "solver")) == Place("top", 2, 19)
    assert ("list", 1) not in doc.marks
    assert doc.place(("list", 0)) == Place("top", 4, 3)
    assert doc.source_line(Place("base", 2, 10)) == "sampler: ode"
    assert doc.source_line(Place("top", 4, 3)) == "- 7"


# --- assign and unset ---


@pytest.mark.parametrize(
    ("text", "changes", "data"),
    [
        ("a: 1", [("a", "2")], {"a": 2}),
        ("a: 1", [("b.c.d", "x")], {"a": 1, "b": {"c": {"d": "x"}}}),
        ("a:", [("a.b", "1")], {"a": {"b": 1}}),
        ("a: {b: [1, 2]}", [("a.b.1", "9")], {"a": {"b": [1, 9]}}),
        ("a: [{b: 1}, {b: 2}]", [("a.1.b", "3")], {"a": [{"b": 1}, {"b": 3}]}),
        ("a: [nll]", [("a.0.samples", "5")], {"a": [{"type": "nll", "samples": 5}]}),
        ("sampler: ode", [("sampler.solver", "rk4")], {"sampler": {"type": "ode", "solver": "rk4"}}),
        ("sampler: ode", [("sampler.type", "sde")], {"sampler": {"type": "sde"}}),
        ("a: {b: 1}", [("a", "[1, {c: 2}]"), ("a.1.c", "3")], {"a": [1, {"c": 3}]}),
        ("a: [1]", [("a", "2", True)], {"a": [1, 2]}),
        ("a: [1]", [("a", "[2, 3]", True)], {"a": [1, [2, 3]]}),
        ("a: {}", [("a.b", "x", True), ("a.b", "y", True)], {"a": {"b": ["x", "y"]}}),
        ("a:", [("a", "{type: x}", True)], {"a": [{"type": "x"}]}),
        ("a: 1", [("1", "x")], {"a": 1, "1": "x"}),
        ("a: {b: 1}", [("a", "")], {"a": None}),
    ],
)
def test_assign(text, changes, data):
    assert put(text, *changes).data == data


def test_what_is_assigned_stands_at_its_option():
    doc = parse("a: {b: 1, l: [1]}\ns: ode\n", "f")
    before = copy.deepcopy(doc)
    changed = assign(doc, "a.b", parse_value("{c: [2]}", "--set[0]"), "--set[0]")
    changed = assign(changed, "s.solver", parse_value("rk4", "--set[1]"), "--set[1]")
    changed = assign(changed, "a.l", parse_value("2", "--set[2]"), "--set[2]", append=True)
    changed = assign(changed, "new.er", parse_value("2", "--set[3]"), "--set[3]")
    assert doc == before
    paths: list[source.KeyPath] = [("a", "b"), ("a", "b", "c"), ("a", "b", "c", 0)]
    assert {changed.place(path) for path in paths} == {Place("--set[0]")}
    assert changed.place(("a", "b"), key=True) == Place("--set[0]")
    assert changed.place(("a",), key=True) == Place("f", 1, 1)
    assert changed.place(("s", "type"), key=True) == Place("f", 2, 4)
    assert changed.place(("s", "solver"), key=True) == Place("--set[1]")
    assert changed.place(("a", "l", 0)) == Place("f", 1, 15)
    changed = assign(changed, "a.l.0", parse_value("3", "--set[4]"), "--set[4]")
    assert changed.marks["a", "l", 0] == source.Marks(None, Place("--set[4]"))
    assert changed.marks["a", "l", 1] == source.Marks(None, Place("--set[2]"))
    assert changed.place(("new",), key=True) == Place("--set[3]")


@pytest.mark.parametrize(
    ("dotted", "append", "words"),
    [
        ("l.2", False, "'l' is a list of 2, counted from 0: there is no '2' in it"),
        ("l.-1", False, "counted from 0"),
        ("l.x", False, "counted from 0"),
        ("l.2", True, "counted from 0"),
        ("l.9999999999", False, "counted from 0"),
        ("l." + "9" * 5_000, False, "counted from 0"),
        ("l.٣", False, "counted from 0"),
        ("n.x", False, "'n' is 3: there is no 'x' in it"),
        ("l.0.x", False, "'l.0' is 1"),
        ("t.x", False, "'t' is true"),
        ("a..b", False, "empty part"),
        ("", False, "empty part"),
        (".a", False, "empty part"),
        ("a.", False, "empty part"),
        ("n", True, "'n' is 3: += appends to a list"),
        ("m", True, "'m' is a mapping"),
        ("s", True, "'s' is 'ode'"),
    ],
)
def test_a_path_that_assign_cannot_follow(dotted, append, words):
    doc = parse("l: [1, 2]\nn: 3\nt: true\nm: {}\ns: ode\n", "f")
    problem = refused(assign, doc, dotted, parse_value("1", "--set[4]"), "--set[4]", append)
    assert (problem.code, problem.place) == ("Y014", Place("--set[4]"))
    assert words in problem.message


def test_assign_keeps_to_the_limits():
    doc, one = parse("a: [" + "1," * 9_000 + "]", "f"), parse_value("1", "--set[0]")
    assert assign(doc, ".".join("x" * 32), one, "--set[0]").data["a"]
    for count in (33, 3_000):
        assert refused(assign, doc, ".".join("x" * count), one, "--set[0]").code == "Y007"
    many = parse_value("[" + "1," * 1_500 + "]", "--set[0]")
    assert refused(assign, doc, "b", many, "--set[0]").code == "Y007"
    assert refused(assign, doc, "b.\udcff", one, "--set[0]").code == "Y012"


def test_unset():
    doc = parse("a: {b: 1, c: 2}\nl: [1, {x: y}, 3]\ns: ode\n", "f")
    before = copy.deepcopy(doc)
    assert unset(doc, "a.b", "--unset[0]").data["a"] == {"c": 2}
    assert list(unset(doc, "a", "--unset[0]").data) == ["l", "s"]
    shorter = unset(doc, "l.0", "--unset[0]")
    assert shorter.data["l"] == [{"x": "y"}, 3]
    assert shorter.place(("l", 0, "x")) == Place("f", 2, 12)
    assert shorter.place(("l", 1)) == Place("f", 2, 16)
    assert ("l", 2) not in shorter.marks
    assert doc == before


@pytest.mark.parametrize(
    ("dotted", "words"),
    [
        ("trian", "no key 'trian' in the spec (did you mean 'train'?)"),
        ("train.stesp", "no key 'stesp' in 'train' (did you mean 'steps'?)"),
        ("train.zzz", "no key 'zzz' in 'train'"),
        ("train.betas.2", "'train.betas' is a list of 2"),
        ("s.solver", "'s' is 'ode'"),
        ("s.type", "'s' is 'ode'"),
        ("none.x", "'none' is null"),
        ("", "empty part"),
    ],
)
def test_a_path_that_unset_does_not_find(dotted, words):
    doc = parse("train: {steps: 1, betas: [1, 2]}\ns: ode\nnone:\n", "f")
    problem = refused(unset, doc, dotted, "--unset[0]")
    assert (problem.code, problem.place) == ("Y014", Place("--unset[0]"))
    assert words in problem.message


# --- dump ---


def test_dump_is_block_style_with_short_lists_in_flow():
    long = "x" * 50
    text = f"""\
version: 1
name: cnf moons
lr: 1.0e-05
big: 1.0e+16
inf: -.inf
none: null
"yes": "yes"
text: "010"
train:
  betas: [0.9, 0.99]
  empty: {{}}
  list: []
evaluate:
  - nll
  - type: mmd
    samples: [1]
  - - [1, 2]
    - [3]
long:
  - {long}
  - {long}
path: "../a: b\\n"
"""
    data = {
        "version": 1,
        "name": "cnf moons",
        "lr": 1e-5,
        "big": 1e16,
        "inf": -math.inf,
        "none": None,
        "yes": "yes",
        "text": "010",
        "train": {"betas": [0.9, 0.99], "empty": {}, "list": []},
        "evaluate": ["nll", {"type": "mmd", "samples": [1]}, [[1, 2], [3]]],
        "long": [long, long],
        "path": "../a: b\n",
    }
    assert dump(data) == text
    assert parse(text, "f").data == data
    assert yaml.safe_load(text) == data


def repeated(data):
    """repr tells 1 from 1.0 and from true, and sees the order of keys."""
    return repr(parse_value(dump(data), "f").data)


# Text that a careless writer leaves unquoted, and text that no reader takes for anything else.
NUMBERS = "~ null true Yes off y 010 0x1F 1_000 12:30 1e-3 .5 5. 7 2020-01-01 .nan inf"
SIGNS = "- << = ? [ {} !t &a *a % @ ` ' \" \\ --- ... é"
TRAPS = [
    *NUMBERS.split(),
    *SIGNS.split(),
    "",
    "- a",
    "a: b",
    "a #b",
    " a",
    "a ",
    "a  b",
    "ab cd",
    "\n",
    "a\r\nb",
    "\t",
    "y\n",
    "x" * 90,
]
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp", "Cn"]), max_size=12).filter(
    lambda text: "\ufeff" not in text
) | st.sampled_from(TRAPS)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.floats(-1e-3, 1e-3) | TEXT
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5), max_leaves=20
)


@given(st.dictionaries(TEXT | st.just("k" * 1_200) | st.just('"' * 600), TREES, max_size=4))
@settings(max_examples=100, deadline=None)
@example({"a": {"k" * 1_100: [{"k" * 1_100: {"b": [[]]}}], "c": 1}})
@example({"a": -0.0, "b": 5e-324, "c": 1.7976931348623157e308, "d": 10**3000, "e": 1e22, "f": math.inf})
def test_what_is_dumped_reads_back_as_it_was(data):
    text = dump(data)
    assert repr(parse(text, "f").data) == repr(data)
    assert text.endswith("\n") and not text.endswith("\n\n")


@given(TREES)
@settings(max_examples=200, deadline=None)
def test_any_value_reads_back_and_yaml_1_1_reads_the_same(data):
    assert repeated(data) == repr(data)
    assert repr(yaml.load(dump(data), Loader=yaml.CSafeLoader)) == repr(data)


def test_nan_reads_back():
    assert repeated([math.nan, math.inf]) == "[nan, inf]"


def test_what_no_spec_may_hold_is_dumped_as_an_escape_and_refused_on_reading():
    text = dump({"a": "x\x07\x7f\u2028\udcff"})
    assert text == 'a: "x\\u0007\\u007f\\u2028\\udcff"\n'
    assert refused(parse, text, "f").code == "Y012"


# --- whatever comes ---

MARKS = list("abc019 \n\n\t:-?,[]{}#&*!|>'\"%@`\\~.<=_")
PIECES = [
    "\n  ",
    ": ",
    "- ",
    "? ",
    "a: ",
    "&a ",
    "*a",
    "!!",
    "---\n",
    "...\n",
    "\r\n",
    "|+2\n",
    "%YAML 1.1\n",
    "<<: ",
    "true",
]
PIECES += ["\\u12", "0x", "1e", ":3", "é", "\U0001f600", "\ufeff", "\x85", "\ud800", "\0"]
JUMBLE = st.lists(st.sampled_from(MARKS + PIECES), max_size=40).map("".join)


@given(JUMBLE | st.text() | st.binary())
@settings(max_examples=500, deadline=None)
def test_nothing_but_a_spec_error_ever_escapes(text):
    for call in (parse, parse_value) if isinstance(text, str) else (parse,):
        try:
            doc = call(text, "f")
        except SpecError as error:
            assert error.problems
            for problem in error.problems:
                assert str(problem).startswith("f")
                assert "\0" not in problem.source and problem.source.encode() is not None
        else:
            assert repr(call(dump(doc.data), "g").data) == repr(doc.data)


@given(JUMBLE | st.text(max_size=8), st.booleans())
@settings(max_examples=200, deadline=None)
@example("a.1.b.c", False)
def test_whatever_path_is_given_the_answer_is_a_document_or_a_spec_error(dotted, append):
    doc, one = parse("a: [1, {b: c}]\nc: x\n", "f"), parse_value("1", "--set[0]")
    for change in (lambda: assign(doc, dotted, one, "--set[0]", append), lambda: unset(doc, dotted, "--unset[0]")):
        try:
            changed = change()
        except SpecError as error:
            assert [problem.code for problem in error.problems] in (["Y014"], ["Y012"])
        else:
            assert parse(dump(changed.data), "g").data == changed.data


def test_reading_needs_no_heavy_import():
    code = "import sys, driftspec.source; print(*sorted({'torch', 'numpy', 'pydantic', 'pluggy'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""
