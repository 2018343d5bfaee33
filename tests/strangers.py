"""Packages written by strangers: installed without pip, by what an editable installation leaves behind."""

from __future__ import annotations

import tomllib
from pathlib import Path


def install(package: Path, site: Path) -> None:
    """A package's entry points into `site`; its code stays where it is, in src/."""
    told = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = site / f"{told['name'].replace('-', '_')}-{told['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {told['name']}\nVersion: {told['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in told["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("".join(groups))
