"""`run-spec report RUN|SPEC|FOLDER... -o FILE`: one page of many runs; specs are run first."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftspec.cli import options, print_problems
from driftspec.errors import DriftspecError, PluginError, Problem, SpecError, UsageError, nearest, printable, refusal

if TYPE_CHECKING:
    from driftspec.registry import Registry
    from driftspec.report.gallery import Exhibit
    from driftspec.spec import Loaded


def main(words: list[str]) -> int:
    parser = options.parser(
        "report", "Write one page of several runs; a spec, or each spec of a folder, is run first.",
        "run-spec report lecture -o lecture.html runs the lecture's own specs, and shows every statement of it",
    )  # fmt: skip
    parser.add_argument(
        "of", nargs="+", metavar="RUN|SPEC|FOLDER",
        help=f"{options.A_RUN}; a sweep's directory; a spec to run; or a folder of specs, run in the order of names",
    )  # fmt: skip
    parser.add_argument(
        "-o", dest="file", metavar="FILE", default="report.html", help="the page; report.html by default"
    )
    parser.add_argument("--title", help="its title; by default the name of the folder, or 'Runs'")
    parser.add_argument("--quick", action="store_true", help="set what each spec's section 'quick' sets")
    options.changing(parser)
    options.allowing(parser)
    options.strict(parser)
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a number is not what its spec expects")
    options.showing(parser)
    args = parser.parse_intermixed_args(words)
    page = _writable(Path(args.file))
    registry = options.registry(args)
    paths = {one.resolve(): one for path in args.of for one in _chosen(path)}  # each run and each spec once
    chosen = list(paths.values())
    specs = _checked([one for one in chosen if _is_spec(one)], registry, args)
    if not specs and (args.quick or args.sets or args.unsets):
        raise UsageError("--quick, --set and --unset are for specs, and none is given")

    from driftspec.report.gallery import gallery, rows
    from driftspec.runs.exhibits import exhibit
    from driftspec.runs.run_dir import RunDir

    found = {one: exhibit(one) for one in chosen if one not in specs}  # before a spec runs: one of them may be damaged
    shown = [_run(specs[one], registry, args) if one in specs else found[one] for one in chosen]
    folders = [Path(path).resolve().name for path in args.of if not _is_spec(Path(path))]
    title = args.title or (folders[0].capitalize() if len(args.of) == len(folders) == 1 else "Runs")
    hastened = args.quick and any(one.document.data.get("quick") for one in specs.values())
    text = gallery(title, shown, registry.packages(), hastened)
    RunDir(page.parent).write_text(page.name, text)
    return _finished(page, rows(shown), shown, args)


def _writable(page: Path) -> Path:
    """Return the file of the page. UsageError if it is there and is no page of this command, or has no folder."""
    from driftspec.report.gallery import GENERATOR

    if not page.parent.is_dir():
        raise UsageError(f"-o {page}: there is no folder '{page.parent}'")
    if not os.access(page.parent, os.W_OK):
        raise UsageError(f"-o {page}: nothing can be written into '{page.parent}'")
    if page.is_symlink():
        raise UsageError(f"-o {page}: it is a link, which is left alone: give another name")
    if page.exists() and not (page.is_file() and GENERATOR.encode() in page.read_bytes()[:500]):
        raise UsageError(f"-o {page}: it exists and is no page of run-spec report; it is left alone: give another name")
    return page


def _chosen(path: str) -> Iterator[Path]:
    """Yield the spec, the specs of the folder, the run, or the runs of the sweep that a path means."""
    from driftspec.runs.run_dir import RUN, SWEEP
    from driftspec.spec.shipped import folders

    there = Path(path)
    if _is_spec(there):
        yield there
        return
    folder = there if there.is_dir() else folders().get(path)
    if folder is not None and (folder / SWEEP).exists():
        yield from sorted(file.parent for file in folder.glob(f"*/{RUN}"))
    elif folder is not None and not (folder / RUN).exists() and (specs := _specs(folder)):
        yield from specs
    elif folder is None and (near := nearest(path, folders())):
        raise UsageError(f"'{path}' is no run, no spec and no folder of specs{near}")
    else:
        yield options.run(path)


def _specs(folder: Path) -> list[Path]:
    """Return the specs of a folder in the order of their names, without hidden files."""
    return sorted(file for file in folder.glob("*.y*ml") if _is_spec(file) and not file.name.startswith("."))


def _is_spec(path: Path) -> bool:
    """Whether a path means a spec: it is a file, or named like one."""
    return path.suffix in (".yaml", ".yml") or path.is_file()


def _checked(files: Sequence[Path], registry: Registry, args: argparse.Namespace) -> dict[Path, Loaded]:
    """Return the specs in files. SpecError or PluginError with the mistakes of all of them: no spec has run yet."""
    from driftspec import spec
    from driftspec.spec import fits

    loaded: dict[Path, Loaded] = {}
    found: list[Problem] = []
    for file in files:
        try:
            one = spec.read(file, registry, options.changes(args), args.allow_outside)
            if one.points:
                raise UsageError(f"'{file}' is a sweep: run it with run-spec sweep, and give the runs")
            loaded[file] = one
            found += fits.check(spec.hastened(one, registry) if args.quick else one)
        except (SpecError, PluginError) as error:
            found += error.problems
    if fits.errors(found):
        raise refusal(found)
    print_problems(found)
    return loaded


def _run(loaded: Loaded, registry: Registry, args: argparse.Namespace) -> Exhibit:
    """Run a spec; return what the page shows of it, also if it fails."""
    from driftspec.cli.progress import Progress
    from driftspec.report.gallery import Exhibit
    from driftspec.runs.exhibits import exhibit
    from driftspec.runs.lifecycle import start
    from driftspec.spec import hastened

    name = loaded.spec.name
    loaded = hastened(loaded, registry) if args.quick else loaded
    if not args.quiet:
        print(f"{name} ...", file=sys.stderr, flush=True)
    try:
        done = start(
            loaded, registry, observer=Progress(True, args.verbose), argv=["run-spec", loaded.document.place(()).file],
            allow_outside=args.allow_outside,
        )  # fmt: skip
        return exhibit(done.path)
    except DriftspecError as error:
        print(f"error: {name}: {printable(str(error))}", file=sys.stderr, flush=True)
        return Exhibit(name, loaded.text.decode(errors="replace"), loaded.spec.shows or (), failure=str(error))


def _finished(page: Path, rows: Sequence[Any], shown: Sequence[Exhibit], args: argparse.Namespace) -> int:
    """Print the result; return the exit code: 1 if a run failed, or with --strict if a number differs."""
    judged = [row for row in rows if row.agrees is not None]
    differing = [row for row in judged if not row.agrees]
    failed = [one.name for one in shown if one.failure is not None]
    if args.format == "json":
        entries = [
            {
                "run": row.run.name, "statement": row.statement.statement, "number": row.shown,
                "expected": row.statement.expectation, "agrees": row.agrees,
            }
            for row in rows
        ]  # fmt: skip
        print(json.dumps({"page": str(page), "failed": failed, "statements": entries}))
    else:
        for row in differing:
            text = f"differs: {row.statement.statement}: {row.shown}, expected {row.statement.expectation}"
            print(printable(text))
        for name in failed:
            print(printable(f"no result: {name}"))
        numbers = f"{len(judged) - len(differing)} of {len(judged)} numbers are as expected; " if judged else ""
        print(f"{numbers}{page}")
    return 1 if failed or (args.strict and differing) else 0
