"""How plugins are found and held against the rules, and what is said of one that is broken."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_spec import TEXT, edited, said

from driftspec import components
from driftspec.cli import main
from driftspec.components import Metric, Network, Solver
from driftspec.errors import PluginError, UsageError
from driftspec.registry import HOOKS, Registry, discover, installed

Install = Callable[..., Path]

GOOD = """
from driftspec.components import Metric
from driftspec.registry import hookimpl

class Loud(Metric):
    "A metric."
    type = "loud"

    def measure(self, evaluation):
        raise NotImplementedError

@hookimpl
def driftspec_components():
    return {"metric": {"loud": Loud}}
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution with one module as its plugin."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def make(
        code: str = GOOD,
        name: str = "Loud_Metrics",
        version: str = "1.2",
        group: str = "driftspec.v1",
        points: str = "",
    ) -> Path:
        module = name.lower()
        (site / f"{module}.py").write_text(textwrap.dedent(code))
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{points or f'loud = {module}'}\n")
        return site

    yield make
    for name in set(sys.modules) - before:
        del sys.modules[name]


def run_python(site: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with what is installed in `site`."""
    code = "import sys; from driftspec.cli import main; sys.exit(main(sys.argv[1:]))"
    env = {**os.environ, "PYTHONPATH": str(site), **variables}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=site)


def warnings(registry: Registry) -> list[str]:
    return [str(problem) for problem in registry.broken]


def uses(metric: str, registry: Registry) -> list[str]:
    return said(edited(("[nll]", f"[{metric}]")), registry=registry)


# --- finding ---


def test_the_built_in_components_come_through_their_entry_point() -> None:
    registry = discover()
    assert not registry.broken
    assert str(registry.provider("metric", "nll")) == f"driftspec {registry.provider('metric', 'nll').version}"
    assert {provider.plugin for found in registry.providers.values() for provider in found} == {"builtin"}


def test_every_built_in_component_loads_under_its_kind_and_name() -> None:
    registry = installed()
    for kind, name in registry.providers:
        found, problem = registry.look_up(kind, name)
        assert problem is None
        assert issubclass(found, components.KINDS[kind])
        assert (found.kind, found.type) == (kind, name)


def test_a_strangers_plugin_is_found_and_used(install: Install) -> None:
    install()
    registry = discover()
    assert not registry.broken
    assert uses("loud", registry) == uses("Loud_Metrics/loud", registry) == uses("loud-metrics/loud", registry) == []
    assert str(registry.provider("metric", "loud")) == "Loud_Metrics 1.2"


def test_no_plugins_leaves_the_built_in_ones(install: Install) -> None:
    install()
    registry = discover(only_builtin=True)
    assert registry.provider("metric", "loud") is None
    assert registry.provider("metric", "nll") is not None


def test_the_first_of_two_installations_is_the_one_there_is(install: Install, tmp_path: Path) -> None:
    install()
    second = tmp_path / "second"
    second.mkdir()
    old = second / "loud_metrics-0.1.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: loud.metrics\nVersion: 0.1\n")
    (old / "entry_points.txt").write_text("[driftspec.v1]\nloud = loud_metrics\n")
    sys.path.append(str(second))
    try:
        registry = discover()
    finally:
        sys.path.remove(str(second))
    assert not registry.broken
    assert registry.provider("metric", "loud").version == "1.2"


def test_a_class_is_imported_only_when_it_is_named(install: Install) -> None:
    code = """
        from driftspec.registry import hookimpl
        @hookimpl
        def driftspec_components():
            return {"metric": {"loud": "nowhere_at_all:Loud"}}
    """
    install(code)
    registry = discover()
    assert "loud" in registry.names("metric")
    assert uses("nll", registry) == []
    assert uses("loud", registry) == [
        "a.yaml:13:12: error[P201] metric 'loud' of plugin 'loud' (Loud_Metrics 1.2) failed to import: "
        "ModuleNotFoundError: No module named 'nowhere_at_all'"
    ]


# --- plugins that break ---


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import nowhere_at_all", "P201] plugin 'loud' (Loud_Metrics 1.2) failed to import: "
         "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("def f(:", "P201] plugin 'loud' (Loud_Metrics 1.2) failed to import: SyntaxError: invalid syntax (line 1)"),
        ("raise SystemExit(3)", "P201] plugin 'loud' (Loud_Metrics 1.2) failed to import: SystemExit: 3"),
        ("1 / 0", "P201] plugin 'loud' (Loud_Metrics 1.2) failed to import: ZeroDivisionError: division by zero"),
        (GOOD.replace("return", "1 / 0; return"),
         "P201] plugin 'loud' (Loud_Metrics 1.2): driftspec_components failed: ZeroDivisionError: division by zero"),
        (GOOD.replace("driftspec_components", "driftspec_componets"),
         "P204] plugin 'loud' (Loud_Metrics 1.2) implements the unknown hook 'driftspec_componets' "
         f"(did you mean 'driftspec_components'?); allowed: {', '.join(HOOKS)}"),
        (GOOD.replace("@hookimpl", ""),
         "P204] plugin 'loud' (Loud_Metrics 1.2) defines driftspec_components without the mark "
         "@driftspec.registry.hookimpl"),
        ("",
         "P204] plugin 'loud' (Loud_Metrics 1.2) implements no hook: mark one with driftspec.registry.hookimpl; "
         f"allowed: {', '.join(HOOKS)}"),
        (GOOD.replace("components()", "components(config)"),
         "P204] plugin 'loud' (Loud_Metrics 1.2): driftspec_components has no argument 'config'; allowed: none"),
        (GOOD.replace('"metric":', '"metrics":'),
         "P204] plugin 'loud' (Loud_Metrics 1.2) provides the unknown kind 'metrics' (did you mean 'metric'?); "
         f"allowed: {', '.join(components.KINDS)}"),
        (GOOD.replace('{"metric": {"loud": Loud}}', "[Loud]"),
         "P204] plugin 'loud' (Loud_Metrics 1.2): driftspec_components returns {kind: {name: 'module:Class'}}, "
         "not [<class 'loud_metrics.Loud'>]"),
        (GOOD.replace('{"loud": Loud}', "Loud"),
         "P204] plugin 'loud' (Loud_Metrics 1.2): driftspec_components returns {kind: {name: 'module:Class'}}, "
         "not {'metric': <class 'loud_metrics.Loud'>}"),
        (GOOD.replace('"loud": Loud', '"a/b": Loud'),
         "P204] plugin 'loud' (Loud_Metrics 1.2): 'a/b' cannot name a metric: letters, digits, '_', '.' and '-'"),
        (GOOD.replace('"loud": Loud', '"loud": "loud_metrics.Loud"'),
         "P204] plugin 'loud' (Loud_Metrics 1.2): metric 'loud' is 'module:Class' or a class, not 'loud_metrics.Loud'"),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_one_warning_with_its_cause(install: Install, code: str, cause: str) -> None:
    install(code)
    registry = discover()
    assert warnings(registry) == [f"warning[{cause}"]
    assert uses("nll", registry) == []
    assert said(edited(("steps: 100", "steps: 0")), registry=registry)[0].startswith("a.yaml:9:10: error[S113]")
    (found,) = uses("loud", registry)
    assert found.startswith("a.yaml:13:12: error[P201] unknown metric 'loud'; allowed: ")
    assert found.endswith(f"perhaps from a plugin that was not loaded: {cause.partition('] ')[2]}")


def test_one_broken_plugin_is_not_anothers_fault(install: Install) -> None:
    install(GOOD.replace("driftspec_components", "driftspec_componets"), name="Broken")
    install()
    registry = discover()
    assert len(registry.broken) == 1
    assert uses("loud", registry) == []


def test_an_unknown_name_without_a_broken_plugin_is_the_specs_fault() -> None:
    assert uses("loud", installed())[0].startswith("a.yaml:13:12: error[S120]")


def test_a_plugin_for_another_api_is_named_and_not_imported(install: Install) -> None:
    install("raise RuntimeError('imported')", group="driftspec.v2")
    registry = discover()
    assert warnings(registry) == [
        "warning[P203] plugin 'loud' (Loud_Metrics 1.2) is made for driftspec.v2, this is driftspec.v1: "
        "install a release of Loud_Metrics for driftspec.v1, or a release of driftspec for driftspec.v2"
    ]
    assert "loud_metrics" not in sys.modules


def test_an_entry_point_to_nothing(install: Install) -> None:
    install(points="loud = nowhere_at_all")
    assert warnings(discover())[0].startswith("warning[P201] plugin 'loud' (Loud_Metrics 1.2) failed to import")


@pytest.mark.parametrize(
    ("group", "what"),
    [
        ("driftspec.v99", "is made for driftspec.v99, this is driftspec.v1: install a release of Loud_Metrics for "
         "driftspec.v1, or a release of driftspec for driftspec.v99"),
        ("driftspec.v0", "is made for driftspec.v0, this is driftspec.v1: install a release of Loud_Metrics for "
         "driftspec.v1"),
        ("driftspec.plugins", "is in the unknown group 'driftspec.plugins'; plugins are in 'driftspec.v1'"),
    ],
)  # fmt: skip
def test_groups_that_are_not_this_versions(install: Install, group: str, what: str) -> None:
    install("raise RuntimeError('imported')", group=group)
    registry = discover()
    assert warnings(registry) == [f"warning[P203] plugin 'loud' (Loud_Metrics 1.2) {what}"]
    assert "loud_metrics" not in sys.modules
    assert what in uses("loud", registry)[0]


def test_a_plugin_for_several_versions_this_one_among_them(install: Install) -> None:
    site = install()
    for entries in site.glob("*/entry_points.txt"):
        entries.write_text("[driftspec.v2]\nloud = loud_two\n[driftspec.v1]\nloud = loud_metrics\n")
    registry = discover()
    assert not registry.broken
    assert uses("loud", registry) == []


def test_a_hook_for_a_later_version_may_be_marked_as_optional(install: Install) -> None:
    later = "\n@hookimpl(optionalhook=True)\ndef driftspec_dreamt(run): ...\n"
    install(GOOD + later)
    registry = discover()
    assert not registry.broken
    assert uses("loud", registry) == []


def test_a_misspelt_hook_among_good_ones(install: Install) -> None:
    install(GOOD + "\n@hookimpl\ndef driftspec_metrics(run): ...\n")
    assert warnings(discover()) == [
        "warning[P204] plugin 'loud' (Loud_Metrics 1.2) implements the unknown hook 'driftspec_metrics' "
        f"(did you mean 'driftspec_metric'?); allowed: {', '.join(HOOKS)}"
    ]


def test_a_hook_that_lost_its_mark(install: Install) -> None:
    install(GOOD + "\ndef driftspec_step(run, record): ...\n")
    assert warnings(discover()) == [
        "warning[P204] plugin 'loud' (Loud_Metrics 1.2) defines driftspec_step without the mark "
        "@driftspec.registry.hookimpl"
    ]


def test_an_argument_that_a_hook_does_not_have(install: Install) -> None:
    install(GOOD + "\n@hookimpl\ndef driftspec_step(recrd): ...\n")
    assert warnings(discover()) == [
        "warning[P204] plugin 'loud' (Loud_Metrics 1.2): driftspec_step has no argument 'recrd' "
        "(did you mean 'record'?); allowed: run, record"
    ]


def test_one_name_twice_in_a_distribution_is_not_dropped_in_silence(install: Install) -> None:
    site = install(points="loud = loud_metrics\nloud = loud_other")
    (site / "loud_other.py").write_text(GOOD.replace("loud", "louder"))
    registry = discover()
    cause = (
        "plugin 'loud' (Loud_Metrics 1.2): two entry points have this name, 'loud_metrics' and 'loud_other'; "
        "the second is not loaded: rename it"
    )
    assert warnings(registry) == [f"warning[P202] {cause}"]
    assert uses("loud", registry) == []
    assert uses("louder", registry)[0].endswith(f"perhaps from a plugin that was not loaded: {cause}")


def test_one_name_in_two_distributions_is_two_plugins(install: Install) -> None:
    install()
    install(GOOD.replace("loud", "quiet"), name="Quiet", points="loud = quiet")
    registry = discover()
    assert not registry.broken
    assert uses("loud", registry) == uses("quiet", registry) == []


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"entry_points.txt": "[driftspec.v1]\nloud\n", "METADATA": "Name: bad\nVersion: 2"},
         "bad 2: its entry points cannot be read: "),
        ({"entry_points.txt": "[driftspec.v1]\nloud = nowhere_at_all\n"},
         "plugin 'loud': failed to import: ModuleNotFoundError"),
        ({"entry_points.txt": "[driftspec.v1]\nloud = :::\n", "METADATA": "Name: bad\nVersion: 2"},
         "plugin 'loud' (bad 2) failed to import: "),
        ({"entry_points.txt": "[driftspec.v1]\n\xff\n", "METADATA": "Name: bad\nVersion: 2"},
         "bad 2: its entry points cannot be read: UnicodeDecodeError"),
    ],
    ids=["no value", "no metadata", "no module", "no text"],
)  # fmt: skip
def test_metadata_that_are_broken(install: Install, files: dict[str, str], what: str) -> None:
    site = install()
    (site / "bad-2.dist-info").mkdir()
    for name, text in files.items():
        (site / "bad-2.dist-info" / name).write_bytes(text.encode("latin-1"))
    registry = discover()
    (warning,) = warnings(registry)
    assert warning.startswith(f"warning[P201] {what}".replace("': failed", "' failed"))
    assert uses("loud", registry) == []


@pytest.mark.parametrize("code", ["class Odd(BaseException): ...\nraise Odd('boom')", "raise GeneratorExit('boom')"])
def test_whatever_a_plugin_raises(install: Install, code: str) -> None:
    install(code)
    (warning,) = warnings(discover())
    assert warning.endswith(": boom")


def test_an_object_that_cannot_be_looked_at(install: Install) -> None:
    code = """
        class Odd:
            @property
            def driftspec_step(self):
                raise LookupError("not now")
        odd = Odd()
    """
    install(code, points="loud = loud_metrics:odd")
    assert warnings(discover()) == [
        "warning[P201] plugin 'loud' (Loud_Metrics 1.2) cannot be loaded: LookupError: not now"
    ]


def test_an_interrupt_while_a_plugin_is_imported(install: Install) -> None:
    install("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        discover()


def test_what_a_plugin_prints_is_no_result(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("print('hello')\n" + GOOD.replace("return", "print('there'); return"))
    discover()
    assert capsys.readouterr() == ("", "hello\nthere\n")


# --- plugins that are blocked ---


@pytest.mark.parametrize("name", ["loud", "Loud_Metrics", "loud-metrics", " LOUD , ,"])
def test_a_blocked_plugin_is_not_imported(install: Install, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    install("raise RuntimeError('imported')")
    install(GOOD.replace("loud", "quiet"), name="Quiet", points="quiet = quiet")
    monkeypatch.setenv("DRIFTSPEC_BLOCK_PLUGINS", name)
    registry = discover()
    assert "loud_metrics" not in sys.modules
    assert not registry.broken
    blocked = "plugin 'loud' (Loud_Metrics 1.2) is blocked by DRIFTSPEC_BLOCK_PLUGINS"
    assert [str(problem) for problem in registry.held_back] == [f"warning[P205] {blocked}"]
    assert uses("quiet", registry) == []
    (found,) = uses("loud", registry)
    assert found.startswith("a.yaml:13:12: error[P205] unknown metric 'loud'; allowed: ")
    assert found.endswith(f"; perhaps from a plugin that was not loaded: {blocked}")


def test_blocking_nobody_is_said(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    monkeypatch.setenv("DRIFTSPEC_BLOCK_PLUGINS", "lowd,builtin_not")
    first, second = map(str, discover().held_back)
    assert first.startswith(
        "warning[P205] DRIFTSPEC_BLOCK_PLUGINS names 'lowd', which is not an installed plugin or distribution "
        "(did you mean 'loud'?); installed: "
    )
    assert "Loud_Metrics" in first and "builtin" in first and "'builtin_not'" in second
    monkeypatch.setenv("DRIFTSPEC_BLOCK_PLUGINS", "loud")
    assert discover(only_builtin=True).held_back == []  # it is not loaded anyway, and no unknown name


def test_the_built_in_plugin_can_be_blocked_like_any_other(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    monkeypatch.setenv("DRIFTSPEC_BLOCK_PLUGINS", "builtin")
    assert discover().names("metric") == ["loud"]


# --- the command ---


def test_strict_plugins_is_fatal_and_nothing_is_written(install: Install) -> None:
    site = install("1 / 0")
    (site / "a.yaml").write_text(TEXT)
    before = sorted(site.rglob("*.yaml"))
    for words in (["validate", "a.yaml"], ["plan", "a.yaml"], ["a.yaml", "--out", "run"]):
        done = run_python(site, *words, "--strict-plugins")
        assert (done.returncode, done.stdout) == (4, ""), words
        assert done.stderr == (
            "error[P201] plugin 'loud' (Loud_Metrics 1.2) failed to import: ZeroDivisionError: division by zero\n"
        )
    assert sorted(site.rglob("*.yaml")) == before and not (site / "run").exists()


def test_blocked_plugins_are_said_once_and_are_not_fatal(install: Install) -> None:
    site = install("1 / 0")
    (site / "a.yaml").write_text(TEXT)
    (site / "b.yaml").write_text(edited(("[nll]", "[loud]")))
    blocked = {"DRIFTSPEC_BLOCK_PLUGINS": "loud"}
    done = run_python(site, "validate", "a.yaml", "a.yaml", "--strict-plugins", **blocked)
    said_once = "warning[P205] plugin 'loud' (Loud_Metrics 1.2) is blocked by DRIFTSPEC_BLOCK_PLUGINS\n"
    assert (done.returncode, done.stderr) == (0, said_once)
    assert run_python(site, "validate", "b.yaml", **blocked).returncode == 4


def test_the_list_of_plugins_names_those_that_are_not_loaded_too(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install("import time; time.sleep(0.03)" + GOOD)
    install("1 / 0", name="Broken", points="broken = broken")
    install("1 / 0", name="Later", group="driftspec.v2", points="later = later")
    install("1 / 0", name="Shy", points="shy = shy")
    monkeypatch.setenv("DRIFTSPEC_BLOCK_PLUGINS", "shy")
    assert main(["plugins", "list", "--format", "json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["metric"]["loud"] == "Loud_Metrics 1.2"
    assert table["summaries"]["metric"]["loud"] == "A metric."
    assert table["summaries"]["estimator"]["exact_trace"].endswith("or a closed form of the network.")
    assert all(all(names.values()) for names in table["summaries"].values())
    found = {one["plugin"]: one for one in table["plugins"]}
    assert {name: one["state"] for name, one in found.items()} == {
        "builtin": "loaded", "loud": "loaded", "broken": "broken", "later": "broken", "shy": "blocked",
    }  # fmt: skip
    assert 30 <= found["loud"]["milliseconds"] < 3000 and found["later"]["milliseconds"] == 0
    assert found["loud"]["hooks"] == ["driftspec_components"] and "ZeroDivisionError" in found["broken"]["reason"]
    assert "install a release of Later" in found["later"]["reason"]
    assert main(["plugins", "list"]) == 0
    components, _, text = capsys.readouterr().out.partition("\nplugins\n")
    (loud,) = re.findall(r"^  loud .*$", components, re.MULTILINE)
    assert re.fullmatch(r"  loud +A metric\.  \(Loud_Metrics 1\.2\)", loud)
    assert "driftspec 0" not in components
    assert "  shy (Shy 1.2)  blocked: plugin 'shy' (Shy 1.2) is blocked by DRIFTSPEC_BLOCK_PLUGINS\n" in text
    assert " ms: components\n" in text and text.count("\n") == 5


def test_a_component_is_shown_with_its_keys(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = install(
        GOOD.replace(
            '    type = "loud"',
            "    type = 'loud'\n    level: float = Field(1.5, gt=0, le=9, description='how loud')\n"
            "    how: Literal['high', 'low'] | None = Field(None, description='which pitch')\n"
            "    solver: Solver = default('rk4', 'a solver to be loud with')\n"
            "    times: tuple[int, int] = Field(description='when')",
        ).replace(
            "from driftspec.components import Metric",
            "from typing import Literal\nfrom pydantic import Field\n"
            "from driftspec.components import Metric, Solver, default",
        )
    )
    assert main(["plugins", "show", "metric/loud", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["source"] == "loud_metrics:Loud" and told["from"] == "Loud_Metrics 1.2"
    line = 1 + (site / "loud_metrics.py").read_text().splitlines().index("class Loud(Metric):")
    assert told["file"] == f"{site}/loud_metrics.py:{line}"
    rows = {one["key"]: (one["takes"], one["default"], one["required"], one["description"]) for one in told["keys"]}
    assert rows["level"] == ("a number, more than 0, at most 9", 1.5, False, "how loud")
    assert rows["how"] == ("'high' | 'low' or null", None, False, "which pitch")
    assert rows["solver"] == ("a solver component", "rk4", False, "a solver to be loud with")
    assert rows["times"] == ("a list of 2: a whole number", None, True, "when")
    assert main(["plugins", "show", "metric/Loud_Metrics/loud"]) == 0
    text = capsys.readouterr().out
    assert f"{site}/loud_metrics.py:{line}\n\n  A metric.\n\nkeys\n" in text  # its module has no docstring
    assert "  times   a list of 2: a whole number (required)\n            when\n" in text
    assert (told["offers"], told["needs"]) == (None, None)
    assert text.endswith("what it offers and needs depends on its keys\n")


def test_what_a_component_offers_and_needs_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "show", "dynamics/langevin", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"drift", "score"} < {*told["offers"]} and told["needs"] == []
    assert main(["plugins", "show", "estimator/denoising"]) == 0
    assert (
        "\noffers\n  nothing\nneeds\n  of the data: samples (to learn from)\n"
        "  of the dynamics: a noise_kernel (for α(t) and σ(t))\n"
    ) in capsys.readouterr().out


def test_a_component_is_shown_with_its_class_before_its_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "show", "data/table"]) == 0
    text = capsys.readouterr().out
    assert 0 < text.index("\n  All rows of a CSV") < text.index("\n  Rows of numbers from") < text.index("\nkeys\n")
    assert "  path         text, not empty (required)\n" in text
    assert "  columns      a list: text, not empty, at least 1 item, or null (default null)\n" in text


def test_listing_imports_no_component() -> None:
    code = (
        "import sys; from driftspec.cli import main; assert main(['plugins', 'list']) == 0; "
        "heavy = ('torch', 'numpy', 'driftspec_plugins.metrics.nll'); "
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "Runge-Kutta" in done.stdout


def test_showing_what_cannot_be_shown(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("1 / 0")
    assert main(["plugins", "show", "metric/loud"]) == 4
    assert "error[P201] unknown metric 'loud'; allowed: " in capsys.readouterr().err
    assert main(["plugins", "show", "metric/loud", "--no-plugins"]) == 2


# --- classes that break the rules of their kind ---


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (GOOD.replace("(Metric)", "(object)").replace("class Loud(Metric)", "class Loud"),
         "P204] metric 'loud' of plugin 'loud' (Loud_Metrics 1.2) is no subclass of driftspec.components.Metric"),
        (GOOD.replace('type = "loud"', 'type = "quiet"'),
         "P204] metric 'loud' of plugin 'loud' (Loud_Metrics 1.2) has type = 'quiet' in its class, "
         "which should be 'loud'"),
        (GOOD.replace('{"loud": Loud}', '{"loud": "loud_metrics:Lout"}'),
         "P201] metric 'loud' of plugin 'loud' (Loud_Metrics 1.2) failed to import: "
         "AttributeError: module 'loud_metrics' has no attribute 'Lout'"),
    ],
)  # fmt: skip
def test_a_class_that_is_no_component_of_its_kind(install: Install, code: str, message: str) -> None:
    install(code)
    registry = discover()
    assert not registry.broken
    assert uses("loud", registry) == [f"a.yaml:13:12: error[{message}"]


def test_a_component_of_another_kind(install: Install) -> None:
    install(GOOD.replace('{"metric"', '{"network"'))
    (found,) = said(edited(("type: mlp", "type: loud")), registry=discover())
    assert found == (
        "a.yaml:6:19: error[P204] network 'loud' of plugin 'loud' (Loud_Metrics 1.2) "
        "is no subclass of driftspec.components.Network"
    )


def test_a_class_whose_key_hides_a_method_is_named_with_its_plugin(install: Install) -> None:
    site = install(GOOD.replace('{"loud": Loud}', '{"loud": "loud_class:Loud"}'))
    (site / "loud_class.py").write_text(
        "from driftspec.components import Metric\nclass Loud(Metric):\n    type = 'loud'\n    measure: int = 3\n"
    )
    assert uses("loud", discover()) == [
        "a.yaml:13:12: error[P204] metric 'loud' of plugin 'loud' (Loud_Metrics 1.2): "
        "loud_class.Loud: key and method share the name 'measure'"
    ]


# --- one name, several providers ---


def test_two_providers_of_one_name_are_named_and_told_apart(install: Install) -> None:
    install()
    install(name="Louder", version="3")
    registry = discover()
    assert not registry.broken
    (found,) = uses("loud", registry)
    assert found.startswith("a.yaml:13:12: error[P202] metric 'loud' is provided by ")
    assert "Loud_Metrics 1.2" in found
    assert "Louder 3" in found
    assert found.endswith(": write type: 'Loud_Metrics/loud' or 'Louder/loud'")
    assert uses("Louder/loud", registry) == uses("{type: Loud_Metrics/loud}", registry) == []
    assert registry.provider("metric", "Louder/loud").version == "3"
    assert registry.provider("metric", "loud") is None
    assert uses("Loudest/loud", registry)[0].startswith(
        "a.yaml:13:12: error[S120] unknown metric 'Loudest/loud' (did you mean 'Louder/loud'?); allowed: "
    )
    assert uses("nll", registry) == []


def test_the_spelling_of_a_settled_name_is_kept(install: Install) -> None:
    from small_spec import loaded

    install()
    install(name="Louder", version="3")
    registry = discover()
    made = loaded(edited(("[nll]", "[Louder/loud]")), registry=registry).spec
    assert made.resolved()["evaluate"] == [{"type": "Louder/loud", "name": None}]
    assert made.evaluate[0].label == "metric 'Louder/loud'"


def test_two_plugins_of_one_distribution(install: Install) -> None:
    install(points="loud = loud_metrics\nalso = loud_metrics")
    (found,) = uses("loud", discover())
    assert found == (
        "a.yaml:13:12: error[P202] metric 'loud' is provided by Loud_Metrics 1.2 and by Loud_Metrics 1.2: remove either"
    )


def test_plugin_problems_and_others_are_told_together(install: Install) -> None:
    install()
    install(name="Louder", version="3")
    lines = said(edited(("[nll]", "[loud]"), ("steps: 100", "steps: 0")), registry=discover())
    assert [line.partition("] ")[0] for line in lines] == ["a.yaml:9:10: error[S113", "a.yaml:13:12: error[P202"]


# --- lookup ---


def test_a_lookup_within_a_subclass_offers_what_fits() -> None:
    registry = installed()
    assert registry.look_up("solver", "dopri5", Solver)[1] is None
    found, problem = registry.look_up("solver", "dopri5", components.FixedSteps)
    assert found is None
    assert problem.code == "S120"
    said, _, names = problem.message.partition("; allowed: ")
    assert said == "solver 'dopri5' is not allowed here"
    assert {"lobatto", "rk4"} <= set(names.split(", ")) <= set(registry.names("solver")) - {"dopri5", "dopri8"}
    unknown = registry.look_up("solver", "rk5", components.FixedSteps)[1].message
    assert unknown == f"unknown solver 'rk5' (did you mean 'rk4'?); allowed: {names}"


def test_a_kind_without_components() -> None:
    assert Registry().look_up("solver", "rk4")[1].message == "unknown solver 'rk4'; allowed: none"


def test_a_class_made_in_python() -> None:
    class Narrow(Network):
        """A network."""

        type = "narrow"

        def build(self, *given):
            raise AssertionError("it is never built")

    registry = Registry(dict(installed().providers))
    registry.add_component(Narrow)
    assert registry.look_up("network", "narrow")[0] is Narrow
    assert said(edited(("{type: mlp, hidden: [8, 8], activation: tanh}", "narrow")), registry=registry) == []
    with pytest.raises(PluginError, match=r"error\[P204\] class Metric: '' cannot name a metric"):
        registry.add_component(Metric)


# --- one-file plugins ---


def test_a_file_is_a_plugin(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(GOOD)
    registry = discover([file, file])
    assert uses("loud", registry) == uses("mine.py/loud", registry) == []
    provider = registry.provider("metric", "loud")
    assert (str(provider), provider.digest) == ("mine.py", hashlib.sha256(file.read_bytes()).hexdigest())
    assert registry.files == {str(file): provider.digest}
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]  # no cache beside it


def test_a_file_is_compiled_as_it_stands(tmp_path: Path) -> None:
    """Without the postponed annotations of the module that loads it."""
    file = tmp_path / "mine.py"
    file.write_text(f"{GOOD}\ndef f(x: int): ...\nif f.__annotations__ != {{'x': int}}: raise TypeError")
    assert discover([file]).provider("metric", "loud") is not None


def test_a_file_is_loaded_without_installed_plugins_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(GOOD)
    assert uses("loud", discover([file], only_builtin=True)) == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = = 1", "P201] --plugin {file} failed to import: SyntaxError: invalid syntax (line 1)"),
        ("\n\n1 / 0", "P201] --plugin {file} failed to import: ZeroDivisionError: division by zero"),
        ("raise SystemExit", "P201] --plugin {file} failed to import: SystemExit"),
        ("", "P204] plugin '{file}' implements no hook: mark one with driftspec.registry.hookimpl; allowed: "),
        (GOOD.replace('"metric":', '"metrik":'), "P204] plugin '{file}' provides the unknown kind 'metrik' "
         "(did you mean 'metric'?); allowed: "),
    ],
)  # fmt: skip
def test_a_file_that_is_broken(tmp_path: Path, code: str, message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(code)
    with pytest.raises(PluginError) as caught:
        discover([file])
    assert str(caught.value).startswith(f"error[{message.format(file=file)}")
    assert caught.value.exit_code == 4
    assert (
        not [module for module in sys.modules.values() if getattr(module, "__file__", None) == str(file)]
        or "P204" in message
    )


@pytest.mark.parametrize(("name", "why"), [("no.py", "no such file"), ("a.txt", "not a .py file"), (".", "not a .py")])
def test_a_file_that_is_none(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UsageError, match=why):
        discover([tmp_path / name])


def test_a_plugin_in_the_working_directory_is_not_loaded_by_itself(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(edited(("[nll]", "[loud]")))
    (tmp_path / "loud.py").write_text(GOOD)
    code = "import sys; from driftspec.cli import main; sys.exit(main(['validate', 'a.yaml']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "unknown metric 'loud'" in done.stderr


def test_the_small_spec_is_valid_with_every_plugin() -> None:
    assert said(TEXT, registry=discover()) == []
