"""The rules of the house, checked: who may import whom, types, style, and what every component says of itself."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from mutations import mutated, mutations

from driftspec.errors import CODES
from driftspec.registry import installed

ROOT = Path(__file__).parents[1]
CORE = sorted((ROOT / "pipeline" / "driftspec").rglob("*.py"))
EXAMPLES = "explanations.py"
"""Of the core, what is a document: its examples name components and codes."""
SOURCES = [*CORE, *sorted((ROOT / "plugins" / "driftspec_plugins").rglob("*.py"))]
COMPONENTS = sorted(installed().providers)

NAMED_BY_THE_CORE = {
    "lobatto": "the solver that every trace trains with by default",
    "adam": "the optimizer of a train section that names none",
    "constant": "the schedule of a train section that names none",
    "step": "a word: the key of a training record",
    "acceptance": "a capability of samplers, which one of the conformance kit's own offers",
}
"""Names of components that stand in the core, and why."""


def tool(*words: str) -> None:
    """A checker's verdict on the whole project."""
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Every string of a module that is no docstring, with its line."""
    tree = ast.parse(path.read_text())
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.lineno, node.value


def test_imports_keep_their_contracts() -> None:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_types() -> None:
    tool("mypy")


def test_style() -> None:
    tool("ruff", "check", "--output-format", "concise", ".")


def test_format() -> None:
    tool("ruff", "format", "--check", ".")


def test_reading_every_component_imports_no_torch() -> None:
    code = """
import sys
import tokenize
from driftspec.registry import installed
registry = installed()
for kind, name in registry.providers:
    assert registry.look_up(kind, name)[0] is not None
heavy = ("torch", "torchdiffeq", "scipy", "sklearn", "matplotlib", "safetensors")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


ALLOWED = {
    "arguments.py": "points are arrays and tables of any library",
    "autodiff.py": "nodes of torch's graph: those of leaves alone have a variable",
    "registry/registry.py": "the hooks of a plugin's module, and the namespace of a one-file plugin",
    "source/text.py": "what only one of PyYAML's two parsers has",
    "components/component.py": "the keys that a class declares",
    "components/metric.py": "the methods of a class that does not state whether it reads test rows",
    "spec/fits.py": "whether the spec's own section writes a key",
}
"""Files of the core that look a name up, and what it is."""


def reads_by_name(tree: ast.AST) -> Iterator[int]:
    """Lines that read an attribute or a key of an object by a literal name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            literal = any(isinstance(one, ast.Constant) and isinstance(one.value, str) for one in node.args[1:2])
            if (node.func.id in ("getattr", "hasattr", "setattr") and literal) or (
                node.func.id == "vars" and node.args
            ):
                yield node.lineno
        elif isinstance(node, ast.Attribute) and node.attr == "__dict__":
            yield node.lineno
        elif isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant):
            fields = (one for right in node.comparators for one in ast.walk(right) if isinstance(one, ast.Attribute))
            if any(one.attr.startswith("model_fields") for one in fields):
                yield node.lineno


def test_the_core_reads_no_key_of_a_component_by_its_name() -> None:
    core = ROOT / "pipeline" / "driftspec"
    found = {
        str(path.relative_to(core)): line
        for path in core.rglob("*.py")
        for line in reads_by_name(ast.parse(path.read_text()))
    }
    assert {path: line for path, line in found.items() if path not in ALLOWED} == {}
    assert found.keys() == ALLOWED.keys(), "an exception that nothing needs"


@pytest.mark.parametrize(
    "text",
    [
        "getattr(x, 'path')",
        "hasattr(x, 'path')",
        "vars(x)",
        "x.__dict__",
        "'a' in x.model_fields",
        "'a' not in type(x).model_fields.keys() - y",
    ],
)
def test_reading_by_name_is_noticed(text: str) -> None:
    assert list(reads_by_name(ast.parse(text))) == [1]


@pytest.mark.parametrize("text", ["getattr(x, name)", "name in x.model_fields", "x.path", "'a' in x"])
def test_what_a_class_declares_may_be_looked_up(text: str) -> None:
    assert list(reads_by_name(ast.parse(text))) == []


@pytest.mark.parametrize(("kind", "name"), COMPONENTS, ids="/".join)
def test_a_component_says_what_it_is_and_what_each_key_means(kind: str, name: str) -> None:
    found, _ = installed().look_up(kind, name)
    assert found is not None
    inherited = {base.__doc__ for base in found.__mro__[1:]}
    assert found.__doc__, "a docstring"
    assert found.__doc__ not in inherited, "a docstring of its own"
    assert [key for key, field in found.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("path", [path for path in CORE if path.name != EXAMPLES], ids=lambda path: path.stem)
def test_the_core_names_no_method(path: Path) -> None:
    names = {name for _, name in COMPONENTS} - NAMED_BY_THE_CORE.keys()
    assert [(line, text) for line, text in strings(path) if text in names] == []


def test_what_the_core_names_it_does_name() -> None:
    used = {text for path in CORE for _, text in strings(path)}
    assert used >= NAMED_BY_THE_CORE.keys()
    assert {name for _, name in COMPONENTS} >= NAMED_BY_THE_CORE.keys()


def test_every_code_is_documented_and_used() -> None:
    used = {
        code
        for path in SOURCES
        if path.name not in ("errors.py", EXAMPLES)
        for _, text in strings(path)
        for code in re.findall(r"\b[YSPX]\d{3}\b", text)
    }
    assert used == set(CODES)
    assert all(CODES.values())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_module_opens_with_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body


def test_user_input_is_never_asserted() -> None:
    """`assert` is gone under -O: what can go wrong has an exception."""
    trees = {path.name: ast.parse(path.read_text()) for path in SOURCES}
    assert [name for name, tree in trees.items() if any(isinstance(node, ast.Assert) for node in ast.walk(tree))] == []


HOUSE_WORDS = re.compile(r"\b(told|tells?|said|says|mend(s|ed)?|vouch\w*|anew|stands?)\b")
"""Words that the pages and the code do without: reported, states, right, again, is."""
STANDARD = {
    "spec/explanations.py": "the JSON of `explain` names a part `mended`",
    "cli/explain.py": "the same",
}


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each comment and of each string: docstrings, messages, descriptions."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.COMMENT)):
            yield token.start[0], token.string


def test_the_code_speaks_plain_english() -> None:
    own = [path for path in SOURCES if not str(path).endswith(tuple(STANDARD))]
    found = {f"{path.name}:{line}: {text}" for path in own for line, text in prose(path) if HOUSE_WORDS.search(text)}
    assert found == set()


def test_every_mutation_is_of_a_line_that_is_there() -> None:
    lost = [str(one) for one in mutations() if mutated((ROOT / one.path).read_text(), one) is None]
    assert lost == []
