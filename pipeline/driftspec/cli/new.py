"""`run-spec plugins new DIR`: write a package with one component, its tests, and a spec that uses it."""

from __future__ import annotations

import json
import keyword
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata, resources, util
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

from driftspec._version import __version__
from driftspec.cli import options
from driftspec.components import KINDS
from driftspec.errors import UsageError, nearest, shown
from driftspec.registry import GROUP, Registry

LONGEST = 28
"""The most letters that a component's name may have: longer ones would make lines too long for the package's checks."""

FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "gitignore": ".gitignore",
    "test.yml": ".github/workflows/test.yml",
    "__init__.py": "src/{package}/__init__.py",
    "py.typed": "src/{package}/py.typed",
    "{kind}.py": "src/{package}/{component}.py",
    "test_{kind}.py": "tests/test_{component}.py",
    "{kind}.yaml": "specs/{component}.yaml",
}
"""Each skeleton, a text with $placeholders, and the path of its file in the package."""

USAGE = {
    "metric": "evaluate: [$component]",
    "estimator": "estimator: {type: $component}",
    "data": "data: {type: $component}",
    "network": "dynamics: {type: neural_ode, network: {type: $component}}",
    "dynamics": "dynamics: {type: $component}",
    "solver": "solver: {type: $component}",
    "sampler": "sampler: {type: $component}",
    "optimizer": "train: {optimizer: {type: $component}}",
    "schedule": "train: {schedule: {type: $component}}",
    "tracker": "trackers: [$component]",
}
"""How a spec names a component of each kind that has a skeleton. The skeleton of `estimator` is a trace estimator."""
DEFAULT = "metric"


@dataclass(frozen=True)
class Names:
    """The names of a package: of the distribution, of the Python package, of the component and of its class."""

    distribution: str
    package: str
    component: str
    cls: str


def main(words: list[str]) -> int:
    parser = options.parser("plugins new", "Write a complete package for a component of your own.")
    parser.add_argument("directory", metavar="DIR", help="a new or empty directory; the package gets its name")
    parser.add_argument(
        "--kind", metavar="KIND",
        help=f"one of {', '.join(USAGE)}; without it you are asked on a terminal, and a script gets a {DEFAULT}",
    )  # fmt: skip
    options.shaping(parser)
    args = parser.parse_args(words)
    asked = args.kind is None and args.format == "text" and sys.stdin.isatty() and sys.stderr.isatty()
    kind = args.kind or (_ask() if asked else DEFAULT)
    if kind not in USAGE:
        raise UsageError(_no_skeleton(kind))
    directory = Path(args.directory)
    names = _names(directory.resolve().name, kind)
    _refuse_taken(names, kind, options.registry(args))
    files = _filled(names, kind)
    _write(directory, files)
    data = {
        "directory": args.directory, "distribution": names.distribution, "package": names.package,
        "component": f"{kind}/{names.component}", "files": sorted(files),
    }  # fmt: skip
    text = f"{args.directory}: {kind} '{names.component}' in {len(files)} files\n"
    text += f"next: cd {args.directory} && pip install -e '.[test]' && pytest && run-spec specs/{names.component}.yaml"
    if args.kind is None and not asked:
        text += f"\nit is a {kind}, because no --kind was given; kinds: {', '.join(USAGE)}"
    print(json.dumps(data) if args.format == "json" else text)
    return 0


def _ask() -> str:
    """Ask the user for the kind and return the answer; an empty answer means the default."""
    print(f"kind ({', '.join(USAGE)}) [{DEFAULT}]: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() or DEFAULT


def _no_skeleton(kind: str) -> str:
    """Return the message for a kind that has no skeleton."""
    what = f"no skeleton for the kind {shown(kind)}" if kind in KINDS else f"unknown kind {shown(kind)}"
    return f"--kind: {what}{nearest(kind, USAGE)}; allowed: {', '.join(USAGE)}"


def _names(written: str, kind: str) -> Names:
    """Return the names for a directory: `driftspec-tails` gives the package driftspec_tails, the component tails."""
    package = re.sub(r"[-.]", "_", written).lower()
    component = package.removeprefix("driftspec_") or package
    usable = re.fullmatch(r"[A-Za-z](?:[\w.-]*[A-Za-z0-9])?", written, re.ASCII) and component[0].isalpha()
    if not usable or keyword.iskeyword(package) or keyword.iskeyword(component):
        raise UsageError(f"{shown(written)} cannot name a Python package: a letter, then letters, digits, '-' and '_'")
    if len(component) > LONGEST:
        raise UsageError(f"{shown(written)} names a component of {len(component)} letters: at most {LONGEST}")
    cls = "".join(map(str.capitalize, component.split("_")))
    if re.search(rf"\b{cls}\b", _text(f"{kind}.py") + _text(f"test_{kind}.py")):  # the skeleton uses this name already
        cls += kind.capitalize()
    return Names(written, package, component, cls)


def _refuse_taken(names: Names, kind: str, registry: Registry) -> None:
    """Raise UsageError if an installed distribution, a module or a component of the kind already has the name."""
    try:
        metadata.version(names.distribution)
        taken = "distribution"
    except metadata.PackageNotFoundError:
        found = util.find_spec(names.package)
        taken = "module" if found is not None and found.origin is not None else ""
    if taken:
        raise UsageError(f"'{names.distribution}' is the name of an installed {taken}: choose another directory name")
    if claimed := registry.providers.get((kind, names.component)):
        who = ", ".join(map(str, claimed))
        raise UsageError(f"{kind} '{names.component}' is provided by {who}: choose another directory name")


def _text(name: str) -> str:
    """Return the text of a skeleton."""
    return resources.files("driftspec.cli").joinpath("skeleton", f"{name}.txt").read_text("utf-8")


def _filled(names: Names, kind: str) -> dict[str, str]:
    """Return the text of each file of the package, by path."""
    words = {**asdict(names), "kind": kind, "version": __version__, "group": GROUP}
    words["usage"] = Template(USAGE[kind]).substitute(words)
    return {
        path.format_map(words): Template(_text(name.format_map(words))).substitute(words)
        for name, path in FILES.items()
    }


def _write(directory: Path, files: Mapping[str, str]) -> None:
    """Write all files, or none, into a new or empty directory. UsageError if it is not empty or cannot be written."""
    try:
        if directory.exists() and any(directory.iterdir()):
            raise UsageError(f"{directory} is not empty: a package is written into a new or empty directory")
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=directory, prefix=".new-") as apart:
            for path, text in files.items():
                target = Path(apart, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
            for written in Path(apart).iterdir():
                written.rename(directory / written.name)
    except OSError as error:
        raise UsageError(f"{directory} cannot be written: {error.strerror}") from error
